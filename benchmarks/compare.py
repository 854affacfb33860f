"""One part of unCLIP against diffusers' with the same random weights: seconds and ratios.

python benchmarks/compare.py prior|decoder|upsampler|image|training [--size small|full]

Both run in this process, in turn, on the same inputs; medians are printed beside the matrix peak
and the memory bandwidth measured in the same run, and one JSON object is appended to
benchmarks/results/results.jsonl. The last line is the ratio. Exits with 1 where the results of the
two differ. At full size the published networks need up to 8 GB in fp32 (prior) and the whole image
40 GB, of which 13 on disk.
"""

import argparse
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import (
    RESULTS,
    ROOT,
    machine,
    matrix_peak,
    memory_bandwidth,
    operation_counter,
    record,
    synchronise,
)

sys.path.insert(1, str(ROOT))
from tests.parity.published import Case, oracle, theirs
from tests.parity.test_networks import theirs_and_ours

from unclip import Pipeline
from unclip.acceleration.int8 import to_int8
from unclip.acceleration.packing import PackedLinear, bytes_of, pack
from unclip.device.memory import kept_memory
from unclip.device.precision import DTYPES, check_int8, device_named, name_of, types_of
from unclip.networks.decoder import DECODERS
from unclip.networks.diffusion_prior import PRIORS, DiffusionPrior
from unclip.networks.unet import UNet
from unclip.networks.upsampler import UPSAMPLERS
from unclip.pipeline.loading import compile_steps

SIZES = {"tiny": "tiny", "small": "small", "full": "karlo"}
IMAGES = {
    "tiny": Case(),
    "small": Case(
        (256, 6, 4), 77, (8, 64, 6), ((64, 128, 192), 2, 192, 32, 16), 1, 4,
        ((32, 64, 128, 192), 1, 16), (32, 128),
    ),
    "full": Case(
        (768, 12, 12), 77, (32, 64, 20), ((320, 640, 960, 1280), 3, 1536, 64, 32), 1, 4,
        ((320, 640, 960, 1280), 3, 32), (64, 256), "gelu",
    ),
}  # fmt: skip
PROMPT = "a red circle above a small blue square"
CONTEXT, WORDS = 77, 16  # tokens that diffusers pads a caption to, and tokens that it has
BATCHES = {"training": (4, 16)}  # of the others 1 and 4
STEPS = {"prior": 25, "decoder": 4, "upsampler": 2, "image": 25, "training": 2}
# Greatest mean difference, in standard deviations of diffusers' result, that is rounding.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


@dataclass
class Pair:
    """The same work twice; each call returns what it made."""

    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    network: nn.Module | None  # ours; None: several networks
    weights: int = 0  # bytes of it, which every step reads
    peer: nn.Module | None = None
    compared: bool = True


