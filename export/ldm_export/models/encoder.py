"""The encoder half of AutoencoderKL, parameter names as in diffusers (current attention names)."""

from __future__ import annotations

from paddle import Tensor, nn

from .autoencoder import NORM_EPSILON, MidBlock, level_resnets
from .blocks import Downsample, GroupNorm, silu
from .config import AutoencoderConfig


class DownBlock(nn.Layer):
    """Residual blocks, then downsampling except in the last level."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, downsample: bool
    ) -> None:
        super().__init__()
        self.resnets = level_resnets(in_channels, out_channels, layers, groups)
        self.downsamplers = nn.LayerList(
            [Downsample(out_channels, pads_the_end=True)] if downsample else []
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] to [N, out, h or h / 2, w or w / 2]."""
        for resnet in self.resnets:
            x = resnet(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
        return x


class Encoder(nn.Layer):
    """Pixels to the moments of the posterior, from the image inwards."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2D(3, widths[0], 3, padding=1)
        self.down_blocks = nn.LayerList(
            [
                DownBlock(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block,
                    groups,
                    downsample=i < len(widths) - 1,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = GroupNorm(groups, widths[-1], epsilon=NORM_EPSILON)
        self.conv_out = nn.Conv2D(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, f * h, f * w] to [N, 2 * latent, h, w]."""
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class AutoencoderEncoder(nn.Layer):
    """Encoder and ``quant_conv``."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        if config.use_quant_conv:
            channels = 2 * config.latent_channels
            self.quant_conv = nn.Conv2D(channels, channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, f * h, f * w] in [-1, 1] to the posterior's mean [N, latent, h, w]."""
        moments = self.encoder(pixels)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        return moments[:, : self.config.latent_channels]  # the others are the log variance

    def encode(self, image: Tensor) -> Tensor:
        """An image [N, f * h, f * w, 3] in [0, 1] to the sampler's latents [N, latent, h, w]."""
        return self((image * 2.0 - 1.0).transpose([0, 3, 1, 2])) * self.config.scaling_factor
