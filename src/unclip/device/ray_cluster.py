"""What a Ray cluster has for processes that each compute with one model."""

from collections.abc import Mapping
from typing import NamedTuple


class Share(NamedTuple):
    """What one process gets."""

    device: str
    """That it names: Ray shows it no other GPU than its own."""
    gpus: int
    most: int
    """Processes that there is room for."""


def share_of(device: str, resources: Mapping[str, float]) -> Share:
    """A GPU for each process where the cluster has any, else a core.

    Args:
        device: as `--device` names it.
        resources: `ray.cluster_resources()`.

    Raises:
        ValueError: the cluster has no GPU, or one of several is asked for.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"Ray says which GPU is whose: cuda instead of the device {device}")
    gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise ValueError("the Ray cluster has no GPU: leave out the device cuda")
    if gpus:
        return Share("cuda", 1, gpus)
    return Share("cpu", 0, max(1, int(resources.get("CPU", 1))))
