from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from ldm_engine import NoiseSchedule, PromptTruncatedWarning, open_bundle
from ldm_engine.bundle.bundle import MANIFEST, SOLVERS, FormatInfo
from ldm_engine.bundle.contract import PROGRAMS, TABLE
from ldm_engine.checks.references import load_references
from ldm_engine.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    InvalidArgumentError,
    OutputError,
    VerificationError,
)
from ldm_engine.sampling.fitted import Tables
from ldm_engine.sampling.solvers_file import save_tables
from ldm_engine.sampling.tokenizer import Tokenizer
from ldm_export import exporter
from ldm_export.checkpoint import open_checkpoint
from ldm_export.command import export
from ldm_export.exporter import export_bundle
from ldm_export.target import check_target, staging_folder
from made_tables import made_table

# Fills most of a 2 MB limit on file size, then meets the UNet's weights.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from ldm_engine.errors import LDMEngineError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    export_bundle(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), formats=["paddle"], force=True)
except LDMEngineError as error:
    print(error)
    sys.exit(7)
"""


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_bundle_is_what_the_design_says(tiny_bundle):
    present = {str(p.relative_to(tiny_bundle.path)) for p in tiny_bundle.path.rglob("*.*")}
    assert present == set(tiny_bundle.files) | {MANIFEST}
    for name in TABLE:
        assert tiny_bundle.programs[name].formats == {
            "paddle": FormatInfo((f"{name}/inference.json", f"{name}/inference.pdiparams"), "fp32")
        }
    parity = tiny_bundle.parity["paddle"]["fp32"]
    assert set(parity) == {*TABLE, "end_to_end"}
    for entry in parity.values():
        assert 0 < entry.relative_l2_error <= entry.tolerance <= 1e-3


def test_weights_that_a_program_does_not_use_are_left_out(tiny_bundle):
    sizes = {n: tiny_bundle.files[f"{n}/inference.pdiparams"].bytes for n in PROGRAMS}
    assert sizes["time_encoder"] < sizes["unet"] / 5


def test_exporting_twice_gives_the_same_bundle(tiny_bundle, tiny_checkpoint, tmp_path):
    again = export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "b", formats=["paddle"])
    assert again.digest == tiny_bundle.digest


@pytest.fixture
def without_encoder(checkpoint):
    """The checkpoint without the encoder of its autoencoder."""
    path = checkpoint / "vqvae/diffusion_pytorch_model.safetensors"
    tensors = {n: v for n, v in load_file(path).items() if not n.startswith("encoder.")}
    save_file(tensors, path)
    return checkpoint


def test_a_checkpoint_without_an_encoder_is_exported_without_it(
    without_encoder, tiny_bundle, tmp_path
):
    out = tmp_path / "bundle"
    arguments = [str(without_encoder), str(out), "--formats", "paddle"]
    done = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert "Note: The checkpoint has no encoder of its autoencoder" in " ".join(done.output.split())
    made = open_bundle(out)
    assert tuple(made.programs) == PROGRAMS
    assert not (out / "vae_encoder").exists()
    assert set(made.parity["paddle"]["fp32"]) == {*PROGRAMS, "end_to_end"}
    assert made.digest == tiny_bundle.digest


def test_an_encoder_that_is_not_there_cannot_be_asked_for(without_encoder, tmp_path):
    with pytest.raises(CheckpointError, match="no encoder of its autoencoder"):
        export_bundle(open_checkpoint(without_encoder), tmp_path / "b", encoder=True)


def test_weights_in_half_precision_take_half_the_space_and_are_recorded(
    tiny_bundle, tiny_checkpoint, tmp_path
):
    """In Paddle; tests/export/formats looks at the other formats."""
    out = tmp_path / "bundle"
    checkpoint = open_checkpoint(tiny_checkpoint)
    made = export_bundle(checkpoint, out, formats=["paddle"], weights="fp16")
    for program in made.programs.values():
        info = program.formats["paddle"]
        assert info.weights == "fp16"
        ratio = made.files[info.files[1]].bytes / tiny_bundle.files[info.files[1]].bytes
        assert 0.5 < ratio < 0.6  # what has one dimension stays as it is
    for entry in made.parity["paddle"]["fp32"].values():
        assert 1e-6 < entry.relative_l2_error <= entry.tolerance  # rounded, and no further off
    assert open_bundle(out).programs == made.programs


@pytest.mark.parametrize("value", [3.0, np.nan])
@pytest.mark.parametrize("damaged", TABLE)
def test_a_corrupted_program_fails_the_export(
    tiny_checkpoint, tmp_path, monkeypatch, damaged, value
):
    """The gate: one weight of one program changed after writing."""

    def write_and_damage(program, folder, formats, weights):
        write_program(program, folder, formats, weights)
        if program.name == damaged:
            weights = folder / "inference.pdiparams"
            content = bytearray(weights.read_bytes())
            start = len(content) - 32 * 4
            content[start:] = np.full(32, value, np.float32).tobytes()
            weights.write_bytes(content)

    write_program = exporter.write_program
    monkeypatch.setattr(exporter, "write_program", write_and_damage)
    out = tmp_path / "bundle"
    with pytest.raises(VerificationError) as caught:
        export_bundle(open_checkpoint(tiny_checkpoint), out, formats=["paddle"])
    named = [n for n in TABLE if f"- {n} in paddle" in str(caught.value)]
    assert named == [damaged]
    assert "tolerance 1e-04" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_changes_no_reference(tiny_bundle, tiny_onnx_bundle):
    """Paddle's format leaves layers that do not run as dygraph; the models in them still do."""
    found = [load_references(bundle) for bundle in (tiny_bundle, tiny_onnx_bundle)]
    assert found[0].keys() == found[1].keys()
    for key, outputs in found[0].items():
        for name, values in outputs.items():
            np.testing.assert_array_equal(values, found[1][key][name])


