"""CLIP whole, and its towers in model folders.

Shapes: N batch, L text tokens, E embedding width.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.checks import of_kind
from unclip.device.shapes import on_meta
from unclip.files import MAX_CONFIG, read_json
from unclip.networks.clip import (
    MAX_LOGIT_SCALE,
    MLP,
    ImageEncoder,
    SelfAttention,
    TextEncoder,
    TextTransformer,
    VisionTransformer,
)
from unclip.networks.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from unclip.storage.folder import ModelFolder, check_links
from unclip.storage.hub import resolve_component
from unclip.storage.weights import load_weights


class CLIP(nn.Module):
    """Both towers and the learned temperature (`CLIPModel`); for the sigmoid loss also its bias."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = of_kind(config, CLIPConfig, "config", "a CLIPConfig")
        self.text_model = TextTransformer(config.text)
        self.vision_model = VisionTransformer(config.vision)
        width, embed = config.text.hidden_size, config.text.projection_dim
        self.text_projection = nn.Linear(width, embed, bias=False)
        self.visual_projection = nn.Linear(config.vision.hidden_size, embed, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.text.logit_scale_init_value))
        bias = config.text.logit_bias_init_value
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

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
        with on_meta():
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

        The learned temperature goes into both configs, as `logit_scale_init_value`, and so does
        the sigmoid loss's bias.
        """
        scale = min(self.logit_scale.item(), MAX_LOGIT_SCALE)
        bias = None if self.logit_bias is None else self.logit_bias.item()
        text_config = replace(
            self.config.text, logit_scale_init_value=scale, logit_bias_init_value=bias
        )
        image_config = replace(
            self.config.vision, logit_scale_init_value=scale, logit_bias_init_value=bias
        )
        with on_meta():
            text, image = TextEncoder(text_config), ImageEncoder(image_config)
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
