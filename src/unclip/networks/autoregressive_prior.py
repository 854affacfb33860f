"""The autoregressive prior's network: a causal Transformer over codes of z_i (paper section 2.2).

z_i is a sequence of K codes (`networks/pca.py`), and the network says how likely each next one is
after [caption tokens, z_t, the quantised dot product z_i · z_t, codes so far].

All positions share one head, tied to the codes' embeddings, and are told apart by their position
embeddings: the paper's one billion parameters are those of its 24 blocks (0.8 B), a caption encoder
and little else, while a head for each of 319 positions would add half a billion. Buckets are places
on an axis, so embeddings start as sinusoids of the bucket's number: neighbours start alike, and
what is learned about one bucket is learned about those beside it.

Shapes: N samples, D width of CLIP's embeddings and text hidden states, L caption tokens given of
at most `num_embeddings`, K codes of B buckets, J codes given, S new tokens of M in all, W width of
the Transformer, h heads.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.config import Dropout, Heads, Layers, Probability, Tokens, Width
from unclip.networks.layers import (
    NetworkConfig,
    RowDropout,
    Unit,
    attention,
    sinusoidal_embedding,
    zero_init,
)
from unclip.networks.pca import Buckets, EmbeddingCodec, Spacing

EXTRA_TOKENS = 2  # after the caption come z_t and the dot product


@dataclass(frozen=True)
class AutoregressivePriorConfig(NetworkConfig):
    """Sizes of the prior and of its codes.

    `embedding_dim` is CLIP's embedding width, `num_embeddings` the greatest number of caption
    tokens; `num_codes` is K, `num_buckets` B, `num_dot_buckets` those of the dot product.
    `bucket_spacing` and `explained_variance` (the fraction held by the components kept) say how the
    codes were measured.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("AutoregressivePrior",)

    num_codes: Width
    num_attention_heads: Heads = 26
    attention_head_dim: Width = 64
    num_layers: Layers = 24
    embedding_dim: Width = 1024
    num_embeddings: Tokens = 77
    num_buckets: Buckets = 1024
    num_dot_buckets: Buckets = 64
    dropout: Dropout = 0.0
    bucket_spacing: Spacing = "uniform"
    explained_variance: Probability = 0.0

    @property
    def width(self) -> int:
        """W, the width of the Transformer."""
        return self.num_attention_heads * self.attention_head_dim


SIZES: dict[str, dict[str, Any]] = {
    name: {"num_attention_heads": heads, "attention_head_dim": head, "num_layers": layers}
    for name, (heads, head, layers) in {
        #          heads head layers
        "tiny":   (2,    16,  2),
        "mini":   (4,    48,  4),
        "small":  (6,    64,  6),
        "medium": (12,   64,  12),
        "large":  (16,   64,  20),
        "paper":  (26,   64,  24),
    }.items()
}  # fmt: skip
"""What `network.size` stands for; the width of embeddings is CLIP's, codes are measured."""


@dataclass(frozen=True)
class CodePrefix:
    """What codes follow: captions, and the dot products that z_i should have with them.

    Attributes:
        text_embeddings: z_t (N, D).
        text_hidden_states: (N, L, D).
        text_mask: (N, L), True for tokens of the caption, False for padding.
        dots: (N,) bucket of the dot product, 0 to Q - 1; Q where there is no caption.
    """

    text_embeddings: Tensor
    text_hidden_states: Tensor
    text_mask: Tensor
    dots: Tensor


@dataclass
class Cache:
    """Keys and values of the tokens read so far: attention is causal, so they never change."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # (N, h, M, W / h) each
    mask: Tensor | None = None  # (N, M) tokens that are attended to
    codes: int = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with the new ones, (N, h, S, W / h) each, after them."""
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        self.layers[layer] = k, v
        return k, v


class Block(Unit):
    """Pre-norm Transformer block."""

    def __init__(self, config: AutoregressivePriorConfig, number: int) -> None:
        super().__init__()
        width = config.width
        self.number, self.head_width = number, config.attention_head_dim
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attended = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.dropout = RowDropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """`x` (N, S, W), `mask` (N, 1, S, M) True to attend -> (N, S, W)."""
        normal = self.norm_attention(x)
        q, k, v = (self._heads(project(normal)) for project in (self.query, self.key, self.value))
        if cache is not None:
            k, v = cache.extend(self.number, k, v)
        heads = attention(q, k, v, mask=mask).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.attended(heads))
        hidden = F.gelu(self.feed_in(self.norm_feed(x)))
        x = x + self.dropout(self.feed_out(hidden))
        return x

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)  # (N, h, S, W / h)


