"""Model configs: the published JSON dictionaries, read into frozen dataclasses and checked at once.

Keys and defaults are those of diffusers' ``UNet2DConditionModel``, ``AutoencoderKL`` and
``LDMBertConfig``. A key this project does not implement must hold the value that switches it off;
anything else is refused here, before a tensor is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm_engine.bundle.model import MAX_SIZE
from ldm_engine.errors import ConfigError

#: Keys that may be present with exactly these values (diffusers' defaults: the feature is off).
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "addition_embed_type_num_heads": (64,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dropout": (0, 0.0),
    "dual_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_embedding_type": ("positional",),
    "transformer_layers_per_block": (1,),
    "upcast_attention": (False, None),
    "use_linear_projection": (False,),
}
_AUTOENCODER_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "mid_block_add_attention": (True,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True, False),
    "force_upcast": (True, False),
}
#: Describe the encoder half or training, and say nothing about the decoder.
_AUTOENCODER_IGNORED = {"down_block_types", "in_channels", "sample_size"}
_TEXT_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu",),
    "scale_embedding": (False, 0),
}


#: Far beyond any model of the family; a larger number is a mistake that would take all memory.
MAX_WIDTH = 1_000_000
MAX_LAYERS = 256


class _Reader:
    """Takes values out of one raw config and gathers every violation for a single message."""

    def __init__(self, component: str, raw: Mapping[str, Any]) -> None:
        self.component = component
        self.raw = {k: v for k, v in raw.items() if not k.startswith("_")}
        self.seen: set[str] = set()
        self.violations: list[str] = []

    def integer(self, key: str, default: int, maximum: int = MAX_WIDTH) -> int:
        value = self._take(key, default)
        if type(value) is not int or not 1 <= value <= maximum:
            accepted = f"an integer from 1 to {maximum} is accepted"
            self.violations.append(f"`{key}` is {value!r}; {accepted}")
            return 1
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self._take(key, list(default))
        good = isinstance(value, (list, tuple)) and len(value) > 0
        if not good or any(type(v) is not int or not 1 <= v <= MAX_WIDTH for v in value):
            accepted = f"a list of integers from 1 to {MAX_WIDTH} is accepted"
            self.violations.append(f"`{key}` is {value!r}; {accepted}")
            return default
        return tuple(value)

    def number(self, key: str, default: float) -> float:
        value = self._take(key, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            self.violations.append(f"`{key}` is {value!r}; a positive number is accepted")
            return default
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            self.violations.append(f"`{key}` is {value!r}; true or false is accepted")
        return bool(value)

    def choices(
        self, key: str, accepted: tuple[str, ...], default: tuple[str, ...]
    ) -> tuple[str, ...]:
        value = self._take(key, list(default))
        if not isinstance(value, (list, tuple)) or any(v not in accepted for v in value):
            allowed = " or ".join(accepted)
            self.violations.append(f"`{key}` is {value!r}; a list of {allowed} is accepted")
            return default
        return tuple(value)

    def require(self, holds: bool, message: str) -> None:
        if not holds:
            self.violations.append(message)

    def finish(self, fixed: Mapping[str, tuple[Any, ...]], ignored: set[str] | None) -> None:
        """Raise on any violation; `ignored` None leaves keys that are not known alone."""
        for key, accepted in fixed.items():
            if key in self.raw and self.raw[key] not in accepted:
                allowed = " or ".join(repr(a) for a in accepted)
                self.violations.append(f"`{key}` is {self.raw[key]!r}; {allowed} is accepted")
        unknown = self.raw.keys() - self.seen - fixed.keys()
        for key in sorted(unknown - ignored if ignored is not None else ()):
            if self.raw[key] not in (None, False):
                self.violations.append(f"`{key}` is {self.raw[key]!r}; this key is not supported")
        if self.violations:
            listing = "\n".join(f"  - {v}" for v in self.violations)
            raise ConfigError(
                f"The {self.component} config is not one this engine can run:\n{listing}\n"
                "Only models of the CompVis/ldm-text2im-large-256 family are exported; "
                "check that the checkpoint is of that family."
            )

    def _take(self, key: str, default: Any) -> Any:
        self.seen.add(key)
        return self.raw.get(key, default)


@dataclass(frozen=True)
class TextEncoderConfig:
    """LDMBert, defaults as published for ldm-text2im-large-256."""

    vocab_size: int = 30522
    max_position_embeddings: int = 77
    encoder_layers: int = 32
    encoder_ffn_dim: int = 5120
    encoder_attention_heads: int = 8
    head_dim: int = 64
    d_model: int = 1280

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> TextEncoderConfig:
        """Read a published LDMBert ``config.json``.

        Raises:
            ConfigError: listing every unsupported value.
        """
        reader = _Reader("text encoder (LDMBert)", raw)
        limits = {"encoder_layers": MAX_LAYERS}
        config = cls(
            **{
                name: reader.integer(name, getattr(cls, name), limits.get(name, MAX_WIDTH))
                for name in cls.__annotations__
            }
        )
        # transformers writes dozens of keys that concern training or other models.
        reader.finish(_TEXT_FIXED, ignored=None)
        return config


_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclass(frozen=True)
class UNetConfig:
    """UNet2DConditionModel; ``heads`` is the number of heads of each level."""

    sample_size: int
    in_channels: int
    out_channels: int
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    heads: tuple[int, ...]
    cross_attention_dim: int
    norm_num_groups: int
    norm_eps: float
    flip_sin_to_cos: bool
    freq_shift: int

    @property
    def size_multiple(self) -> int:
        """Latent height and width must be multiples of this."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> UNetConfig:
        """Read a published UNet ``config.json``.

        ``attention_head_dim`` means the *number* of heads in this family (diffusers keeps the
        misnomer for compatibility), and a missing ``cross_attention_dim`` means 1280.

        Raises:
            ConfigError: listing every unsupported value.
        """
        reader = _Reader("UNet", raw)
        widths = reader.integers("block_out_channels", (320, 640, 1280, 1280))
        levels = len(widths)
        down = reader.choices("down_block_types", _DOWN, (_DOWN[0],) * 3 + (_DOWN[1],))
        up = reader.choices("up_block_types", _UP, (_UP[1],) + (_UP[0],) * 3)
        heads = _per_level(reader, "attention_head_dim", 8, levels)
        groups = reader.integer("norm_num_groups", 32)
        freq_shift = reader._take("freq_shift", 0)
        reader.require(
            len(down) == levels, f"`down_block_types` has {len(down)} entries, not {levels}"
        )
        reader.require(len(up) == levels, f"`up_block_types` has {len(up)} entries, not {levels}")
        reader.require(freq_shift in (0, 1), f"`freq_shift` is {freq_shift!r}; 0 or 1 is accepted")
        for width, count in zip(widths, heads, strict=False):
            reader.require(
                width % groups == 0, f"{width} channels do not divide into {groups} groups"
            )
            reader.require(width % count == 0, f"{width} channels do not divide into {count} heads")
        config = cls(
            sample_size=reader.integer("sample_size", 32, MAX_SIZE),
            in_channels=reader.integer("in_channels", 4),
            out_channels=reader.integer("out_channels", 4),
            down_block_types=down,
            up_block_types=up,
            block_out_channels=widths,
            layers_per_block=reader.integer("layers_per_block", 2, MAX_LAYERS),
            heads=heads,
            cross_attention_dim=reader.integer("cross_attention_dim", 1280),
            norm_num_groups=groups,
            norm_eps=reader.number("norm_eps", 1e-5),
            flip_sin_to_cos=reader.boolean("flip_sin_to_cos", True),
            freq_shift=freq_shift,
        )
        reader.finish(_UNET_FIXED, set())
        return config


