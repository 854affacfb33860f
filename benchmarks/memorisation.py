"""Whether `unclip evaluate memorisation` tells a model that memorises from one that does not.

    python benchmarks/memorisation.py

A small decoder is trained from nothing for the bundled CLIP, prior and upsampler: on 16 scenes of
the built-in world, which it learns by heart, and as long on 1,000, which it cannot. Each makes
images for captions of its training scenes, and is measured beside scenes that neither has seen.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unclip.data.batches import Order, batches
from unclip.data.registry import open_source
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.interfaces.cli import main as unclip
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.storage.assets import bundled
from unclip.storage.folder import ModelFolder

UNSEEN, BATCH = 150, 8
WORLD = {
    "max_objects": 2,
    "sizes": ("medium", "large"),
    "textures": ("plain",),
    "styles": ("plain",),
}


def folder_of_scenes(path: Path, first: int, count: int) -> None:
    """Write scenes of the built-in world as anybody's captioned images, of 128 pixels."""
    path.mkdir()
    world = World(WorldConfig(size=128, **WORLD))  # type: ignore[arg-type]
    for number in range(first, first + count):
        pixels, caption = world[number]
        Image.fromarray(pixels).save(path / f"{number:05}.png")
        (path / f"{number:05}.txt").write_text(caption)


def trained(model: Path, data: Path, steps: int) -> None:
    """A copy of the bundled model whose decoder has learned from these images alone."""
    shutil.copytree(bundled("model"), model)
    folder = ModelFolder(model)
    clip = FrozenCLIP.load(folder)
    torch.manual_seed(0)
    settings = DecoderSettings(
        (16, 32), layers=1, head_width=16, groups=8, context_width=32, prediction_type="sample"
    )
    stage = DecoderStage.build(settings, clip, 32)
    optimiser = torch.optim.AdamW(stage.network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(0)
    source = open_source(str(data), size=32, split="all", crop="centre")
    stream = batches(source, Order.of(source), BATCH)
    for step in range(steps):
        batch = next(stream)
        batch = batch | {"images": to_signed(batch["images"])}
        loss = stage.loss(batch, generator)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step}: loss {float(loss.detach()):.4f}", flush=True)
    stream.close()
    stage.save(folder)


def measured(place: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train on `count` scenes, and measure."""
    data, model = place / f"scenes-{count}", place / f"model-{count}"
    folder_of_scenes(data, 0, count)
    print(f"{count} training scenes:", flush=True)
    trained(model, data, options.steps)
    report = place / f"report-{count}.json"
    words = [
        *("evaluate", "memorisation", "--model", str(model), "--data", str(data)),
        *("--held-out", str(place / "unseen"), "-n", str(options.images), "--steps", "fast"),
        *("--batch-size", "16", "--kept", str(place / "kept"), "-o", str(report)),
        *("--sheet", str(options.out / f"memorised-{count}.png")),
    ]
    assert unclip(words) == 0
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def main() -> None:
    """Print a table with a column for each number of training scenes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--images", type=int, default=48, help="that are made and looked at")
    parser.add_argument("--scenes", type=int, nargs="+", default=[16, 1000])
    parser.add_argument("--out", type=Path, default=Path("out"), help="for sheets of pairs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder_of_scenes(place / "unseen", 10_000, UNSEEN)
        found = {count: measured(place, count, options) for count in options.scenes}
    for count, report in found.items():
        print(f"\n{count} training scenes")
        for one in report["numbers"]:
            low, high = one["interval"]
            interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
            by = one["under"]["extractor"]
            print(f"  {one['metric']}, {one['of']}, {by}: {one['value']:.3f}{interval}")


if __name__ == "__main__":
    main()
