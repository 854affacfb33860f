"""What a step of a stage takes, counted by computing it for a few images.

Operations are those of products: of matrices, convolutions and attention, in the forward and the
backward pass, as torch's `FlopCounterMode` counts them, the frozen CLIP's among them. Not counted
are what goes element by element, norms, the optimiser and the average: they are few beside these.
What activation checkpointing computes twice is counted twice.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unclip.batch import Batch, on_device

Loss = Callable[[Batch, torch.Generator], Mapping[str, Tensor]]
PROBE = 2  # images that are really computed; the rest is proportion


@dataclass(frozen=True)
class Counted:
    """Of one image and one pass forward and back.

    Args:
        operations: of products.
        kept: bytes that the backward pass needs of the forward one, weights left out.
    """

    operations: float
    kept: float


def counted(
    loss: Loss,
    network: nn.Module,
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Counted:
    """Count the first two images of a batch. The network has no gradients afterwards.

    Args:
        loss: the stage's; all processes that share its network count together.
        dtype: that autocast computes in.
    """
    few: Batch = {key: value[:PROBE] for key, value in batch.items()}
    generator = torch.Generator(device).manual_seed(0)
    kept: dict[int, int] = {}
    with _eager(), FlopCounterMode(display=False) as counter:
        autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        with saved_bytes(kept), autocast:
            found = loss(on_device(few, device), generator)["loss"]
        found.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    without(kept, network)
    return Counted(counter.get_total_flops() / PROBE, sum(kept.values()) / PROBE)


def _eager() -> AbstractContextManager[object]:
    """A block without compiled code, which would be compiled anew for so few images. Nothing is
    imported for it where nothing is compiled, as that takes seconds."""
    compiling = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiling else nullcontext()


@contextmanager
def saved_bytes(kept: dict[int, int]) -> Iterator[None]:
    """Note the size of every tensor that autograd keeps, each storage once, on any device."""

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def without(kept: dict[int, int], network: nn.Module) -> None:
    """Forget the network's own tensors, which are kept too, but there once."""
    for tensor in (*network.parameters(), *network.buffers()):
        kept.pop(tensor.untyped_storage()._cdata, None)
