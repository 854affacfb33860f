"""What a run writes down: `metrics.jsonl`, `samples.jsonl`, previews, and what its loggers keep."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from unclip.files import append_text, check_no_link, open_regular, whole
from unclip.pixels import to_uint8
from unclip.training.loggers import IDENTITY, About, loggers_of

if TYPE_CHECKING:
    from PIL import Image

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
_CELL, _PIXELS = 128, 2**25  # of a preview's images at least, a side; of a preview at most
_LONGEST = 2**25  # bytes of a line that are read at once; what is longer is none


class RunLog:
    """Writes what a training run reports; only the main process has one.

    Args:
        about: its folder is created if need be; lines of steps after its first one, of a run that
            was cut off, are dropped, so that each step is in its files once.
        loggers: by name, see `LOGGERS`.

    Raises:
        ValueError: what is to be written is a link, which would lead out of the folder.
    """

    def __init__(self, about: About, loggers: Sequence[str] = ()) -> None:
        path, first_step = about.path, about.first_step
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._metrics, self._samples = path / METRICS, path / SAMPLES
        for name in (METRICS, SAMPLES, "previews", "tensorboard", "wandb", IDENTITY):
            check_no_link(path / name)
        for lines in (self._metrics, self._samples):
            _cut(lines, first_step)
        self._loggers = loggers_of(loggers, about)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        append_text(self._metrics, json.dumps({"step": step, **values}) + "\n")
        for logger in self._loggers:
            logger.scalars(step, values)

    def samples(self, step: int, numbers: Sequence[int]) -> None:
        append_text(self._samples, json.dumps({"step": step, "samples": list(numbers)}) + "\n")

    def pictures(self, step: int, rows: Tensor, captions: Sequence[str] = ()) -> None:
        """Rows of images (R, C, 3, H, W) in [-1, 1] → `previews/step-N.png` and the loggers.

        Args:
            captions: of the columns, which are written above them; what has no column is left out.
        """
        picture = _sheet(rows, captions)
        folder = self.path / "previews"
        check_no_link(folder)
        folder.mkdir(exist_ok=True)
        with whole(folder / f"step-{step:08d}.png") as partial:
            picture.save(partial)
        for logger in self._loggers:
            logger.picture(step, picture)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


def _sheet(rows: Tensor, captions: Sequence[str]) -> "Image.Image":
    """The images with the captions on top, large enough to be read and small enough to be kept."""
    from PIL import Image

    from unclip.outputs.images import contact_sheet

    grid = to_uint8(rows).permute(0, 1, 3, 4, 2).cpu().numpy()  # (R, C, H, W, 3)
    count, columns, side = grid.shape[:3]
    cell = min(max(_CELL, side), int((_PIXELS / (count * columns)) ** 0.5))
    images = [[Image.fromarray(image) for image in row] for row in grid]
    return contact_sheet(images, (), list(captions)[:columns], cell=cell)


def _cut(file: Path, last: int) -> None:
    """Leave a file's lines of steps up to the last one, if it is there."""
    if not file.exists():
        return
    with open_regular(file) as old, whole(file) as partial, partial.open("wb") as new:
        lines = iter(lambda: old.readline(_LONGEST), b"")
        kept = (line for line in lines if _step(line) <= last)
        new.writelines(line.rstrip(b"\n") + b"\n" for line in kept)


def _step(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    # The line that a kill cut off; or others' lines, of any number and depth.
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 2**62
