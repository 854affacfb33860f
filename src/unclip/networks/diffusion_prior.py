"""The diffusion prior's network: a causal Transformer that predicts z_i (paper section 2.2).

Shapes: N samples, D width of CLIP's embeddings and text hidden states, L caption tokens given of
at most `num_embeddings`, S = L + 4 tokens in all, P = L + 1 tokens that no step changes, M
candidates of a caption, W width of the Transformer, h heads.

Attribute names are the keys of the published layout's `PriorTransformer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.config import Dropout, Heads, Layers, Tokens, Width
from unclip.networks.layers import (
    NetworkConfig,
    RowDropout,
    TimestepEmbedding,
    Unit,
    attention,
    zero_init,
)

# After the caption come z_t, the timestep, the noised z_i and the learned final query.
EXTRA_TOKENS = 4
STEP_TOKENS = 3  # of those, the ones that differ from step to step

Cache = tuple[Tensor, Tensor]
"""Keys and values of one layer, (N, S, W) each."""


@dataclass(frozen=True)
class DiffusionPriorConfig(NetworkConfig):
    """Sizes of the prior, named as in `config.json`.

    `embedding_dim` is CLIP's embedding width, which the layout takes to be the width of the text
    hidden states too; `num_embeddings` is the greatest number of caption tokens.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("PriorTransformer",)

    num_attention_heads: Heads = 32
    attention_head_dim: Width = 64
    num_layers: Layers = 20
    embedding_dim: Width = 768
    num_embeddings: Tokens = 77
    dropout: Dropout = 0.0

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
        "small":  (6,    64,  6,     256,  77),
        "medium": (12,   64,  12,    512,  77),
        "large":  (16,   64,  20,    768,  77),
        "karlo":  (32,   64,  20,    768,  77),
        "paper":  (32,   64,  24,    1024, 256),
    }.items()
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    name: {
        key: getattr(config, key)
        for key in ("num_attention_heads", "attention_head_dim", "num_layers")
    }
    for name, config in PRIORS.items()
}
"""What `network.size` stands for: the widths of embeddings and captions are CLIP's."""


class Attention(nn.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        width = config.width
        self.head_width = config.attention_head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width), RowDropout(config.dropout)])

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None = None) -> Tensor:
        """`x` (N, S, W), `mask` (N, 1, S, S) True to attend, or None: causal -> (N, S, W).

        With a `cache` of more tokens than `x` has, those of `x` are its last: their keys and values
        are written there, and attention is to all of it.
        """
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if cache is not None:
            for kept, new in zip(cache, (k, v), strict=True):
                kept[:, -x.shape[1] :] = new
            k, v = cache
        q, k, v = map(self._heads, (q, k, v))
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
            Projection(width, 4 * width), RowDropout(config.dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        return x


class Block(Unit):
    """Pre-norm Transformer block; the layout calls its second norm `norm3`."""

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn1 = Attention(config)
        self.norm3 = nn.LayerNorm(config.width)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask, cache)
        x = x + self.ff(self.norm3(x))
        return x


@dataclass(frozen=True)
class Prefix:
    """All that later tokens see of captions and their z_t: keys and values in every layer.

    Attention is causal, so that neither sees the timestep or z_i: they are the same at every step.
    """

    keys: Tensor  # (layers, N, P, W)
    values: Tensor  # (layers, N, P, W)
    mask: Tensor  # (N, P) True to attend

    def __len__(self) -> int:
        return len(self.mask)

    def expand(self, n: int) -> "Prefix":
        """The prefix of a single caption as that of n equal ones, without copying."""
        keys, values = (x.expand(-1, n, -1, -1) for x in (self.keys, self.values))
        return Prefix(keys, values, self.mask.expand(n, -1))