class AutoregressivePrior(nn.Module):
    """The probabilities of each code of z_i, given the caption and the codes before it."""

    FLOAT32: ClassVar[tuple[str, ...]] = ("codec.",)  # kept so, whatever the networks' precision

    def __init__(self, config: AutoregressivePriorConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.width, config.embedding_dim
        buckets, dot_buckets = config.num_buckets, config.num_dot_buckets
        self.codec = EmbeddingCodec(embedding, config.num_codes, buckets, dot_buckets)
        self.text_in = nn.Linear(embedding, width)
        self.text_embedding_in = nn.Linear(embedding, width)
        self.dot_embedding = nn.Embedding(dot_buckets + 1, width)  # the last: no caption
        self.code_embedding = nn.Embedding(buckets, width)
        self.positional_embedding = nn.Parameter(
            torch.zeros(config.num_embeddings + EXTRA_TOKENS + config.num_codes, width)
        )
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, width)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """As GPT-2: smaller weights where a residual branch ends. The paper is silent.

        The head starts at zero: all buckets equally likely.
        """
        residual_scale = (2 * self.config.num_layers) ** -0.5
        for block in self.blocks:
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    scale = residual_scale if name in ("attended", "feed_out") else 1.0
                    nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)
                    nn.init.zeros_(layer.bias)
        numbers = torch.arange(self.config.num_buckets, device="cpu")  # elsewhere the way is long
        self.code_embedding.weight.copy_(sinusoidal_embedding(numbers, self.config.width))
        nn.init.normal_(self.dot_embedding.weight, std=0.5)
        nn.init.normal_(self.positional_embedding, std=0.5)  # as large as what they are added to
        zero_init(self.head)

    def forward(
        self, codes: Tensor, prefix: CodePrefix | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Logits of the next code after the prefix and after every code that is given.

        Without a cache, `prefix` and the first J codes (N, J) give (N, J + 1, B), the last for a
        code that is not given; all of them in one pass, as training needs them. With one, it takes
        the first call's tokens in, and later calls give further codes (N, J) and no prefix for
        (N, J, B).

        Raises:
            ValueError: too many caption tokens.
        """
        assert prefix is not None or (cache is not None and cache.mask is not None)
        first = cache.codes if cache is not None else 0
        positions = self.positional_embedding[-self.config.num_codes :]
        tokens = self.code_embedding(codes) + positions[first : first + codes.shape[1]]
        mask = torch.ones(codes.shape, dtype=torch.bool, device=codes.device)
        if prefix is not None:
            tokens = torch.cat([self._prefix(prefix), tokens], dim=1)
            mask = F.pad(mask, (EXTRA_TOKENS, 0), value=True)
            mask = torch.cat([prefix.text_mask, mask], dim=1)
        if cache is not None:
            if cache.mask is not None:
                mask = torch.cat([cache.mask, mask], dim=1)
            cache.mask, cache.codes = mask, first + codes.shape[1]
        attended = attention_mask(mask, tokens.shape[1])
        for block in self.blocks:
            tokens = block(tokens, attended, cache)
        asked = codes.shape[1] + (prefix is not None)
        hidden = self.head(self.norm_out(tokens[:, -asked:]))
        # The width's root keeps logits from growing with it; both factors are about one.
        logits = F.linear(hidden, self.code_embedding.weight) * self.config.width**-0.5
        exact: Tensor = logits.float()
        return exact

    def _prefix(self, prefix: CodePrefix) -> Tensor:
        """[caption, z_t, dot product] (N, L + 2, W)."""
        length, longest = prefix.text_hidden_states.shape[1], self.config.num_embeddings
        if length > longest:
            raise ValueError(f"the prior takes at most {longest} caption tokens, not {length}")
        dtype = self.text_in.weight.dtype
        caption = self.text_in(prefix.text_hidden_states.to(dtype))
        z_t = self.text_embedding_in(prefix.text_embeddings.to(dtype))
        extra = torch.stack([z_t, self.dot_embedding(prefix.dots).to(z_t)], dim=1)
        positions = self.positional_embedding
        return torch.cat(
            [
                caption + positions[:length],
                extra + positions[longest : longest + EXTRA_TOKENS],
            ],
            dim=1,
        )


def attention_mask(kept: Tensor, new: int) -> Tensor:
    """Causal and free of padding: tokens (N, M), of which the last S are new -> (N, 1, S, M).

    Every token attends to itself, padding too, so that no row is empty; nothing reads those.
    """
    keys = torch.arange(kept.shape[1], device=kept.device)
    queries = keys[-new:, None]
    return ((keys <= queries) & (kept[:, None, :] | (keys == queries)))[:, None]
