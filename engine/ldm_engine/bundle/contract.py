"""THE table of programs: their tensors, how often each runs, and which a bundle may lack.

All that depends on the tensors of a program is computed from this table: the manifest's
specifications, the shapes that programs are allocated for, the reference cases of verification,
the shape ranges of TensorRT engines, and the tables in ``docs/``. The twin in C++ is
``cpp/src/bundle/contract.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import ModelInfo

# The dimensions of tensors, as symbols. What the model fixes:
#   T  tokens of a text    K  width of text_kv    R  width of time_shift    C  latent channels
# What is free:
#   N  texts               S  timesteps           B  images                 h, w  latent cells
#   rows  of text, B without guidance and 2B with it
# What follows from h and w:
#   H, W  pixels
Dimension = str | int

IN_0_1 = "in [0, 1]"


@dataclass(frozen=True)
class Tensor:
    """An input or output of a program, with symbolic dimensions."""

    name: str
    dims: tuple[Dimension, ...]
    dtype: str = "float32"
    values: str = ""  #: what they lie in, if there are bounds


@dataclass(frozen=True)
class ProgramContract:
    """One row of the table."""

    name: str
    runs_once_per: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    left_out_by: str = ""  #: the option of an export whose bundle lacks it; empty: none does

    @property
    def is_optional(self) -> bool:
        """Whether a bundle may lack it."""
        return bool(self.left_out_by)


_TEXT_KV = Tensor("text_kv", ("N", "T", "K"))
_LATENTS = Tensor("latents", ("B", "C", "h", "w"))
_IMAGE = Tensor("image", ("B", "H", "W", 3), values=IN_0_1)

#: In the order in which an image passes through them, then the optional ones.
TABLE = {
    program.name: program
    for program in (
        ProgramContract(
            "text_encoder",
            "text",
            (Tensor("input_ids", ("N", "T"), "int64"),),
            (_TEXT_KV,),
        ),
        ProgramContract(
            "time_encoder",
            "schedule",
            (Tensor("timesteps", ("S",)),),
            (Tensor("time_shift", ("S", "R")),),
        ),
        ProgramContract(
            "unet",
            "step",
            (_LATENTS, Tensor("time_shift", (1, "R")), Tensor("text_kv", ("rows", "T", "K"))),
            (Tensor("noise_pred", ("rows", "C", "h", "w")),),
        ),
        ProgramContract("vae_decoder", "image", (_LATENTS,), (_IMAGE,)),
        # The scaling factor times the mean of the posterior.
        ProgramContract("vae_encoder", "input image", (_IMAGE,), (_LATENTS,), "--no-encoder"),
    )
}
#: The programs that every bundle has.
PROGRAMS = tuple(name for name, program in TABLE.items() if not program.is_optional)
OPTIONAL_PROGRAMS = tuple(name for name, program in TABLE.items() if program.is_optional)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the manifest lists it; -1 in the shape means any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


#: The inputs and the outputs of a program, in order.
TensorSpecs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def tensor_specs(program: str, model: ModelInfo) -> TensorSpecs:
    """The tensors of `program` for this `model`, whatever their free sizes."""
    fixed = _fixed_sizes(model)

    def spec(tensor: Tensor) -> TensorSpec:
        shape = tuple(d if isinstance(d, int) else fixed.get(d, -1) for d in tensor.dims)
        return TensorSpec(tensor.name, tensor.dtype, shape)

    entry = TABLE[program]
    return tuple(map(spec, entry.inputs)), tuple(map(spec, entry.outputs))


def shapes(program: str, model: ModelInfo, **sizes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all inputs and outputs of `program`, by name.

    Args:
        program: its name.
        model: gives what is fixed.
        sizes: of the free dimensions that the program has: N, S, B, rows, h, w.
    """
    sizes |= _fixed_sizes(model)
    sizes |= {
        pixels: sizes[cells] * model.scale_factor
        for pixels, cells in (("H", "h"), ("W", "w"))
        if cells in sizes
    }
    entry = TABLE[program]
    return {
        tensor.name: tuple(d if isinstance(d, int) else sizes[d] for d in tensor.dims)
        for tensor in entry.inputs + entry.outputs
    }


def _fixed_sizes(model: ModelInfo) -> dict[str, int]:
    return {
        "T": model.token_length,
        "K": model.text_kv_width,
        "R": model.time_shift_width,
        "C": model.latent_channels,
    }


def dimension_name(tensor: str, axis: int) -> str:
    """The name of a free dimension in ONNX graphs."""
    return f"{tensor}_{axis}"
