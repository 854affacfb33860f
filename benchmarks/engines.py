"""A step of prior, decoder and upsampler in unclip, diffusers and OpenVINO, in turn in one process.

python benchmarks/engines.py [--sizes bundled small] [--threads 1 2] [--int8]

OpenVINO's U-Nets are those of `--engine openvino`: what a request computes once is torch's. Its
prior is diffusers' network as its converter makes it, which computes all tokens at every step.
Prints Markdown and writes benchmarks/results/engines-avx512.json, or -avx2.json where torch and
oneDNN are limited to that (ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2). OpenVINO's
convolutions and products heed the second variable; its own kernels, which normalise, add and
activate, do not in its releases (openvinotoolkit/openvino#36980), so that its AVX2 figures are at
best right and else too good. --int8 quantises decoders and upsamplers by NNCF (pip install nncf).
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import compare
from common import RESULTS, commit, machine
from compare import CONTEXT, PARTS, Pair, Setting, difference, oracle
from unclip.acceleration import openvino
from unclip.device.instructions import instructions
from unclip.device.memory import kept_memory
from unclip.device.precision import name_of, types_of
from unclip.networks.decoder import DECODERS
from unclip.networks.diffusion_prior import PRIORS, DiffusionPriorConfig
from unclip.networks.unet import UNet
from unclip.networks.unet_config import UNetConfig
from unclip.networks.upsampler import UPSAMPLERS
from unclip.storage.folder import ModelFolder, bundled

CPU = torch.device("cpu")
STEPS = {"prior": 25, "decoder": 4, "upsampler": 2}
BUNDLED: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "prior": ("prior", DiffusionPriorConfig, PRIORS),
    "decoder": ("decoder", UNetConfig, DECODERS),
    "upsampler": ("super_res_first", UNetConfig, UPSAMPLERS),
}
Run = Callable[[], Any]


def know_bundled() -> None:
    """Have `compare` know the bundled model's sizes as those of the name "bundled"."""
    folder = ModelFolder(bundled("model"))
    for component, config, known in BUNDLED.values():
        known["bundled"] = config.from_json(folder.config(component))
    # The others' captions are padded to 77 tokens.
    PRIORS["bundled"] = replace(PRIORS["bundled"], num_embeddings=CONTEXT)
    compare.SIZES["bundled"] = "bundled"


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def by_openvino(part: str, pair: Pair, s: Setting) -> Run:
    """The same steps in OpenVINO."""
    if part == "prior":
        return prior_by_openvino(pair, s)
    network = pair.network
    assert isinstance(network, UNet)
    steps = openvino.OpenVINOSteps(network)

    def run() -> Tensor:
        network._run = steps  # type: ignore[assignment]
        try:
            return pair.ours()
        finally:
            del network._run

    return run


