"""The command ``ldm-engine export``: its options, and the order of what it does with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldm_engine.commands import console
from ldm_engine.errors import RuntimeUnavailableError
from ldm_engine.runtimes.paddle_predictor import import_remedy

if TYPE_CHECKING:
    from .hub import Hub

_FOLDER = click.Path(path_type=Path)


@click.command()
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
        from .checkpoint import open_checkpoint
        from .exporter import export_bundle
        from .formats.writing import check_formats, default_formats
        from .hub import fetch
        from .quantization import check_int8
        from .target import check_target
        from .tensorrt_programs import Asked, check_tensorrt
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


def _split(names: str) -> tuple[str, ...]:
    """What a comma-separated option names, each once."""
    return tuple(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