@dataclass(frozen=True)
class Continuation:
    """Prefixes of one request, with room behind them for a step's tokens, and its timesteps.

    A step writes its own keys and values into that room, so an instance serves one sampling at a
    time. The candidates of a caption share its prefix: their tokens stand in one row, and a mask
    keeps them apart.
    """

    keys: Tensor  # (layers, N, P + 3 M, W)
    values: Tensor  # (layers, N, P + 3 M, W)
    mask: Tensor  # (N, 1, 3 M, P + 3 M) True to attend
    times: Mapping[float, Tensor]  # planned timestep -> its embedding (1, W)

    def __getitem__(self, rows: slice) -> "Continuation":
        """Some of the captions, in the same memory."""
        return Continuation(self.keys[:, rows], self.values[:, rows], self.mask[rows], self.times)


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
        caption = self._prefix_tokens(text_embeddings, text_hidden_states)
        tokens = torch.cat([caption, self._step_tokens(x, self.time_embedding(t))], dim=1)
        mask = None if text_mask is None else attention_mask(text_mask)
        for block in self.transformer_blocks:
            tokens = block(tokens, mask)
        return self._output(tokens[:, -1]).to(x.dtype)

    @torch.no_grad()
    def prefix(
        self,
        *,
        text_embeddings: Tensor,
        text_hidden_states: Tensor,
        text_mask: Tensor | None = None,
    ) -> Prefix:
        """What `forward` computes anew at every step, though only these three decide it.

        Arguments and errors are those of `forward`. Not differentiable.
        """
        tokens = self._prefix_tokens(text_embeddings, text_hidden_states)
        if text_mask is None:
            text_mask = tokens.new_ones(text_hidden_states.shape[:2], dtype=torch.bool)
        mask = attention_mask(text_mask, extra=1)
        keys, values = tokens.new_empty(2, len(self.transformer_blocks), *tokens.shape)
        for block, *cache in zip(self.transformer_blocks, keys, values, strict=True):
            tokens = block(tokens, mask, tuple(cache))
        return Prefix(keys, values, F.pad(text_mask, (0, 1), value=True))

    @torch.no_grad()
    def continuation(
        self, prefixes: Sequence[Prefix], candidates: int, timesteps: Sequence[float]
    ) -> Continuation:
        """Everything of one request that its steps share, for `proceed`.

        Args:
            prefixes: one after another in the batch; shorter ones are padded, which is masked.
            candidates: M, samples in a row that share a prefix.
            timesteps: those that are planned; any others may be asked for too, and are embedded
                then.
        """
        count, length = sum(map(len, prefixes)), max(p.mask.shape[1] for p in prefixes)
        first, room = prefixes[0], STEP_TOKENS * candidates
        layers, width = len(first.keys), first.keys.shape[-1]
        keys, values = first.keys.new_zeros(2, layers, count, length + room, width)
        mask = first.mask.new_zeros(count, room, length + room)
        row = 0
        for prefix in prefixes:
            rows, tokens = slice(row, row + len(prefix)), slice(prefix.mask.shape[1])
            keys[:, rows, tokens], values[:, rows, tokens] = prefix.keys, prefix.values
            mask[rows, :, tokens] = prefix.mask[:, None]
            row += len(prefix)
        for start in range(0, room, STEP_TOKENS):  # a candidate sees its own tokens, causally
            own = slice(start, start + STEP_TOKENS)
            mask[:, own, length:][:, :, own] = mask.new_ones(STEP_TOKENS, STEP_TOKENS).tril()
        return Continuation(keys, values, mask[:, None], self._times(timesteps))

    @torch.no_grad()
    def proceed(self, x: Tensor, t: float, continuation: Continuation) -> Tensor:
        """`forward` for the noisy `x` (N · M, D), a caption's candidates in a row, at timestep `t`,
        planned or not.

        Equal to it but for rounding, at three tokens instead of S. Not differentiable.
        """
        time = continuation.times.get(t)
        if time is None:
            time = self._times([t])[t]
        return self._run(x, time, continuation.keys, continuation.values, continuation.mask)

    def _times(self, timesteps: Sequence[float]) -> dict[float, Tensor]:
        """Of each timestep the embedding (1, W)."""
        embeddings = self.time_embedding(torch.tensor(timesteps))
        return dict(zip(timesteps, embeddings.split(1), strict=True))

    def _run(self, x: Tensor, time: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        tokens = self._step_tokens(x, time)
        tokens = tokens.reshape(len(mask), -1, tokens.shape[-1])  # (N, 3 M, W)
        for block, *cache in zip(self.transformer_blocks, keys, values, strict=True):
            tokens = block(tokens, mask, tuple(cache))
        return self._output(tokens.view(len(x), STEP_TOKENS, -1)[:, -1]).to(x.dtype)

    def _prefix_tokens(self, text_embeddings: Tensor, text_hidden_states: Tensor) -> Tensor:
        """The tokens that no step changes, [caption, z_t] (N, P, W)."""
        length = text_hidden_states.shape[1]
        if length > self.config.num_embeddings:
            raise ValueError(
                f"the prior takes at most {self.config.num_embeddings} caption tokens, not {length}"
            )
        dtype = self.proj_in.weight.dtype
        caption = self.encoder_hidden_states_proj(text_hidden_states.to(dtype))
        z_t = self.embedding_proj(text_embeddings.to(dtype))[:, None]
        positions = self.positional_embedding
        return torch.cat(
            [caption + positions[:, :length], z_t + positions[:, -EXTRA_TOKENS:-STEP_TOKENS]], dim=1
        )

    def _step_tokens(self, x: Tensor, time: Tensor) -> Tensor:
        """The others, [timestep, noised z_i, final query]: (N, D), (N or 1, W) -> (N, 3, W)."""
        z_i = self.proj_in(x.to(self.proj_in.weight.dtype))
        tokens = [time.expand_as(z_i), z_i, self.prd_embedding[:, 0].expand_as(z_i)]
        return torch.stack(tokens, dim=1) + self.positional_embedding[:, -STEP_TOKENS:]

    def _output(self, query: Tensor) -> Tensor:
        z_i: Tensor = self.proj_to_clip_embeddings(self.norm_out(query))
        return z_i

    def normalise(self, z_i: Tensor) -> Tensor:
        """CLIP's z_i (N, D) -> components of about zero mean and unit variance, to be noised."""
        return (z_i - self.clip_mean) / self.clip_std

    def denormalise(self, z_i: Tensor) -> Tensor:
        """The inverse: what was sampled (N, D) -> CLIP's z_i. Applied once, at the end."""
        return z_i * self.clip_std + self.clip_mean


def attention_mask(text_mask: Tensor, extra: int = EXTRA_TOKENS) -> Tensor:
    """Causal and free of padding: (N, L) of the caption -> (N, 1, S, S), True to attend.

    `extra` tokens follow the caption: S = L + `extra`. Every token attends to itself, padding too,
    so that no row is empty; nothing reads those.
    """
    kept = F.pad(text_mask, (0, extra), value=True)  # (N, S)
    size = kept.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=kept.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=kept.device)
    return (causal & (kept[:, None, :] | itself))[:, None]
