"""Several processes, each with a shard of the network, its average and its moments (FSDP2)."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm

from unclip.stages.base import Stage
from unclip.training.parallel import Trained
from unclip.training.replicated import Replicated
from unclip.training.units import units_of


class Sharded(Replicated):
    """Every process keeps a shard of each tensor, and computes its part of a batch.

    The weights of a unit, and at last of what is in none, are gathered when it computes, in the
    run's precision, and let go of afterwards; gradients are averaged in fp32, each process keeping
    its shard. Scalars, and what is not trained, are whole in every process.
    """

    sharded = True

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(rank, world_size, device)
        self._mesh: DeviceMesh | None = None

    def prepare(self, stage: Stage, dtype: torch.dtype) -> Trained:
        network = stage.network.to(self.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.spread(network)
        mesh = self._mesh = self._mesh or init_device_mesh(self.device.type, (self.world_size,))
        whole = {p for p in network.parameters() if p.ndim == 0 or not p.requires_grad}
        for scalar in whole:
            if scalar.requires_grad:
                scalar.register_post_accumulate_grad_hook(self._average)
        precision = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # which is autocast's affair
        )
        # No unit writes into what another gave while there are gradients to be computed.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
        trained = Trained(stage)
        for module in (*units_of(network), trained):
            fully_shard(module, mesh=mesh, mp_policy=precision, ignored_params=whole)
        for unit in units_of(network):
            for name in unit.ALSO:
                register_fsdp_forward_method(unit, name)
        register_fsdp_forward_method(trained, "preview")
        return trained

    def _average(self, scalar: Tensor) -> None:
        """Also of what earlier parts have left, which is the same in all processes."""
        assert scalar.grad is not None
        dist.all_reduce(scalar.grad)
        scalar.grad /= self.world_size

    def full(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def shard(self, full: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return full
        full = full.to(like.device)
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)

    @contextmanager
    def full_weights(self, network: nn.Module) -> Iterator[None]:
        """In the main process's memory, not on its device; elsewhere the shards stay."""
        shards = {module: dict(module._parameters) for module in network.modules()}
        for module, own in shards.items():
            for name, shard in own.items():
                if isinstance(shard, DTensor):
                    whole = self.full(shard.detach())
                    if self.main:
                        module._parameters[name] = nn.Parameter(whole.cpu())
        try:
            yield
        finally:
            for module, own in shards.items():
                module._parameters.update(own)

    def computed(self, trained: Trained) -> None:
        for module in trained.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def regather(self, trained: Trained) -> None:
        # What is in no unit, which else stays gathered from the beginning of a pass to its end; a
        # unit gathers its own whenever it computes.
        assert isinstance(trained, FSDPModule)
        trained.set_reshard_after_forward(True, recurse=False)
        trained.reshard()
        trained.set_reshard_after_forward(False, recurse=False)
        trained.unshard()

    def clip_gradients(self, network: nn.Module, largest: float) -> Tensor:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = self.replica_norm(gradients)
        mine = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        torch._foreach_mul_(mine, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def replica_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        kinds: dict[bool, list[Tensor]] = {}
        for gradient in gradients:
            kinds.setdefault(isinstance(gradient, DTensor), []).append(gradient)
        norms = [self.full(get_total_norm(same)) for same in kinds.values()]
        norm: Tensor = torch.stack(norms).norm()
        return norm