@dataclass(frozen=True)
class Setting:
    """What one row of the table is measured with."""

    size: str
    precision: str
    batch: int
    steps: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    def networks(self, config: Any, network: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
        """diffusers' network as it comes and ours, with equal weights, in this precision."""
        pair = [n.to(self.device, self.dtype) for n in theirs_and_ours(config, network)]
        return pair[0], pair[1]

    def randn(self, *shape: int, seed: int) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return noise.to(self.device)

    def timesteps(self) -> list[int]:
        return torch.linspace(999, 0, self.steps).round().long().tolist()

    def mask(self) -> Tensor:
        """Captions before the empty one, as guidance needs them: (2 · batch, 77)."""
        lengths = torch.tensor([WORDS] * self.batch + [2] * self.batch, device=self.device)
        return torch.arange(CONTEXT, device=self.device) < lengths[:, None]


def prior(s: Setting) -> Pair:
    """Guided steps, the prefix included; x is given at each step, so that errors do not add up."""
    config = PRIORS[SIZES[s.size]]
    peer, ours = s.networks(config, DiffusionPrior)
    assert isinstance(ours, DiffusionPrior)
    pack(ours)  # as a pipeline on a CPU does
    width, mask = config.embedding_dim, s.mask()
    z_t, hidden = s.randn(2 * s.batch, width, seed=1), s.randn(2 * s.batch, CONTEXT, width, seed=2)
    xs = [s.randn(s.batch, width, seed=9 + k).repeat(2, 1) for k in range(s.steps)]

    def run_ours() -> Tensor:
        prefixes = [
            ours.prefix(
                text_embeddings=z_t[rows],
                text_hidden_states=hidden[rows, :length],
                text_mask=mask[rows, :length],
            )
            for rows, length in ((slice(s.batch), WORDS), (slice(s.batch, None), 2))
        ]
        state = ours.continuation(prefixes, 1, s.timesteps())
        return torch.stack(
            [ours.proceed(x, t, state) for x, t in zip(xs, s.timesteps(), strict=True)]
        )

    def run_theirs() -> Tensor:
        inputs = z_t.to(s.dtype), hidden.to(s.dtype), mask
        made = [
            peer(x.to(s.dtype), t, *inputs).predicted_image_embedding
            for x, t in zip(xs, s.timesteps(), strict=True)
        ]
        return torch.stack(made)

    return Pair(run_ours, run_theirs, ours, bytes_of(ours), peer)


def decoder(s: Setting) -> Pair:
    """Guided steps, the projection of the context included."""
    config = DECODERS[SIZES[s.size]]
    peer, ours = s.networks(config, UNet)
    ours = ours.to(memory_format=torch.channels_last)
    assert isinstance(ours, UNet)
    assert config.cross_attention_dim is not None
    count, side = 2 * s.batch, config.sample_size
    mask = torch.cat([torch.ones(count, 4, dtype=torch.bool, device=s.device), s.mask()], dim=1)
    context = s.randn(count, 4 + CONTEXT, config.cross_attention_dim, seed=1).to(s.dtype)
    condition = s.randn(count, config.time_embed_dim, seed=2).to(s.dtype)
    xs = [s.randn(s.batch, 3, side, side, seed=9 + k).repeat(2, 1, 1, 1) for k in range(s.steps)]

    def run_ours() -> Tensor:
        kept = 4 + WORDS  # padding is dropped
        shared = ours.conditions(
            s.timesteps(),
            time_condition=condition,
            context=context[:, :kept],
            context_mask=mask[:, :kept],
            keep_kernels=True,
        )
        steps = zip(xs, s.timesteps(), strict=True)
        return torch.stack([ours.proceed(x, t, shared) for x, t in steps])

    def run_theirs() -> Tensor:
        made = [
            peer(x.to(s.dtype), t, context, class_labels=condition, attention_mask=mask).sample
            for x, t in zip(xs, s.timesteps(), strict=True)
        ]
        return torch.stack(made)

    return Pair(run_ours, run_theirs, ours, bytes_of(ours), peer)


def upsampler(s: Setting) -> Pair:
    """Steps of the last upsampler but for the bicubic enlargement."""
    config = UPSAMPLERS[SIZES[s.size]]
    peer, ours = s.networks(config, UNet)
    ours = ours.to(memory_format=torch.channels_last)
    assert isinstance(ours, UNet)
    side = config.sample_size
    xs = [s.randn(s.batch, 6, side, side, seed=9 + k) for k in range(s.steps)]

    def run_ours() -> Tensor:
        shared = ours.conditions(s.timesteps())
        steps = zip(xs, s.timesteps(), strict=True)
        return torch.stack([ours.proceed(x, t, shared) for x, t in steps])

    def run_theirs() -> Tensor:
        steps = zip(xs, s.timesteps(), strict=True)
        return torch.stack([peer(x.to(s.dtype), t).sample for x, t in steps])

    return Pair(run_ours, run_theirs, ours, bytes_of(ours), peer)


def image(s: Setting) -> Pair:
    """Caption to image. diffusers' pipeline is in fp32, its default, whatever ours is in.

    The results are compared where ours is in fp32 too: hundreds of roundings separate them else.
    """
    with tempfile.TemporaryDirectory() as temporary:
        peer = theirs(IMAGES[s.size], Path(temporary) / "tokenizer")
        peer.save_pretrained(Path(temporary) / "model")
        peer.to(s.device)
        folder, device = Path(temporary) / "model", str(s.device)
        ours = Pipeline.from_pretrained(folder, dtype=s.precision, device=device)
        # Weights are mapped from the folder: they have to be in memory before it goes.
        for network in (ours.clip.text_encoder, *_networks(ours)):
            for parameter in network.parameters():
                parameter.data = parameter.data.clone()
    few = min(s.steps, 7)
    steps = {
        "prior_num_inference_steps": s.steps,
        "decoder_num_inference_steps": s.steps,
        "super_res_num_inference_steps": few,
    }
    prompts = [PROMPT] * s.batch

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def run_ours() -> Tensor:
        made = ours(prompts, generator=seeded(), output_type="tensor", **steps)
        return made.images  # type: ignore[no-any-return]

    def run_theirs() -> Tensor:
        made = peer(prompts, generator=seeded(), output_type="np", **steps).images
        return torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1

    return Pair(run_ours, run_theirs, None, compared=s.precision == "fp32")


def _networks(pipe: Pipeline) -> list[nn.Module]:
    assert pipe.prior is not None
    upsamplers = [network for stage in pipe.upsamplers for network in stage.networks]
    return [pipe.prior.network, pipe.decoder.network, *upsamplers]


def training(s: Setting) -> Pair:
    """Steps of the decoder's U-Net under AdamW: ours as the loop trains it, theirs as it comes.

    Weights are in fp32; with bf16, both compute under autocast. What is returned is the losses.
    """
    config = DECODERS[SIZES[s.size]]
    peer, ours = (n.to(s.device).train() for n in theirs_and_ours(config, UNet))
    ours = ours.to(memory_format=torch.channels_last)
    assert config.cross_attention_dim is not None
    side = config.sample_size
    x = s.randn(s.batch, 3, side, side, seed=1)
    target = s.randn(s.batch, config.out_channels, side, side, seed=2)
    t = torch.arange(s.batch, device=s.device) * 100
    context = s.randn(s.batch, 4 + WORDS, config.cross_attention_dim, seed=3)
    condition = s.randn(s.batch, config.time_embed_dim, seed=4)
    named = {"time_condition": condition, "context": context}
    with_format = x.contiguous(memory_format=torch.channels_last)

    def loop(network: nn.Module, forward: Callable[[], Tensor], **options: Any) -> Any:
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, **options)

        def run() -> Tensor:
            losses = []
            for _ in range(s.steps):
                with torch.autocast(s.device.type, torch.bfloat16, s.precision == "bf16"):
                    output = forward()
                loss = (output.float() - target).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            return torch.stack(losses)

        return run

    run_ours = loop(ours, lambda: ours(with_format, t, **named), fused=True)
    run_theirs = loop(peer, lambda: peer(x, t, context, class_labels=condition).sample)
    return Pair(run_ours, run_theirs, None)


