"""`unclip evaluate clip`: retrieval, zero-shot classes, and what captions are told apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from unclip.data.world.scene import WorldConfig
from unclip.interfaces.cli.evaluations.shared import (
    WORLD,
    Split,
    check_output,
    check_world,
    open_folder,
    open_measured,
    origin,
    tell,
)
from unclip.interfaces.cli.numbers import Pixels, Pool
from unclip.interfaces.cli.options import parse

PAIRS = 4  # sets of pairs that retrieval is averaged over, where the data has so many


@dataclass(frozen=True)
class Clip:
    """Find the right caption among n, and the right image: recall, zero-shot classes, and whether
    captions with the colours swapped or the relation inverted are told from the true one."""

    model: str | None = None
    """Model folder, or hf:owner/model on the Hugging Face Hub; the bundled model if left out."""
    data: str = "emoji:shapes"
    """Data: the built-in world (its held-out scenes), or a folder of captioned images."""
    split: Split | None = None
    """Part of the folder's images; if left out, what training held out, or all if too few."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    n: Annotated[Pool, tyro.conf.arg(aliases=["-n"])] = 256
    """Candidates that each query is held against; all pairs, where there are fewer."""
    size: Pixels | None = None
    """Pixels of the images' side; the decoder's if left out, or CLIP's own."""
    world: WorldConfig = field(default_factory=lambda: WORLD)
    """Scenes of the built-in world."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Name of a .json file for the numbers."""
    device: str = "auto"
    """Device that computes: auto, cpu, cuda or cuda:N; auto is a GPU if there is one."""

    def __post_init__(self) -> None:
        check_world(self.world)


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate clip` say, and give the exit code."""
    options = parse(Clip, "evaluate clip", arguments)
    check_output(options.output)
    from unclip.data.sources import length
    from unclip.data.world.source import WorldSource
    from unclip.device.precision import device_named
    from unclip.evaluation.metrics.retrieval import (
        clip_retrieval,
        world_preferences,
        world_zero_shot,
    )
    from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP

    folder = open_folder(options.model, CLIP_COMPONENTS)
    device = device_named(options.device)
    clip = FrozenCLIP.load(folder).to(device)
    if clip.image_encoder is None:
        raise ValueError(f"{folder.path} has no image_encoder, so there is nothing to retrieve")
    size = options.size or _native_size(folder, clip.image_encoder.config.image_size)
    measured = open_measured(options, size, folder, "clip")
    source = measured.source
    n = min(options.n, length(source))
    if n < options.n:
        print(f"{n} pairs are all there are: each is held against these, not {options.n}")
    pools = max(1, min(PAIRS, length(source) // max(1, n)))
    measured.say(n * pools)
    found = clip_retrieval(clip, source, n, pools)
    report = {
        **origin(options),
        **measured.facts(n * pools),
        "size": size,
        "retrieval": found.to_dict(),
    }
    rows = [("task", "right")]
    for name, rates in (
        ("text → image", found.text_to_image),
        ("image → text", found.image_to_text),
    ):
        rows += [(f"{name}, among {found.among}, first {k}", str(r)) for k, r in rates.items()]
    if isinstance(source, WorldSource) and source.config.kinds == ("shapes",):
        classes = world_zero_shot(clip, source.config)
        report["zero_shot"] = {name: one.to_dict() for name, one in classes.items()}
        rows += [
            (f"zero-shot {name}, of {one.classes}", str(one.accuracy))
            for name, one in classes.items()
        ]
        preferences = world_preferences(clip, source.config)
        report["preferences"] = {name: rate.to_dict() for name, rate in preferences.items()}
        rows += [
            (f"true caption, not with {wrong}", str(preferences[name]))
            for name, wrong in (
                ("colours", "its colours swapped"),
                ("relation", "its relation inverted"),
            )
        ]
    tell(rows, report, options.output)
    return 0


def _native_size(folder: Any, otherwise: int) -> int:
    """The resolution that the model's images begin with."""
    return int(folder.config("decoder")["sample_size"]) if folder.has("decoder") else otherwise