def _per_level(reader: _Reader, key: str, default: int, levels: int) -> tuple[int, ...]:
    value = reader.raw.get(key, default)
    if isinstance(value, (list, tuple)):
        found = reader.integers(key, (default,) * levels)
        reader.require(len(found) == levels, f"`{key}` has {len(found)} entries, not {levels}")
        return found
    return (reader.integer(key, default),) * levels


@dataclass(frozen=True)
class AutoencoderConfig:
    """The decoder half of AutoencoderKL."""

    latent_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    scaling_factor: float

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction (8 for the published model)."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> AutoencoderConfig:
        """Read a published autoencoder ``config.json``; a missing ``scaling_factor`` is 0.18215.

        Raises:
            ConfigError: listing every unsupported value.
        """
        reader = _Reader("autoencoder", raw)
        widths = reader.integers("block_out_channels", (128, 256, 512, 512))
        groups = reader.integer("norm_num_groups", 32)
        reader.choices("up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",))
        for width in widths:
            reader.require(
                width % groups == 0, f"{width} channels do not divide into {groups} groups"
            )
        config = cls(
            latent_channels=reader.integer("latent_channels", 4),
            out_channels=reader.integer("out_channels", 3),
            block_out_channels=widths,
            layers_per_block=reader.integer("layers_per_block", 1, MAX_LAYERS),
            norm_num_groups=groups,
            scaling_factor=reader.number("scaling_factor", 0.18215),
        )
        reader.require(config.out_channels == 3, "`out_channels` must be 3: images are RGB")
        reader.finish(_AUTOENCODER_FIXED, _AUTOENCODER_IGNORED)
        return config
