"""The machine-readable statement that a picture was made by a model: IPTC's digital source type.

An XMP packet with one property, of https://iptc.org/std/photometadata/specification; its values
are the terms of http://cv.iptc.org/newscodes/digitalsourcetype. The twins are
``cpp/src/sampling/recipes.cpp`` and ``examples/browser/png.mjs``.
"""

from __future__ import annotations

from .settings import Values

_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
#: Made by a model alone, and by a model from a given picture.
TRAINED = f"{_TERMS}trainedAlgorithmicMedia"
COMPOSITE = f"{_TERMS}compositeWithTrainedAlgorithmicMedia"

XMP_KEY = "XML:com.adobe.xmp"  #: the PNG text chunk that holds an XMP packet
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def source_type(values: Values) -> str:
    """The term for an image with these settings."""
    return TRAINED if values["image_sha256"] is None else COMPOSITE


def xmp_packet(term: str) -> str:
    """The XMP packet that says it."""
    return _PACKET.format(term)
