"""The diffusion prior's network: a causal Transformer that predicts z_i (paper section 2.2).

Shapes: N samples, D width of CLIP's embeddings and text hidden states, L caption tokens given of
at most `num_embeddings`, S = L + 4 tokens in all, W width of the Transformer, h heads.

Attribute names are the keys of the published layout's `PriorTransformer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.models.layers import NetworkConfig, TimestepEmbedding, attention, zero_init

# After the caption come z_t, the timestep, the noised z_i and the learned final query.
EXTRA_TOKENS = 4


@dataclass(frozen=True)
class DiffusionPriorConfig(NetworkConfig):
    """Sizes of the prior, named as in `config.json`.

    `embedding_dim` is CLIP's embedding width, which the layout takes to be the width of the text
    hidden states too; `num_embeddings` is the greatest number of caption tokens.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("PriorTransformer",)

    num_attention_heads: int = 32
    attention_head_dim: int = 64
    num_layers: int = 20
    embedding_dim: int = 768
    num_embeddings: int = 77
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.num_attention_heads, self.attention_head_dim, self.num_layers)
        if min(*sizes, self.embedding_dim, self.num_embeddings) < 1:
            raise ValueError("a prior's heads, widths, layers and tokens must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("`dropout` must be at least 0 and below 1")

    @property
    def width(self) -> int:
        """W, the width of the Transformer."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def fixed(cls, class_name: str) -> Mapping[str, object]:
        return {
            "added_emb_type": "prd",
            "additional_embeddings": EXTRA_TOKENS,
            "clip_embed_dim": None,
            "embedding_proj_dim": None,
            "embedding_proj_norm_type": None,
            "encoder_hid_proj_type": "linear",
            "norm_in_type": None,
            "time_embed_act_fn": "silu",
            "time_embed_dim": None,
        }


PRIORS: dict[str, DiffusionPriorConfig] = {
    name: DiffusionPriorConfig(heads, head_width, layers, embedding, tokens)
    for name, (heads, head_width, layers, embedding, tokens) in {
        #          heads head layers CLIP  tokens
        "tiny":   (2,    16,  2,     64,   77),
        "mini":   (4,    48,  4,     128,  77),
        "small":  (8,    64,  6,     256,  77),
        "medium": (12,   64,  12,    512,  77),
        "large":  (16,   64,  20,    768,  77),
        "karlo":  (32,   64,  20,    768,  77),
        "paper":  (32,   64,  24,    1024, 256),
    }.items()
}  # fmt: skip


class Attention(nn.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        width = config.width
        self.head_width = config.attention_head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(config.dropout)])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` (N, S, W), `mask` (N, 1, S, S) True to attend, or None: causal -> (N, S, W)."""
        q, k, v = (self._heads(project(x)) for project in (self.to_q, self.to_k, self.to_v))
        x = attention(q, k, v, mask=mask, causal=mask is None)
        x = x.transpose(1, 2).flatten(2)
        for layer in self.to_out:
            x = layer(x)
        return x

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)  # (N, h, S, W / h)


