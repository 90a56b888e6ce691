"""Model configs: the published JSON dictionaries, read into frozen dataclasses and checked at once.

Keys and defaults are those of diffusers' ``UNet2DConditionModel``, ``AutoencoderKL`` and
``LDMBertConfig``, and of their namesakes in ppdiffusers. A key this project does not implement must
hold a value that switches it off; one that cannot change a picture in fp32 may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm_engine.bundle.model import MAX_SIZE

from ..config_reading import MAX_WIDTH, OFF, ConfigReader

MAX_LAYERS = 256

_SILU = ("silu", "swish")
#: ppdiffusers alone: how images lie in memory, and weights quantized by either library.
_LAYOUT: dict[str, tuple[Any, ...]] = {
    "data_format": ("NCHW", None),
    "quantization_config": (None, {}),
}
#: Keys that may be present with exactly these values: the feature is off.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    **_LAYOUT,
    "act_fn": _SILU,
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": OFF,
    "class_embed_type": (None,),
    "class_embeddings_concat": OFF,
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dual_cross_attention": OFF,
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": OFF,
    "resnet_pre_temb_non_linearity": OFF,  # ppdiffusers
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None, 1),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
    "use_linear_projection": OFF,
}
#: Read in training, in half precision, or by features that are refused above.
_UNET_FREE = {
    "addition_embed_type_num_heads",  # of an `addition_embed_type`
    "addition_time_embed_dim",  # likewise
    "cross_attention_norm",  # of blocks that are refused by their types, as the next three
    "mid_block_only_cross_attention",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    "dropout",
    "projection_class_embeddings_input_dim",  # of a `class_embed_type`
    "upcast_attention",  # to fp32
}
#: May be one value for each level.
_UNET_PER_LEVEL = (
    "cross_attention_dim",
    "layers_per_block",
    "only_cross_attention",
    "reverse_transformer_layers_per_block",
    "transformer_layers_per_block",
)
_AUTOENCODER_FIXED: dict[str, tuple[Any, ...]] = {
    **_LAYOUT,
    "act_fn": _SILU,
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None, 0),
    "use_post_quant_conv": (True,),
}
#: Describe training, tiling or half precision.
_AUTOENCODER_FREE = {"force_upcast", "sample_size"}
#: Describe the encoder half alone.
_OF_ENCODER = {
    "down_block_out_channels",  # ppdiffusers
    "down_block_types",
    "in_channels",
    "use_quant_conv",
}
_TEXT_FIXED: dict[str, tuple[Any, ...]] = {
    **_LAYOUT,
    "activation_function": ("gelu", "gelu_python"),
    "model_type": ("ldmbert", None),
    "pruned_heads": ({}, None),
}
#: Of LDMBertConfig: read in training, or never.
_TEXT_FREE = {
    "activation_dropout",
    "attention_dropout",
    "classifier_dropout",
    "dropout",
    "encoder_layerdrop",
    "init_std",
    "pad_token_id",
    "scale_embedding",  # the model has no such factor, in either library
    "use_cache",
}
#: Of the base classes of all configs in transformers and PaddleNLP, which concern other models.
_TEXT_BASE = {
    "add_cross_attention", "architectures", "attn_implementation", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "fuse_attention_ffn", "fuse_attention_qkv", "gradient_checkpointing",
    "hidden_size", "id2label", "init_args", "init_class", "initializer_range", "is_decoder",
    "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "name_or_path",
    "no_repeat_ngram_size", "num_attention_heads", "num_beam_groups", "num_beams", "num_choices",
    "num_hidden_layers", "num_labels", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "paddlenlp_version", "prefix", "problem_type",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tensor_parallel_degree", "tensor_parallel_output", "tensor_parallel_rank", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
    "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16",
}  # fmt: skip


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
        reader = ConfigReader("text encoder (LDMBert)", raw)
        limits = {"encoder_layers": MAX_LAYERS}
        config = cls(
            **{
                name: reader.integer(name, getattr(cls, name), limits.get(name, MAX_WIDTH))
                for name in cls.__annotations__
            }
        )
        reader.finish(_TEXT_FIXED, _TEXT_FREE | _TEXT_BASE)
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
        reader = ConfigReader("UNet", raw)
        widths = reader.integers("block_out_channels", (320, 640, 1280, 1280))
        levels = len(widths)
        reader.one_for_all(_UNET_PER_LEVEL, levels)
        down = reader.choices("down_block_types", _DOWN, (_DOWN[0],) * 3 + (_DOWN[1],))
        up = reader.choices("up_block_types", _UP, (_UP[1],) + (_UP[0],) * 3)
        heads = _per_level(reader, "attention_head_dim", 8, levels)
        groups = reader.integer("norm_num_groups", 32)
        reader.lower("act_fn")
        reader.require(
            len(down) == levels, f"`down_block_types` has {len(down)} entries, not {levels}"
        )
        reader.require(len(up) == levels, f"`up_block_types` has {len(up)} entries, not {levels}")
        for width, count in zip(widths, heads, strict=False):
            reader.require(
                width % groups == 0, f"{width} channels do not divide into {groups} groups"
            )
            reader.require(width % count == 0, f"{width} channels do not divide into {count} heads")
        config = cls(
            sample_size=_sample_size(reader),
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
            freq_shift=reader.one_of("freq_shift", (0, 1), 0),
        )
        wide = 4 * widths[0]
        reader.finish({**_UNET_FIXED, "time_embedding_dim": (None, 0, wide)}, _UNET_FREE)
        return config


def _per_level(reader: ConfigReader, key: str, default: int, levels: int) -> tuple[int, ...]:
    value = reader.raw.get(key, default)
    if isinstance(value, (list, tuple)):
        found = reader.integers(key, (default,) * levels)
        reader.require(len(found) == levels, f"`{key}` has {len(found)} entries, not {levels}")
        return found
    return (reader.integer(key, default),) * levels


def _sample_size(reader: ConfigReader) -> int:
    """The latents' size where none is asked for: one number, or twice the same."""
    if reader.raw.get("sample_size") is None:
        reader.raw.pop("sample_size", None)
    reader.one_for_all(["sample_size"], 2)
    return reader.integer("sample_size", 32, MAX_SIZE)