PARTS = {
    "prior": prior, "decoder": decoder, "upsampler": upsampler, "image": image,
    "training": training,
}  # fmt: skip


def measured(part: str, s: Setting, repeats: int, limits: dict[str, float]) -> dict[str, Any]:
    """One row: medians, their ratio, and how near ours is to the machine's limits."""
    pair = PARTS[part](s)
    steps = 1 if part == "image" else s.steps
    with torch.set_grad_enabled(part == "training"):
        with operation_counter() as counter:
            ours = pair.ours()
        with operation_counter() as peer_counter:
            theirs = pair.theirs()
        gap = difference(ours, theirs) if pair.compared else None
        mine, other = timed((pair.ours, pair.theirs), s, repeats, steps)
    operations = counter.get_total_flops() / steps
    row: dict[str, Any] = {
        "precision": s.precision,
        "batch": s.batch,
        "ours": mine,
        "theirs": other,
        "ratio": other / mine,
        "difference": gap,
        "operations": operations,
        "work": counter.get_total_flops() / peer_counter.get_total_flops(),
        "of_matrix_peak": operations / mine / limits[s.precision],
    }
    if pair.network is not None:
        row["of_bandwidth"] = pair.weights / mine / limits["bandwidth"]
        if part != "training" and s.device.type == "cuda":
            row |= compiled(pair, s, repeats)
        if part != "training" and has_int8(s.device):
            row |= in_int8(pair, ours, s, repeats)
    return row


