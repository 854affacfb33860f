"""The ADM U-Net that decoder and upsamplers share (Dhariwal & Nichol 2021; paper section 2.1).

Shapes: N samples, C channels, H and W pixels, L context tokens, E width of the time embedding,
K width of the context, A attention width (heads times head width).

Attribute names are the keys of the published layout, where the decoder is a `UNet2DConditionModel`
and an upsampler a `UNet2DModel`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.networks import winograd
from unclip.networks.layers import (
    GroupNorm,
    RowDropout,
    TimestepEmbedding,
    Unit,
    attention,
    guidance_embedding,
    zero_init,
)
from unclip.networks.unet_config import DOWN_ATTENTION, MID_ATTENTION, UP_ATTENTION, UNetConfig
from unclip.networks.winograd import Conv3x3, Kernels

__all__ = ["UNet", "UNetConfig"]

GuidanceScale = float | tuple[float, ...]
"""Of all samples: the scale, or the numbers that a student is told, of which it is the first."""


class ResnetBlock(Unit):
    """Two convolutions with the time embedding between them, optionally halving or doubling H, W.

    The time embedding shifts the features before the second normalisation ("default") or scales
    and shifts them after it ("scale_shift").
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resample = resample
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv3x3(in_channels, out_channels)
        self.time_emb_proj = nn.Linear(
            config.time_embed_dim, (2 if self.scale_shift else 1) * out_channels
        )
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.dropout = RowDropout(config.dropout)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )
        zero_init(self.conv2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """`x` (N, C, H, W), `emb` (N or 1, E) after its activation -> (N, C', H', W')."""
        h = _silu(self.norm1(x))
        if self.resample == "up":
            h, x = self.conv1.enlarged(h), F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.resample == "down":
            h, x = self.conv1(F.avg_pool2d(h, 2)), F.avg_pool2d(x, 2)
        else:
            h = self.conv1(h)
        shift = self.time_emb_proj(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(_add(h, shift))
        h = self.conv2(self.dropout(_silu(h)))
        return _add(h, x if self.conv_shortcut is None else self.conv_shortcut(x))


@dataclass(frozen=True)
class Context:
    """What the pixels attend to besides themselves: keys and values for every attention layer."""

    layers: Mapping["Attention", tuple[Tensor, Tensor]]  # (N, L, C) each
    mask: Tensor | None  # (N, L) boolean, True to attend; None: attend to all

    def __getitem__(self, rows: slice) -> "Context":
        layers = {layer: (k[rows], v[rows]) for layer, (k, v) in self.layers.items()}
        return Context(layers, None if self.mask is None else self.mask[rows])


@dataclass
class DeepFeatures:
    """What the levels below the finest one last gave, for steps that do not compute them anew.

    From step to step they change slowly (DeepCache: Ma et al., arXiv 2312.00858, section 3.2).
    """

    fresh: frozenset[float]  # the timesteps at which they are computed
    last: Tensor | None = None  # (N, C, H, W), what the finest level of the way up begins with

    def kept(self, t: float, count: int) -> Tensor | None:
        """Those of the first `count` samples; None where they must be computed.

        At a timestep that was not planned, those of the planned one before it.
        """
        if t in self.fresh or self.last is None or len(self.last) < count:
            return None
        return self.last[:count]


@dataclass(frozen=True)
class Conditions:
    """All that the steps of one request share: its timesteps' embeddings, what those of others are
    made with, its context and, where they are reused or kept, its deep features and transformed
    weights."""

    times: Mapping[float, Tensor]  # planned timestep -> (N or 1, E), as `UNet._times` gives it
    time_condition: Tensor | None  # (N, E)
    guidance_scale: GuidanceScale | None
    context: Context | None
    deep: DeepFeatures | None = None
    kernels: Kernels | None = None  # of the network's convolutions, transformed

    def __getitem__(self, rows: slice) -> "Conditions":
        """Some of the samples, in the same memory; the first ones where features are reused."""
        assert self.deep is None or not rows.start
        times = {t: emb[rows] if len(emb) > 1 else emb for t, emb in self.times.items()}
        condition = None if self.time_condition is None else self.time_condition[rows]
        context = self.context and self.context[rows]
        return replace(self, times=times, time_condition=condition, context=context)


class Attention(Unit):
    """Pixels attend to context and pixels alike, in one softmax over [context, pixel] keys."""

    ALSO = ("project_context",)

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        assert config.attention_head_dim is not None
        assert config.cross_attention_dim is not None
        self.head_width = config.attention_head_dim
        # The layout's attention normalises with this epsilon whatever `norm_eps` says.
        self.group_norm = GroupNorm(config.norm_num_groups, channels, eps=1e-5)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.add_k_proj = nn.Linear(config.cross_attention_dim, channels)
        self.add_v_proj = nn.Linear(config.cross_attention_dim, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        output = self.to_out[0]
        assert isinstance(output, nn.Linear)
        zero_init(output)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the context: (N, L, K) -> two (N, L, C), the same at every step."""
        return self.add_k_proj(context), self.add_v_proj(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        context_keys, context_values = context.layers[self]
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)  # (N, HW, C), a view
        keys = torch.cat([context_keys, self.to_k(pixels)], dim=1)  # (N, L + HW, C)
        values = torch.cat([context_values, self.to_v(pixels)], dim=1)
        mask = context.mask
        if mask is not None:
            mask = F.pad(mask, (0, pixels.shape[1]), value=True)[:, None, None, :]
        out = attention(
            self._heads(self.to_q(pixels)), self._heads(keys), self._heads(values), mask=mask
        )
        out = self.to_out[0](out.transpose(1, 2).flatten(2))  # (N, HW, C)
        return _add(out.transpose(1, 2).view(x.shape), x)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)  # (N, heads, tokens, C')


class Level(nn.Module):
    """Resnet blocks of one resolution, the first few of them followed by attention.

    As it stands, the middle of the U-Net: resnet, attention, resnet.
    """

    def __init__(
        self, config: UNetConfig, in_channels: list[int], out_channels: int, attentions: int
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(config, c, out_channels) for c in in_channels)
        self.attentions = nn.ModuleList(Attention(config, out_channels) for _ in range(attentions))

    def layer(self, index: int, x: Tensor, emb: Tensor, context: Context | None) -> Tensor:
        x = self.resnets[index](x, emb)
        if index < len(self.attentions):
            x = self.attentions[index](x, context)
        return x

    def forward(self, x: Tensor, emb: Tensor, context: Context | None) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.layer(index, x, emb, context)
        return x


class DownLevel(Level):
    """A level of the way down, which records every output for the way up."""

    def __init__(
        self, config: UNetConfig, in_channels: int, level: int, *, downsample: bool
    ) -> None:
        width, layers = config.block_out_channels[level], config.layers_per_block
        attend = config.down_block_types[level] == DOWN_ATTENTION
        widths = [in_channels] + [width] * (layers - 1)
        super().__init__(config, widths, width, layers if attend else 0)
        self.downsamplers = nn.ModuleList(
            [ResnetBlock(config, width, width, "down")] if downsample else []
        )

    def descend(self, skips: list[Tensor], emb: Tensor, context: Context | None) -> None:
        """Continue from the last of `skips` and append every output but the downsampled one."""
        for index in range(len(self.resnets)):
            skips.append(self.layer(index, skips[-1], emb, context))

    def leave(self, skips: list[Tensor], emb: Tensor) -> None:
        """Append the downsampled output, with which the next level begins."""
        for downsampler in self.downsamplers:
            skips.append(downsampler(skips[-1], emb))


class UpLevel(Level):
    """A level of the way up, each of whose resnets also sees one output of the way down."""

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        skip_channels: list[int],
        level: int,
        *,
        upsample: bool,
    ) -> None:
        width = config.block_out_channels[-1 - level]
        attend = config.up_block_types[level] == UP_ATTENTION
        inputs = [in_channels] + [width] * (len(skip_channels) - 1)
        widths = [i + s for i, s in zip(inputs, skip_channels, strict=True)]
        super().__init__(config, widths, width, len(widths) if attend else 0)
        self.upsamplers = nn.ModuleList(
            [ResnetBlock(config, width, width, "up")] if upsample else []
        )

    def ascend(
        self, x: Tensor, skips: list[Tensor], emb: Tensor, context: Context | None
    ) -> Tensor:
        """Consume the last outputs of `skips`, one for each layer."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], dim=1), emb, context)
        for upsampler in self.upsamplers:
            x = upsampler(x, emb)
        return x


class UNet(nn.Module):
    """U-Net over images, conditioned on a timestep and, if so configured, a vector and tokens.

    A new network outputs zero: the last layers of residual branches and `conv_out` start there.
    `beside` is what makes features, which are added to those of `conv_in`, of channels behind the
    `in_channels`, where images have more.

    Activations are channels-last, the faster format, once `unet.to(memory_format=channels_last)`
    has made the weights so; the input may have either format.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.beside: Callable[[Tensor], Tensor] | None = None
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        channels, skips = widths[0], [widths[0]]
        self.conv_in = nn.Conv2d(config.in_channels, channels, 3, padding=1)
        self.time_embedding = TimestepEmbedding(
            channels, config.time_embed_dim, config.time_embed_dim, config.time_cond_proj_dim
        )
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            self.down_blocks.append(DownLevel(config, channels, level, downsample=level < last))
            channels = width
            skips += [width] * (config.layers_per_block + (level < last))
        self.mid_block = Level(
            config, [channels, channels], channels, int(config.mid_block_type == MID_ATTENTION)
        )
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(reversed(widths)):
            taken = [skips.pop() for _ in range(config.layers_per_block + 1)]
            self.up_blocks.append(UpLevel(config, channels, taken, level, upsample=level < last))
            channels = width
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels, config.norm_eps)
        self.conv_out = nn.Conv2d(channels, config.out_channels, 3, padding=1)
        zero_init(self.conv_out)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        time_condition: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        guidance_scale: Tensor | None = None,
    ) -> Tensor:
        """Predict from the noisy images `x` (N, in_channels, H, W) at the timesteps `t`.

        `t` (N,) or () integer or float; `time_condition` (N, E) is added to the time embedding;
        `context` (N, L, K) is attended to where `context_mask` (N, L) is True; `guidance_scale`
        (N,) asks a network that has learned it for the guided prediction, (N, M) one that has
        learned more such numbers (`stages/students/`). Computes in the precision
        of the weights and returns (N, out_channels, H, W) in the precision of `x`.
        Raises ValueError where H or W is no multiple of `config.downsampling` and where a
        conditioning that the network needs is missing, or one that it cannot use is given.
        """
        self._check_conditions(time_condition, context)
        emb = _activated(self._embedded(t, guidance_scale), time_condition)
        return self._run(x, emb, self._attended(context, context_mask))[0]

    @torch.no_grad()
    def conditions(
        self,
        timesteps: Sequence[float],
        *,
        time_condition: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        guidance_scale: GuidanceScale | None = None,
        reuse: int = 1,
        fresh: Iterable[float] = (),
        keep_kernels: bool = False,
    ) -> Conditions:
        """What `forward` computes anew at every step, though it could once: for `proceed`.

        `timesteps` are those that are planned, in their order; at every `reuse`-th of them, and at
        those in `fresh`, all is computed, at the others the finest level alone, which is an
        approximation. Any others may be asked for too: they are embedded then.
        `guidance_scale` is one, or one row, for all. With `keep_kernels`, weights that convolutions
        transform are kept in that form too, see `networks/winograd.py`. The other arguments and the
        errors are those of `forward`. Not differentiable.
        """
        self._check_conditions(time_condition, context)
        return Conditions(
            self._times(timesteps, time_condition, guidance_scale),
            time_condition,
            guidance_scale,
            self._attended(context, context_mask),
            DeepFeatures(frozenset([*timesteps[::reuse], *fresh])) if reuse > 1 else None,
            {} if keep_kernels else None,
        )

    def proceed(self, x: Tensor, t: float, conditions: Conditions) -> Tensor:
        """`forward` for `x` (N, in_channels, H, W) at the timestep `t`, planned or not, equal but
        for rounding where no features are reused."""
        emb = conditions.times.get(t)
        if emb is None:
            emb = self._times([t], conditions.time_condition, conditions.guidance_scale)[t]
        deep = conditions.deep
        kept = deep.kept(t, len(x)) if deep else None
        with winograd.kept(conditions.kernels):
            out, below = self._run(x, emb, conditions.context, kept)
        if deep and kept is None:
            deep.last = below
        return out

    def convolutions(self) -> Iterator[tuple[Conv3x3, int]]:
        """The 3 × 3 ones of the blocks, each with the side that its output has if the network's
        own size is asked for."""
        last = len(self.down_blocks) - 1
        levels = [*enumerate(self.down_blocks), (last, self.mid_block)]
        levels += [(last - index, up) for index, up in enumerate(self.up_blocks)]
        for level, block in levels:
            for resnet in block.modules():
                if isinstance(resnet, ResnetBlock):
                    finer = {"up": -1, "down": 1, None: 0}[resnet.resample]
                    side = self.config.sample_size >> (level + finer)
                    yield from ((resnet.conv1, side), (resnet.conv2, side))

    def _times(
        self,
        timesteps: Sequence[float],
        time_condition: Tensor | None,
        guidance_scale: GuidanceScale | None,
    ) -> dict[float, Tensor]:
        """Of each timestep the embedding (N or 1, E), with the time condition and activated."""
        scales = None
        if guidance_scale is not None:
            scale = torch.tensor(guidance_scale, dtype=torch.float32)
            scales = scale.expand(len(timesteps), *scale.shape)
        embeddings = self._embedded(torch.tensor(timesteps), scales)
        times = zip(timesteps, embeddings.split(1), strict=True)  # type: ignore[no-untyped-call]
        return {t: _activated(embedding, time_condition) for t, embedding in times}

    def _embedded(self, t: Tensor, guidance_scale: Tensor | None) -> Tensor:
        """The time embedding (N or 1, E)."""
        if guidance_scale is None:
            return self.time_embedding(t)  # type: ignore[no-any-return]
        width = self.config.time_cond_proj_dim
        if width is None:
            raise ValueError("this U-Net has not learned guidance: it takes no `guidance_scale`")
        embedding: Tensor = self.time_embedding(t, guidance_embedding(guidance_scale, width))
        return embedding

    def _attended(self, context: Tensor | None, mask: Tensor | None) -> Context | None:
        if context is None:
            return None
        context = context.to(self.conv_in.weight.dtype)
        layers = (module for module in self.modules() if isinstance(module, Attention))
        return Context({layer: layer.project_context(context) for layer in layers}, mask)

    def _run(
        self, x: Tensor, emb: Tensor, context: Context | None, below: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The output, and what the levels below the finest gave for it, if it is not given."""
        self.check_size(x)
        finest_down, finest_up = self.down_blocks[0], self.up_blocks[-1]
        assert isinstance(finest_down, DownLevel)
        assert isinstance(finest_up, UpLevel)
        skips = [self._first(x)]
        finest_down.descend(skips, emb, context)
        if below is None:
            finest_down.leave(skips, emb)
            below = self._below(skips, emb, context)
        h = finest_up.ascend(below, skips, emb, context)
        out: Tensor = self.conv_out(_silu(self.conv_norm_out(h)))
        return out.to(x.dtype), below

    def _first(self, x: Tensor) -> Tensor:
        """The first convolution, and what the channels beside x_t add to it, if there are any."""
        own = self.config.in_channels
        h: Tensor = self.conv_in(x[:, :own].to(self.conv_in.weight.dtype))
        if x.shape[1] > own:
            assert self.beside is not None
            h = h + self.beside(x[:, own:])
        return h

    def _below(self, skips: list[Tensor], emb: Tensor, context: Context | None) -> Tensor:
        """All levels but the finest: from the last of `skips` to what its way up begins with."""
        for down in self.down_blocks[1:]:
            assert isinstance(down, DownLevel)
            down.descend(skips, emb, context)
            down.leave(skips, emb)
        h: Tensor = self.mid_block(skips[-1], emb, context)
        for up in self.up_blocks[:-1]:
            assert isinstance(up, UpLevel)
            h = up.ascend(h, skips, emb, context)
        return h

    def check_size(self, x: Tensor) -> None:
        """Refuse images (N, C, H, W) that do not divide into the coarsest level's pixels."""
        multiple = self.config.downsampling
        if x.shape[-2] % multiple or x.shape[-1] % multiple:
            raise ValueError(
                f"this U-Net takes heights and widths that are multiples of {multiple}, but the "
                f"image is {x.shape[-1]}×{x.shape[-2]} pixels"
            )

    def _check_conditions(self, time_condition: Tensor | None, context: Tensor | None) -> None:
        for name, given, needed in (
            ("time_condition", time_condition, self.config.class_embed_type == "identity"),
            ("context", context, self.config.mid_block_type == MID_ATTENTION),
        ):
            if (given is not None) != needed:
                raise ValueError(f"this U-Net {'needs' if needed else 'takes no'} `{name}`")


def _silu(x: Tensor) -> Tensor:
    """Into the memory of `x`, which nobody else reads, where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, likewise."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def _activated(emb: Tensor, time_condition: Tensor | None) -> Tensor:
    """The time embedding (N or 1, E) as every resnet block takes it: the activation is shared."""
    return F.silu(emb if time_condition is None else emb + time_condition.to(emb.dtype))
