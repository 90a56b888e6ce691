"""The manifests that both engines accept and refuse; cpp/tests holds the other one to them."""

from __future__ import annotations

import json

import pytest

from conftest import DATA
from ldm_engine import errors
from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.bundle.manifest import open_bundle, seal

MANIFESTS = json.loads((DATA / "manifests.json").read_text())
REPEATED = 100_000


def _manifest(case):
    """The text of the manifest that a case describes."""
    if "text" in case:
        return case["text"].encode()
    if "repeat" in case:
        return case["repeat"].encode() * REPEATED
    sealed = json.loads(seal(MANIFESTS[case.get("base", "base")]))
    *parents, last = case["path"] or [None]
    place = sealed
    for key in parents:
        place = place[key]
    if case.get("remove"):
        del place[last]
    elif last is not None:
        place[last] = case["value"]
    return seal(sealed) if case.get("seal", True) else json.dumps(sealed, indent=2).encode() + b"\n"


@pytest.mark.parametrize("case", MANIFESTS["cases"], ids=lambda c: c["name"])
def test_manifests(case, tmp_path):
    (tmp_path / MANIFEST).write_bytes(_manifest(case))
    if case["error"] is None:
        bundle = open_bundle(tmp_path)
        assert bundle.files
        assert bundle.digest == case.get("digest", bundle.digest)
        if "outside" in case:
            expected = case["outside"]
            assert bundle.outside(expected["runtime"], expected["precision"]) == expected["says"]
        return
    with pytest.raises(getattr(errors, case["error"])) as caught:
        open_bundle(tmp_path)
    assert case["says"] in str(caught.value)
