"""`unclip data emoji`: a look at the built-in captioned world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from unclip.checks import many
from unclip.interfaces.cli.numbers import Pixels, Seed, Side
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_sheet, write_file


@dataclass(frozen=True)
class Look:
    """Draw scenes of the built-in world with their captions."""

    world: tyro.conf.Positional[Literal["emoji"]]
    preview: Path
    """Name of the .png file with the sheet."""
    kinds: tuple[Literal["shapes", "emoji"], ...] = ("shapes", "emoji")
    """Kinds of objects; shapes need no font, emoji need Noto Color Emoji."""
    size: Pixels = 128
    """Pixels of a scene's side."""
    split: Literal["train", "held-out", "all"] = "train"
    """Scenes that training shows, those that it never shows, or both."""
    language: str = "en"
    """Language of the emoji's names."""
    rows: Side = 6
    """Rows of the sheet."""
    columns: Side = 8
    """Columns of the sheet."""
    seed: Seed = 0
    """Seed of the scenes."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip data` say, and give the exit code."""
    options = parse(Look, "data", arguments)
    from unclip.data.world.preview import preview
    from unclip.data.world.scene import WorldConfig

    check_sheet(options.preview, options.rows, options.columns, options.size)
    config = WorldConfig(
        kinds=options.kinds,
        size=options.size,
        seed=options.seed,
        split=options.split,
        language=options.language,
    )
    rows, columns, seed = options.rows, options.columns, options.seed
    where = write_file(options.preview, lambda path: preview(path, config, rows, columns, seed))
    print(f"{many(rows * columns, 'scenes')}: {where}")
    return 0