class Prior(nn.Module):
    """diffusers' with its tensors only."""

    def __init__(self, peer: nn.Module) -> None:
        super().__init__()
        self.peer = peer

    def forward(self, x: Tensor, t: Tensor, z_t: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        made: Tensor = self.peer(x, t, z_t, hidden, mask).predicted_image_embedding
        return made


def prior_by_openvino(pair: Pair, s: Setting) -> Run:
    assert pair.peer is not None
    width = PRIORS[compare.SIZES[s.size]].embedding_dim
    rows = 2 * s.batch
    given = (s.randn(rows, width, seed=1), s.randn(rows, CONTEXT, width, seed=2), s.mask())
    xs = [s.randn(s.batch, width, seed=9 + k).repeat(2, 1) for k in range(s.steps)]
    times = [torch.full((rows,), t) for t in s.timesteps()]
    pair.peer.float()
    traced = torch.jit.trace(Prior(pair.peer), (xs[0], times[0], *given), check_trace=False)
    model = openvino.library().convert_model(traced)
    pair.peer.to(s.dtype)
    model.reshape({k: [*x.shape] for k, x in enumerate((xs[0], times[0], *given))})
    requests: dict[int, Any] = {}

    def run() -> Tensor:
        count = torch.get_num_threads()
        if count not in requests:
            requests[count] = openvino.compiled(model, s.dtype).create_infer_request()
        inputs = [x.numpy() for x in given]
        made = [
            torch.from_numpy(requests[count].infer([x.numpy(), t.numpy(), *inputs])[0])
            for x, t in zip(xs, times, strict=True)
        ]
        return torch.stack(made)

    return run


def quantised(pair: Pair, run: Run) -> tuple[Run, float]:
    """OpenVINO's steps with NNCF's 8 bits, calibrated on these inputs; and their error."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import nncf

    network = pair.network
    assert isinstance(network, UNet)
    exact, seen = run(), []
    steps = openvino.OpenVINOSteps(network)
    ready = steps._ready

    def watched(shapes: Any, variant: Any) -> Any:
        request = ready(shapes, variant).take()

        class Watched:
            free: ClassVar[list[Any]] = []

            def take(self) -> "Watched":
                return self

            def infer(self, arrays: Any, **more: Any) -> Any:
                seen.append(arrays)
                return request.infer(arrays, **more)

        return Watched()

    steps._ready = watched  # type: ignore[method-assign]
    network._run = steps  # type: ignore[assignment]
    pair.ours()
    del network._run
    model = openvino.cached(network, openvino.Variant())
    model = nncf.quantize(model, nncf.Dataset(seen), subset_size=len(seen))
    steps = openvino.OpenVINOSteps(network)
    steps._converted[openvino.Variant()] = model

    def run_quantised() -> Tensor:
        network._run = steps  # type: ignore[assignment]
        try:
            return pair.ours()
        finally:
            del network._run

    return run_quantised, difference(run_quantised(), exact)


def timed(runs: dict[str, Run], steps: int, rounds: int) -> dict[str, float]:
    """Median milliseconds a step of each; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            with kept_memory(CPU):
                began = time.perf_counter()
                run()
            if turn:
                taken[name].append((time.perf_counter() - began) / steps)
    return {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}


@torch.no_grad()
def measured(
    part: str, s: Setting, counts: list[int], rounds: int, int8: bool
) -> list[dict[str, Any]]:
    """A row for each number of threads."""
    pair = PARTS[part](s)
    runs: dict[str, Run] = {"unclip": pair.ours, "diffusers": pair.theirs}
    runs["OpenVINO"] = by_openvino(part, pair, s)
    exact = pair.ours()
    errors = {name: difference(run(), exact) for name, run in runs.items()}
    if int8 and part != "prior" and s.precision == "fp32":
        runs["OpenVINO int8"], errors["OpenVINO int8"] = quantised(pair, runs["OpenVINO"])
    rows = []
    for count in counts:
        with threads(count):
            took = timed(runs, s.steps, rounds)
        rows.append({
            "part": part, "size": s.size, "precision": s.precision, "threads": count,
            "ms": took, "errors": errors,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds a step, and how many times as fast as unclip the others are."""
    heads = ["size", "part", "", "threads", "unclip", "diffusers", "OpenVINO"]
    int8 = any("OpenVINO int8" in row["ms"] for row in rows)
    heads += ["OpenVINO int8"] * int8 + ["diffusers / unclip", "unclip / OpenVINO"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for row in rows:
        ms = row["ms"]
        cells = [row["size"], row["part"], row["precision"], str(row["threads"])]
        cells += [_three(ms[name]) for name in ("unclip", "diffusers", "OpenVINO")]
        if int8:
            eight = ms.get("OpenVINO int8")
            error = row["errors"].get("OpenVINO int8")
            cells.append("" if eight is None else f"{_three(eight)} ({error:.1%})")
        cells += [f"{ms['diffusers'] / ms['unclip']:.2f}", f"{ms['unclip'] / ms['OpenVINO']:.2f}"]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _three(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(STEPS), default=list(STEPS))
    sizes = ["bundled", *compare.SIZES]
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=["bundled", "small"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--int8", action="store_true", help="measure NNCF's 8 bits as well")
    arguments = parser.parse_args()
    oracle()
    know_bundled()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        for part in arguments.parts:
            for dtype in types_of("cpu"):
                s = Setting(size, name_of(dtype), 1, STEPS[part], CPU)
                rows += measured(part, s, arguments.threads, arguments.rounds, arguments.int8)
                print(table(rows[-len(arguments.threads) :]).splitlines()[-1], flush=True)
    kernels = instructions().kernels.lower()
    file = RESULTS.parent / f"engines-{kernels}.json"
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(CPU),
        "versions": {
            "torch": torch.__version__, "openvino": openvino.version(), "commit": commit(),
        },
        "command": " ".join(["python", "benchmarks/engines.py", *sys.argv[1:]]), "rows": rows,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{table(rows)}\n\nwritten to {file.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
