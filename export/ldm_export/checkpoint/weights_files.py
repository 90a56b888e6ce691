"""Which file of a component's folder holds its weights, decided by the files' names alone.

Names are those that diffusers, transformers, PaddleNLP and ppdiffusers write: one file, or an index
of shards, either maybe with a variant such as `fp16` in its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ldm_engine.errors import CheckpointError

# Stem and suffix of weights files, by preference: safe formats before pickles.
_MODEL_FILES = (
    ("diffusion_pytorch_model", "safetensors"),
    ("diffusion_paddle_model", "safetensors"),
    ("diffusion_pytorch_model", "bin"),
    ("model_state", "pdparams"),
)
WEIGHTS_FILES = {
    "text_encoder": (
        ("model", "safetensors"),
        ("pytorch_model", "bin"),
        ("model_state", "pdparams"),
    ),
    "unet": _MODEL_FILES,
    "autoencoder": _MODEL_FILES,
}
PADDLE_STEMS = ("model_state.", "diffusion_paddle_model.")

VARIANT = r"[\w-]+(?:\.[\w-]+)*?"
SHARD = r"-\d+-of-\d+"


@dataclass(frozen=True)
class WeightsFile:
    """One way to get a component's weights: a file, or the index of its shards."""

    name: str
    stem: str
    suffix: str
    variant: str | None

    def shards(self, names: Iterable[str]) -> list[str]:
        """The shards among `names` that belong to this index; none for a single file."""
        if not self.name.endswith(".json"):
            return []
        variant = "" if self.variant is None else re.escape(f".{self.variant}")
        # transformers and diffusers write the variant first; their older releases wrote it last.
        pattern = rf"{self.stem}(?:{variant}{SHARD}|{SHARD}{variant})\.{self.suffix}"
        return [name for name in names if re.fullmatch(pattern, name)]


@dataclass(frozen=True)
class Chosen:
    """The file that is read, and the others that would have done."""

    file: WeightsFile
    others: tuple[WeightsFile, ...]

    def note(self, component: str, folder: str, variant: str | None) -> str | None:
        """What a user should hear of this choice, if there was one."""
        file = self.file
        if file.variant != variant:
            only = "no plain weights" if variant is None else f"no variant {variant}"
            kind = "plain weights" if file.variant is None else f"the variant {file.variant}"
            said = f"`{folder}/` has {only}; {kind} are read (`{file.name}`)"
            said = said.replace("the variant", "those of the variant")
        elif self.others:
            said = f"`{folder}/{file.name}` is read"
        else:
            return None
        others = ", ".join(f"`{other.name}`" for other in self.others)
        return f"{component}: {said}{f', not {others}' if others else ''}."


def find_weights(names: Iterable[str], component: str) -> list[WeightsFile]:
    """All files among `names` that hold the weights of `component`, the preferred ones first."""
    names = sorted(names)
    found = []
    for stem, suffix in WEIGHTS_FILES[component]:
        for pattern in (
            rf"{stem}(?:\.({VARIANT}))?\.{suffix}",
            rf"{stem}\.{suffix}\.index(?:\.({VARIANT}))?\.json",
            rf"{stem}\.{suffix}\.({VARIANT})\.index\.json",
        ):
            for name in names:
                match = re.fullmatch(pattern, name)
                if match and not re.search(SHARD, match[1] or ""):
                    found.append(WeightsFile(name, stem, suffix, match[1]))
    return found


def choose_weights(
    folders: Mapping[str, tuple[str, Iterable[str]]], variant: str | None
) -> dict[str, Chosen]:
    """The weights in each of several folders.

    Plain weights come before variants; without them the one variant that is there is taken. With
    `variant` given, a folder that lacks it is read plain, as diffusers does.

    Args:
        folders: the component and the names of the files, by name of the folder.
        variant: the variant that is wanted.

    Raises:
        CheckpointError: a folder has no weights, or none has `variant`, or there are several
            variants to choose from.
    """
    found = {folder: find_weights(names, c) for folder, (c, names) in folders.items()}
    variants = sorted({f.variant for files in found.values() for f in files if f.variant})
    if variant is not None and variant not in variants:
        raise CheckpointError(
            f"No weights of this checkpoint are of the variant {variant}; it has "
            f"{', '.join(variants) or 'no variants'}.\n"
            "  Pass one of these as `variant` (--variant), or leave it out."
        )
    return {
        folder: _choose(found[folder], sorted(names), component, folder, variant)
        for folder, (component, names) in folders.items()
    }


def _choose(
    files: Sequence[WeightsFile],
    names: Sequence[str],
    component: str,
    folder: str,
    variant: str | None,
) -> Chosen:
    variants = dict.fromkeys(file.variant for file in files)
    if variant in variants:
        taken = variant
    elif None in variants:
        taken = None
    elif len(variants) == 1 and variant is None:
        (taken,) = variants
    elif files:
        raise CheckpointError(
            f"`{folder}` has no {'plain weights' if variant is None else f'variant {variant}'} for "
            f"the component {component}; it has the variants {', '.join(map(str, variants))}.\n"
            "  Choose one with `variant` (--variant)."
        )
    else:
        _raise_no_weights(names, component, folder)
    first = next(file for file in files if file.variant == taken)
    return Chosen(first, tuple(file for file in files if file != first))


def _raise_no_weights(names: Sequence[str], component: str, folder: str) -> NoReturn:
    accepted = ", ".join(f"{stem}.{suffix}" for stem, suffix in WEIGHTS_FILES[component])
    shards = [name for name in names if re.search(SHARD, name)]
    remedy = "Download one of these files."
    if shards:
        remedy = f"Download the index of the shards too, such as `{_index_name(shards[0])}`."
    raise CheckpointError(
        f"`{folder}` has no weights for the component {component}; accepted: {accepted}, each "
        "also in shards with an index, and as a variant such as fp16. Found: "
        f"{', '.join(names[:10]) or 'nothing'}.\n  {remedy}"
    )


def _index_name(shard: str) -> str:
    stem, _, rest = re.sub(SHARD, "", shard).partition(".")
    variant, _, suffix = rest.rpartition(".")
    return f"{stem}.{suffix}.index.{f'{variant}.' if variant else ''}json"
