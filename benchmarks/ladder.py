"""Which metric notices what: real images damaged in known ways, step by step.

    python benchmarks/ladder.py [-n 1000] [--extractors clip efficientnet-lite0] [--only blur swap]

Every set has the same `n` scenes of the built-in world, of two objects each, and is held against
`n` other scenes. The first set is undamaged and says what a perfect generator gets. Each damage has
three steps, from slight to total:

| damage | step |
|---|---|
| blur | a Gaussian of 0.5, 1 and 2 pixels |
| jpeg | quality 50, 20 and 5 |
| colour | 50, 20 and 0 % of the saturation |
| swap | in 25, 50 and 100 % of the scenes the objects have each other's colours and textures |
| drop | in 25, 50 and 100 % of the scenes the second object is missing |
| collapse | only half, a tenth and a fiftieth of the images are different ones |
| copies | 25, 50 and 100 % are copies of "training images", asked for by their captions |

A metric notices a step if it differs from that of the undamaged set by more than the 95 % interval
of the difference, and is monotone if every step is at least as bad as the one before, within such
intervals. Prints two Markdown tables for each extractor and appends one JSON object to
benchmarks/results/results.jsonl.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common import record
from unclip.data.world.scene import Scene
from unclip.data.world.world import World
from unclip.evaluation.features.extractor import Extractor, features_of, open_extractor
from unclip.evaluation.intervals import Estimate
from unclip.evaluation.metrics.composition import held_out
from unclip.evaluation.metrics.frechet import fid
from unclip.evaluation.metrics.mmd import cmmd, kid
from unclip.evaluation.metrics.neighbours import prdc
from unclip.evaluation.metrics.retrieval import embed_captions
from unclip.evaluation.metrics.spread import clip_score, diversity
from unclip.interfaces.cli.evaluations.shared import WORLD
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder, bundled

STEPS = 3
SHARES = (0.25, 0.5, 1.0)  # of the images, by the step
BATCH = 16
LOWER, HIGHER = -1, 1
# What is better, by name; a metric that none of these is has no direction.
BETTER = {
    "FID": LOWER, "KID × 1000": LOWER, "CMMD": LOWER, "precision": HIGHER, "recall": HIGHER,
    "density": HIGHER, "coverage": HIGHER, "diversity": HIGHER, "CLIP score": HIGHER,
}  # fmt: skip
Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (N, H, H, 3)


@dataclass(frozen=True)
class Scenes:
    """What every set is made of: scenes and their images, and scenes for copies."""

    world: World
    size: int
    scenes: Sequence[Scene]
    training: Sequence[Scene]

    @classmethod
    def of(cls, n: int, size: int, first: int = 0) -> "Scenes":
        world = held_out(replace(WORLD, min_objects=2, max_objects=2))
        scenes = [world.scene(first + index) for index in range(n)]
        return cls(world, size, scenes, [world.scene(first + 2 * n + k) for k in range(n)])

    def captions(self, damage: str, step: int) -> list[str]:
        """Of a set's images: those of the scenes, but copies are asked for by their own."""
        copied = round(len(self.scenes) * SHARES[step]) if damage == "copies" else 0
        return [one.caption for one in (*self.training[:copied], *self.scenes[copied:])]

    def render(self, scenes: Sequence[Scene]) -> Pixels:
        return np.stack([self.world.render(scene, self.size) for scene in scenes])


# ---- damages: (scenes, their undamaged pixels, step from 0 to 2) → pixels ---------------------


