"""Generated images, kept in a folder: made once, in batches, and read by every metric.

An image follows from the model's weights, how it is sampled, a caption and a seed. The first two
name a folder, the last two a PNG in it, so that more images, other metrics, and an evaluation that
was killed take what is there. Processes that share the folder share the work.

    made = Generated(Path("out/generated"), made_with(pipe, model, settings))
    images = wanted(captions, seed)
    made.make(images, from_captions(pipe, settings), 32)
    for batch in made.read(images, 64): …

Colours are rounded to 8 bits (`pixels.to_uint8`), as in any image that a model gives out.
Shapes: N images, H × W pixels.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from unclip.checks import many, printable, seed_after
from unclip.config import to_mapping
from unclip.data.transforms import open_image, to_bytes, to_pil
from unclip.device.precision import name_of
from unclip.files import read_bytes, write_json
from unclip.outputs.images import save_png
from unclip.pipeline.loading import CLASSES
from unclip.pipeline.sampling import stage_name, upsamplers_to
from unclip.pipeline.settings import Settings
from unclip.pixels import to_signed
from unclip.storage.folder import ModelFolder

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

ROOT: Final = Path("out") / "generated"
"""Where commands keep images, unless another folder is named."""
ABOUT: Final = "made-with.json"
_DIGITS: Final = 24  # of names, which are hashes
_EVERY: Final = 1.0  # seconds between two looks at what other processes have made
_TEXTS: Final = (".json", ".txt")  # of a component, beside its weights


@dataclass(frozen=True)
class Wanted:
    """One image.

    Args:
        caption: what it is drawn for.
        seed: of its own random stream.
        of: what else it is made of, such as a digest of the image that it varies.
    """

    caption: str
    seed: int
    of: str = ""

    @property
    def name(self) -> str:
        """Of its file."""
        return _hash([self.caption, self.seed, self.of]) + ".png"


Draw = Callable[[Sequence[Wanted]], Tensor]
"""Makes images (N, 3, H, W) in [-1, 1]; each follows from what is wanted of it alone."""


def wanted(captions: Sequence[str], seed: int = 0) -> list[Wanted]:
    """An image for each caption, whose seeds count on from `seed`."""
    return [Wanted(caption, seed_after(seed, k)) for k, caption in enumerate(captions)]


@dataclass(frozen=True)
class Share:
    """This process among those that make the same images, as torchrun counts them."""

    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that measures."""
        return self.rank == 0


