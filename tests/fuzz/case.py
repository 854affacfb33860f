"""What a case is, and the good things that cases are made from by spoiling them."""

import contextlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tests.conftest import captioned_folder
from tests.tiny import tiny_model_folder, with_autoregressive_prior
from unclip import Pipeline
from unclip.interfaces.cli import main
from unclip.interfaces.cli.commands.batch import FAILED
from unclip.interfaces.cli.commands.verify import CONTRADICTED, UNSURE
from unclip.outputs.latents import write_embeddings

CODES = {"verify": (0, 2, UNSURE, CONTRADICTED), "batch": (0, 2, FAILED)}
"""Exit codes of commands that have others than those for what is made and what is refused."""
QUICK = ("--precision", "fp32", "--decoder-steps", "1", "--super-res-steps", "1")


@dataclass(frozen=True)
class Case:
    """One attempt: a command line, or a Python call. Files are written when it is made."""

    title: str  # what is hostile about it
    words: tuple[str, ...] = ()  # after `unclip`
    call: Callable[[], Any] | None = None  # instead of words
    writes: tuple[str, ...] = ()  # names of inputs that success may change
    encoding: str = "utf-8"  # of the output
    keeps: tuple[str, ...] = ()  # names that may be there after a refusal, too
    codes: tuple[int, ...] = (0, 2)  # exit codes that it may end with


@dataclass(frozen=True)
class Good:
    """Inputs without fault, made once. Cases copy what they spoil."""

    root: Path
    pipe: Pipeline

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def image(self) -> Path:
        return self.root / "images" / "000.png"

    @classmethod
    def make(cls, root: Path) -> "Good":
        """A tiny model folder with both priors, images with captions, embeddings, latents."""
        tiny_model_folder(root / "model")
        with_autoregressive_prior(root / "model")
        captioned_folder(root / "images", 6)
        pipe = Pipeline.from_pretrained(root / "model", dtype="fp32", device="cpu")
        good = cls(root, pipe)
        z_i = torch.randn(2, pipe.clip.width, generator=torch.Generator().manual_seed(0))
        write_embeddings(root / "two.safetensors", z_i, ["a", "b"], pipe.clip.print)
        np.save(root / "two.npy", z_i.numpy())
        from unclip.data.transforms import open_image

        stored = ("-o", str(root / "stored"), "--images-per-shard", "4", "--hidden-states")
        model = ("--model", str(root / "model"), "--precision", "fp32")
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["embed", str(root / "images"), *stored, *model]) == 0
        pipe.invert([open_image(good.image)] * 2, 2).save(root / "latents.safetensors")
        return good

    def copy(self, name: str, place: Path) -> Path:
        """A file or folder of these, to be spoiled."""
        source, target = self.root / name, place / Path(name).name
        if source.is_dir():
            return Path(shutil.copytree(source, target))
        return Path(shutil.copyfile(source, target))


Maker = Callable[[Random, Path, Good], Case]
"""(randomness, the folder that the case is run in, good inputs) → a case."""
