"""What a run writes down: `metrics.jsonl`, `previews/` and TensorBoard's files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.files import append_text, check_no_link, open_regular, whole
from unclip.pixels import to_uint8

_LONGEST = 2**20  # bytes of a line of metrics that are read at once; what is longer is none


class RunLog:
    """Writes what a training run reports; only the main process has one.

    Args:
        path: the folder, created if need be.
        first_step: where this process starts; later lines of a cut-off run are dropped, so that
            `metrics.jsonl` has each step once.

    Raises:
        ValueError: one of the three is a link, which would lead out of the folder.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._metrics = path / "metrics.jsonl"
        for name in ("metrics.jsonl", "previews", "tensorboard"):
            check_no_link(path / name)
        if self._metrics.exists():
            with (
                open_regular(self._metrics) as old,
                whole(self._metrics) as partial,
                partial.open("wb") as new,
            ):
                lines = iter(lambda: old.readline(_LONGEST), b"")
                kept = (line for line in lines if _step(line) <= first_step)
                new.writelines(line.rstrip(b"\n") + b"\n" for line in kept)
        self._board = _tensorboard(path, first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        append_text(self._metrics, json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def pictures(self, step: int, rows: Tensor) -> None:
        """Rows of images (R, C, 3, H, W) in [-1, 1] → `previews/step-N.png` and TensorBoard."""
        from PIL import Image

        grid = to_uint8(rows)
        picture = grid.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # (R·H, C·W, 3)
        folder = self.path / "previews"
        check_no_link(folder)
        folder.mkdir(exist_ok=True)
        with whole(folder / f"step-{step:08d}.png") as partial:
            Image.fromarray(picture.cpu().numpy()).save(partial)
        if self._board is not None:
            self._board.add_image("preview", picture.cpu(), step, dataformats="HWC")

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _step(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    # The line that a kill cut off; or others' lines, of any number and depth.
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 2**62


def _tensorboard(path: Path, first_step: int) -> Any:
    """A writer, or None where TensorBoard is not installed (the extra `train` brings it)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path / "tensorboard"), purge_step=first_step + 1)
