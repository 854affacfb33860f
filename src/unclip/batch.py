"""The batch: what data gives, the training loop moves, and a stage's loss takes."""

from typing import Any

import torch
from torch import Tensor

from unclip.pixels import to_signed

Batch = dict[str, Any]
"""Of N samples: "images" (N, 3, H, W), "captions" (list of N), and further tensors (N, …) of the
source under their own names. Images are uint8 until `on_device`, and float32 in [-1, 1] after it:
bytes are a quarter of the traffic between processes and to a GPU. Data with precomputed embeddings
has "z_i" and perhaps "hidden", and where these stand for images no "images" (`data/embedded.py`).
"""


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch as stages take it: tensors on the device, images in [-1, 1]."""
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    if "images" in moved and moved["images"].dtype == torch.uint8:
        moved["images"] = to_signed(moved["images"])
    return moved
