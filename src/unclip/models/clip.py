"""CLIP (Radford et al. 2021): an image and a text Transformer that meet in one embedding space.

The modules' names are the keys of the Hugging Face layout, so that published folders load as they
are, whole (`CLIPModel`) or one tower each (`CLIPTextModelWithProjection`,
`CLIPVisionModelWithProjection`).

Shapes: N batch, L text tokens, P image patches + 1, D width of a tower, E embedding width.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.checks import of_kind
from unclip.files import MAX_CONFIG, read_json
from unclip.models.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from unclip.models.folder import ModelFolder, check_links
from unclip.models.hub import resolve_component
from unclip.models.layers import attention
from unclip.models.weights import load_weights

MAX_LOGIT_SCALE = math.log(100.0)


class SelfAttention(nn.Module):
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
    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
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
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
        """Tokens (N, L, D) → (N, L, D); `mask` (N, 1, 1, L) is True where one may be attended."""
        for layer in self.layers:
            x = layer(x, causal, mask)
        return x


class TextEmbeddings(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:  # (N, L) → (N, L, D)
        positions = self.position_embedding.weight[: ids.shape[1]]
        return self.token_embedding(ids) + positions  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
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


class CLIP(nn.Module):
    """Both towers and the learned temperature (`CLIPModel`)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = of_kind(config, CLIPConfig, "config", "a CLIPConfig")
        self.text_model = TextTransformer(config.text)
        self.vision_model = VisionTransformer(config.vision)
        width, embed = config.text.hidden_size, config.text.projection_dim
        self.text_projection = nn.Linear(width, embed, bias=False)
        self.visual_projection = nn.Linear(config.vision.hidden_size, embed, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.text.logit_scale_init_value))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        *,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Self:
        """Open a whole CLIP as it is published: `config.json` and safetensors weights.

        Args:
            folder: its path, or a model on the Hugging Face Hub, "hf:owner/model".
            dtype: the precision of the weights; the files' own if left out.
            revision: branch, tag or commit on the Hub.
            variant: which weights are read where there are several, e.g. "fp16".

        Raises:
            ValueError: the folder holds something else, or not all of it.
        """
        if dtype is not None:
            of_kind(dtype, torch.dtype, "dtype", "a torch.dtype")
            if not dtype.is_floating_point:
                raise ValueError(f"dtype is {dtype}; weights are floats")
        path = resolve_component(folder, revision, variant)
        check_links(path, *path.glob("*"))
        mapping, where = read_json(path / "config.json", MAX_CONFIG), str(path / "config.json")
        for tower in ("text_config", "vision_config"):
            if not isinstance(mapping.get(tower), dict):
                raise ValueError(f"{where} is not that of a whole CLIP: it has no {tower}")
        config = CLIPConfig(
            CLIPTextConfig.from_json(mapping, where), CLIPVisionConfig.from_json(mapping, where)
        )
        with torch.device("meta"):
            clip = cls(config)
        load_weights(clip, path, dtype, variant)
        return clip.eval()

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (N, L) → z_t (N, E), not normalised; hidden states (N, L, D).

        Raises:
            ValueError: no ids, more than the context holds, or (on a CPU) unknown ones.
        """
        self._check_ids(ids)
        hidden, pooled = self.text_model(ids)
        return self.text_projection(pooled), hidden

    def encode_image(self, images: Tensor) -> Tensor:
        """Preprocessed images (N, 3, H, W) → z_i (N, E), not normalised.

        Raises:
            ValueError: no tensor of floats, or of another shape.
        """
        of_kind(images, Tensor, "images", "a tensor")
        channels = self.config.vision.num_channels
        plain = images.is_floating_point() and not images.is_nested
        if not plain or images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must be floats (N, {channels}, H, W), as CLIP prepares them")
        return self.visual_projection(self.vision_model(images))  # type: ignore[no-any-return]

    def _check_ids(self, ids: Tensor) -> None:
        of_kind(ids, Tensor, "ids", "a tensor")
        known, most = self.config.text.vocab_size, self.config.text.max_position_embeddings
        plain = ids.dtype in (torch.long, torch.int) and not ids.is_nested
        if not plain or ids.ndim != 2 or not 0 < ids.shape[1] <= most:
            raise ValueError(f"ids must be whole numbers (N, L), with L from 1 to {most}")
        if ids.device.type == "cpu" and len(ids) and not 0 <= ids.min() <= ids.max() < known:
            raise ValueError(
                f"ids must be from 0 to {known - 1}, as this CLIP knows so many tokens"
            )

    def temperature(self) -> Tensor:
        """The factor on cosine similarities, at most 100 (CLIP, section 2.5)."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def towers(self) -> tuple[TextEncoder, ImageEncoder]:
        """The two towers by themselves, sharing this CLIP's weights.

        The learned temperature goes into both configs, as `logit_scale_init_value`.
        """
        scale = min(self.logit_scale.item(), MAX_LOGIT_SCALE)
        with torch.device("meta"):
            text = TextEncoder(replace(self.config.text, logit_scale_init_value=scale))
            image = ImageEncoder(replace(self.config.vision, logit_scale_init_value=scale))
        state = self.state_dict()
        for tower in (text, image):
            own = {key: state[key] for key in tower.state_dict()}
            tower.load_state_dict(own, assign=True)
        return text, image

    @classmethod
    def joined(cls, text: TextEncoder, image: ImageEncoder) -> Self:
        """The whole CLIP whose towers these are; it has weights of its own, trainable."""
        of_kind(text, TextEncoder, "text", "a TextEncoder")
        of_kind(image, ImageEncoder, "image", "an ImageEncoder")
        clip = cls(CLIPConfig(text.config, image.config))
        clip.load_state_dict({**text.state_dict(), **image.state_dict()}, strict=False)
        return clip

    def initialise(self) -> Self:
        """CLIP's initialisation: widths and depths set the scale (CLIP's reference code).

        Tokens start five times larger: Adam moves every weight by about the learning rate a step,
        and would make others of the small ones before images can be told apart by their words
        (docs/experiments.md).
        """
        for tower, config in (
            (self.text_model, self.config.text),
            (self.vision_model, self.config.vision),
        ):
            width, layers = config.hidden_size, config.num_hidden_layers
            for module in tower.modules():
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
                elif isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                elif isinstance(module, SelfAttention):
                    for proj in (module.q_proj, module.k_proj, module.v_proj):
                        nn.init.normal_(proj.weight, std=width**-0.5)
                    nn.init.normal_(module.out_proj.weight, std=(2 * width * layers) ** -0.5)
                elif isinstance(module, MLP):
                    nn.init.normal_(module.fc1.weight, std=(2 * width) ** -0.5)
                    nn.init.normal_(module.fc2.weight, std=(2 * width * layers) ** -0.5)
        nn.init.normal_(self.text_model.embeddings.token_embedding.weight, std=0.1)
        vision = self.vision_model.embeddings
        nn.init.normal_(vision.class_embedding, std=self.config.vision.hidden_size**-0.5)
        for projection in (self.text_projection, self.visual_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        return self


def similarity(text: Tensor, image: Tensor) -> Tensor:
    """Cosine similarities (N_text, N_image) of embeddings (N_text, E) and (N_image, E)."""
    return F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}


def save_encoder(folder: ModelFolder, encoder: TextEncoder | ImageEncoder) -> None:
    """Write a tower as the layout has it, text_encoder or image_encoder."""
    text = isinstance(encoder, TextEncoder)
    config = encoder.config.to_json()
    folder.save(
        "text_encoder" if text else "image_encoder",
        ("transformers", config["architectures"][0]),
        {"config.json": config},
        encoder.state_dict(),
        stem="model",
    )


def load_text_encoder(folder: ModelFolder, dtype: torch.dtype | None = None) -> TextEncoder:
    """The text tower of a model folder."""
    where = str(folder.path / "text_encoder")
    config = CLIPTextConfig.from_json(folder.config("text_encoder"), where)
    return folder.load("text_encoder", TextEncoder, config, dtype)


def load_image_encoder(folder: ModelFolder, dtype: torch.dtype | None = None) -> ImageEncoder:
    """The image tower of a model folder."""
    where = str(folder.path / "image_encoder")
    config = CLIPVisionConfig.from_json(folder.config("image_encoder"), where)
    return folder.load("image_encoder", ImageEncoder, config, dtype)
