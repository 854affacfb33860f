"""What a CPU's instructions decide: the precision that is chosen, and how long that and Muon take.

python benchmarks/instructions.py

Run it as another CPU with ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2. One thread, whose own
time is counted, so that other work on the machine hardly matters; prints and appends one JSON
object to benchmarks/results/results.jsonl.
"""

import time

import torch

from common import RESULTS, ROOT, machine, record
from unclip.device.precision import fastest_dtype, name_of
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.recipe import Optimiser
from unclip.storage.folder import ModelFolder, bundled
from unclip.training.muon import Muon
from unclip.training.optimiser import build
from unclip.training.parallel import Alone


def muon_seconds(dtype: torch.dtype, repeats: int = 5) -> float:
    """Best of `repeats` in seconds of a step of Muon on the bundled CLIP's weights."""
    clip = FrozenCLIP.load(ModelFolder(bundled("model")))
    network = torch.nn.ModuleList([clip.text_encoder, clip.image_encoder]).requires_grad_(True)
    optimiser = build(network, Optimiser(kind="muon"), Alone(torch.device("cpu")))
    assert isinstance(optimiser, Muon)
    optimiser.dtype, seconds = dtype, []
    for _ in range(repeats):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        began = time.thread_time()
        optimiser.step()
        seconds.append(time.thread_time() - began)
    return min(seconds)


def main() -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    began = time.thread_time()
    chosen = fastest_dtype("cpu")
    choosing = time.thread_time() - began
    muon = muon_seconds(chosen)
    known = machine(device)
    print(f"{known['cpu']}, torch's kernels {known['kernels']}, one thread")
    print(f"chosen: {name_of(chosen)}, in {choosing:.3f} s")
    print(f"a step of Muon on the bundled CLIP in {name_of(chosen)}: {muon:.2f} s")
    record(device, chosen=name_of(chosen), choosing=choosing, muon=muon)
    print(f"added to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
