"""Where a run's numbers and pictures go besides its own `metrics.jsonl` and `previews/`.

A logger is a class with the methods of `Logger`, and a row of `LOGGERS`; a program may add one.
What it needs is imported when a run asks for it (`training.loggers`).
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unclip.checks import printable
from unclip.config import suggest
from unclip.files import read_text, real_path, write_text

if TYPE_CHECKING:
    from PIL import Image

IDENTITY = "wandb-id"
"""File of a run's folder: the run's name at Weights & Biases, so that a resumed one goes on."""


@dataclass(frozen=True)
class About:
    """What a logger may know of a run.

    Args:
        path: the run's folder.
        first_step: where this process starts; what was logged of later steps does not count.
        stage, model: what is trained, and the name of its model.
        recipe: plain values in tables, as in `recipe.toml`.
    """

    path: Path
    first_step: int
    stage: str = ""
    model: str = ""
    recipe: Mapping[str, Any] | None = None


class Logger(Protocol):
    """One of the places; only the main process has any."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a step's numbers."""
        ...

    def picture(self, step: int, picture: "Image.Image") -> None:
        """Keep a preview, which comes after the numbers of the same step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


@dataclass(frozen=True)
class Kind:
    """A row of `LOGGERS`.

    Args:
        make: a logger for a run.
        package: which must be installed, if any.
        needed: whether a run that names this logger without the package is refused; else it goes on
            without the logger.
    """

    make: Callable[[About], Logger]
    package: str = ""
    needed: bool = True

    @property
    def there(self) -> bool:
        """Whether it can be made."""
        return not self.package or importlib.util.find_spec(self.package) is not None


class TensorBoard:
    """`tensorboard/` in the run's folder."""

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(
            str(about.path / "tensorboard"), purge_step=about.first_step + 1
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def picture(self, step: int, picture: "Image.Image") -> None:
        import numpy as np

        self.writer.add_image("preview", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run at Weights & Biases, in the project WANDB_PROJECT or "unclip"; WANDB_MODE=offline keeps
    it on this machine."""

    def __init__(self, about: About) -> None:
        import wandb

        self.images = wandb.Image
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "unclip"),
            name=f"{about.model}/{about.stage}",
            id=_identity(about.path),
            resume="allow",
            dir=str(about.path),
            config=dict(about.recipe or {}),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, picture: "Image.Image") -> None:
        self.run.log({"preview": self.images(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, Kind] = {
    "tensorboard": Kind(TensorBoard, "tensorboard", needed=False),
    "wandb": Kind(Wandb, "wandb"),
}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that a run could not have.

    Raises:
        ValueError: one is unknown, or not installed.
    """
    for name in names:
        if name not in LOGGERS:
            known = suggest(name, LOGGERS)
            raise ValueError(f"training.loggers: unknown logger {printable(name)!r}{known}")
        kind = LOGGERS[name]
        if kind.needed and not kind.there:
            raise ValueError(
                f"training.loggers asks for {name}, which is not installed: pip install "
                f"{kind.package}, or leave it out"
            )


def loggers_of(names: Sequence[str], about: About) -> list[Logger]:
    """The loggers of these names that can be made here, each once."""
    return [LOGGERS[name].make(about) for name in dict.fromkeys(names) if LOGGERS[name].there]


def _identity(path: Path) -> str:
    """A name of the run that no other has, kept in its folder."""
    file = path / IDENTITY
    if file.is_file():
        return read_text(file).strip()
    made = hashlib.blake2b(os.fsencode(real_path(path)) + os.urandom(8), digest_size=8).hexdigest()
    write_text(file, made + "\n")
    return made