def test_a_bundle_in_the_way_is_kept(tiny_bundle, tiny_checkpoint, tmp_path):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    with pytest.raises(OutputError, match="--force"):
        export_bundle(open_checkpoint(tiny_checkpoint), out)
    open_bundle(out).check_files()
    (out / "vocab.txt").unlink()
    made = export_bundle(open_checkpoint(tiny_checkpoint), out, force=True, encoder=False)
    made.check_files()
    assert tuple(made.programs) == PROGRAMS
    assert not (out / "vae_encoder").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("content", ["damaged", None])
def test_a_damaged_bundle_can_be_replaced(tiny_bundle, tmp_path, content):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    (out / MANIFEST).unlink() if content is None else (out / MANIFEST).write_text(content)
    with pytest.raises(OutputError):
        check_target(out, force=False)
    assert check_target(out, force=True) == out


def test_solvers_are_kept_by_an_export_of_the_same_programs_alone(tiny_checkpoint, tmp_path):
    checkpoint, out = open_checkpoint(tiny_checkpoint), tmp_path / "bundle"

    def export(**options):
        return export_bundle(checkpoint, out, formats=["onnx"], force=True, **options)

    bundle = export()
    schedule = NoiseSchedule.from_config(bundle.scheduler_config)
    save_tables(bundle, Tables((made_table(schedule, 6.0, 3),)), schedule)
    before = (out / SOLVERS).read_bytes()
    export(encoder=False)  # which makes no pixels of texts
    assert (out / SOLVERS).read_bytes() == before
    export(weights="fp16")
    assert not (out / SOLVERS).exists()
    (out / SOLVERS).write_bytes(before)  # another bundle's
    export(weights="fp16")
    assert not (out / SOLVERS).exists()


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_links_and_empty_folders_of_others_are_kept_too(tiny_bundle, tmp_path, kind):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    (out / "mine").symlink_to(tmp_path) if kind == "link" else (out / "mine").mkdir()
    with pytest.raises(OutputError, match="mine"):
        check_target(out, force=True)


def test_a_long_name_is_fine(tmp_path):
    with staging_folder(tmp_path / ("x" * 245)) as staging:
        (staging / "file").write_text("here")
    assert (tmp_path / ("x" * 245) / "file").read_text() == "here"


def test_a_default_size_that_the_levels_cannot_halve_is_refused(checkpoint, tmp_path):
    edit_json(checkpoint / "unet/config.json", sample_size=12)
    with pytest.raises(ConfigError, match="sample_size"):
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")


@pytest.mark.parametrize("manifest", [None, "{}", "not json", '{"files": {}}'])
def test_a_folder_that_is_no_bundle_is_never_replaced(tiny_checkpoint, tmp_path, manifest):
    (tmp_path / "thesis.txt").write_text("precious")
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(OutputError, match="not a bundle"):
        export_bundle(open_checkpoint(tiny_checkpoint), tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_what_others_put_into_a_bundle_is_never_deleted(tiny_bundle, tiny_checkpoint, tmp_path):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    (out / "images").mkdir()
    (out / "images/picture.png").write_text("precious")
    with pytest.raises(OutputError, match=r"images/picture\.png"):
        export_bundle(open_checkpoint(tiny_checkpoint), out, force=True)
    assert (out / "images/picture.png").read_text() == "precious"


def test_an_interrupt_just_after_the_swap_leaves_the_new_bundle(tiny_bundle, tmp_path, monkeypatch):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    rename = Path.replace

    def interrupt_after(self, target):
        rename(self, target)
        if ".partial-" in self.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt_after)
    with pytest.raises(KeyboardInterrupt), staging_folder(out) as staging:
        (staging / "new").write_text("new")
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("failure", [OSError("no"), KeyboardInterrupt()])
def test_when_the_swap_fails_the_old_bundle_is_back(tiny_bundle, tmp_path, monkeypatch, failure):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    rename = Path.replace

    def fail_for_staging(self, target):
        if ".partial-" in self.name:
            raise failure
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_staging)
    with pytest.raises((OutputError, KeyboardInterrupt)), staging_folder(out) as staging:
        (staging / "new").write_text("new")
    open_bundle(out).check_files()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_when_even_restoring_fails_the_old_bundle_is_kept(tiny_bundle, tmp_path, monkeypatch):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    rename = Path.replace

    def fail_but_once(self, target):
        if self != out:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_but_once)
    with pytest.raises(OutputError, match="move it back by hand"), staging_folder(out):
        pass
    (kept,) = tmp_path.glob(".bundle.old-*/bundle")
    open_bundle(kept).check_files()


