"""Writing a program as OpenVINO IR, converted from its ONNX graph."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine.bundle.formats import FORMAT_FILES
from ldm_engine.errors import LDMEngineError, OutputError

_CAST = ".to_fp32"
_DECOMPRESSION = '<rt_info><attribute name="decompression" version="0" /></rt_info>'


def write_openvino(onnx_graph: Path, folder: Path, weights: str = "fp32") -> None:
    """Convert `onnx_graph` into ``openvino_model.xml`` and ``.bin`` in `folder`.

    Args:
        onnx_graph: ``model.onnx``, with its data file beside it.
        folder: exists.
        weights: "fp32", or "fp16" if the graph's weights are fp16; they then are stored so here.

    Raises:
        LDMEngineError: if OpenVINO cannot convert the graph.
        OutputError: if the files were not written whole.
    """
    import openvino

    graph, data = (folder / name for name in FORMAT_FILES["openvino"])
    try:
        model = openvino.convert_model(onnx_graph)
        if weights == "fp16":
            _halve_constants(model)
        # Its own compression would halve whatever constant it finds, the timesteps' frequencies
        # among them.
        openvino.save_model(model, graph, compress_to_fp16=False)
    except Exception as error:  # some are of classes of its own
        raise LDMEngineError(
            f"OpenVINO {openvino.__version__} could not convert {folder.name}: "
            f"{' '.join(str(error).split())[:300]} Make room if the disk is full; else try the "
            "versions that `pip install 'ldm-engine[export]'` asks for."
        ) from error
    finish_ir(graph, data)


def _halve_constants(model: Any) -> None:
    """Store matrices and kernels in half precision again, which the conversion turned into fp32."""
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
            continue
        if sum(d > 1 for d in node.get_output_shape(0)) < 2:
            continue  # biases, scales, single numbers
        users = node.output(0).get_target_inputs()
        half = opset13.constant(node.data.astype(np.float16))
        half.set_friendly_name(node.get_friendly_name())
        cast = opset13.convert(half, "f32")
        cast.set_friendly_name(f"{node.get_friendly_name()}{_CAST}")
        for user in users:
            user.replace_source_output(cast.output(0))


def finish_ir(graph: Path, data: Path) -> None:
    """Check that all constants were written; mark casts to fp32; drop the machine's traces."""
    tree = ET.parse(graph)
    places = [d for d in tree.iter("data") if "offset" in d.attrib and "size" in d.attrib]
    needed = max((int(d.attrib["offset"]) + int(d.attrib["size"]) for d in places), default=0)
    written = data.stat().st_size if data.is_file() else 0
    if written < needed:
        raise OutputError(
            f"{data.parent.name}/{data.name} was not written whole ({written} bytes of {needed}). "
            "Nothing was left behind; make room or choose another folder, and export again."
        )
    for layer in tree.iter("layer"):
        if layer.attrib["name"].endswith(_CAST):
            # Without this mark the library makes a float32 copy of every weight when it loads.
            layer.insert(1, ET.fromstring(_DECOMPRESSION))
        if layer.attrib["type"] not in ("Parameter", "Result"):
            # The library's own names count what the process made before.
            layer.attrib["name"] = f"{layer.attrib['type']}.{layer.attrib['id']}"
    root = tree.getroot()
    for info in root.findall("rt_info"):
        for name in ("conversion_parameters", "nncf"):
            for entry in info.findall(name):
                info.remove(entry)
    tree.write(graph, encoding="utf-8", xml_declaration=True)