@dataclass(frozen=True)
class AutoencoderConfig:
    """AutoencoderKL; what its encoder half alone has counts where that is to be read."""

    latent_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    scaling_factor: float
    with_encoder: bool  #: whether the encoder half is to be read
    use_quant_conv: bool  #: of the encoder half

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction (8 for the published model)."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], with_encoder: bool = True) -> AutoencoderConfig:
        """Read a published autoencoder ``config.json``; a missing ``scaling_factor`` is 0.18215.

        Raises:
            ConfigError: listing every unsupported value.
        """
        reader = ConfigReader("autoencoder", raw)
        widths = reader.integers("block_out_channels", (64,))
        groups = reader.integer("norm_num_groups", 32)
        reader.lower("act_fn")
        _one_type_a_level(reader, "up_block_types", "UpDecoderBlock2D", len(widths))
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
            with_encoder=with_encoder,
            use_quant_conv=with_encoder and _read_encoder(reader, widths),
        )
        reader.require(config.out_channels == 3, "`out_channels` must be 3: images are RGB")
        same = (None, list(widths))  # ppdiffusers; another width than the encoder's
        free = _AUTOENCODER_FREE | _OF_ENCODER
        reader.finish({**_AUTOENCODER_FIXED, "up_block_out_channels": same}, free)
        return config


def _read_encoder(reader: ConfigReader, widths: tuple[int, ...]) -> bool:
    """Check what the encoder half alone has; whether it ends with ``quant_conv``."""
    before = len(reader.violations)
    _one_type_a_level(reader, "down_block_types", "DownEncoderBlock2D", len(widths))
    reader.one_of("in_channels", (3,), 3)
    given = reader.raw.get("down_block_out_channels")
    reader.require(
        given in (None, list(widths)),
        f"`down_block_out_channels` is {given!r}; None or {list(widths)} is accepted",
    )
    use_quant_conv = reader.boolean("use_quant_conv", True)
    reader.violations[before:] = [
        f"{violation} (of the encoder, which --no-encoder leaves out)"
        for violation in reader.violations[before:]
    ]
    return use_quant_conv


def _one_type_a_level(reader: ConfigReader, key: str, accepted: str, levels: int) -> None:
    blocks = reader.choices(key, (accepted,), (accepted,) * levels)
    reader.require(len(blocks) == levels, f"`{key}` has {len(blocks)} entries, not {levels}")
