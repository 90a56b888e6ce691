"""LDMBert: the text encoder, parameter names as in diffusers' ``LDMBertModel``.

Pre-LayerNorm, learned positions, no attention mask: padding is attended to, as in the reference
pipeline. ``to_logits`` of the published files takes no part in inference and is left out.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from .blocks import attention
from .config import TextEncoderConfig

LAYER_NORM_EPSILON = 1e-5  # torch's default, which the reference uses


class SelfAttention(nn.Layer):
    """Self-attention whose inner width is heads x head_dim, not the model's width."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.heads = config.encoder_attention_heads
        inner = self.heads * config.head_dim
        self.k_proj = nn.Linear(config.d_model, inner, bias_attr=False)
        self.v_proj = nn.Linear(config.d_model, inner, bias_attr=False)
        self.q_proj = nn.Linear(config.d_model, inner, bias_attr=False)
        self.out_proj = nn.Linear(inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] to [N, T, D]."""
        out = attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads)
        return self.out_proj(out)


class EncoderLayer(nn.Layer):
    """Attention and feed-forward, each behind a LayerNorm and inside a residual."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width, inner = config.d_model, config.encoder_ffn_dim
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, epsilon=LAYER_NORM_EPSILON)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width, epsilon=LAYER_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] to [N, T, D]."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Encoder(nn.Layer):
    """Embeddings, the layers, a last LayerNorm."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, width)
        self.layers = nn.LayerList([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.layer_norm = nn.LayerNorm(width, epsilon=LAYER_NORM_EPSILON)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[N, T] int64 to [N, T, D], T being the full token length."""
        x = self.embed_tokens(input_ids) + self.embed_positions.weight.unsqueeze(0)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class LDMBert(nn.Layer):
    """The published text encoder without its unused ``to_logits`` head."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states [N, T, D] of `input_ids` [N, T] int64, T the token length."""
        return self.model(input_ids)
