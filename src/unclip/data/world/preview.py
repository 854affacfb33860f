"""A labelled contact sheet of the built-in world: images with their captions under them."""

from dataclasses import replace
from pathlib import Path

from unclip.data.sheet import draw_sheet, label_font
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World


def preview(
    path: str | Path,
    config: WorldConfig | None = None,
    rows: int = 6,
    columns: int = 8,
    seed: int | None = None,
) -> None:
    """Write a PNG of `rows` x `columns` scenes, each at the config's size with its caption.

    The file appears whole or not at all. `seed` replaces the config's seed.

    Raises:
        ValueError: if rows or columns is not in 1..64, or the file cannot be written.
    """
    if not (1 <= rows <= 64 and 1 <= columns <= 64):
        raise ValueError(f"a sheet of {rows} x {columns} is out of range; give 1 to 64 of each")
    config = config or WorldConfig()
    if seed is not None:
        config = replace(config, seed=seed)
    world = World(config)
    scenes = (world[index] for index in range(rows * columns))
    font = label_font(config.language == "en")
    draw_sheet(Path(path), scenes, rows, columns, config.size, font)
