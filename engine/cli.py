"""The command ``ldm-engine``: its subcommands and options.

This is the one file of the engine that reaches into ``ldm_engine.export``, and only when the
``export`` command runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import console
from .benchmarking.command import bench
from .bundle import PROGRAMS, Bundle
from .errors import RuntimeUnavailableError
from .generating.command import generate
from .golden import TOLERANCE, check_golden, why_not_applicable
from .manifest import open_bundle
from .pipeline import LDMTextToImagePipeline
from .rendering.command import render
from .runtimes import Choice, choose_runtime, resolve_options, select_runtimes
from .runtimes.paddle_predictor import import_remedy
from .verification import check_runtime, load_references, require_passed, sample
from .version import __version__

if TYPE_CHECKING:
    from ldm_engine.export.hub import Hub

_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    # --num_inference_steps works as well as --num-inference-steps
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "max_content_width": 100,
}
_FOLDER = click.Path(path_type=Path)


@click.group(context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="ldm-engine")
@console.debug_option
def cli() -> None:
    """Verified static-graph inference for ldm-text2im-large-256 and its family."""


@cli.command()
@click.argument("checkpoint")
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--formats",
    help="Comma-separated: paddle, onnx, openvino, tensorrt. Default: paddle, and openvino if "
    "installed.",
)
@click.option(
    "--weights",
    default="fp32",
    show_default=True,
    help="fp32, or fp16 to store weights in half the space; computing stays as precise.",
)
@click.option(
    "--int8", is_flag=True, help="Add a quantized UNet to the format openvino (needs NNCF)."
)
@click.option(
    "--calibration-prompts",
    type=_FOLDER,
    metavar="FILE",
    help="A prompt a line, to calibrate int8 with. Default: the checkpoint's own, or general ones.",
)
@click.option("--precision", help="Of the format tensorrt: fp16 or fp32. Default: fp16.")
@click.option("--min-batch", type=int, help="Fewest images at once in the format tensorrt.")
@click.option("--opt-batch", type=int, help="What it is to be fastest for.")
@click.option("--max-batch", type=int, help="Most. Default: from 1 to 4, fastest for 1.")
@click.option("--min-size", type=int, help="Least height and width of its images, in pixels.")
@click.option("--opt-size", type=int, help="What it is to be fastest for.")
@click.option("--max-size", type=int, help="Largest. Default: as trained, to twice that.")
@click.option(
    "--hub",
    type=click.Choice(["huggingface", "paddlenlp"]),
    default="huggingface",
    show_default=True,
    help="Where an id such as CompVis/ldm-text2im-large-256 is fetched from.",
)
@click.option("--hub-url", help="Base URL of the PaddleNLP community store or of a mirror.")
@click.option("--revision", help="Branch, tag or commit on the Hugging Face hub.")
@click.option("--vocab", type=_FOLDER, help="vocab.txt, for checkpoints that come without one.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@console.debug_option
def export(
    checkpoint: str,
    bundle: Path,
    formats: str | None,
    weights: str,
    int8: bool,
    calibration_prompts: Path | None,
    hub: Hub,
    hub_url: str | None,
    revision: str | None,
    vocab: Path | None,
    force: bool,
    **tensorrt: Any,
) -> None:
    """Turn CHECKPOINT into a verified BUNDLE.

    CHECKPOINT is a folder in the diffusers or PaddleNLP layout, a CompVis .ckpt file, or an id such
    as CompVis/ldm-text2im-large-256, which is downloaded. BUNDLE is the folder to make. It appears
    only when every exported program agrees with the original model.
    """
    try:
        from ldm_engine.export.checkpoint import open_checkpoint
        from ldm_engine.export.exporter import export_bundle
        from ldm_engine.export.formats import check_formats, default_formats
        from ldm_engine.export.hub import fetch
        from ldm_engine.export.quantization import check_int8
        from ldm_engine.export.target import check_target
        from ldm_engine.export.tensorrt_programs import Asked, check_tensorrt
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"Exporting needs more than running: {error}. "
            + import_remedy(error, "pip install 'ldm-engine[export]'")
        ) from error
    wanted = _split(formats) if formats is not None else default_formats()
    check_formats(wanted, weights)  # before a download
    check_int8(wanted, int8, calibration_prompts)
    asked = Asked(**tensorrt)
    check_tensorrt(wanted, asked)
    bundle = check_target(bundle, force)
    folder = fetch(checkpoint, hub=hub, base_url=hub_url, revision=revision)
    opened = open_checkpoint(folder, vocab=vocab)
    source = None if folder == Path(checkpoint) else checkpoint  # an id, or else the folder's name
    with console.stages() as progress:
        made = export_bundle(
            opened,
            bundle,
            formats=wanted,
            weights=weights,
            int8=int8,
            calibration_prompts=calibration_prompts,
            tensorrt=asked,
            force=force,
            source=source,
            progress=progress,
        )
    console.print_bundle(made)


@cli.command()
@click.argument("bundle", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's facts as JSON.")
@console.debug_option
def info(bundle: Path, as_json: bool) -> None:
    """Show what is inside BUNDLE.

    Programs, tensors, sizes, how closely each program agrees with the original model, the versions
    it was made with, and which runtime would be chosen on this machine and why.
    """
    opened = open_bundle(bundle)
    if as_json:
        print(json.dumps(_as_json(opened), indent=2))
    else:
        console.print_bundle(opened)


def _as_json(bundle: Bundle) -> dict[str, Any]:
    facts = asdict(replace(bundle, path=str(bundle.path)))  # type: ignore[arg-type]
    del facts["manifest_stamp"]
    return {**facts, "digest": bundle.digest, "formats": bundle.formats}


@cli.command()
@click.argument("bundle", type=_FOLDER)
@click.option("--runtime", default="all", show_default=True, help="all, or the name of one.")
@click.option("--precision", default="all", show_default=True, help="all, or the name of one.")
@click.option("--device", default="cpu", show_default=True, help="cpu, or gpu:0, gpu:1, ...")
@click.option(
    "--golden",
    is_flag=True,
    help="Compare with the published image slice of CompVis/ldm-text2im-large-256 as well.",
)
@console.debug_option
def verify(bundle: Path, runtime: str, precision: str, device: str, golden: bool) -> None:
    """Check BUNDLE's files and outputs.

    Every file's hash, then every program and a short loop against samples of the original model's
    outputs that the export left in the bundle, in every runtime and precision that this machine
    has. The checkpoint is not needed.
    """
    opened = open_bundle(bundle)
    checks, refusals = select_runtimes(opened, runtime, precision, device)
    with console.byte_bar("hashing", sum(f.bytes for f in opened.files.values())) as on_bytes:
        opened.check_files(on_bytes=on_bytes)
    console.out.print(f"{len(opened.files)} files have the hashes that the manifest lists.")
    references = load_references(opened)
    for refusal in refusals:
        console.err.print(f"Not checked: {refusal}", markup=False)
    findings = []
    with console.stages(len(checks) * (len(PROGRAMS) + 1)) as progress:
        for choice, used_precision in checks:
            options = resolve_options(choice.runtime, device, used_precision, None)
            findings += check_runtime(opened, choice, options, references, sample, progress)
    console.print_findings(findings)
    require_passed(findings, f"The bundle {bundle}")
    if golden:
        _verify_golden(opened, checks[0][0], device)


def _verify_golden(bundle: Bundle, choice: Choice, device: str) -> None:
    reason = why_not_applicable(bundle)
    if reason:
        console.out.print(f"golden: does not apply to this bundle: {reason}.")
        return
    choice = choose_runtime(
        bundle, choice.runtime.wide_runtime or choice.runtime.name, "fp32", device
    )
    options = resolve_options(choice.runtime, device, "fp32", None)
    result = check_golden(LDMTextToImagePipeline.from_bundle(bundle, choice, options))
    verdict = "pass" if result.passed else "FAIL"
    console.out.print(
        f"golden: {verdict}: the published slice is {result.error:.2g} away at most; "
        f"{TOLERANCE:g} is tolerated."
    )
    if not result.passed:
        console.out.print(
            "The weights or the scheduler config are not those that were published on the hub."
        )
        raise click.exceptions.Exit(console.EXIT_FAILURE)


def _split(names: str) -> tuple[str, ...]:
    """What a comma-separated option names, each once."""
    return tuple(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))


cli.add_command(generate)
cli.add_command(render)
cli.add_command(bench)


def main() -> None:
    """Entry point of the ``ldm-engine`` script."""
    console.run(cli)
