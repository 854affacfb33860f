"""The decoder's networks: how z_i and the caption enter the U-Net (paper section 2.1), and sizes.

Shapes: N samples, D width of CLIP's embeddings and text hidden states, L caption tokens, M extra
context tokens (four), E width of the time embedding, K width of the U-Net's context.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.config import Between, Width
from unclip.networks.clip import TextEncoder
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.layers import NetworkConfig, zero_init
from unclip.networks.unet_config import UNetConfig, adm_config

# The decoder predicts noise and variance: 3 + 3 channels. `head` is the width of an attention head;
# attention starts at the second level.
_COLUMNS = ("widths", "layers", "context_width", "head_width", "groups", "dropout")
_SIZES: dict[str, tuple[int, tuple[int, ...], int, int, int, int, float]] = {
    #          size  widths                     layers context head groups dropout
    "tiny":   (16,   (16, 32),                  1,     24,     8,   8,     0.0),
    "mini":   (32,   (32, 64, 96),              1,     96,     32,  8,     0.0),
    "small":  (32,   (64, 128, 192),            2,     192,    32,  16,    0.0),
    "medium": (64,   (96, 192, 288, 384),       2,     384,    48,  32,    0.1),
    "large":  (64,   (192, 384, 576, 768),      3,     768,    64,  32,    0.1),
    "karlo":  (64,   (320, 640, 960, 1280),     3,     1536,   64,  32,    0.0),
    "paper":  (64,   (512, 1024, 1536, 2048),   3,     2048,   64,  32,    0.1),
}  # fmt: skip
DECODERS: dict[str, UNetConfig] = {
    name: adm_config(
        size,
        widths,
        layers,
        out_channels=6,
        context_width=context,
        head_width=head,
        groups=groups,
        dropout=dropout,
    )
    for name, (size, widths, layers, context, head, groups, dropout) in _SIZES.items()
}
# The paper's 3.5 B parameters count a text Transformer of 1.2 B (table 3); Karlo reads CLIP's
# tokens.
_CAPTIONS = {"caption_tokens": "clip", "text_layers": 4, "text_width": 0, "text_heads": 0}
_OWN = {"caption_tokens": "own", "text_layers": 24, "text_width": 2048, "text_heads": 32}
SIZES: dict[str, dict[str, Any]] = {
    name: {
        **dict(zip(_COLUMNS, row, strict=True)),
        **(_OWN if name == "paper" else _CAPTIONS),
    }
    for name, (_, *row) in _SIZES.items()
}
"""What `network.size` stands for, by the names of the decoder's settings."""


@dataclass(frozen=True)
class TextProjectionConfig(NetworkConfig):
    """Sizes of the projections, named as in `config.json`."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UnCLIPTextProjModel",)

    time_embed_dim: Annotated[int, Between(1, 2**18)]  # four times the U-Net's first width
    cross_attention_dim: Width
    clip_embeddings_dim: Width = 768
    clip_extra_context_tokens: Annotated[int, Between(1, 1024)] = 4


@dataclass(frozen=True)
class MaskChannelsConfig(NetworkConfig):
    """Sizes of the convolution of the mask channels."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("MaskChannels",)

    in_channels: Width  # what is known, and where: one more than the decoder's space has
    out_channels: Width  # the U-Net's first width


class MaskChannels(nn.Module):
    """What a decoder sees of the known part of an image: (N, C + 1, H, W) -> (N, C', H, W), which
    is added to what the U-Net's first convolution makes of x_t.

    They are channels more of that convolution (GLIDE, section 2.4) whose weights are kept apart:
    the U-Net alone is the decoder where nothing is known, and what knows of no mask channels, as
    diffusers, opens it. They start at zero.
    """

    def __init__(self, config: MaskChannelsConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(config.in_channels, config.out_channels, 3, padding=1, bias=False)
        zero_init(self.conv)

    def forward(self, known: Tensor) -> Tensor:
        features: Tensor = self.conv(known.to(self.conv.weight.dtype))
        return features


def text_projection_config(decoder: UNetConfig, embedding_width: int) -> TextProjectionConfig:
    """The projection from a CLIP with embeddings of `embedding_width` into a decoder."""
    if decoder.cross_attention_dim is None:
        raise ValueError("a U-Net without a `cross_attention_dim` cannot be a decoder")
    return TextProjectionConfig(
        time_embed_dim=decoder.time_embed_dim,
        cross_attention_dim=decoder.cross_attention_dim,
        clip_embeddings_dim=embedding_width,
    )


class TextProjection(nn.Module):
    """z_i, z_t and the caption's hidden states -> what the U-Net is conditioned on.

    z_i is added to the time embedding and becomes extra context tokens before those of the caption
    (paper section 2.1). z_t is added to the time embedding too, which the paper does not say and
    the published layout does. For unconditional guidance z_i is replaced with a learned vector.
    """

    def __init__(self, config: TextProjectionConfig) -> None:
        super().__init__()
        self.config = config
        width, context = config.clip_embeddings_dim, config.cross_attention_dim
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(torch.zeros(width))
        self.embedding_proj = nn.Linear(width, config.time_embed_dim)
        self.clip_image_embeddings_project_to_time_embeddings = nn.Linear(
            width, config.time_embed_dim
        )
        self.clip_extra_context_tokens_proj = nn.Linear(
            width, config.clip_extra_context_tokens * context
        )
        self.encoder_hidden_states_proj = nn.Linear(width, context)
        self.text_encoder_hidden_states_norm = nn.LayerNorm(context)

    def forward(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        text_hidden_states: Tensor,
        null: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Project z_i (N, D), z_t (N, D) and hidden states (N, L, D).

        `null` (N,) boolean: True where z_i is replaced with the learned null embedding; z_i is
        not read there. Returns the time condition (N, E) and the context (N, M + L, K), whose mask
        is `context_mask` of the caption's.
        """
        dtype = self.embedding_proj.weight.dtype
        z_i, z_t = image_embeddings.to(dtype), text_embeddings.to(dtype)
        if null is not None:
            learned = self.learned_classifier_free_guidance_embeddings
            z_i = torch.where(null[:, None], learned, z_i)
        time_condition = self.embedding_proj(
            z_t
        ) + self.clip_image_embeddings_project_to_time_embeddings(z_i)
        # The layout holds token m's component k at k * M + m.
        tokens = self.clip_extra_context_tokens_proj(z_i)  # (N, K * M)
        tokens = tokens.unflatten(1, (-1, self.config.clip_extra_context_tokens)).transpose(1, 2)
        caption = self.encoder_hidden_states_proj(text_hidden_states.to(dtype))
        caption = self.text_encoder_hidden_states_norm(caption)
        return time_condition, torch.cat([tokens, caption], dim=1)  # (N, E), (N, M + L, K)

    def context_mask(self, text_mask: Tensor) -> Tensor:
        """The mask of the context: (N, L) of the caption -> (N, M + L), extra tokens kept."""
        return F.pad(text_mask, (self.config.clip_extra_context_tokens, 0), value=True)


class CaptionTransformer(TextEncoder):
    """A text Transformer that is trained with the decoder (section 2.1): CLIP's modules, of a width
    of its own, whose hidden states are then brought to the width D that `TextProjection` takes."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.hidden_projection: nn.Linear | None = None
        if config.hidden_size != config.projection_dim:
            self.hidden_projection = nn.Linear(config.hidden_size, config.projection_dim)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (N, L) → what is in z_t's place (N, D), hidden states (N, L, D)."""
        pooled, hidden = super().forward(ids, mask)
        return pooled, hidden if self.hidden_projection is None else self.hidden_projection(hidden)
