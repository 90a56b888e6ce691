"""Canonical tensor names for checkpoints with a folder per component: diffusers and PaddleNLP."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

from .checkpoint import StateDict
from .tensors import Tensors

# Tensors of the published files that inference never reads.
UNUSED = {
    "text_encoder": re.compile(r"(ldmbert\.)?to_logits\.|.*position_ids$"),
    "unet": re.compile(r"(?!)"),
    "autoencoder": re.compile(r"loss\."),
}

# First parts of the components' names, by which more parts before every name are known for such.
ROOTS = {
    "text_encoder": frozenset({"model", "to_logits", "embeddings", "encoder"}),
    "unet": frozenset({"conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks"}),
    "autoencoder": frozenset({"encoder", "decoder", "quant_conv", "post_quant_conv"}),
}

# Spellings of other times and places -> diffusers' spelling of today. The text encoder's are those
# of PaddleNLP's LDMBertModel before it took over torch's names (in its repository: ppdiffusers/
# scripts/convert_diffusers_model/convert_diffusers_latent_diffusion_model_to_ppdiffusers.py); the
# autoencoder's are those of diffusers' 2022 releases, which it still converts when it loads them
# (models/modeling_utils.py).
RENAMED = {
    "text_encoder": (
        (r"^ldmbert\.", ""),
        (r"^embeddings\.word_embeddings\.", "model.embed_tokens."),
        (r"^embeddings\.position_embeddings\.", "model.embed_positions."),
        (r"^encoder\.layers\.(\d+)\.norm1\.", r"model.layers.\1.self_attn_layer_norm."),
        (r"^encoder\.layers\.(\d+)\.norm2\.", r"model.layers.\1.final_layer_norm."),
        (r"^encoder\.layers\.(\d+)\.linear([12])\.", r"model.layers.\1.fc\2."),
        (r"^encoder\.layers\.(\d+)\.self_attn\.", r"model.layers.\1.self_attn."),
        (r"^final_layer_norm\.", "model.layer_norm."),
    ),
    "unet": (),
    "autoencoder": (
        (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
        (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
        (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
        (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    ),
}

# Two-dimensional weights that belong to Linear layers; embeddings are the only others.
LINEAR = re.compile(
    r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2"  # text encoder
    r"|linear_1|linear_2|time_emb_proj|to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2"
    r"|proj_in|proj_out)\.weight"  # the last two only where a config asks for linear projections
)

# The autoencoder's attention is Linear today and was 1x1 convolutions in CompVis' code.
AUTOENCODER_ATTENTION = re.compile(r".*\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def canonical_name(component: str, name: str) -> str | None:
    """The name diffusers uses today, or None for a tensor that inference never reads."""
    if UNUSED[component].match(name):
        return None
    for pattern, replacement in RENAMED[component]:
        name = re.sub(pattern, replacement, name)
    return name


def without_holder(stored: Tensors, roots: frozenset[str]) -> Tensors:
    """`stored` by the names of a model with these first parts, whatever the model was a part of.

    A training module that holds a model as `model` or `net` has that before every name.
    """
    parts = [name.split(".") for name in stored]
    held = 0  # parts before every name
    for depth in range(min(map(len, parts), default=0)):
        if len({tuple(part[:depth]) for part in parts}) > 1:
            break
        if roots & {part[depth] for part in parts}:
            held = depth
    return {".".join(name.split(".")[held:]): tensor for name, tensor in stored.items()}


def shown_in_out(stored: Tensors, rename: Callable[[str], str | None]) -> bool | None:
    """Whether the shapes of `stored` show Linear weights as [in, out]; None if they show nothing.

    A bias is as long as its layer is wide, so that every Linear layer that is not square tells.

    Raises:
        CheckpointError: some layers are stored one way, some the other.
    """
    shapes = {canonical: t.shape for name, t in stored.items() if (canonical := rename(name))}
    seen: dict[bool, str] = {}
    for name, shape in shapes.items():
        bias = shapes.get(name.removesuffix("weight") + "bias")
        is_rectangle = len(shape) == 2 and shape[0] != shape[1]
        if is_rectangle and LINEAR.fullmatch(name) and bias in ((shape[0],), (shape[1],)):
            seen.setdefault(bias == (shape[1],), name)
    if len(seen) == 2:
        raise CheckpointError(
            f"The weight `{seen[False]}` is stored as [out, in], `{seen[True]}` as [in, out].\n"
            "  Convert the whole file: torch keeps [out, in], Paddle [in, out]."
        )
    return next(iter(seen), None)


def canonical_state(
    stored: Tensors, rename: Callable[[str], str | None], *, linear_is_in_out: bool = False
) -> StateDict:
    """Read a component's tensors under their canonical names, in torch's layout and float32.

    `stored` is emptied on the way, so that a file read as a whole is freed tensor by tensor.

    Args:
        stored: tensors by stored name.
        rename: stored name -> canonical name, or None to leave a tensor out.
        linear_is_in_out: whether Linear weights are stored as Paddle does, [in, out].
    """
    state: StateDict = {}
    origin: dict[str, str] = {}
    for name in list(stored):
        tensor = stored.pop(name)
        canonical = rename(name)
        if canonical is None or not tensor.is_floating:
            continue
        if canonical in state:
            raise CheckpointError(
                f"Two tensors are the weight `{canonical}`: `{origin[canonical]}` and `{name}`.\n"
                "  Keep one of them in the file."
            )
        values = tensor.read()
        if linear_is_in_out and values.ndim == 2 and LINEAR.fullmatch(canonical):
            values = np.ascontiguousarray(values.T)
        state[canonical] = _squeezed(canonical, values)
        origin[canonical] = name
    return state


def _squeezed(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """1x1 convolutions of the autoencoder's attention as the Linear weights they are."""
    if values.ndim > 2 and set(values.shape[2:]) == {1} and AUTOENCODER_ATTENTION.fullmatch(name):
        return values.reshape(values.shape[:2])
    return values
