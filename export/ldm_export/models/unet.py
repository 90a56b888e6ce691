"""UNet2DConditionModel, cut so that each part can run at its own rate; names as in diffusers.

Three parts make up one noise prediction:

- ``encode_time``: everything that depends on the timestep alone (once per schedule);
- ``project_text``: cross-attention keys and values, which depend on the prompt alone;
- ``denoise``: the rest, once per step.

Under guidance the two halves of the batch are equal up to the first cross-attention, so ``denoise``
computes that prefix once per image and then repeats the rows. ``forward`` is the model in one
piece, for reference.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

from .blocks import (
    Downsample,
    GroupNorm,
    ResnetBlock,
    Upsample,
    attention,
    silu,
    to_pixels,
    to_tokens,
)
from .config import UNetConfig

TRANSFORMER_NORM_EPSILON = 1e-6  # diffusers' Transformer2DModel
LAYER_NORM_EPSILON = 1e-5  # torch's default, which the reference uses
MAX_PERIOD = 10000.0  # of the sinusoidal timestep embedding


class TimestepEmbedding(nn.Layer):
    """Two linear layers with SiLU between them."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[S, in] to [S, out]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class Attention(nn.Layer):
    """Projections of one attention; for cross-attention, keys and values come ready-made."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias_attr=False)
        self.to_k = nn.Linear(context_channels, channels, bias_attr=False)
        self.to_v = nn.Linear(context_channels, channels, bias_attr=False)
        self.to_out = nn.LayerList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries from `x` [N, T, C] on `key`, `value` [N, S, C]."""
        return self.to_out[0](attention(self.to_q(x), key, value, self.heads))


class GEGLU(nn.Layer):
    """Gated GELU: the value half of the projection comes first, the gate second."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.inner = inner
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to [N, T, inner]."""
        # The weights are cut instead of the product: runtimes do that once, when they load the
        # program, and fuse the GELU into its half. (Paddle folds slices of weights, not `split`.)
        weight, bias, inner = self.proj.weight, self.proj.bias, self.inner
        value = F.linear(x, weight[:, :inner], bias[:inner])
        return value * F.gelu(F.linear(x, weight[:, inner:], bias[inner:]))


class FeedForward(nn.Layer):
    """GEGLU of four times the width, then back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        # diffusers numbers a dropout between the two.
        self.net = nn.LayerList([GEGLU(channels, inner), nn.Identity(), nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to [N, T, C]."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Layer):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, epsilon=LAYER_NORM_EPSILON)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels, epsilon=LAYER_NORM_EPSILON)
        self.attn2 = Attention(channels, context_channels, heads)
        self.norm3 = nn.LayerNorm(channels, epsilon=LAYER_NORM_EPSILON)
        self.ff = FeedForward(channels)

    def attend_to_self(self, x: Tensor) -> Tensor:
        """[N, T, C] to [N, T, C]; does not see the text."""
        normed = self.norm1(x)
        return x + self.attn1(normed, self.attn1.to_k(normed), self.attn1.to_v(normed))

    def attend_to_text(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`x` [N, T, C] with the text's `key`, `value` [N, 77, C]."""
        x = x + self.attn2(self.norm2(x), key, value)
        return x + self.ff(self.norm3(x))


