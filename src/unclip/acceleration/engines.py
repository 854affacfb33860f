"""Which engine computes a U-Net's steps faster here, by measurement."""

import statistics
import time
from copy import deepcopy
from typing import Any

import torch

from unclip.acceleration.openvino import accelerate
from unclip.networks.unet import UNet

_TOKENS, _T = 20, 500


@torch.no_grad()
def step_seconds(network: UNet, rounds: int = 7) -> dict[str, float]:
    """Median seconds of a step of one guided image, by engine; the engines take turns.

    Raises:
        ValueError: OpenVINO is not installed.
    """
    config, dtype = network.config, network.conv_in.weight.dtype
    given: dict[str, Any] = {}
    if config.class_embed_type == "identity":
        given["time_condition"] = torch.zeros(2, config.time_embed_dim, dtype=dtype)
    if config.cross_attention_dim:
        given["context"] = torch.zeros(2, _TOKENS, config.cross_attention_dim, dtype=dtype)
        given["context_mask"] = torch.ones(2, _TOKENS, dtype=torch.bool)
    x = torch.zeros(2, config.in_channels, config.sample_size, config.sample_size)
    x = x.contiguous(memory_format=torch.channels_last)
    engines = {"torch": network, "openvino": deepcopy(network)}
    accelerate(engines["openvino"])
    shared = {name: unet.conditions([_T], keep_kernels=True, **given)
              for name, unet in engines.items()}  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, unet in engines.items():
            start = time.perf_counter()
            unet.proceed(x, _T, shared[name])
            if turn:  # the first one converts and compiles
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