def timed(
    runs: Sequence[Callable[[], Tensor]], s: Setting, repeats: int, steps: int
) -> list[float]:
    """Median seconds a step of each, in turn; where it samples, the first one, ours, keeps its
    memory, as pipelines do."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            keeps = taken is seconds[0] and not torch.is_grad_enabled()
            with kept_memory(s.device) if keeps else nullcontext():
                synchronise(s.device)
                began = time.perf_counter()
                run()
                synchronise(s.device)
                taken.append((time.perf_counter() - began) / steps)
    return [statistics.median(taken) for taken in seconds]


@torch.no_grad()
def compiled(pair: Pair, s: Setting, repeats: int) -> dict[str, float]:
    """Both again, compiled: seconds a step without the compilation, the ratio, what differs."""
    assert isinstance(pair.network, UNet | DiffusionPrior)
    assert pair.peer is not None
    compile_steps(pair.network)
    pair.peer.compile()
    gap = difference(pair.ours(), pair.theirs())  # compiles
    mine, other = timed((pair.ours, pair.theirs), s, repeats, s.steps)
    return {
        "compiled": mine, "theirs_compiled": other, "compiled_ratio": other / mine,
        "compiled_difference": gap,
    }  # fmt: skip


def has_int8(device: torch.device) -> bool:
    try:
        check_int8(device)
    except ValueError:
        return False
    return True


def unpack(network: nn.Module) -> None:
    """What `pack` has replaced, as it was."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, PackedLinear):
                weight = child.weight.to_dense()
                linear = nn.Linear(*weight.T.shape, child.bias is not None, "meta")
                linear.weight, linear.bias = nn.Parameter(weight, False), child.bias
                setattr(module, name, linear)


@torch.no_grad()
def in_int8(pair: Pair, exact: Tensor, s: Setting, repeats: int) -> dict[str, float]:
    """Ours again with its blocks in 8 bits, the rest in the row's precision: time and error."""
    assert pair.network is not None
    unpack(pair.network)
    to_int8(pair.network)
    error = difference(pair.ours(), exact)
    (seconds,) = timed([pair.ours], s, repeats, s.steps)
    return {"int8": seconds, "int8_difference": error}


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Mean absolute difference in standard deviations of `theirs`; of losses, relative to them."""
    ours, theirs = ours.float(), theirs.float()
    scale = theirs.std() if theirs.ndim > 1 else theirs.abs().mean()
    return ((ours - theirs).abs().mean() / scale).item()


def peak_memory(device: torch.device) -> float:
    """Gigabytes of this process, with both models, or of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def table(part: str, rows: Sequence[dict[str, Any]]) -> None:
    unit = "s an image or batch" if part == "image" else "ms a step"
    scale = 1 if part == "image" else 1e3
    print(f"\n{part}: {unit}; percentages are of the measured matrix peak and bandwidth")
    print("work: operations that unclip does for each of diffusers'")
    print("int8: unclip with its blocks in 8 bits, and its mean error in standard deviations")
    print(
        f"{'':<6}{'batch':>6}{'unclip':>12}{'diffusers':>12}{'ratio':>8}{'work':>8}{'matrix':>8}"
        f"{'memory':>8}{'int8':>12}{'error':>8}"
    )
    for row in rows:
        memory = f"{row['of_bandwidth']:.0%}" if "of_bandwidth" in row else "-"
        int8 = f"{scale * row['int8']:.2f}" if "int8" in row else "-"
        error = f"{row['int8_difference']:.1%}" if "int8" in row else "-"
        print(
            f"{row['precision']:<6}{row['batch']:>6}{scale * row['ours']:>12.2f}"
            f"{scale * row['theirs']:>12.2f}{row['ratio']:>8.2f}{row['work']:>8.2f}"
            f"{row['of_matrix_peak']:>8.0%}{memory:>8}{int8:>12}{error:>8}"
        )
        if "compiled" in row:
            print(
                f"  both compiled {scale * row['compiled']:>8.2f}"
                f"{scale * row['theirs_compiled']:>12.2f}{row['compiled_ratio']:>8.2f}; unclip "
                f"compiled against diffusers as it comes {row['theirs'] / row['compiled']:.2f}"
            )


