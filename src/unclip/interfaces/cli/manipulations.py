"""What the commands that make images from images share: flags, progress, files.

A name that ends in .png is one image, or a labelled sheet of several; .gif and .apng are moving
pictures; anything else is a folder.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from unclip.checks import Notice, many
from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.numbers import Steps
from unclip.interfaces.cli.options import BatchOptions, computed_as
from unclip.interfaces.cli.outputs import (
    check_file,
    check_folder,
    is_file,
    write_beside,
    write_file,
    written_by,
)
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from PIL import Image

    from unclip.outputs.latents import Latents
    from unclip.outputs.provenance import Provenance
    from unclip.pipeline.pipeline import Pipeline

ANIMATIONS = (".gif", ".apng")


@dataclass(frozen=True, kw_only=True)
class ImageOptions(BatchOptions, MarkingOptions):
    """Flags for how images are made from images, and where they are written."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """A folder, or a .png file; several images in one file become a labelled sheet."""
    sheet: Path | None = None
    """Write a labelled contact sheet too, a .png file."""

    def check(self, animated: bool = False) -> "Provenance":
        """Refuse outputs that cannot be written, before the work.

        Returns:
            How images are written.
        """
        endings = (".png", *ANIMATIONS) if animated else (".png",)
        if is_file(self.output):
            check_file(self.output, *endings)
        else:
            check_folder(self.output)
        if self.sheet is not None:
            check_file(self.sheet, ".png")
            if self.sheet == self.output:
                raise ValueError("--output and --sheet are the same file: give two, or one of them")
        return self.provenance()


@dataclass(frozen=True, kw_only=True)
class InversionOptions(ImageOptions):
    """Flags for what starts from an image or from its latents."""

    inverts: ClassVar[bool] = True
    edits: ClassVar[bool] = False
    invert: bool = False
    """Start from the image's own noise, found by DDIM inversion, instead of fresh noise."""
    invert_steps: Steps = 100
    """Steps of the inversion, and of decoding what it found."""

    def start(
        self, pipe: "Pipeline", images: "list[Image.Image] | Latents"
    ) -> "list[Image.Image] | Latents":
        """Images or latents as they are, or with `--invert` the latents of images."""
        if not isinstance(images, list):
            images.check(pipe.clip.width, pipe.decoder.size, pipe.fingerprint)
            self._said("the file holds latents, which are inverted already")
            return images
        if not self.invert:
            self._said("nothing is inverted")
            return images
        pipe.evaluations(self.settings(), "decoder")  # what cannot be done is refused before
        return inverted(pipe, images, self.invert_steps, self.batch_size)

    def _said(self, why: str) -> None:
        """A `Notice` where steps of an inversion were asked for that is none."""
        if self.invert_steps != type(self).__dataclass_fields__["invert_steps"].default:
            warnings.warn(f"{why}: --invert-steps does nothing", Notice, stacklevel=3)


def open_images(paths: Sequence[Path]) -> list["Image.Image"]:
    """Pictures of any kind, upright and RGB; `ValueError` names the one that is none."""
    from unclip.data.transforms import open_image

    return [open_image(path) for path in paths]


def pictures(paths: Sequence[Path]) -> list[Path]:
    """Those of the files that are no latents."""
    return [path for path in paths if path.suffix.lower() != ".safetensors"]


def read(paths: Sequence[Path]) -> "list[Image.Image] | Latents":
    """Pictures, or the latents of one .safetensors file."""
    from unclip.outputs.latents import Latents

    if any(path.suffix.lower() == ".safetensors" for path in paths):
        if len(paths) > 1:
            raise ValueError("give one file of latents, or images; one file holds several")
        return Latents.load(paths[0])
    if not paths:
        raise ValueError("there is no image: give one")
    return open_images(paths)


def inverted(
    pipe: "Pipeline", images: list["Image.Image"], steps: int, batch_size: int | None
) -> "Latents":
    """Invert with a progress bar."""
    with progress_bar(steps * len(images)) as bar:
        return pipe.invert(
            images, steps, batch_size=batch_size,
            callback_on_step_end=lambda *step: bar.update(step[-1]["images"]),
        )  # fmt: skip


