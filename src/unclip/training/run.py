"""A run's folder: recipe, metrics, pictures, TensorBoard files and checkpoints.

It belongs to one stage of one model, which `run.json` says, and to one process at a time, which
holds `lock`.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from unclip.checks import printable
from unclip.config import read_toml
from unclip.files import locked, read_json, real_path, write_json
from unclip.training.loggers import IDENTITY

RECIPE = "recipe.toml"
_LOCK, _NOTE = "lock", "run.json"


def run_folder(model: Path, stage: str = "") -> Path:
    """`runs/NAME/STAGE`, or with more after the name where another model of that name has it; the
    folder of all its runs without a stage."""
    whole = real_path(model)
    name = whole.name or "model"
    folder = Path("runs") / name / stage
    parts = [] if stage else sorted(path.parent for path in folder.glob(f"*/{_NOTE}"))
    if all(owner(path) in (None, whole) for path in (folder, *parts)):
        return folder
    place = hashlib.blake2b(os.fsencode(whole), digest_size=4).hexdigest()
    return Path("runs") / f"{name}-{place}" / stage


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
    for name in ("checkpoints", "previews", "tensorboard", "wandb"):
        if (path / name).is_symlink():
            (path / name).unlink()  # and what it leads to stays
        shutil.rmtree(path / name, ignore_errors=True)
    for name in ("metrics.jsonl", "samples.jsonl", RECIPE, IDENTITY):
        (path / name).unlink(missing_ok=True)
