"""The decoder half of AutoencoderKL, parameter names as in diffusers (current attention names)."""

from __future__ import annotations

from paddle import Tensor, nn

from .blocks import GroupNorm, ResnetBlock, Upsample, attention, silu, to_pixels, to_tokens
from .config import AutoencoderConfig

NORM_EPSILON = 1e-6  # fixed in diffusers' AutoencoderKL


class SingleHeadAttention(nn.Layer):
    """Self-attention over pixels with one head of all channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, epsilon=NORM_EPSILON)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.LayerList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        tokens = to_tokens(self.group_norm(x))
        out = attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), heads=1)
        return x + to_pixels(self.to_out[0](out), like=x)


class MidBlock(nn.Layer):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.LayerList([SingleHeadAttention(channels, groups)])
        self.resnets = nn.LayerList(
            [ResnetBlock(channels, channels, groups, NORM_EPSILON) for _ in range(2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


def level_resnets(in_channels: int, out_channels: int, layers: int, groups: int) -> nn.LayerList:
    """The residual blocks of one level of either half; the first one changes the channels."""
    return nn.LayerList(
        [
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels, groups, NORM_EPSILON)
            for i in range(layers)
        ]
    )


class UpBlock(nn.Layer):
    """Residual blocks, then upsampling except in the last level."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, upsample: bool
    ) -> None:
        super().__init__()
        self.resnets = level_resnets(in_channels, out_channels, layers, groups)
        self.upsamplers = nn.LayerList([Upsample(out_channels)] if upsample else [])

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] to [N, out, h or 2h, w or 2w]."""
        for resnet in self.resnets:
            x = resnet(x)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class Decoder(nn.Layer):
    """Latents to pixels, from the deepest level up."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        groups = config.norm_num_groups
        self.conv_in = nn.Conv2D(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups)
        self.up_blocks = nn.LayerList(
            [
                UpBlock(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block + 1,
                    groups,
                    upsample=i < len(widths) - 1,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1], epsilon=NORM_EPSILON)
        self.conv_out = nn.Conv2D(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """[N, latent, h, w] to [N, 3, f * h, f * w]."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


class AutoencoderDecoder(nn.Layer):
    """``post_quant_conv`` and decoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.decoder = Decoder(config)
        self.post_quant_conv = nn.Conv2D(channels, channels, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Unscaled latents [N, latent, h, w] to pixels [N, 3, f * h, f * w], about [-1, 1]."""
        return self.decoder(self.post_quant_conv(latents))

    def render(self, latents: Tensor) -> Tensor:
        """The sampler's latents [N, latent, h, w] to an image [N, f * h, f * w, 3] in [0, 1]."""
        pixels = self(latents * (1.0 / self.config.scaling_factor))
        return (pixels * 0.5 + 0.5).clip(0.0, 1.0).transpose([0, 2, 3, 1])