class Transformer2D(nn.Layer):
    """One transformer block over the pixels, between two 1x1 convolutions.

    ``kv_start`` is where this layer's keys lie in ``text_kv``; its values follow them.
    ``repeats_rows`` marks the first cross-attention of the network.
    """

    kv_start: int = 0
    repeats_rows: bool = False

    def __init__(self, channels: int, context_channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = GroupNorm(groups, channels, epsilon=TRANSFORMER_NORM_EPSILON)
        self.proj_in = nn.Conv2D(channels, channels, 1)
        self.transformer_blocks = nn.LayerList(
            [TransformerBlock(channels, context_channels, heads)]
        )
        self.proj_out = nn.Conv2D(channels, channels, 1)

    def forward(self, x: Tensor, text_kv: Tensor) -> Tensor:
        """`x` [M, C, h, w] and `text_kv` [N, 77, .] to [N, C, h, w]; M < N only if it repeats."""
        block = self.transformer_blocks[0]
        tokens = block.attend_to_self(to_tokens(self.proj_in(self.norm(x))))
        if self.repeats_rows:
            x, tokens = repeat_rows(x, text_kv), repeat_rows(tokens, text_kv)
        middle, end = self.kv_start + self.channels, self.kv_start + 2 * self.channels
        key, value = text_kv[:, :, self.kv_start : middle], text_kv[:, :, middle:end]
        tokens = block.attend_to_text(tokens, key, value)
        return x + self.proj_out(to_pixels(tokens, like=x))


def repeat_rows(x: Tensor, text_kv: Tensor) -> Tensor:
    """Rows of `x` [M, ...] repeated cyclically to the row count of `text_kv` [N, ...]."""
    # `tile` with a computed count does not survive conversion to OpenVINO; `gather` does.
    rows = paddle.arange(paddle.shape(text_kv)[0]) % paddle.shape(x)[0]
    return paddle.gather(x, rows)


class UNetResnetBlock(ResnetBlock):
    """A residual block that takes its slice of the schedule's ``time_shift``."""

    shift_start: int = 0

    def forward(self, x: Tensor, time_shift: Tensor) -> Tensor:  # type: ignore[override]
        """`x` [N, in, h, w] and the whole `time_shift` [1, .] to [N, out, h, w]."""
        start = self.shift_start
        return super().forward(x, time_shift[:, start : start + self.out_channels])


class DownBlock(nn.Layer):
    """Residual blocks, in the cross-attention kind each with a transformer; then half size."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        width, before = widths[level], widths[max(level - 1, 0)]
        count = config.layers_per_block
        self.resnets = nn.LayerList(
            [_resnet(config, before if i == 0 else width, width) for i in range(count)]
        )
        crosses = config.down_block_types[level] == "CrossAttnDownBlock2D"
        self.attentions = nn.LayerList(
            [_transformer(config, level) for _ in range(count if crosses else 0)]
        )
        is_last = level == len(widths) - 1
        self.downsamplers = nn.LayerList([] if is_last else [Downsample(width)])

    def forward(
        self, x: Tensor, time_shift: Tensor, text_kv: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The result, and the outputs that the way up concatenates."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time_shift)
            if len(self.attentions) > 0:
                x = self.attentions[i](x, text_kv)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Layer):
    """Residual block, transformer, residual block."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.attentions = nn.LayerList([_transformer(config, -1)])
        self.resnets = nn.LayerList([_resnet(config, width, width) for _ in range(2)])

    def forward(self, x: Tensor, time_shift: Tensor, text_kv: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        x = self.attentions[0](self.resnets[0](x, time_shift), text_kv)
        return self.resnets[1](x, time_shift)


class UpBlock(nn.Layer):
    """Residual blocks on the concatenated skips, transformers as going down, then double size."""

    def __init__(self, config: UNetConfig, index: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        level = len(widths) - 1 - index
        width = widths[level]
        before = widths[min(level + 1, len(widths) - 1)]  # of the block below
        last_skip = widths[max(level - 1, 0)]
        count = config.layers_per_block + 1
        self.resnets = nn.LayerList(
            [
                _resnet(
                    config,
                    (before if i == 0 else width) + (last_skip if i == count - 1 else width),
                    width,
                )
                for i in range(count)
            ]
        )
        crosses = config.up_block_types[index] == "CrossAttnUpBlock2D"
        self.attentions = nn.LayerList(
            [_transformer(config, level) for _ in range(count if crosses else 0)]
        )
        self.upsamplers = nn.LayerList([Upsample(width)] if level > 0 else [])

    def forward(
        self, x: Tensor, skips: list[Tensor], time_shift: Tensor, text_kv: Tensor
    ) -> Tensor:
        """`skips` holds one tensor a residual block, in the order of use."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(paddle.concat([x, skips[i]], axis=1), time_shift)
            if len(self.attentions) > 0:
                x = self.attentions[i](x, text_kv)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


def _resnet(config: UNetConfig, in_channels: int, out_channels: int) -> UNetResnetBlock:
    return UNetResnetBlock(
        in_channels,
        out_channels,
        config.norm_num_groups,
        config.norm_eps,
        time_embed_dim=4 * config.block_out_channels[0],
    )


def _transformer(config: UNetConfig, level: int) -> Transformer2D:
    return Transformer2D(
        config.block_out_channels[level],
        config.cross_attention_dim,
        config.heads[level],
        config.norm_num_groups,
    )


class UNet(nn.Layer):
    """The noise predictor; see the module's description for its three parts."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2D(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])
        levels = range(len(widths))
        self.down_blocks = nn.LayerList([DownBlock(config, level) for level in levels])
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.LayerList([UpBlock(config, index) for index in levels])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], epsilon=config.norm_eps)
        self.conv_out = nn.Conv2D(widths[0], config.out_channels, 3, padding=1)
        self._assign_slices()

    def _assign_slices(self) -> None:
        """Lay the residual blocks and cross-attentions out in their inputs, in order of use."""
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        self.time_shift_width = 0
        self.text_kv_width = 0
        for resnet in (r for b in blocks for r in b.resnets):
            resnet.shift_start = self.time_shift_width
            self.time_shift_width += resnet.out_channels
        for transformer in (t for b in blocks for t in b.attentions):
            transformer.repeats_rows = self.text_kv_width == 0
            transformer.kv_start = self.text_kv_width
            self.text_kv_width += 2 * transformer.channels
        self._resnets = [r for b in blocks for r in b.resnets]
        self._transformers = [t for b in blocks for t in b.attentions]
        # Skips made before the first cross-attention have one row an image.
        self._unrepeated_skips = 1
        for block in self.down_blocks:
            if len(block.attentions) > 0:
                break
            self._unrepeated_skips += len(block.resnets) + len(block.downsamplers)

    def encode_time(self, timesteps: Tensor) -> Tensor:
        """`timesteps` [S] float32 to `time_shift` [S, time_shift_width], float32 throughout."""
        # A constant of the graph: ONNX Runtime's WebGPU has no Range of floats.
        frequencies = paddle.to_tensor(self._frequencies())
        angles = timesteps.unsqueeze(1) * frequencies.unsqueeze(0)  # [S, half]
        waves = [paddle.sin(angles), paddle.cos(angles)]
        if self.config.flip_sin_to_cos:
            waves = waves[::-1]
        embedding = F.silu(self.time_embedding(paddle.concat(waves, axis=1)))
        return paddle.concat([r.time_emb_proj(embedding) for r in self._resnets], axis=1)

    def _frequencies(self) -> NDArray[np.float32]:
        """[half the width of the sinusoidal embedding], what timesteps are multiplied by."""
        half = self.config.block_out_channels[0] // 2
        exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(MAX_PERIOD))
        frequencies: NDArray[np.float32] = np.exp(exponents / (half - self.config.freq_shift))
        return frequencies

    def project_text(self, hidden_states: Tensor) -> Tensor:
        """Text `hidden_states` [N, T, D] to `text_kv` [N, T, text_kv_width]."""
        parts = []
        for transformer in self._transformers:
            cross = transformer.transformer_blocks[0].attn2
            parts += [cross.to_k(hidden_states), cross.to_v(hidden_states)]
        return paddle.concat(parts, axis=2)

    def denoise(self, latents: Tensor, time_shift: Tensor, text_kv: Tensor) -> Tensor:
        """`latents` [B, 4, h, w], `time_shift` [1, .], `text_kv` [N, T, .] to noise [N, 4, h, w].

        N is B, or 2B under guidance ([unconditional, text]).
        """
        x = self.conv_in(latents)
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, time_shift, text_kv)
            skips = skips + more
        x = self.mid_block(x, time_shift, text_kv)
        count = self._unrepeated_skips
        skips = [repeat_rows(s, text_kv) for s in skips[:count]] + skips[count:]
        for block in self.up_blocks:
            used = len(block.resnets)
            x = block(x, skips[-used:][::-1], time_shift, text_kv)
            skips = skips[:-used]
        return self.conv_out(silu(self.conv_norm_out(x)))

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """The undivided model: `sample` [N, 4, h, w], `timestep` [1], text states [N, T, D]."""
        time_shift = self.encode_time(timestep)
        return self.denoise(sample, time_shift, self.project_text(encoder_hidden_states))