def last_line(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """The ratio at the first batch size, and from their default to ours in bf16."""
    first = {row["precision"]: row for row in reversed(rows)}
    said = [f"{row['ratio']:.2f} × in {name}" for name, row in sorted(first.items(), reverse=True)]
    if part != "image" and {"fp32", "bf16"} <= first.keys():
        default = first["fp32"]["theirs"] / first["bf16"]["ours"]
        said.append(f"{default:.2f} × by default (fp32) against ours in bf16")
    return f"{part}: diffusers takes {', '.join(said)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16"],
        help="those that the device has instructions for if left out",
    )  # fmt: skip
    parser.add_argument(
        "--batch", nargs="+", type=int, help="1 and 4 if left out; of training 4 and 16"
    )
    parser.add_argument("--steps", type=int, help="in each measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    oracle()  # their notes on loading are not for this table
    device, part = device_named(arguments.device), arguments.part
    steps = arguments.steps or STEPS[part]
    measurable = [name_of(dtype) for dtype in types_of(device.type)]
    for name in set(arguments.precision or ()) - set(measurable):
        parser.error(f"{device} has no instructions for {name}: only {' and '.join(measurable)}")
    peaks = matrix_peak(device)
    limits = {name_of(dtype): speed for dtype, speed in peaks.items()}
    limits["bandwidth"] = memory_bandwidth(device)
    known = machine(device)
    print(f"{known['gpu'] or known['cpu']}, {known['threads']} threads")
    peak = ", ".join(f"{limits[name] / 1e9:.0f} GFLOP/s in {name}" for name in measurable)
    print(f"matrix peak {peak}; memory {limits['bandwidth'] / 1e9:.1f} GB/s")
    rows = []
    for precision in arguments.precision or measurable:
        for batch in arguments.batch or BATCHES.get(part, (1, 4)):
            setting = Setting(arguments.size, precision, batch, steps, device)
            rows.append(measured(part, setting, arguments.repeats, limits))
            gc.collect()
    table(part, rows)
    memory = peak_memory(device)
    print(f"peak memory {memory:.2f} GB, both models and their inputs")
    record(
        device, part=part, size=arguments.size, steps=steps, limits=limits, rows=rows,
        peak_memory=memory,
    )  # fmt: skip
    print(f"added to {RESULTS.relative_to(ROOT)}")
    wrong = [
        (row, row[key])
        for row in rows
        for key in ("difference", "compiled_difference")
        if row.get(key) and not row[key] < TOLERANCE[row["precision"]]
    ]
    for row, gap in wrong:
        print(
            f"the results differ in {row['precision']} at batch {row['batch']}: by {gap:.2g} of "
            "their standard deviation",
            file=sys.stderr,
        )
    print(last_line(part, rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
