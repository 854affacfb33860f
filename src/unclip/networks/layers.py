"""Pieces that the networks share: timestep embeddings, zero initialisation, `config.json`.

Shapes: N samples, D width of a sinusoidal embedding.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.checks import shown
from unclip.config import Checked, from_mapping, to_mapping
from unclip.device.instructions import instructions

Json = dict[str, Any]
_HALVES = (torch.bfloat16, torch.float16)
_SHORT = 512  # keys
_FEW_CHANNELS, _FEW_PIXELS = 16, 1024  # in a group, in an image: where torch has a slow kernel


class Unit(nn.Module):
    """What a network repeats: training can shard, checkpoint or compile one after the other.

    Its `forward` computes all that is in it. What is called of it besides, with its weights, its
    class names in `ALSO`.
    """

    ALSO: ClassVar[tuple[str, ...]] = ()


def sinusoidal_embedding(t: Tensor, width: int) -> Tensor:
    """Embed timesteps as [cos(t f_0) ..., sin(t f_0) ...] with f_k = 10000^(-k / (width // 2)).

    The embedding of Vaswani et al. (2017) in the order of Ho et al. (2020), always in float32: in
    half precision neighbouring timesteps near 1000 would coincide. `t` (N,) of any real type ->
    (N, width); an odd width ends in a zero.
    """
    half = width // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * exponent.exp()[None, :]  # (N, half)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, width % 2))  # (N, width)


def guidance_embedding(scale: Tensor, width: int) -> Tensor:
    """Embed guidance scales as [sin(k ln(s) / 2) ..., cos(k ln(s) / 2) - 1 ...], k = 1, 2, ...

    Zero at s = 1, where there is no guidance, and smooth everywhere: `scale` (N,), above 0 ->
    (N, width) in float32; `width` is even. Of several numbers a sample, (N, M), each has its share
    of the width, one after the other.
    """
    if scale.ndim == 2:
        each = width // scale.shape[1]
        return torch.cat([guidance_embedding(one, each) for one in scale.unbind(1)], dim=-1)
    k = torch.arange(1, width // 2 + 1, dtype=torch.float32, device=scale.device)
    angles = scale.float().log()[:, None] * k / 2  # (N, width / 2)
    return torch.cat([angles.sin(), angles.cos() - 1], dim=-1)


class TimestepEmbedding(nn.Module):
    """Timestep -> sinusoid -> two-layer perceptron: (N,) or () -> (N or 1, out_width).

    With a `condition_width`, the sinusoid can be shifted by a condition (N or 1, condition_width);
    one of zeros changes nothing. The timesteps may be on the CPU wherever the weights are; no GPU
    is waited for then.
    """

    def __init__(
        self, width: int, hidden_width: int, out_width: int, condition_width: int | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, hidden_width)
        self.linear_2 = nn.Linear(hidden_width, out_width)
        self.cond_proj = nn.Linear(condition_width, width, bias=False) if condition_width else None

    def forward(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        weight = self.linear_1.weight
        sinusoid = sinusoidal_embedding(t.reshape(-1), self.width)
        sinusoid = sinusoid.to(weight.device, weight.dtype, non_blocking=True)
        if condition is not None:
            assert self.cond_proj is not None
            condition = condition.to(weight.device, weight.dtype, non_blocking=True)
            sinusoid = sinusoid + self.cond_proj(condition)
        hidden = F.silu(self.linear_1(sinusoid))
        embedding: Tensor = self.linear_2(hidden)
        return embedding


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Softmax attention: q (N, heads, L, width), k and v (N, heads, M, width) → as q.

    `mask` is boolean, True to attend, and broadcasts to (N, heads, L, M). Fused, but where a CPU
    trains on short sequences: the fused kernel's backward pass is far slower there than that of
    its parts (docs/experiments.md). In fp32 where a CPU would emulate the type, or where torch's
    kernels are limited to less than oneDNN's, when they fail.
    """
    if q.device.type == "cpu" and q.dtype in _HALVES and _emulates(q.dtype):
        with torch.autocast("cpu", enabled=False):
            halves, (q, k, v) = q.dtype, (q.float(), k.float(), v.float())
            return attention(q, k, v, mask=mask, causal=causal).to(halves)
    trains_on_cpu = q.device.type == "cpu" and q.requires_grad and torch.is_grad_enabled()
    if not trains_on_cpu or k.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (N, heads, L, M)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    attended: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return attended


def _emulates(dtype: torch.dtype) -> bool:
    return not torch.compiler.is_compiling() and dtype not in instructions().multiplied


class GroupNorm(nn.GroupNorm):
    """Group normalisation, in fp32 where a CPU is slower with bf16 on channels-last tensors.

    The backward pass takes three times fp32's there, and so does the forward pass of small images
    in groups of few channels: 8 × 128 × 16 × 16, 8 channels each, 0.50 ms; with the casts 0.16.

    On a GPU, autocast would have it in fp32, too; there it is computed from and to the half
    precision of its neighbours, as its kernels sum in fp32 anyway: a third of a training step was
    copies between the two (docs/experiments.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            if x.dtype in _HALVES and torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                    return F.group_norm(x, self.num_groups, weight, bias, self.eps)
            return super().forward(x)
        if x.requires_grad and torch.is_autocast_enabled("cpu"):
            return self._exact(x)
        few = x.shape[1] // self.num_groups < _FEW_CHANNELS and x[0, 0].numel() < _FEW_PIXELS
        if x.dtype == torch.bfloat16 and few:
            return self._exact(x).to(x.dtype)
        return super().forward(x)

    def _exact(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps)


class RowDropout(nn.Dropout):
    """Dropout whose mask, on a CPU, belongs to a batch's rows: the same on any number of processes.

    Each of several processes draws the mask of all rows and takes its own, as for noise
    (`draws.py`). A GPU draws its own rows' alone: a mask as large as the features of a whole batch
    could cost more there than the network.

    Attributes:
        rank, processes: this process among those that have equally many rows of a batch each, in
            equal states of the global random stream.
    """

    rank, processes = 0, 1

    def forward(self, x: Tensor) -> Tensor:
        if self.processes == 1 or x.device.type != "cpu" or not (self.training and self.p):
            return super().forward(x)
        # In the order in memory that one process draws in: feature maps lie channels last there,
        # where shards may not.
        order = torch.channels_last if x.ndim == 4 else torch.contiguous_format
        shape = (self.processes * len(x), *x.shape[1:])
        whole = torch.empty(shape, dtype=x.dtype, memory_format=order)
        mask = whole.bernoulli_(1 - self.p).div_(1 - self.p)  # as torch draws and scales it
        return x * mask[self.rank * len(x) :][: len(x)]


def share_dropout(network: nn.Module, rank: int, processes: int) -> None:
    """Tell a network's dropout which rows of a batch this process has."""
    for module in network.modules():
        if isinstance(module, RowDropout):
            module.rank, module.processes = rank, processes


def zero_init(layer: nn.Linear | nn.Conv2d) -> None:
    """Set a layer to zero, so that the residual branch that it ends starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Base of the network configurations: fields are the keys of the layout's `config.json`.

    A published `config.json` also holds keys for choices that unCLIP never makes. Those are listed
    in `fixed` with the one value that is implemented: reading checks them, writing writes them.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ()

    @property
    def class_name(self) -> str:
        """The `_class_name` under which the layout knows this network."""
        return self.CLASS_NAMES[0]

    @classmethod
    def keys(cls, class_name: str) -> frozenset[str]:
        """Names of the fields that a `config.json` of this class holds."""
        return frozenset(field.name for field in dataclasses.fields(cls))

    @classmethod
    def fixed(cls, class_name: str) -> Mapping[str, object]:
        """Keys that are no fields, with the single value that is implemented."""
        return {}

    @classmethod
    def absent(cls, class_name: str) -> Mapping[str, object]:
        """What an absent key means, where that is not the field's default or the fixed value."""
        return {}

    @classmethod
    def from_json(cls, mapping: Mapping[str, object], where: str = "config.json") -> Self:
        """Read the contents of a `config.json`, as any diffusers version since 0.11 writes it.

        Keys with a leading underscore are notes and ignored. Raises ValueError, naming `where` and
        the key, for an unknown or missing key, a value of the wrong kind or out of bounds, or one
        that is not implemented.
        """
        name = mapping.get("_class_name")
        if not isinstance(name, str) or name not in cls.CLASS_NAMES:
            wanted = " or ".join(cls.CLASS_NAMES)
            raise ValueError(f"{where}: `_class_name` is {shown(name)}, but must be {wanted}")
        given = {**cls.absent(name), **mapping}
        given = {key: value for key, value in given.items() if not key.startswith("_")}
        keys, fixed = cls.keys(name), cls.fixed(name)
        for key, value in given.items():
            if key in keys:
                continue
            if key not in fixed:
                raise ValueError(f"{where}: unknown key {shown(key)} for a {name}")
            if value != fixed[key] or isinstance(value, bool) != isinstance(fixed[key], bool):
                raise ValueError(
                    f"{where}: {key} is {shown(value)}; only {fixed[key]!r} is supported"
                )
        known = {key: value for key, value in given.items() if key in keys}
        config = from_mapping(cls, known, where)
        if config.class_name != name:
            raise ValueError(
                f"{where}: `_class_name` is {name}, but the other keys are a {config.class_name}'s"
            )
        return config

    def to_json(self) -> Json:
        """The complete contents of the `config.json` that diffusers opens."""
        name = self.class_name
        keys = self.keys(name)
        own = {key: value for key, value in to_mapping(self).items() if key in keys}
        return dict(sorted({"_class_name": name, **self.fixed(name), **own}.items()))
