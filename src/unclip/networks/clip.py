"""CLIP (Radford et al. 2021): an image and a text Transformer that meet in one embedding space.

The modules' names are the keys of the Hugging Face layout, so that published folders load as they
are, whole (`CLIPModel`) or one tower each (`CLIPTextModelWithProjection`,
`CLIPVisionModelWithProjection`).

Shapes: N batch, L text tokens, P image patches + 1, D width of a tower, E embedding width.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.networks.clip_config import CLIPTextConfig, CLIPVisionConfig
from unclip.networks.layers import Unit, attention

MAX_LOGIT_SCALE = math.log(100.0)


class SelfAttention(nn.Module):
    """Multi-head self-attention, (N, L, D) → (N, L, D); see `Encoder.forward` for the mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, H, L, D/H)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(q, k, v, mask=mask, causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """A block's two linear layers with the activation between them, (N, L, D) → (N, L, D)."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class Block(Unit):
    """Pre-norm Transformer block."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = SelfAttention(width, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config.intermediate_size, _ACTIVATIONS[config.hidden_act])
        self.layer_norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal, mask)
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A tower's blocks, one after the other, without its embeddings and last norm."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
        """Tokens (N, L, D) → (N, L, D); `mask` (N, 1, 1, L) is True where one may be attended."""
        for layer in self.layers:
            x = layer(x, causal, mask)
        return x


class TextEmbeddings(nn.Module):
    """Token and position embeddings: ids (N, L) → (N, L, D)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:  # (N, L) → (N, L, D)
        positions = self.position_embedding.weight[: ids.shape[1]]
        return self.token_embedding(ids) + positions  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
    """The text tower: token ids to hidden states, and the state at the end token."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (N, L) → hidden states (N, L, D) after the last norm, pooled (N, D).

        CLIP's attention is causal, so padding at the end never reaches the tokens before it. With
        `mask` (N, L), True on tokens and False on padding, every token attends to all tokens.
        """
        attended = None if mask is None else mask[:, None, None, :]
        hidden = self.encoder(self.embeddings(ids), causal=mask is None, mask=attended)
        hidden = self.final_layer_norm(hidden)
        # Folders written before eos ids were recorded say 2 and mean "the highest id is the end".
        end = ids if self.eos_token_id == 2 else (ids == self.eos_token_id).int()
        return hidden, hidden[torch.arange(len(ids), device=ids.device), end.argmax(dim=1)]


class VisionEmbeddings(nn.Module):
    """Patches, the class token before them, and positions: (N, 3, H, W) → (N, P, D)."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, patch, bias=False)
        positions = (config.image_size // patch) ** 2 + 1
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) → (N, P, D)
        patches = (
            self.patch_embedding(images.to(self.patch_embedding.weight.dtype))
            .flatten(2)
            .transpose(1, 2)
        )
        cls = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        return torch.cat([cls, patches], dim=1) + self.position_embedding.weight


class VisionTransformer(nn.Module):
    """The image tower: normalised images to the class token's state."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # sic
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, image_size, image_size) → pooled (N, D)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this CLIP takes images of {self.image_size}×{self.image_size} pixels, "
                f"not {images.shape[-1]}×{images.shape[-2]}"
            )
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)), causal=False)
        return self.post_layernorm(hidden[:, 0])  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """The text tower with its projection (`CLIPTextModelWithProjection`)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (N, L) → text embeddings (N, E), CLIP's z_t, not normalised; hidden (N, L, D).

        Causal as CLIP, or with `mask` (N, L) both ways between tokens, see `TextTransformer`.
        """
        hidden, pooled = self.text_model(ids, mask)
        return self.text_projection(pooled), hidden


class ImageEncoder(nn.Module):
    """The image tower with its projection (`CLIPVisionModelWithProjection`)."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images (N, 3, H, W) → CLIP image embeddings z_i (N, E), not normalised."""
        return self.visual_projection(self.vision_model(images))  # type: ignore[no-any-return]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}
