"""`unclip data inspect`: what captioned images hold, before anything is trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.interfaces.cli.numbers import Pixels, Seed, Side, real
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_sheet, write_file

if TYPE_CHECKING:
    from unclip.data.sources import Source, Stream


@dataclass(frozen=True)
class Inspect:
    """Count images, sizes, captions and problems; draw a sheet of them."""

    source: tyro.conf.Positional[str]
    """Name of the data, as `unclip train --data` takes it: a folder, wds:SHARDS, hf:DATA,
    coco:FILE.json:FOLDER, a mix: of them, emoji."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Name of a .png file for a sheet of images with their captions."""
    size: Pixels = 64
    """Pixels of a side that training would have; smaller images are said."""
    held_out: Annotated[float, real(0, 0.99)] = 0.05
    """Fraction that training would hold out."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    decode: bool = False
    """Reading of every image to its last byte: finds damaged and duplicate ones."""
    rows: Side = 6
    """Rows of the sheet."""
    columns: Side = 8
    """Columns of the sheet."""
    seed: Seed = 0
    """Seed of the choice of images."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip data inspect` say, and give the exit code."""
    options = parse(Inspect, "data inspect", arguments)
    if options.output is not None:
        check_sheet(options.output, options.rows, options.columns, options.size)
    from unclip.data import inspection
    from unclip.data.registry import format_of
    from unclip.interfaces.cli.sources import in_own_words, open_named

    by_fraction = format_of(options.source).holds_out == "fraction"
    source = open_named(
        options.source,
        size=options.size,
        held_out=options.held_out if by_fraction else 0.0,
        split="all" if by_fraction else "train",
        template=options.template,
    )
    lines = [in_own_words(str(source.check(options.decode)))]
    lines += inspection.sizes(source) + inspection.captions(source)
    if options.decode:
        lines += inspection.duplicates(source)
    print("\n".join(lines))
    if options.output is not None:
        _draw(options, source, options.output)
    return 0


def _draw(options: Inspect, source: "Source | Stream", output: Path) -> None:
    from unclip.data.inspection import examples
    from unclip.data.sheet import draw_sheet, label_font

    count = options.rows * options.columns
    shown = list(examples(source, count, options.seed))
    font = label_font(all(caption.isascii() for _, caption in shown))
    rows = -(-len(shown) // options.columns)
    where = write_file(
        output,
        lambda path: draw_sheet(path, shown, rows, options.columns, options.size, font),
    )
    print(f"{len(shown)} images: {where}")
