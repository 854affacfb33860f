"""A model of the published size: opened, and one image made, against the peer's modules.

python benchmarks/full_size.py [--steps 25 25 7] [--offload] [--int8] [--folder DIR] [--skip-peer]

Writes a folder with random weights and the published configurations (6.6 GB in bf16 and 13.2 GB in
fp32 on disk: as published, fp32), opens it with unclip and with diffusers, each in a process of its
own, makes one image, and prints load time, time per part and peak memory. The parameter counts are
held against those of the published model. Takes about ten minutes on two cores, and 20 GB of memory
for the peer. The folder is kept with --folder, and used again if it is there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unclip.acceleration.packing import bytes_of

PROMPT = "a high-resolution photograph of a big red frog on a green leaf"
PARTS = ("prior", "decoder", "super_res")
# Published counts (Karlo v1 alpha).
PARAMETERS = {
    "prior": 1_022_030_080,
    "text_proj": 7_878_400,
    "decoder": 885_439_686,
    "super_res_first": 691_579_523,
    "super_res_last": 691_579_523,
}


def write(folder: Path) -> None:
    """The published layout, with weights of the right scale and no meaning."""
    from unclip.diffusion.schedules import DiffusionConfig
    from unclip.networks.clip import TextEncoder
    from unclip.networks.clip_config import CLIPTextConfig
    from unclip.networks.decoder import DECODERS, TextProjection, text_projection_config
    from unclip.networks.diffusion_prior import PRIORS, DiffusionPrior
    from unclip.networks.unet import UNet
    from unclip.networks.upsampler import UPSAMPLERS
    from unclip.storage.folder import ModelFolder
    from unclip.storage.scheduler import save_scheduler
    from unclip.tokenizer import Tokenizer

    model = ModelFolder(folder)
    text = CLIPTextConfig(49408, 768, 3072, 768, 12, 12)
    decoder = DECODERS["karlo"]
    networks: dict[str, tuple[type[nn.Module], Any]] = {
        "text_encoder": (TextEncoder, text),
        "prior": (DiffusionPrior, PRIORS["karlo"]),
        "text_proj": (TextProjection, text_projection_config(decoder, 768)),
        "decoder": (UNet, decoder),
        "super_res_first": (UNet, UPSAMPLERS["karlo"]),
        "super_res_last": (UNet, UPSAMPLERS["karlo"]),
    }
    for seed, (name, (network, config)) in enumerate(networks.items()):
        with torch.device("meta"):
            module = network(config)
        count = sum(p.numel() for p in module.parameters())
        if count != PARAMETERS.get(name, count):
            raise SystemExit(f"{name} has {count:,} parameters, not {PARAMETERS[name]:,}")
        print(f"{name:<16} {count:>13,} parameters", flush=True)
        generator = torch.Generator().manual_seed(seed)
        weights = {k: _random(k, p, generator) for k, p in module.state_dict().items()}
        is_text = name == "text_encoder"
        entry = (
            ("transformers", "CLIPTextModelWithProjection")
            if is_text
            else ("unclip" if name == "text_proj" else "diffusers", config.class_name)
        )
        stem = "model" if is_text else "diffusion_pytorch_model"
        model.save(name, entry, {"config.json": config.to_json()}, weights, stem=stem)
        del weights
    processes = {
        "prior_scheduler": DiffusionConfig(prediction_type="sample", clip_sample_range=5.0),
        "decoder_scheduler": DiffusionConfig(variance_type="learned_range"),
        "super_res_scheduler": DiffusionConfig(),
    }
    for name, process in processes.items():
        save_scheduler(model, name, process)
    with model.replacing("tokenizer", ("transformers", "CLIPTokenizer")) as path:
        Tokenizer.train([PROMPT], 540, 77).save_pretrained(path)


def _random(key: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weights that keep activations near unit size: norms one, biases zero, the rest 1/√inputs."""
    if like.ndim < 2:
        is_scale = key.endswith(("weight", "clip_std"))
        return torch.ones(like.shape) if is_scale else torch.zeros(like.shape)
    return torch.randn(like.shape, generator=generator) * (like[0].numel() ** -0.5)


