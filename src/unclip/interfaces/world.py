"""`unclip data emoji`: a look at the built-in captioned world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from unclip.interfaces.options import parse


@dataclass(frozen=True)
class Look:
    """Draw scenes of the built-in world with their captions."""

    world: tyro.conf.Positional[Literal["emoji"]]
    preview: Path
    """The .png file that the sheet is written to."""
    kinds: tuple[Literal["shapes", "emoji"], ...] = ("shapes", "emoji")
    """Shapes need no font; emoji need Noto Color Emoji."""
    size: int = 128
    """Pixels of a scene's side."""
    split: Literal["train", "held-out", "all"] = "train"
    language: str = "en"
    """Of the emoji's names."""
    rows: int = 6
    columns: int = 8
    seed: int = 0


def run(arguments: Sequence[str]) -> int:
    options = parse(Look, "data", arguments)
    from unclip.data.emoji import WorldConfig, preview
    from unclip.interfaces.generate import check_output

    if options.preview.suffix.lower() != ".png":
        raise ValueError(f"{options.preview} does not end in .png; give a .png file")
    if options.rows < 1 or options.columns < 1:
        raise ValueError("a sheet needs at least 1 row and 1 column")
    check_output(options.preview)
    options.preview.parent.mkdir(parents=True, exist_ok=True)
    config = WorldConfig(
        kinds=options.kinds,
        size=options.size,
        seed=options.seed,
        split=options.split,
        language=options.language,
    )
    preview(options.preview, config, options.rows, options.columns, options.seed)
    print(f"{options.rows * options.columns} scenes: {options.preview}")
    return 0
