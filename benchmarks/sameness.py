"""What seeded trainings and images come to: two checkouts that print the same compute the same.

`python benchmarks/sameness.py` trains every stage for a few steps, from nothing and in fp32, and
makes images with the bundled model by every command; it prints the losses and a hash of the pixels.
One thread, and the command line alone, so that it runs in checkouts of any layout. On one machine a
change that should change nothing prints what the commit before it prints.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

STEPS = 4
_DATA = "--data.source emoji:shapes --data.size 32 --data.workers 0"
_TRAINING = (
    f"--training.steps {STEPS} --training.batch-size 8 --training.log-every 1 "
    "--training.preview-every 0 --training.precision fp32 --optimiser.warmup 2"
)
_PRIOR = (
    "--network.num-layers 2 --network.num-attention-heads 2 --network.attention-head-dim 16 "
    "--network.statistics 32"
)
_UNET = "--network.widths 16 32 --network.layers 1 --network.groups 8"
# In the order of their needs; the first word is the stage.
STAGES = {
    "clip": "--network.size tiny --network.vocab-size 560 --network.context-length 24",
    "clip muon sam": "--network.size tiny --network.vocab-size 560 --network.context-length 24 "
    "--optimiser.kind muon --optimiser.rho 0.05 --training.accumulation 2",
    "prior": _PRIOR,
    "ar-prior": f"{_PRIOR} --network.buckets 32",
    "decoder": f"{_UNET} --network.head-width 16 --network.context-width 32 "
    "--network.caption-tokens own --network.text-layers 1 --network.inpainting",
    "distilled-decoder": "",
    "upsampler": f"{_UNET} --network.factor 2 --network.crop 2",
    "upsampler-1024": f"{_UNET} --network.factor 2 --network.crop 2",
    "judge": "",
}
_FP32 = "--precision fp32"
COMMANDS = {
    "generate": f'generate "a red star above a blue square" -n 2 {_FP32} -o made.png',
    "generate fast": f'generate "a green heart at night" --steps fast {_FP32} -o fast.png',
    "generate ar": f'generate "a green heart at night" --prior autoregressive {_FP32} -o ar.png',
    "generate ddim": f'generate "a blue ring" --sampler ddim --eta 0.5 --guidance-interval 0.5 20 '
    f"--decoder-steps 9 --reuse 2 {_FP32} -o ddim.png",
    "vary": f"vary fast.png -n 2 {_FP32} -o varied.png",
    "invert": f"invert fast.png --steps 10 {_FP32} -o fast.safetensors",
    "from latents": f"vary fast.safetensors -n 2 {_FP32} -o redrawn.png",
    "embed": f"embed fast.png {_FP32} -o embedded.safetensors",
    "decode": f"decode embedded.safetensors {_FP32} -o decoded.png",
    "blend": f"blend fast.png ddim.png --frames 3 {_FP32} -o blended.png",
    "edit": f'edit fast.png --to "a blue heart" {_FP32} -o edited.png',
    "inpaint": f'inpaint fast.png "a red star" --box 64,64,120,120 {_FP32} -o repainted.png',
    "upscale": f"upscale fast.png --size 200 {_FP32} -o enlarged.png",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in STAGES.items():
            print(f"{name:<18} {_losses(name, flags, Path(folder))}", flush=True)
        for name, command in COMMANDS.items():
            print(f"{name:<18} {_made(command, Path(folder))}", flush=True)


def _losses(name: str, flags: str, folder: Path) -> str:
    stage, model = name.split()[0], "sam" if " " in name else "model"
    run = folder / f"run-{name.replace(' ', '-')}"
    data = _DATA.replace("size 32", "size 64") if stage == "judge" else _DATA
    _unclip(f"train {stage} --model {model} --run {run} {data} {_TRAINING} {flags}", folder)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return " ".join(f"{row['loss']!r}" for row in rows if "loss" in row)


def _made(command: str, folder: Path) -> str:
    """The mark in images is no part of what is computed; older checkouts have none."""
    flag = "--no-watermark"
    marks = flag in _unclip(f"{command.split()[0]} --help", folder)
    _unclip(f"{command} {flag * marks}", folder)
    made = folder / command.rpartition(" ")[2]
    if made.suffix != ".png":
        return "written"
    with Image.open(made) as image:
        pixels = np.asarray(image.convert("RGB"))
    return f"{pixels.shape[1]}×{pixels.shape[0]} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


def _unclip(command: str, folder: Path) -> str:
    words = [sys.executable, "-m", "unclip", *shlex.split(command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