class Projection(nn.Module):
    """The layout's name for a linear layer with GELU: `proj`."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Four times as wide inside, with GELU."""

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        width = config.width
        self.net = nn.Sequential(
            Projection(width, 4 * width), nn.Dropout(config.dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        return x


class Block(nn.Module):
    """Pre-norm Transformer block; the layout calls its second norm `norm3`."""

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn1 = Attention(config)
        self.norm3 = nn.LayerNorm(config.width)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask)
        x = x + self.ff(self.norm3(x))
        return x


class DiffusionPrior(nn.Module):
    """Predicts the un-noised z_i from a noised one, the caption, z_t and the timestep.

    Works on z_i normalised by `clip_mean` and `clip_std`, which are measured on the training data
    and saved with the weights, but never trained; z_t and the hidden states enter as CLIP gives
    them. Since attention is causal, the caption and z_t never see the timestep or z_i.
    """

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.width, config.embedding_dim
        self.time_embedding = TimestepEmbedding(width, width, width)
        self.proj_in = nn.Linear(embedding, width)
        self.embedding_proj = nn.Linear(embedding, width)
        self.encoder_hidden_states_proj = nn.Linear(embedding, width)
        self.positional_embedding = nn.Parameter(
            torch.zeros(1, config.num_embeddings + EXTRA_TOKENS, width)
        )
        self.prd_embedding = nn.Parameter(torch.zeros(1, 1, width))  # the final query
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)
        self.proj_to_clip_embeddings = nn.Linear(width, embedding)
        self.clip_mean = nn.Parameter(torch.zeros(1, embedding), requires_grad=False)
        self.clip_std = nn.Parameter(torch.ones(1, embedding), requires_grad=False)
        self._initialise()

    def _initialise(self) -> None:
        """As GPT-2: small normal weights, smaller still where a residual branch ends.

        The paper is silent. The output starts at zero, the best constant guess at normalised z_i.
        """
        residual_scale = (2 * self.config.num_layers) ** -0.5
        for block in self.transformer_blocks:
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    ends_branch = name in ("attn1.to_out.0", "ff.net.2")
                    scale = residual_scale if ends_branch else 1.0
                    nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.positional_embedding, std=0.02)
        nn.init.normal_(self.prd_embedding, std=0.02)
        zero_init(self.proj_to_clip_embeddings)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        text_embeddings: Tensor,
        text_hidden_states: Tensor,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict the normalised z_i from the noisy `x` (N, D) at the timesteps `t` (N,) or ().

        `text_embeddings` z_t (N, D); `text_hidden_states` (N, L, D); `text_mask` (N, L) True for
        tokens of the caption, False for padding, which is never attended to. L may be less than
        `num_embeddings`: dropping padding changes nothing, as positions are kept. Computes in the
        precision of the weights and returns (N, D) in that of `x`. Raises ValueError for too many
        caption tokens.
        """
        tokens = self._tokens(x, t, text_embeddings, text_hidden_states)
        mask = None if text_mask is None else attention_mask(text_mask)
        for block in self.transformer_blocks:
            tokens = block(tokens, mask)
        z_i: Tensor = self.proj_to_clip_embeddings(self.norm_out(tokens[:, -1]))
        return z_i.to(x.dtype)

    def _tokens(
        self, x: Tensor, t: Tensor, text_embeddings: Tensor, text_hidden_states: Tensor
    ) -> Tensor:
        """The sequence [caption, z_t, timestep, noised z_i, final query] (N, S, W)."""
        count, length = text_hidden_states.shape[:2]
        if length > self.config.num_embeddings:
            raise ValueError(
                f"the prior takes at most {self.config.num_embeddings} caption tokens, not {length}"
            )
        dtype = self.proj_in.weight.dtype
        extra = [
            self.embedding_proj(text_embeddings.to(dtype)),
            self.time_embedding(t).expand(count, -1),
            self.proj_in(x.to(dtype)),
            self.prd_embedding[:, 0].expand(count, -1),
        ]
        caption = self.encoder_hidden_states_proj(text_hidden_states.to(dtype))
        positions = self.positional_embedding
        return torch.cat(
            [
                caption + positions[:, :length],
                torch.stack(extra, dim=1) + positions[:, -EXTRA_TOKENS:],
            ],
            dim=1,
        )

    def normalise(self, z_i: Tensor) -> Tensor:
        """CLIP's z_i (N, D) -> components of about zero mean and unit variance, to be noised."""
        return (z_i - self.clip_mean) / self.clip_std

    def denormalise(self, z_i: Tensor) -> Tensor:
        """The inverse: what was sampled (N, D) -> CLIP's z_i. Applied once, at the end."""
        return z_i * self.clip_std + self.clip_mean


def attention_mask(text_mask: Tensor) -> Tensor:
    """Causal and free of padding: (N, L) of the caption -> (N, 1, S, S), True to attend.

    Every token attends to itself, padding too, so that no row is empty; nothing reads those.
    """
    kept = F.pad(text_mask, (0, EXTRA_TOKENS), value=True)  # (N, S)
    size = kept.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=kept.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=kept.device)
    return (causal & (kept[:, None, :] | itself))[:, None]
