"""`unclip borrow`: stages that a model folder takes over from another model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unclip.config import suggest
from unclip.files import check_utf8
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_folder
from unclip.stages.catalogue import STAGES


@dataclass(frozen=True, kw_only=True)
class Borrow:
    """Take stages over from another model as they are, without training.

    An upsampler fits every model that makes images of the size that it enlarges. Priors and decoder
    are of use with their own CLIP only: `unclip train STAGE --training.init` fits them to another.
    """

    stages: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STAGE")]
    """Stages as `unclip train` names them, e.g. upsampler."""
    model: Path
    """Model folder, which is created or gets the components."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = "bundled"
    """Model that gives them: bundled, a folder, or hf:owner/model on the Hugging Face Hub."""
    overwrite: bool = False
    """Replacement of what the model folder has already."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip borrow` say, and give the exit code."""
    options = parse(Borrow, "borrow", arguments)
    if not options.stages:
        raise ValueError(f"no stage was named; stages: {', '.join(STAGES)}")
    for name in options.stages:
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}{suggest(name, STAGES)}")
    check_utf8(options.model)
    check_folder(options.model)
    from unclip.files import real_path
    from unclip.stages.borrowing import borrow
    from unclip.stages.conditioning import CLIP_COMPONENTS
    from unclip.storage.folder import ModelFolder
    from unclip.storage.hub import resolve_model

    specs = [STAGES[name] for name in options.stages]
    wanted = [name for spec in specs for name in (*spec.components, *spec.optional)]
    origin = resolve_model(options.from_, None, None, [*wanted, *CLIP_COMPONENTS, "decoder"])
    if real_path(origin) == real_path(options.model):
        raise ValueError(f"{options.model} has nothing to borrow from itself: name another --from")
    copied = borrow(
        options.stages, ModelFolder(options.model), ModelFolder(origin), options.overwrite
    )
    print(f"{', '.join(copied)} of {options.from_} written to {options.model}")
    return 0
