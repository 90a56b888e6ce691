"""The table of programs, and what is computed from it."""

from __future__ import annotations

import json
import math

import pytest

from conftest import ROOT
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.bundle import MANIFEST, hash_file
from ldm_engine.bundle.contract import PROGRAMS, TABLE, shapes, tensor_specs
from ldm_engine.bundle.formats import program_file_names
from ldm_engine.bundle.manifest import open_bundle, seal
from ldm_engine.commands.console import print_bundle

SIZES = {"N": 2, "S": 50, "B": 3, "rows": 6, "h": 8, "w": 16}
SPELLED = {"rows": "B or 2B"}


def _tensor(tensor):
    dims = ", ".join(SPELLED.get(d, str(d)) for d in tensor.dims)
    return f"`{tensor.name}` [{dims}] {tensor.dtype}" + (f" {tensor.values}" * bool(tensor.values))


def _row(program):
    name = f"`{program.name}`" + " (optional)" * program.is_optional
    tensors = [", ".join(map(_tensor, side)) for side in (program.inputs, program.outputs)]
    return f"| {' | '.join([name, program.runs_once_per, *tensors])} |"


@pytest.mark.parametrize("document", ["architecture.md", "bundle-format.md"])
def test_the_documents_show_the_table(document):
    lines = (ROOT / "docs" / document).read_text().splitlines()
    rows = [_row(program) for program in TABLE.values()]
    first = lines.index(rows[0])
    assert lines[first : first + len(rows)] == rows
    assert not lines[first + len(rows)].startswith("|")


def test_every_bundle_has_the_programs_that_are_not_optional():
    assert PROGRAMS == ("text_encoder", "time_encoder", "unet", "vae_decoder")
    assert list(TABLE)[: len(PROGRAMS)] == list(PROGRAMS)


@pytest.mark.parametrize("program", TABLE)
def test_shapes_are_those_of_the_manifest_with_sizes_filled_in(tiny_bundle, program):
    model = tiny_bundle.model
    by_name = shapes(program, model, **SIZES)
    inputs, outputs = tensor_specs(program, model)
    assert list(by_name) == [tensor.name for tensor in (*inputs, *outputs)]
    for tensor in (*inputs, *outputs):
        for size, fixed in zip(by_name[tensor.name], tensor.shape, strict=True):
            assert fixed in (-1, size)


def test_pixels_follow_from_latents(tiny_bundle):
    model = tiny_bundle.model
    assert shapes("vae_decoder", model, B=3, h=8, w=16) == {
        "latents": (3, 4, 8, 16),
        "image": (3, 8 * model.scale_factor, 16 * model.scale_factor, 3),
    }


def test_a_size_that_a_program_has_and_nobody_gave_is_an_error(tiny_bundle):
    with pytest.raises(KeyError, match="rows"):
        shapes("unet", tiny_bundle.model, B=1, h=8, w=8)


@pytest.fixture
def with_encoder(copy_bundle):
    """The tiny bundle with an optional program, whose files hold nothing that could be opened."""
    path = copy_bundle()
    bundle = open_bundle(path)
    names = program_file_names("vae_encoder", "paddle")
    (path / "vae_encoder").mkdir()
    content = json.loads((path / MANIFEST).read_text())
    for name in names:
        (path / name).write_text("no program")
        file = {"sha256": hash_file(path / name), "bytes": len("no program")}
        content["files"][name] = file
    inputs, outputs = tensor_specs("vae_encoder", bundle.model)
    content["programs"]["vae_encoder"] = {
        "inputs": [vars(tensor) for tensor in inputs],
        "outputs": [vars(tensor) for tensor in outputs],
        "formats": {"paddle": {"files": names, "weights": "fp32"}},
    }
    (path / MANIFEST).write_bytes(seal(content))
    return open_bundle(path)


def test_an_optional_program_is_read_and_shown(with_encoder, tiny_bundle, capsys):
    assert list(with_encoder.programs) == list(TABLE)
    assert with_encoder.formats == tiny_bundle.formats
    assert with_encoder.digest != tiny_bundle.digest
    print_bundle(with_encoder)
    assert "vae_encoder" in capsys.readouterr().out


def test_a_picture_needs_no_optional_program(with_encoder, tiny_pipe):
    with LDMTextToImagePipeline.from_pretrained(with_encoder.path) as pipe:
        images = [p("a", num_inference_steps=1, seed=0).images[0] for p in (pipe, tiny_pipe)]
    assert images[0].tobytes() == images[1].tobytes()
    assert math.prod(images[0].size) > 0