class Generated:
    """Images that were made in the same way.

    Args:
        root: the folder of all such folders.
        made_with: what decides them, beside caption and seed; JSON-ready. See `made_with`.

    Raises:
        ValueError: `made_with` holds what JSON cannot.
    """

    def __init__(self, root: Path, made_with: Mapping[str, Any]) -> None:
        self.made_with = dict(made_with)
        self.folder = root / _hash(self.made_with)

    def file(self, image: Wanted) -> Path:
        """Where an image is, or will be."""
        return self.folder / image.name

    def missing(self, images: Sequence[Wanted]) -> list[Wanted]:
        """Those that are not there yet, each once."""
        return [one for one in dict.fromkeys(images) if not self.file(one).is_file()]

    def make(
        self,
        images: Sequence[Wanted],
        draw: Draw,
        batch_size: int,
        progress: Callable[[int], Any] = lambda count: None,
        share: Share | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make what is not there yet; each batch is on the disk before the next one is begun.

        Of several processes each makes its share; see `wait`.

        Args:
            draw: is asked for at most `batch_size` images at a time.
            progress: is told how many more are there, those of before at once.
            notes: for the images, beside caption and seed: what `outputs.images.save_png` takes.

        Raises:
            ValueError: what `draw` says, another number of images, a disk that cannot be written.
        """
        share = share or Share()
        every = list(dict.fromkeys(images))
        todo = self.missing(every[share.rank :: share.processes])
        self._describe()
        progress(len(every[share.rank :: share.processes]) - len(todo))
        for first in range(0, len(todo), batch_size):
            part = todo[first : first + batch_size]
            made = draw(part)
            if len(made) != len(part):
                raise ValueError(f"{many(len(made), 'images were')} made where {len(part)} should")
            for one, pixels in zip(part, made, strict=True):
                info = {"prompt": one.caption, "seed": one.seed, **(notes or {})}
                save_png(to_pil(pixels.cpu()), self.file(one), info)
            progress(len(part))

    def wait(
        self, images: Sequence[Wanted], progress: Callable[[int], Any] = lambda count: None
    ) -> None:
        """Until all are there: for the process that measures what others make too.

        Args:
            progress: is told how many more there are, those of before at once.
        """
        left = list(dict.fromkeys(images))
        while left:
            before, left = len(left), self.missing(left)
            progress(before - len(left))
            if left:
                time.sleep(_EVERY)

    def read(self, images: Sequence[Wanted], batch_size: int = 64) -> Iterator[Tensor]:
        """Batches (N, 3, H, W) in [-1, 1], in the order that is asked for.

        Raises:
            ValueError: one is not there, or damaged.
        """
        for first in range(0, len(images), batch_size):
            pixels = [self.pixels(one) for one in images[first : first + batch_size]]
            yield to_signed(torch.stack(pixels))

    def pixels(self, image: Wanted) -> Tensor:
        """One image (3, H, W) uint8.

        Raises:
            ValueError: it is not there, or damaged.
        """
        file = self.file(image)
        try:
            return to_bytes(open_image(read_bytes(file), name=str(file)))
        except ValueError as error:
            raise ValueError(f"{error}; remove it, and it is made again") from None

    def digest(self, images: Sequence[Wanted]) -> str:
        """Of these images, in this order, and how they are made; not of their pixels."""
        return _hash([self.made_with, [one.name for one in images]])

    def _describe(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            where = printable(str(self.folder))
            raise ValueError(f"cannot write {where}: {error.strerror}") from None
        if not (self.folder / ABOUT).exists():
            write_json(self.folder / ABOUT, self.made_with)


def made_with(
    pipe: "Pipeline", model: ModelFolder, settings: Settings, **also: Any
) -> dict[str, Any]:
    """What decides a model's images beside caption and seed: its weights, and how every stage is
    sampled, whether the settings, the preset or the model's notes say so.

    Args:
        model: the folder that `pipe` was opened from.
        also: what is done otherwise than in `Pipeline.__call__`, by any name.

    Raises:
        ValueError: the settings ask for what this model does not have.
    """
    stages = ["decoder", *map(stage_name, upsamplers_to(pipe, settings.size))]
    prior: dict[str, Any] = {}
    if pipe.decoder.needs_prior and pipe.priors:
        stages = ["prior", *stages]
        prior = {"prior": pipe.prior_for(settings).KIND}
    return {
        "model": fingerprint(model),
        "precision": name_of(pipe.dtype),
        "size": settings.size or pipe.sizes[-1],
        **prior,
        "candidates": settings.prior_num_candidates,
        "negative_prompt": settings.negative_prompt or "",
        "stages": {stage: to_mapping(pipe.sampling(stage, settings)) for stage in stages},
        **also,
    }


def fingerprint(model: ModelFolder) -> str:
    """Of all that a model is opened from: the weights of every component, and their settings."""
    there = sorted(name for name in CLASSES if model.has(name))
    weighty = [name for name in there if any(model.component(name).glob("*.safetensors"))]
    digest = sha256(model.fingerprint(*weighty).encode())
    for name in there:
        for file in sorted(model.component(name).iterdir()):
            if file.suffix in _TEXTS and file.is_file():
                digest.update(f"{name}/{file.name}".encode() + read_bytes(file))
    return digest.hexdigest()[:16]


def from_captions(
    pipe: "Pipeline", settings: Settings, progress: Callable[[int], Any] = lambda count: None
) -> Draw:
    """Draws images as `Pipeline.__call__` does.

    Args:
        progress: is told of each sampling step how many images it was of.
    """

    def draw(images: Sequence[Wanted]) -> Tensor:
        made = pipe(
            [one.caption for one in images],
            generator=[torch.Generator().manual_seed(one.seed) for one in images],
            output_type="tensor",
            settings=settings,
            batch_size=len(images),
            callback_on_step_end=lambda *step: progress(step[-1]["images"]),
        )
        found: Tensor = made.images
        return found

    return draw


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=asdict)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
