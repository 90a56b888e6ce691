"""The command ``ldm-engine export``: its options, and their checks before any download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldm_engine.commands import console
from ldm_engine.errors import RuntimeUnavailableError
from ldm_engine.runtimes.paddle_predictor import import_remedy, install_command

if TYPE_CHECKING:
    from .hub import Hub

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint")
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--formats",
    help="Formats, comma-separated: paddle, onnx, openvino, tensorrt. Default: paddle, and "
    "openvino if installed.",
)
@click.option(
    "--weights",
    default="fp32",
    show_default=True,
    help="Precision of stored weights: fp32, or fp16 for half the space (computing stays fp32).",
)
@click.option(
    "--int8", is_flag=True, help="Add a quantized UNet to the format openvino (needs NNCF)."
)
@click.option(
    "--calibration-prompts",
    type=_FOLDER,
    metavar="FILE",
    help="Prompts to calibrate int8 with and to fit solvers to, one a line. Default: the "
    "checkpoint's, or general ones.",
)
@click.option(
    "--encoder/--no-encoder",
    default=None,
    help="The program vae_encoder, which pictures as input need, or none. Default: where the "
    "checkpoint has the encoder of its autoencoder.",
)
@click.option(
    "--require",
    multiple=True,
    metavar="PRECISION",
    help="Precisions without which the export fails, comma-separated, such as bf16. Default: fp32, "
    "and int8 with --int8; others that are outside their tolerances are recorded and refused.",
)
@click.option("--precision", help="Precision of TensorRT engines: fp16 or fp32. Default: fp16.")
@click.option("--min-batch", type=int, help="Smallest batch of TensorRT engines. Default: 1.")
@click.option("--opt-batch", type=int, help="Batch size to optimise the engines for. Default: 1.")
@click.option("--max-batch", type=int, help="Largest batch. Default: 4.")
@click.option(
    "--min-size",
    type=int,
    help="Smallest image of TensorRT engines, in pixels of height and width. Default: as trained.",
)
@click.option(
    "--opt-size", type=int, help="Image size to optimise the engines for. Default: as trained."
)
@click.option("--max-size", type=int, help="Largest image size. Default: twice the trained size.")
@click.option(
    "--hub",
    type=click.Choice(["huggingface", "paddlenlp"]),
    default="huggingface",
    show_default=True,
    help="Hub to download an id such as CompVis/ldm-text2im-large-256 from.",
)
@click.option("--hub-url", help="Base URL of the PaddleNLP community store or of a mirror.")
@click.option("--revision", help="Branch, tag or commit on the Hugging Face hub.")
@click.option(
    "--variant",
    metavar="NAME",
    help="Variant of the weights files to read, such as fp16. Default: the plain files, or the one "
    "variant that is there.",
)
@click.option(
    "--ema/--no-ema",
    default=None,
    help="Averaged weights, or those trained last. Default: as a CompVis file's yaml says, else "
    "averaged where the file has all of them; in a diffusers folder unet/, not unet_ema/.",
)
@click.option(
    "--vocab",
    type=_FOLDER,
    help="Vocabulary (vocab.txt or tokenizer.json) that counts instead of the checkpoint's own.",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@console.debug_option
def export(
    checkpoint: str,
    bundle: Path,
    formats: str | None,
    weights: str,
    int8: bool,
    calibration_prompts: Path | None,
    encoder: bool | None,
    require: tuple[str, ...],
    hub: Hub,
    hub_url: str | None,
    revision: str | None,
    variant: str | None,
    ema: bool | None,
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
        from .hub import cached_id, fetch
        from .precisions import required_precisions
        from .quantization import check_int8
        from .target import check_target
        from .tensorrt_programs import BuildOptions, check_tensorrt
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"Exporting needs more packages than running: {error}. "
            + import_remedy(error, install_command("export"))
        ) from error
    wanted = _split(formats) if formats is not None else default_formats()
    check_formats(wanted, weights)  # before a download
    check_int8(wanted, int8, calibration_prompts)
    build = BuildOptions(**tensorrt)
    check_tensorrt(wanted, build)
    required = _split(",".join(require))
    required_precisions(required, wanted, int8, build)
    bundle = check_target(bundle, force)
    folder = fetch(
        checkpoint,
        hub=hub,
        hub_url=hub_url,
        revision=revision,
        variant=variant,
        ema=ema,
        report=console.print_note,
    )
    opened = open_checkpoint(folder, vocab=vocab, variant=variant, ema=ema)
    for note in opened.notes:
        console.print_note(note)
    # An id, or else the folder's name.
    source = cached_id(folder.absolute()) if folder == Path(checkpoint) else checkpoint
    with console.stages() as progress:
        made = export_bundle(
            opened,
            bundle,
            formats=wanted,
            weights=weights,
            int8=int8,
            calibration_prompts=calibration_prompts,
            tensorrt=build,
            encoder=encoder,
            require=required,
            force=force,
            source=source,
            progress=progress,
        )
    if encoder is None and "vae_encoder" not in made.programs:
        console.print_note(
            "The checkpoint has no encoder of its autoencoder (`encoder.*`), and the bundle no "
            "vae_encoder, which pictures as input need."
        )
    console.print_bundle(made)


def _split(names: str) -> tuple[str, ...]:
    """The names in a comma-separated option, each once."""
    return tuple(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
