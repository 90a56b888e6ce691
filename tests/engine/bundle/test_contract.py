"""The table of programs, and what is computed from it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from conftest import ROOT, without_optional
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.contract import PROGRAMS, TABLE, shapes, tensor_specs
from ldm_engine.bundle.manifest import open_bundle, save_manifest
from ldm_engine.commands.console import print_bundle
from ldm_engine.errors import BundleError

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


def test_an_optional_program_is_read_and_shown(tiny_bundle, capsys):
    assert list(tiny_bundle.programs) == list(TABLE)
    print_bundle(tiny_bundle)
    assert "vae_encoder" in capsys.readouterr().out


def test_a_bundle_without_it_makes_the_same_of_texts(tiny_bundle, tiny_pipe, copy_bundle, capsys):
    path = copy_bundle()
    shutil.rmtree(path / "vae_encoder")
    made = without_optional(open_bundle(path))
    files = {n: info for n, info in made.files.items() if not n.startswith("vae_encoder/")}
    save_manifest(replace(made, files=files))
    without = open_bundle(path)
    without.check_files()
    assert tuple(without.programs) == PROGRAMS
    assert (without.formats, without.digest) == (tiny_bundle.formats, tiny_bundle.digest)
    with LDMTextToImagePipeline.from_pretrained(path) as pipe:
        images = [p("a", num_inference_steps=1, seed=0).images[0] for p in (pipe, tiny_pipe)]
    assert images[0].tobytes() == images[1].tobytes()
    print_bundle(without)
    assert without.parity["paddle"]["fp32"]["vae_encoder"].passed
    assert "vae_encoder" not in capsys.readouterr().out


def test_a_picture_of_a_text_needs_no_optional_program(copy_bundle, tiny_pipe):
    """Neither opened nor hashed: its files may be damaged."""
    path = copy_bundle()
    for file in (path / "vae_encoder").iterdir():
        file.write_bytes(b"no program")
    with LDMTextToImagePipeline.from_pretrained(path) as pipe:
        images = [p("a", num_inference_steps=1, seed=0).images[0] for p in (pipe, tiny_pipe)]
        with pytest.raises(BundleError, match=r"vae_encoder/inference\.json has 10 bytes"):
            pipe.opened.open_program("vae_encoder")
    assert images[0].tobytes() == images[1].tobytes()
    with pytest.raises(BundleError, match=r"vae_encoder/inference\.pdiparams has 10 bytes"):
        open_bundle(path).check_files()