def blur(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    sigma = (0.5, 1.0, 2.0)[step]
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-x.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    images = F.pad(images, (reach,) * 4, mode="replicate")
    images = F.conv2d(F.conv2d(images, kernel, groups=3), kernel.mT, groups=3)
    return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def jpeg(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    def stored(one: Pixels) -> Pixels:
        file = BytesIO()
        Image.fromarray(one).save(file, "JPEG", quality=(50, 20, 5)[step])
        return np.asarray(Image.open(file))

    return np.stack([stored(one) for one in pixels])


def colour(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    kept = (0.5, 0.2, 0.0)[step]
    grey = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    return (grey + kept * (pixels - grey)).round().clip(0, 255).astype(np.uint8)


def swap(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    def swapped(scene: Scene) -> Scene:
        one, two = scene.objects
        looks = ("colour", "rgb", "accent", "texture")
        first, second = ({name: getattr(thing, name) for name in looks} for thing in (two, one))
        return replace(scene, objects=(replace(one, **first), replace(two, **second)))

    return _some(scenes, pixels, step, swapped)


def drop(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    return _some(scenes, pixels, step, lambda scene: replace(scene, objects=scene.objects[:1]))


def collapse(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    different = max(1, round(len(pixels) * (0.5, 0.1, 0.02)[step]))
    return pixels[np.arange(len(pixels)) % different]


def copies(scenes: Scenes, pixels: Pixels, step: int) -> Pixels:
    count = round(len(pixels) * SHARES[step])
    return np.concatenate([scenes.render(scenes.training[:count]), pixels[count:]])


def _some(scenes: Scenes, pixels: Pixels, step: int, change: Callable[[Scene], Scene]) -> Pixels:
    """The first quarter, half or all of the scenes, changed."""
    count = round(len(pixels) * SHARES[step])
    changed = [change(scene) for scene in scenes.scenes[:count]]
    return np.concatenate([scenes.render(changed), pixels[count:]])


DAMAGES = {one.__name__: one for one in (blur, jpeg, colour, swap, drop, collapse, copies)}


# ---- measuring --------------------------------------------------------------------------------


def features(extractor: Extractor, pixels: Pixels, known: dict[bytes, Tensor]) -> Tensor:
    """Features (N, D); those of images that were in another set are taken from `known`."""
    keys = [one.tobytes() for one in pixels]
    new = {key: one for key, one in zip(keys, pixels, strict=True) if key not in known}

    def batches() -> Iterator[Tensor]:
        images = list(new.values())
        for first in range(0, len(images), BATCH):
            part = torch.from_numpy(np.stack(images[first : first + BATCH]))
            yield to_signed(part.permute(0, 3, 1, 2))

    if new:
        known.update(zip(new, features_of(extractor, batches()), strict=True))
    return torch.stack([known[key] for key in keys])


def measure(made: Tensor, real: Tensor, z_t: Tensor | None) -> dict[str, Estimate]:
    """Everything, of features (N, D) of one set; CLIP's own with captions (N, D) alone."""
    found = {"FID": fid(made, real), "KID × 1000": kid(made, real).scaled(1000)}
    if z_t is not None:
        found["CMMD"] = cmmd(made, real)
    found |= prdc(real, made).estimates()
    found["diversity"] = diversity(made)
    if z_t is not None:
        found["CLIP score"] = clip_score(made, z_t)
    return found


def differs(one: Estimate, other: Estimate) -> float:
    """How far `one` is above `other`, in 95 % half-intervals of the difference."""
    half = math.hypot(one.high - one.low, other.high - other.low) / 2
    return (one.value - other.value) / max(half, 1e-12)


def noticed(clean: Estimate, steps: Sequence[Estimate], better: int) -> str:
    """From which step on a metric says that a set is worse: "1" to "3", or "-"; "better" where it
    says that one is better, "not monotone" where a step looks better than the one before."""
    worse = [-better * differs(step, clean) for step in steps]
    pairs = zip(steps[1:], steps[:-1], strict=True)
    back = any(-better * differs(later, earlier) < -1 for later, earlier in pairs)
    first = next((str(k + 1) for k, by in enumerate(worse) if by > 1), "-")
    if min(worse) < -1:
        return "better" if first == "-" else f"{first}, not monotone"
    return f"{first}, not monotone" if back and first != "-" else first


def table(rows: dict[str, dict[str, Estimate]]) -> str:
    """Values of every set."""
    names = list(next(iter(rows.values())))
    lines = ["| set | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, found in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{found[n].value:.3g}" for n in names) + " |")
    return "\n".join(lines)


def summary(rows: dict[str, dict[str, Estimate]], damages: Sequence[str]) -> str:
    """From which step on each metric notices each damage."""
    clean = rows["none"]
    lines = ["| damage | " + " | ".join(clean) + " |", "|---" * (len(clean) + 1) + "|"]
    for damage in damages:
        cells = [
            noticed(clean[name], [rows[f"{damage} {k}"][name] for k in (1, 2, 3)], BETTER[name])
            for name in clean
        ]
        lines.append(f"| {damage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ladder(
    extractors: Sequence[Extractor], scenes: Scenes, damages: Sequence[str]
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Extractor's name → set → metric → value."""
    clip = FrozenCLIP.load(ModelFolder(bundled("model")))
    clean = scenes.render(scenes.scenes)
    n = len(clean)
    others = scenes.render([scenes.world.scene(n + index) for index in range(n)])
    known: dict[str, dict[bytes, Tensor]] = {one.name: {} for one in extractors}
    real = {one.name: features(one, others, known[one.name]) for one in extractors}
    found: dict[str, dict[str, dict[str, Estimate]]] = {one.name: {} for one in extractors}
    for damage, step in [("none", 0)] + [(d, k) for d in damages for k in range(STEPS)]:
        pixels = DAMAGES[damage](scenes, clean, step) if damage != "none" else clean
        name = f"{damage} {step + 1}" if damage != "none" else damage
        z_t = embed_captions(clip, scenes.captions(damage, step))
        for one in extractors:
            own = z_t if one.name == "clip" else None
            made = features(one, pixels, known[one.name])
            found[one.name][name] = measure(made, real[one.name], own)
        print(name, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="scenes of every set")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--extractors", nargs="+", default=["clip", "efficientnet-lite0"])
    parser.add_argument("--only", nargs="+", default=list(DAMAGES), choices=list(DAMAGES))
    options = parser.parse_args()
    extractors = [open_extractor(name, device="cpu") for name in options.extractors]
    found = ladder(extractors, Scenes.of(options.n, options.size), options.only)
    for one in extractors:
        rows = found[one.name]
        print(f"\n{one.name} ({one.hash}), {options.n} scenes of {options.size} px\n")
        print(summary(rows, options.only) + "\n\n" + table(rows))
    values = {
        extractor: {name: {m: e.to_dict() for m, e in row.items()} for name, row in rows.items()}
        for extractor, rows in found.items()
    }
    record(
        torch.device("cpu"), benchmark="ladder", n=options.n, size=options.size,
        hashes={one.name: one.hash for one in extractors}, found=values,
    )  # fmt: skip


if __name__ == "__main__":
    main()
