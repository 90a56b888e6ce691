"""Building blocks that the UNet and the autoencoder share: residual block, attention, resampling.

Written in the forms that every exporter on the way converts exactly: reshapes use ``0`` ("keep")
and ``-1``, pixels and tokens swap by transposing. Weights are used as they stand in checkpoints;
what a form derives from them, the runtimes compute once, when they load the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

# How the rows of a 3x3 kernel add up when it sees each pixel twice; see ``Upsample``.
DOUBLED_KERNEL_ROWS = [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), elementwise."""
    # Paddle's `silu` is outside oneDNN: one thread, and in bf16 mode it holds the convolution
    # after it in fp32.
    return x * F.sigmoid(x)


class GroupNorm(nn.GroupNorm):
    """Paddle's, and the same in two passes; their difference is what fp32 leaves open.

    Paddle's kernel takes the mean of the squares less the square of the mean. Where the values of
    a group hardly differ, such as the two of one channel on two pixels, that loses most digits.
    """

    in_two_passes = False

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same, normalised."""
        if not self.in_two_passes:
            return super().forward(x)
        groups = x.reshape([0, self._num_groups, -1])
        groups = groups - groups.mean(axis=-1, keepdim=True)
        variance = (groups * groups).mean(axis=-1, keepdim=True)
        normalised = (groups * paddle.rsqrt(variance + self._epsilon)).reshape(x.shape)
        return normalised * self.weight.reshape([-1, 1, 1]) + self.bias.reshape([-1, 1, 1])


@contextmanager
def norms_in_two_passes(*models: nn.Layer) -> Iterator[None]:
    """Have every GroupNorm of `models` compute in two passes."""
    norms = [n for m in models for n in m.sublayers() if isinstance(n, GroupNorm)]
    for norm in norms:
        norm.in_two_passes = True
    try:
        yield
    finally:
        for norm in norms:
            norm.in_two_passes = False


class ResnetBlock(nn.Layer):
    """GroupNorm, SiLU, 3x3 convolution, twice, with a residual; the time shift lies between."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        epsilon: float,
        time_embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.norm1 = GroupNorm(groups, in_channels, epsilon=epsilon)
        self.conv1 = nn.Conv2D(in_channels, out_channels, 3, padding=1)
        if time_embed_dim is not None:
            self.time_emb_proj = nn.Linear(time_embed_dim, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, epsilon=epsilon)
        self.conv2 = nn.Conv2D(out_channels, out_channels, 3, padding=1)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.conv_shortcut = nn.Conv2D(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time_shift: Tensor | None = None) -> Tensor:
        """`x` [N, in, h, w] and `time_shift` [1 or N, out] or None to [N, out, h, w]."""
        hidden = self.conv1(silu(self.norm1(x)))
        if time_shift is not None:
            hidden = hidden + time_shift.unsqueeze([2, 3])
        hidden = self.conv2(silu(self.norm2(hidden)))
        shortcut = self.conv_shortcut(x) if self.has_shortcut else x
        return shortcut + hidden


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of [N, T, C] on [N, S, C], unmasked, to [N, T, C]."""
    head_dim = query.shape[-1] // heads
    shape = [0, 0, heads, head_dim]
    query = (query * head_dim**-0.5).reshape(shape).transpose([0, 2, 1, 3])
    key = key.reshape(shape).transpose([0, 2, 3, 1])
    value = value.reshape(shape).transpose([0, 2, 1, 3])
    weights = F.softmax(paddle.matmul(query, key), axis=-1)  # [N, heads, T, S]
    out = paddle.matmul(weights, value).transpose([0, 2, 1, 3])
    return out.reshape([0, 0, heads * head_dim])


def to_tokens(x: Tensor) -> Tensor:
    """[N, C, h, w] to [N, h * w, C]."""
    # Channels last first: what OpenVINO's convolutions write is in that order already.
    return x.transpose([0, 2, 3, 1]).reshape([0, -1, x.shape[1]])


def to_pixels(tokens: Tensor, like: Tensor) -> Tensor:
    """[N, h * w, C] back to the shape of `like` [N, C, h, w]."""
    shape = paddle.gather(paddle.shape(like), paddle.to_tensor([0, 2, 3, 1]))
    return tokens.reshape(shape).transpose([0, 3, 1, 2])


class Downsample(nn.Layer):
    """A 3x3 convolution of stride 2.

    Zeros surround the pixels, or with `pads_the_end` follow them alone, below and to the right.
    """

    def __init__(self, channels: int, pads_the_end: bool = False) -> None:
        super().__init__()
        padding = [0, 1, 0, 1] if pads_the_end else 1  # top, bottom, left, right
        self.conv = nn.Conv2D(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h / 2, w / 2]."""
        return self.conv(x)


class Upsample(nn.Layer):
    """Nearest neighbour times two, then a 3x3 convolution; both as one transposed convolution.

    In each direction an output pixel sees the three kernel rows fall on two input pixels, so that
    rows on the same pixel can be added before: 4 products an output pixel and channel instead of 9.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, 2h, 2w]."""
        rows = paddle.to_tensor(DOUBLED_KERNEL_ROWS)  # [4, 3]
        kernel = self.conv.weight.transpose([1, 0, 2, 3])  # [in, out, 3, 3]
        kernel = paddle.matmul(paddle.matmul(rows, kernel), rows, transpose_y=True)
        return F.conv2d_transpose(x, kernel, self.conv.bias, stride=2, padding=1)
