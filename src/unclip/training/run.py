"""A run's folder: recipe, metrics, pictures, TensorBoard files and checkpoints."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.files import write_text


class Run:
    """Writes what a training run reports; only the main process has one.

    Args:
        path: the folder, created if need be.
        first_step: where this process starts; later lines of a cut-off run are dropped, so that
            `metrics.jsonl` has each step once.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._metrics = path / "metrics.jsonl"
        if self._metrics.exists():
            lines = self._metrics.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= first_step]
            write_text(self._metrics, "".join(line + "\n" for line in kept))
        self._board = _tensorboard(path, first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def pictures(self, step: int, rows: Tensor) -> None:
        """Rows of images (R, C, 3, H, W) in [-1, 1] → `previews/step-N.png` and TensorBoard."""
        from PIL import Image

        grid = ((rows.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        picture = grid.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # (R·H, C·W, 3)
        folder = self.path / "previews"
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture.cpu().numpy()).save(folder / f"step-{step:08d}.png")
        if self._board is not None:
            self._board.add_image("preview", picture.cpu(), step, dataformats="HWC")

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def forget(path: Path) -> None:
    """Delete what a run wrote into its folder, and nothing else that may lie there."""
    for name in ("checkpoints", "previews", "tensorboard"):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in ("metrics.jsonl", "recipe.toml"):
        (path / name).unlink(missing_ok=True)


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line that a kill cut off
        return 2**62


def _tensorboard(path: Path, first_step: int) -> Any:
    """A writer, or None where TensorBoard is not installed (the extra `train` brings it)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path / "tensorboard"), purge_step=first_step + 1)
