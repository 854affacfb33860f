"""A run's folder: recipe, metrics, pictures, TensorBoard files and checkpoints.

It belongs to one stage of one model, which `run.json` says, and to one process at a time, which
holds `lock`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.checks import printable
from unclip.config import read_toml
from unclip.files import locked, open_regular, read_json, real_path, whole, write_json
from unclip.pixels import to_uint8

RECIPE = "recipe.toml"
_LOCK, _NOTE = "lock", "run.json"
_LONGEST = 2**20  # bytes of a line of metrics that are read at once; what is longer is none


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
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def pictures(self, step: int, rows: Tensor) -> None:
        """Rows of images (R, C, 3, H, W) in [-1, 1] → `previews/step-N.png` and TensorBoard."""
        from PIL import Image

        grid = to_uint8(rows)
        picture = grid.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # (R·H, C·W, 3)
        folder = self.path / "previews"
        folder.mkdir(exist_ok=True)
        with whole(folder / f"step-{step:08d}.png") as partial:
            Image.fromarray(picture.cpu().numpy()).save(partial)
        if self._board is not None:
            self._board.add_image("preview", picture.cpu(), step, dataformats="HWC")

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def is_held(path: Path) -> bool:
    """Whether another process may be training in the folder: only then is there a lock."""
    return (path / _LOCK).exists()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Have the run's folder for this process alone, until it ends or is killed.

    Raises:
        ValueError: another process trains there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path / _LOCK, make=True, wait=False))
        except BlockingIOError:
            raise ValueError(
                f"another process is training in {path}: wait for it, or give this run a folder of "
                "its own with --run"
            ) from None
        except OSError as error:
            raise ValueError(f"cannot write into {path}: {error.strerror}") from None
        yield


def sign(path: Path, stage: str, model: Path) -> None:
    """Note whose run it is; relative to the folder, so that both can be moved together."""
    try:
        where = os.path.relpath(real_path(model), real_path(path))
    except ValueError:  # another drive of Windows
        where = str(real_path(model))
    write_json(path / _NOTE, {"stage": stage, "model": where})


def owner(path: Path) -> Path | None:
    """The model that a run belongs to; None where that is not noted, as in older runs."""
    if not (path / _NOTE).is_file():
        return None
    try:
        where = read_json(path / _NOTE).get("model")
    except ValueError:
        return None
    return real_path(path / where) if isinstance(where, str) else None


def check_owner(path: Path, stage: str, model: Path, resume: bool) -> None:
    """Refuse a folder with another stage's or another model's run.

    A run is resumed into a model that was moved: what its note names is gone then.

    Raises:
        ValueError: it is another's.
    """
    whose, of = owner(path), _stage(path)
    if of not in (None, stage):
        raise ValueError(
            f"{path} holds a run of {printable(str(of))}, not of {stage}: give another folder with "
            "--run"
        )
    if whose in (None, real_path(model)) or (resume and not whose.exists()):
        return
    raise ValueError(
        f"{path} holds a run of another model, {printable(str(whose))}: give this one a folder of "
        "its own with --run"
    )


def _stage(path: Path) -> str | None:
    if not (path / RECIPE).is_file():
        return None
    try:
        stage = read_toml(path / RECIPE).get("stage")
    except ValueError:
        return None
    return stage if isinstance(stage, str) else None


def forget(path: Path) -> None:
    """Delete what a run wrote into its folder, and nothing else that may lie there."""
    for name in ("checkpoints", "previews", "tensorboard"):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in ("metrics.jsonl", RECIPE):
        (path / name).unlink(missing_ok=True)


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