def test_a_link_is_followed_and_a_file_is_not_replaced(tiny_checkpoint, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk/not there yet")
    made = export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "link")
    assert made.path == tmp_path / "disk/not there yet"
    open_bundle(tmp_path / "link").check_files()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="is a file"):
        check_target(tmp_path / "file", force=True)


def test_a_mount_point_is_refused_before_the_work():
    with pytest.raises(OutputError, match="mount point"):
        check_target(Path("/proc"), force=False)


def test_when_the_disk_is_full_the_old_bundle_survives(tiny_bundle, tiny_checkpoint, tmp_path):
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tiny_checkpoint), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr[-2000:]
    assert "unet/inference.pdiparams was not written whole" in done.stdout
    open_bundle(out).check_files()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_unknown_format_is_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(InvalidArgumentError, match="tflite"):
        export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "b", formats=["tflite"])


def test_configs_that_do_not_belong_together_are_refused(checkpoint, tmp_path):
    edit_json(checkpoint / "unet/config.json", cross_attention_dim=48)
    with pytest.raises(ConfigError, match="48"):
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")


def test_an_unknown_scheduler_is_refused(checkpoint, tmp_path):
    edit_json(checkpoint / "scheduler/scheduler_config.json", _class_name="LCMScheduler")
    with pytest.raises(ConfigError, match="LCMScheduler"):
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")


def test_missing_and_misshaped_tensors_are_listed_together(checkpoint, tmp_path):
    path = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["extra.weight"] = tensors.pop("conv_in.weight")
    tensors["conv_out.bias"] = np.zeros(9, np.float32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")
    for name in ("extra.weight", "conv_in.weight", "conv_out.bias"):
        assert name in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_faults_of_all_components_are_in_one_message(checkpoint, tmp_path):
    for path in checkpoint.rglob("*.safetensors"):
        tensors = load_file(path)
        tensors[f"extra.{path.parent.name}"] = np.zeros(1, np.float32)
        save_file(tensors, path)
    edit_json(checkpoint / "tokenizer/tokenizer_config.json", do_lower_case=True)
    with pytest.raises(CheckpointError) as caught:
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")
    assert all(f"extra.{name}" in str(caught.value) for name in ("bert", "unet"))


def test_a_tokenizer_setting_of_the_wrong_type_is_refused(checkpoint, tmp_path):
    edit_json(checkpoint / "tokenizer/tokenizer_config.json", do_lower_case="no")
    with pytest.raises(ConfigError, match="do_lower_case"):
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")


def test_a_tokenizer_that_transformers_saves_today_is_exported(checkpoint, tmp_path):
    from transformers import BertTokenizer

    folder = checkpoint / "tokenizer"
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(vocabulary.read_text().split("\n")[:-3]) + "\n")
    made = BertTokenizer(str(vocabulary), strip_accents=False, tokenize_chinese_chars=False)
    assert made.add_tokens(["<Cat>", "café"]) == 2
    shutil.rmtree(folder)
    made.save_pretrained(folder)
    assert not vocabulary.exists()
    export_bundle(open_checkpoint(checkpoint), tmp_path / "b", formats=["paddle"])
    bundle = open_bundle(tmp_path / "b")
    texts = ["a <cat>s <CAT> CAFÉ cafe\u0301", "", "red [SEP] 中文", "circle " * 90]
    with pytest.warns(PromptTruncatedWarning):
        ids = Tokenizer.of(bundle)(texts)
    options = {"padding": "max_length", "max_length": bundle.model.token_length}
    theirs = BertTokenizer.from_pretrained(folder)(texts, truncation=True, **options)
    assert ids.tolist() == theirs["input_ids"]
    assert bundle.model.vocab_size - 1 in ids, "the token added last"


def test_a_vocabulary_larger_than_the_embedding_is_refused(checkpoint, tmp_path):
    with (checkpoint / "tokenizer/vocab.txt").open("a") as file:
        file.writelines(f"word{i}\n" for i in range(1000))
    with pytest.raises(BundleError, match="embeds"):
        export_bundle(open_checkpoint(checkpoint), tmp_path / "b")
