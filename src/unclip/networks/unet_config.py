"""Sizes of the U-Nets, as the layout's `config.json` states them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from unclip.checks import shown
from unclip.config import Between, Dropout, Positive, Side, Width, Widths
from unclip.networks.layers import NetworkConfig

CONDITIONAL, UNCONDITIONAL = "UNet2DConditionModel", "UNet2DModel"
DOWN, DOWN_ATTENTION = "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"
UP, UP_ATTENTION = "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"
MID, MID_ATTENTION = "UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn"

_MOST_ATTENDED = 256  # pixels a side, every one of which attends to every other

# Keys that both classes write and for which ADM has one value.
_FIXED: dict[str, object] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,  # read by convolutional downsampling only, which ADM does not use
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
}
_FIXED_UNCONDITIONAL: dict[str, object] = {
    **_FIXED,
    "add_attention": False,
    "attn_norm_num_groups": None,
    "downsample_type": "conv",
    "num_train_timesteps": None,
    "upsample_type": "conv",
}
_FIXED_CONDITIONAL: dict[str, object] = {
    **_FIXED,
    "addition_embed_type": None,
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "num_attention_heads": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
    "upcast_attention": False,
    "use_linear_projection": False,
}


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """Sizes of a U-Net, named as in `config.json`; see `adm_config` for a shorter way to write one.

    Levels go from fine to coarse in `block_out_channels` and `down_block_types`, from coarse to
    fine in `up_block_types`. `attention_head_dim` is the width of a head. `class_embed_type`
    "identity" means that a vector (`time_condition`) is added to the time embedding.
    `time_cond_proj_dim` is the width of the guidance scale's embedding, in networks that have
    learned what guidance does.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = (CONDITIONAL, UNCONDITIONAL)

    sample_size: Side
    in_channels: Width
    out_channels: Width
    block_out_channels: Widths
    layers_per_block: Annotated[int, Between(1, 32)]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    mid_block_type: str
    cross_attention_dim: Width | None = None
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    norm_eps: Positive = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    class_embed_type: Literal["identity"] | None = None
    time_cond_proj_dim: Width | None = None
    dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = len(self.block_out_channels)
        for key, given, types in (
            ("down_block_types", self.down_block_types, (DOWN, DOWN_ATTENTION)),
            ("up_block_types", self.up_block_types, (UP, UP_ATTENTION)),
        ):
            if len(given) != levels or not set(given) <= set(types):
                raise ValueError(
                    f"`{key}` is {shown(list(given))}, but must have {' or '.join(types)} for "
                    f"each of the {levels} levels of `block_out_channels`"
                )
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"`norm_num_groups` {self.norm_num_groups} does not divide the {width} "
                    f"channels of a level of `block_out_channels`"
                )
        if self.mid_block_type not in (MID, MID_ATTENTION):
            raise ValueError(
                f"`mid_block_type` is {shown(self.mid_block_type)}, but must be {MID} or "
                f"{MID_ATTENTION}"
            )
        embedding = self.time_cond_proj_dim
        if embedding is not None and embedding % 2:
            raise ValueError(
                f"`time_cond_proj_dim` is {embedding}; it must be even and at least 2, or left out"
            )
        self._check_attention()

    def _check_attention(self) -> None:
        types = {*self.down_block_types, *self.up_block_types}
        if self.mid_block_type == MID:
            if types & {DOWN_ATTENTION, UP_ATTENTION} or self.cross_attention_dim is not None:
                raise ValueError(
                    f"attention blocks and `cross_attention_dim` need "
                    f"the `mid_block_type` {MID_ATTENTION}"
                )
            return
        if self.cross_attention_dim is None:
            raise ValueError(
                f"`cross_attention_dim` (width of the context) is {self.cross_attention_dim}, but "
                f"the `mid_block_type` {MID_ATTENTION} needs one"
            )
        head_width = self.attention_head_dim
        for level, width in enumerate(self.block_out_channels):
            attends = (
                level == len(self.block_out_channels) - 1  # the middle
                or self.down_block_types[level] == DOWN_ATTENTION
                or self.up_block_types[-1 - level] == UP_ATTENTION
            )
            if attends and (head_width is None or width % head_width):
                raise ValueError(
                    f"`attention_head_dim` {head_width} does not divide the {width} channels of a "
                    f"level with attention"
                )
            if attends and self.sample_size >> level > _MOST_ATTENDED:
                raise ValueError(
                    f"`sample_size` {self.sample_size} gives a level with attention "
                    f"{self.sample_size >> level} pixels a side; at most {_MOST_ATTENDED} can be "
                    "attended to: make images smaller, or attend at coarser levels"
                )

    @property
    def class_name(self) -> str:
        return CONDITIONAL if self.mid_block_type == MID_ATTENTION else UNCONDITIONAL

    @property
    def time_embed_dim(self) -> int:
        """E, the width of the time embedding and of the `time_condition` added to it."""
        return 4 * self.block_out_channels[0]

    @property
    def downsampling(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 1 << (len(self.block_out_channels) - 1)

    @classmethod
    def keys(cls, class_name: str) -> frozenset[str]:
        keys = super().keys(class_name)
        if class_name == UNCONDITIONAL:
            return keys - {"cross_attention_dim", "time_cond_proj_dim"}
        return keys

    @classmethod
    def fixed(cls, class_name: str) -> Mapping[str, object]:
        return _FIXED_UNCONDITIONAL if class_name == UNCONDITIONAL else _FIXED_CONDITIONAL

    @classmethod
    def absent(cls, class_name: str) -> Mapping[str, object]:
        if class_name == UNCONDITIONAL:
            return {"add_attention": True, "mid_block_type": MID}
        return {}


def adm_config(
    sample_size: int,
    widths: tuple[int, ...],
    layers: int,
    *,
    in_channels: int = 3,
    out_channels: int = 3,
    context_width: int | None = None,
    attend_from: int = 1,
    head_width: int = 64,
    groups: int = 32,
    dropout: float = 0.0,
) -> UNetConfig:
    """A U-Net from its few free choices, in the layout's terms.

    With `context_width`, a decoder: attention from level `attend_from` (0 is the finest) downwards,
    scale-shift conditioning, and a vector added to the time embedding. Without it, an upsampler:
    no attention, shift conditioning.
    """
    levels = range(len(widths))
    attend = [context_width is not None and level >= attend_from for level in levels]
    conditional = context_width is not None
    return UNetConfig(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=tuple(DOWN_ATTENTION if a else DOWN for a in attend),
        up_block_types=tuple(UP_ATTENTION if a else UP for a in reversed(attend)),
        mid_block_type=MID_ATTENTION if conditional else MID,
        cross_attention_dim=context_width,
        attention_head_dim=head_width if conditional else 8,  # 8: what published upsamplers say
        norm_num_groups=groups,
        resnet_time_scale_shift="scale_shift" if conditional else "default",
        class_embed_type="identity" if conditional else None,
        dropout=dropout,
    )