@contextmanager
def call_arguments(
    options: ImageOptions,
    pipe: "Pipeline",
    images: "list[Image.Image] | Latents | None",
    total: int,
) -> Iterator[dict[str, Any]]:
    """Arguments for any manipulation of `images` into `total` others, with a progress bar."""
    settings = options.settings()
    from unclip.outputs.latents import Latents

    if isinstance(images, Latents):
        edits = isinstance(options, InversionOptions) and options.edits
        settings = settings.for_reconstruction(images.steps, edits)
    with progress_bar(total * pipe.evaluations(settings, "decoder")) as bar:
        yield {
            "seed": options.seed,
            "settings": settings,
            "batch_size": options.batch_size,
            "callback_on_step_end": lambda *step: bar.update(step[-1]["images"]),
        }


def write(
    rows: Sequence[Sequence[Any]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    options: ImageOptions,
    command: Sequence[str],
    pipe: "Pipeline",
    started: float,
    provenance: "Provenance",
    origins: Sequence[Any] = (),
    made_from: Sequence[Path] = (),
    kept: "Image.Image | None" = None,
) -> None:
    """Write rows of images to `--output` and `--sheet`, and say so.

    Args:
        row_labels: where there are not as many as rows (one file of several latents), none.
        command: the words of the command line, which every image's notes keep.
        started: `time.perf_counter()` when the work began.
        origins: the picture that each row was made from; a sheet begins its rows with them.
        made_from: the files of the pictures, for manifests.
        kept: a picture whose pixels, where an image has them too, no mark changes.
    """
    from unclip.device.precision import name_of
    from unclip.outputs.animation import save_animation
    from unclip.outputs.images import labelled_sheet

    used = options.settings().changed() | computed_as(pipe)
    notes = {**written_by(options.model, pipe, command), "seed": options.seed, "settings": used}
    images = [image for row in rows for image in row]
    output, suffix = options.output, options.output.suffix.lower()
    save = partial(provenance.save_png, info=notes, made_from=made_from)
    sheets = [options.sheet] if options.sheet else []
    if not is_file(output):
        where = _write_numbered(images, output, command[0], partial(save, kept=kept))
    elif suffix in ANIMATIONS:
        where = write_file(
            output,
            partial(save_animation, images, info=notes, provenance=provenance, made_from=made_from),
        )
    elif len(images) == 1:
        where = write_file(output, partial(save, images[0], kept=kept))
    else:
        where, sheets = f"a sheet of {len(rows)} × {len(rows[0])}", [output, *sheets]
    names, columns = list(row_labels) if len(row_labels) == len(rows) else [], list(column_labels)
    if origins:
        rows = [[origin, *row] for origin, row in zip(origins, rows, strict=True)]
        columns = ["the image", *columns]
    cell = max(96, *images[0].size)
    for sheet in sheets:
        drawn = labelled_sheet(rows, names, columns, cell)
        ours = [box for row in drawn.boxes for box in row[bool(origins) :] if box is not None]
        where += f", {write_file(sheet, partial(save, drawn.image, only=ours))}"
    size = "×".join(map(str, images[0].size))
    print(
        f"{many(len(images), 'images')} of {size} pixels in "
        f"{time.perf_counter() - started:.1f} s ({name_of(pipe.dtype)} on {pipe.device}): {where}"
    )
    sys.stdout.flush()


def _write_numbered(
    images: Sequence[Any], folder: Path, command: str, save: Callable[..., None]
) -> str:
    """One file an image, counted on from those that are there; what to tell the user."""
    files: list[Path] = []
    number = 0
    for image in images:
        names = (folder / f"{command}-{i:03}.png" for i in count(number))
        files.append(write_beside(names, partial(save, image)))
        number = int(files[-1].stem.rpartition("-")[2]) + 1
    return str(files[0]) + (f" … {files[-1].name}" if len(files) > 1 else "")
