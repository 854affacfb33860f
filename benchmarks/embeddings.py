"""A prior's step from images, and from precomputed embeddings.

python benchmarks/embeddings.py IMAGES [--model MODEL | --clip SIZE] [--recipe small] [--batch 256]

One process, no workers, one thread: a step reads its images or embeddings, does CLIP's passes where
it needs them, and learns; seconds are those of the processor, so that what else the machine does
counts less. The stage is a recipe's, a fresh one for the CLIP of a model folder, or for a fresh
one of a size. Prints medians as a Markdown table.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from common import machine
from unclip.interfaces.cli import main as unclip
from unclip.stages.catalogue import STAGES
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.spec import load_recipe
from unclip.storage.folder import ModelFolder, bundled
from unclip.training.job import Folders, build_job
from unclip.training.loop import Trainer
from unclip.training.parallel import start_parallel


def trainer(options: argparse.Namespace, root: Path, embeddings: str) -> Trainer:
    """A run of the stage that writes nothing."""
    spec = STAGES[options.stage]
    recipe = load_recipe(spec, options.recipe)
    network = replace(recipe.network, statistics=16)
    data = replace(
        recipe.data, source=str(options.images), size=options.size, workers=0, embeddings=embeddings
    )
    training = replace(
        recipe.training, batch_size=options.batch, accumulation=1, validate_every=0,
        precision="fp32",
    )  # fmt: skip
    recipe = replace(recipe, network=network, data=data, training=training)
    folders = Folders(root / "model", root / "run")
    with contextlib.redirect_stdout(io.StringIO()):
        return Trainer(build_job(spec, recipe, folders, start_parallel("cpu")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path, help="folder of captioned images")
    parser.add_argument("--model", type=Path, help="folder with the CLIP; the bundled model's")
    parser.add_argument("--clip", help="size of a fresh CLIP in its place, such as ViT-B/16")
    parser.add_argument("--recipe", default="small", help="whose stage it is: small, medium, paper")
    parser.add_argument("--stage", default="prior", choices=("prior", "ar-prior"))
    parser.add_argument("--size", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if options.clip:
            words = [f"picture {number}" for number in range(100)]
            ClipStage.build(ClipSettings(options.clip, vocab_size=600), words).save(
                ModelFolder(root / "model")
            )
        else:
            clip = FrozenCLIP.load(ModelFolder(options.model or bundled("model")), torch.float32)
            clip.save(ModelFolder(root / "model"))
        ways = {"images": ""}
        for name, more in (
            ("embeddings", []),
            ("embeddings, hidden states too", ["--hidden-states"]),
        ):
            folder = root / f"embeddings-{len(ways)}"
            words = [
                "embed",
                str(options.images),
                "-o",
                str(folder),
                "--model",
                str(root / "model"),
            ]
            with contextlib.redirect_stdout(io.StringIO()):
                if unclip([*words, "--size", str(options.size), "--precision", "fp32", *more]):
                    raise SystemExit("the images could not be embedded")
            ways[name] = str(folder)
        runs = {name: trainer(options, root, embeddings) for name, embeddings in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds + 1):
            for name, run in runs.items():
                began = time.process_time()
                run.step()
                if number:  # the first warms up
                    seconds[name].append(time.process_time() - began)
    print(machine(torch.device("cpu")))
    clip_is = f"a fresh CLIP of size {options.clip}" if options.clip else "the folder's CLIP"
    size = f"{options.batch} images of {options.size} px"
    print(f"a step of {options.stage} of the recipe {options.recipe}, {clip_is}, on {size}")
    print("| learns from | seconds of a core, median (range) | of images' |")
    print("|---|---|---|")
    base = statistics.median(seconds["images"])
    for name, of_way in seconds.items():
        middle = statistics.median(of_way)
        span = f"{min(of_way):.2f} to {max(of_way):.2f}"
        print(f"| {name} | {middle:.2f} ({span}) | 1/{base / middle:.1f} |")


if __name__ == "__main__":
    main()
