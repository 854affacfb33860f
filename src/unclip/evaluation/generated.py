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
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from unclip.checks import Notice, many, printable, seed_after
from unclip.config import to_mapping
from unclip.data.transforms import open_image, to_bytes, to_pil
from unclip.device.precision import name_of
from unclip.files import read_bytes, write_json
from unclip.outputs.images import read_info, save_png
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
PATIENCE: Final = 1800.0
"""Seconds that others may take for an image, at least."""
_BATCHES: Final = 10
_QUIET: Final = 10.0  # seconds of waiting that nothing is said of
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

    @property
    def notes(self) -> dict[str, Any]:
        """In its PNG. No command makes what is made of something else from a prompt alone."""
        if self.of:
            return {"of": self.of, "seed": self.seed}
        return {"prompt": self.caption, "seed": self.seed}


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
        self._longest = 0.0  # seconds that a batch took here

    def file(self, image: Wanted) -> Path:
        """Where an image is, or will be."""
        return self.folder / image.name

    def missing(self, images: Sequence[Wanted]) -> list[Wanted]:
        """Those that are not there yet, each once.

        Raises:
            ValueError: something else than a file has an image's name.
        """
        absent = [one for one in dict.fromkeys(images) if not self.file(one).is_file()]
        for one in absent:
            if os.path.lexists(self.file(one)):
                where = printable(str(self.file(one)))
                raise ValueError(f"{where} is not a file, but an image is kept there; remove it")
        return absent

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
            begun = time.monotonic()
            made = draw(part)
            self._longest = max(self._longest, time.monotonic() - begun)
            if len(made) != len(part):
                raise ValueError(f"{many(len(made), 'images were')} made where {len(part)} should")
            for one, pixels in zip(part, made, strict=True):
                info = {**one.notes, **(notes or {})}
                save_png(to_pil(pixels.cpu()), self.file(one), info)
            progress(len(part))

    def wait(
        self, images: Sequence[Wanted], progress: Callable[[int], Any] = lambda count: None
    ) -> None:
        """Until all are there: for the process that measures what others make too.

        Args:
            progress: is told how many more there are, those of before at once.

        Raises:
            ValueError: no other one has come for `PATIENCE` seconds, or for as long as this process
                took for `_BATCHES` of its own batches.
        """
        left = list(dict.fromkeys(images))
        patience = max(PATIENCE, _BATCHES * self._longest)
        since, said = time.monotonic(), False
        while left:
            before, left = len(left), self.missing(left)
            progress(before - len(left))
            if not left:
                return
            waited = time.monotonic() - since
            if len(left) < before:
                since = time.monotonic()
            elif waited > _QUIET and not said:
                said = True
                warnings.warn(
                    f"waiting for {many(len(left), 'images')} that other processes make, as RANK "
                    "and WORLD_SIZE in the environment say",
                    Notice,
                    stacklevel=2,
                )
            elif waited > patience:
                raise ValueError(
                    f"{many(len(left), 'images')} that other processes make did not come in "
                    f"{waited / 60:.0f} minutes. If none is at work, unset RANK and WORLD_SIZE, "
                    "and give the command again: what is there is kept"
                )
            time.sleep(_EVERY)

    def read(self, images: Sequence[Wanted], batch_size: int = 64) -> Iterator[Tensor]:
        """Batches (N, 3, H, W) in [-1, 1], in the order that is asked for.

        Raises:
            ValueError: one is not there, damaged, another image, or of another size than the first.
        """
        size: torch.Size | None = None
        for first in range(0, len(images), batch_size):
            pixels = [self.pixels(one) for one in images[first : first + batch_size]]
            size = size or pixels[0].shape
            for one, its in zip(images[first : first + batch_size], pixels, strict=True):
                if its.shape != size:
                    raise ValueError(
                        f"{printable(str(self.file(one)))} has {_side(its.shape)} pixels, and "
                        f"{printable(self.file(images[0]).name)} beside it {_side(size)}; remove "
                        "what is not as it was made, and it is made again"
                    )
            yield to_signed(torch.stack(pixels))

    def pixels(self, image: Wanted) -> Tensor:
        """One image (3, H, W) uint8.

        Raises:
            ValueError: it is not there, damaged, or by its notes another one.
        """
        file = self.file(image)
        try:
            pixels = to_bytes(open_image(read_bytes(file), name=str(file)))
            noted = read_info(file)
            if any(noted.get(key, value) != value for key, value in image.notes.items()):
                raise ValueError(f"{printable(str(file))} is by its notes another image")
            return pixels
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
            write_json(self.folder / ABOUT, _finite(self.made_with))


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


def _side(shape: torch.Size) -> str:
    return f"{shape[-1]} × {shape[-2]}"


def _finite(value: Any) -> Any:
    """The same for JSON, which has no infinity: its name stands in its place."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=asdict)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
