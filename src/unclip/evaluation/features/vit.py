"""Vision Transformers in the layout of transformers: ViT, and DINOv2 with or without registers.

One network for all: DINOv2 scales each branch before it is added, its largest model has a gated
MLP, and its registers are tokens beside that of the class. The feature is the class token after
the last norm (as dgm-eval takes it, arXiv 2306.04675).

Shapes: N images, P patches, L = 1 + registers + P tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.checks import shown
from unclip.config import Between, Checked, Heads, Layers, Positive, Side, Width, from_mapping
from unclip.device.shapes import on_meta
from unclip.evaluation.features.extractor import Parts
from unclip.evaluation.features.preprocessors import IMAGENET, processor_of
from unclip.evaluation.features.weights import fill
from unclip.networks.clip import MLP, SelfAttention
from unclip.networks.preprocessing import ImageProcessorConfig

_RENAMED: Final = (
    ("embeddings.patch_embeddings.projection.", "patch."),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.out_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("layer_scale1.lambda1", "scale1"),
    ("layer_scale2.lambda1", "scale2"),
    ("layernorm.", "norm."),
)
_UNWANTED: Final = ("embeddings.mask_token", "pooler.", "classifier.")
_GELU: Final = ("gelu",)


@dataclass(frozen=True)
class ViTConfig(Checked):
    """The keys of a config.json that decide what is computed.

    intermediate_size: of the MLP; 0 is `mlp_ratio` times the width.
    """

    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    intermediate_size: Annotated[int, Between(0, 2**20)] = 0
    mlp_ratio: Annotated[int, Between(1, 64)] = 4
    layer_norm_eps: Positive = 1e-6
    image_size: Side = 224
    patch_size: Side = 14
    num_channels: Annotated[int, Between(3, 3)] = 3
    use_swiglu_ffn: bool = False
    num_register_tokens: Annotated[int, Between(0, 1024)] = 0
    layer_scale: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads or self.image_size % self.patch_size:
            raise ValueError(
                f"hidden_size {self.hidden_size} is to be a multiple of num_attention_heads "
                f"{self.num_attention_heads}, and image_size {self.image_size} of patch_size "
                f"{self.patch_size}"
            )


class Gated(nn.Module):
    """An MLP whose hidden units are gated (SwiGLU), (N, L, D) → (N, L, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8  # as many weights as without a gate
        self.weights_in = nn.Linear(width, 2 * hidden)
        self.weights_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm Transformer block, (N, L, D) → (N, L, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        hidden = config.intermediate_size or config.mlp_ratio * width
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = SelfAttention(width, config.num_attention_heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = Gated(width, hidden) if config.use_swiglu_ffn else MLP(width, hidden, F.gelu)
        if config.layer_scale:
            self.scale1 = nn.Parameter(torch.ones(width))
            self.scale2 = nn.Parameter(torch.ones(width))
        self.scaled = config.layer_scale

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(self.norm1(x), causal=False)
        x = x + (h * self.scale1 if self.scaled else h)
        h = self.mlp(self.norm2(x))
        return x + (h * self.scale2 if self.scaled else h)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Preprocessed images (N, 3, n, n), n a multiple of the patch → features (N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        places = (config.image_size // patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, places, width))
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.patch(images)
        x = grid.flatten(2).transpose(1, 2)  # (N, P, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self._positions(*grid.shape[2:])
        if self.config.num_register_tokens:
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])  # type: ignore[no-any-return]

    def _positions(self, height: int, width: int) -> Tensor:
        """(1, 1 + P, D): interpolated where there are more patches, or fewer, than in training."""
        first, rest = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        side = round(rest.shape[1] ** 0.5)
        if (height, width) == (side, side):
            return self.position_embeddings
        table = rest.view(1, side, side, -1).permute(0, 3, 1, 2)
        smooth = self.config.num_register_tokens > 0  # as each was published
        table = F.interpolate(table, (height, width), mode="bicubic", antialias=smooth)
        return torch.cat([first, table.flatten(2).transpose(1, 2)], dim=1)


def open_vit(folder: Path, config: dict[str, Any]) -> Parts:
    """A ViT, with or without a classifier, which is not used."""
    return _open(folder, config, _square, layer_scale=False)


def open_dinov2(folder: Path, config: dict[str, Any]) -> Parts:
    """A DINOv2, with registers or without."""
    return _open(folder, config, lambda size: IMAGENET, layer_scale=True)


def _square(size: int) -> ImageProcessorConfig:
    """Images of `size` pixels as ViT wants them, where its folder says nothing."""
    half = (0.5, 0.5, 0.5)
    return ImageProcessorConfig(
        size={"height": size, "width": size}, crop_size=size, resample=2, image_mean=half,
        image_std=half,
    )  # fmt: skip


def _open(
    folder: Path, config: dict[str, Any], processor: Callable[[int], ImageProcessorConfig],
    layer_scale: bool,
) -> Parts:  # fmt: skip
    where = str(folder / "config.json")
    if config.get("hidden_act", "gelu") not in _GELU or not config.get("qkv_bias", True):
        raise ValueError(
            f"{where}: hidden_act {shown(config.get('hidden_act'))} and qkv_bias "
            f"{shown(config.get('qkv_bias'))} are not known here; only gelu, with biases, is"
        )
    known = {field.name for field in fields(ViTConfig)} - {"layer_scale"}
    said = {key: value for key, value in config.items() if key in known}
    ours = from_mapping(ViTConfig, {**said, "layer_scale": layer_scale}, where)
    with on_meta():
        network = VisionTransformer(ours)
    fill(network, folder, _rename)
    prepared = processor_of(folder, processor(ours.image_size))
    return Parts(network, prepared, ours.hidden_size, "class token")


def _rename(key: str) -> str | None:
    key = key.removeprefix("vit.").removeprefix("dinov2.").removeprefix("dinov2_with_registers.")
    if key.startswith(_UNWANTED):
        return None
    for theirs, ours in _RENAMED:
        key = key.replace(theirs, ours)
    return key