def gigabytes() -> float:
    """Peak memory of this process so far (resident, mapped files included)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9  # ru_maxrss begins with the parent's


def run_ours(folder: Path, steps: list[int], **opening: Any) -> dict[str, Any]:
    from unclip import Pipeline
    from unclip.device.precision import name_of

    began = time.perf_counter()
    pipe = Pipeline.from_pretrained(folder, **opening)
    loaded = time.perf_counter()
    result = {"load": loaded - began, "load_peak": gigabytes(), "precision": name_of(pipe.dtype)}
    clock = _Clock()
    pipe(
        PROMPT,
        prior_num_inference_steps=steps[0],
        decoder_num_inference_steps=steps[1],
        super_res_num_inference_steps=steps[2],
        callback_on_step_end=lambda _, i, t, state: clock.tick(state["stage"]),
    )
    weights = sum(map(bytes_of, pipe_networks(pipe)))
    return result | clock.times() | {"peak": gigabytes(), "weights": weights / 1e9}


def pipe_networks(pipe: Any) -> list[nn.Module]:
    stages = [pipe.prior.network, pipe.decoder.network]
    upsamplers = [network for stage in pipe.upsamplers for network in stage.networks]
    return [pipe.clip.text_encoder, *stages, *upsamplers]


def run_peer(folder: Path, steps: list[int]) -> dict[str, Any]:
    """diffusers as it comes, in fp32, with the two lines that let its loader find its own class."""
    import diffusers
    from diffusers.pipelines.deprecated import unclip

    diffusers.pipelines.unclip = unclip
    began = time.perf_counter()
    pipe = unclip.UnCLIPPipeline.from_pretrained(folder)
    loaded = time.perf_counter()
    result = {"load": loaded - began, "load_peak": gigabytes(), "precision": "fp32"}
    pipe.set_progress_bar_config(disable=True)
    clock = _Clock()
    for stage, names in (
        ("prior", ["prior"]), ("decoder", ["decoder"]),
        ("super_res", ["super_res_first", "super_res_last"]),
    ):  # fmt: skip
        for name in names:
            getattr(pipe, name).register_forward_hook(lambda *_, stage=stage: clock.tick(stage))
    pipe(
        PROMPT,
        prior_num_inference_steps=steps[0],
        decoder_num_inference_steps=steps[1],
        super_res_num_inference_steps=steps[2],
    )
    weights = sum(bytes_of(c) for c in pipe.components.values() if isinstance(c, nn.Module))
    return result | clock.times() | {"peak": gigabytes(), "weights": weights / 1e9}


class _Clock:
    """Seconds by stage, each step counted from the end of the one before."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.spent = dict.fromkeys(PARTS, 0.0)

    def tick(self, stage: str) -> None:
        now = time.perf_counter()
        self.spent[stage] += now - self.last
        self.last = now

    def times(self) -> dict[str, float]:
        return {**self.spent, "image": time.perf_counter() - self.began}


def measured(who: str, folder: Path, steps: list[int]) -> dict[str, Any]:
    """Run one of `RUNS` in a process of its own."""
    words = [sys.executable, __file__, "--as", who, "--folder", str(folder), "--steps"]
    done = subprocess.run([*words, *map(str, steps)], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


RUNS: dict[str, Callable[[Path, list[int]], dict[str, Any]]] = {
    "unclip": run_ours,
    "unclip --offload": partial(run_ours, offload=True),
    "unclip in int8": partial(run_ours, dtype="int8"),
    "diffusers": run_peer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs=3, default=[25, 25, 7], help="of each part")
    parser.add_argument("--offload", action="store_true", help="measure unclip's --offload as well")
    parser.add_argument("--int8", action="store_true", help="measure --precision int8 as well")
    parser.add_argument("--folder", type=Path, help="where the model is written, or lies")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--as", dest="who", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.who:
        print(json.dumps(RUNS[arguments.who](arguments.folder, arguments.steps)))
        return
    left_out = {
        "unclip --offload": not arguments.offload,
        "unclip in int8": not arguments.int8,
        "diffusers": arguments.skip_peer,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "model"
        if not (folder / "model_index.json").exists():
            write(folder)
        runs = {
            who: measured(who, folder, arguments.steps) for who in RUNS if not left_out.get(who)
        }
    table(runs, arguments.steps)


def table(runs: dict[str, dict[str, Any]], steps: list[int]) -> None:
    """Seconds and gigabytes, and the ratios that matter."""
    print(f"\nsteps: {steps[0]} prior, {steps[1]} decoder, {steps[2]} super-resolution")
    keys = ("precision", "load", *PARTS, "image", "weights", "load_peak", "peak")
    units = {"weights": "GB", "load_peak": "GB", "peak": "GB", "precision": ""}
    print(f"{'':<22}" + "".join(f"{name:>18}" for name in runs))
    for key in keys:
        values = [one[key] for one in runs.values()]
        shown = [v if isinstance(v, str) else f"{v:.2f} {units.get(key, 's')}" for v in values]
        print(f"{key.replace('_', ' '):<22}" + "".join(f"{text:>18}" for text in shown))
    ours = runs["unclip"]
    print(f"\npeak memory while loading: {ours['load_peak'] / ours['weights']:.2f} × the weights")
    if "diffusers" in runs:
        peer = runs["diffusers"]
        print(f"peak memory of the image:  {ours['peak'] / peer['peak']:.2f} × diffusers'")
        for who, run in runs.items():
            if run is not peer:
                ratio = peer["image"] / run["image"]
                print(f"time of the image:         diffusers takes {ratio:.2f} × {who}'s")


if __name__ == "__main__":
    main()
