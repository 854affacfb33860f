"""Where the objects of a scene go: extents and places that make its relation true.

Boxes are (left, top, extent) in cells of 1/64 of the side; one cell of margin stays free all
around, and objects keep at least two cells apart unless one is inside or on the other.
"""

from collections.abc import Callable
from typing import Final

from unclip.data.world.compose import Draft, Thing
from unclip.data.world.scene import EXTENTS, GRID
from unclip.randomness import Draws

Box = tuple[float, float, int]
Ink = Callable[[Thing], tuple[int, int]]

MARGIN: Final = 1
GAP: Final = 2
ROOM: Final = GRID - 2 * MARGIN
BLOCK: Final = 4  # cells along a block of the pixelated style
CONTAINER_EXTENTS: Final = (36, 40)
_TRIES: Final = 12


def _extents(draft: Draft, stream: Draws) -> list[int]:
    extents = [stream.between(*EXTENTS[thing.size]) for thing in draft.things]
    # One extent for each size of emoji, so that few sprites have to be kept.
    extents = [
        EXTENTS[thing.size][1] if thing.kind == "emoji" else extent
        for thing, extent in zip(draft.things, extents, strict=True)
    ]
    if draft.counted:
        extents = extents[:1] * len(extents)
    if len(extents) > 2:
        return [min(extent, ROOM // 2 - GAP) for extent in extents]
    if sum(extents) + GAP > ROOM:
        return [ROOM // 2 - MARGIN] * 2
    return extents


def _beside(extents: list[int], stream: Draws, vertical: bool) -> list[Box]:
    """The first box before (above or left of) the second, roughly in line with it."""
    first, second = extents
    spare = ROOM - first - second - GAP
    before = stream.between(0, spare)
    apart = GAP + stream.between(0, spare - before)
    near = MARGIN + before
    far = near + first + apart
    # Off the line by at most half the distance, so that no other relation holds as well.
    distance = far + second // 2 - near - first // 2
    across = stream.between(MARGIN, GRID - MARGIN - first)
    shift = stream.between(-(distance // 2), distance // 2)
    other = across + (first - second) // 2 + shift
    other = min(max(other, MARGIN), GRID - MARGIN - second)
    if vertical:
        return [(across, near, first), (other, far, second)]
    return [(near, across, first), (far, other, second)]


def _inside(extents: list[int], thing: Thing, stream: Draws) -> list[Box]:
    inner, outer = extents[0], stream.between(*CONTAINER_EXTENTS)
    left = stream.between(MARGIN, GRID - MARGIN - outer)
    top = stream.between(MARGIN, GRID - MARGIN - outer)
    place = (outer - inner) // 2
    lift = 2 if thing.name == "heart" else 0  # a heart is widest above its middle
    x = left + place + stream.between(-1, 1)
    y = top + place - lift + stream.between(-1, 1)
    return [(x, y, inner), (left, top, outer)]


def _on(extents: list[int], things: tuple[Thing, ...], ink: Ink, stream: Draws) -> list[Box]:
    rider, carrier = extents
    feet = rider * ink(things[0])[1] / (2 * GRID)
    surface = carrier * ink(things[1])[0] / (2 * GRID)
    # The carrier's top edge lies where the rider's lowest point is, sunk in by half a cell.
    drop = round(2 * (feet - surface)) / 2 - 0.5
    lowest = GRID - MARGIN - carrier - drop
    top = stream.between(MARGIN, int(lowest))
    left = stream.between(MARGIN, GRID - MARGIN - carrier)
    x = left + (carrier - rider) / 2 + stream.between(-1, 1)
    x = min(max(x, MARGIN), GRID - MARGIN - rider)
    return [(x, top, rider), (left, top + drop, carrier)]


def _apart(box: Box, others: list[Box]) -> bool:
    left, top, extent = box
    return all(
        left + extent + GAP <= x
        or x + other + GAP <= left
        or top + extent + GAP <= y
        or y + other + GAP <= top
        for x, y, other in others
    )


def _scattered(extents: list[int], stream: Draws) -> list[Box]:
    boxes: list[Box] = []
    for extent in extents:
        for _ in range(_TRIES):
            high = GRID - MARGIN - extent
            box = (stream.between(MARGIN, high), stream.between(MARGIN, high), extent)
            if _apart(box, boxes):
                boxes.append(box)
                break
    if len(boxes) == len(extents):
        return boxes
    if len(extents) == 2:
        return _beside(extents, stream, vertical=stream.chance(50))
    # Too crowded by chance: one object in each quarter of the image.
    quarters = [(0, 0), (0, 1), (1, 0), (1, 1)]
    boxes = []
    for extent in extents:
        column, row = quarters.pop(stream.below(len(quarters)))
        spare = ROOM // 2 - MARGIN - extent
        x = MARGIN + column * (ROOM // 2 + 1) + stream.between(0, spare)
        y = MARGIN + row * (ROOM // 2 + 1) + stream.between(0, spare)
        boxes.append((x, y, extent))
    return boxes


def _on_blocks(extent: int, stream: Draws) -> Box:
    """A box whose edges fall between the blocks of the pixelated style, and no smaller than it."""
    blocks = -(-extent // BLOCK)
    last = GRID // BLOCK - blocks - 1
    return (BLOCK * stream.between(1, last), BLOCK * stream.between(1, last), blocks * BLOCK)


def lay_out(draft: Draft, ink: Ink, stream: Draws) -> list[Box]:
    """A box for each of the draft's things, with its relation true.

    `ink` gives the first and last-plus-one row that a thing reaches, in 128ths of its box.
    """
    extents = _extents(draft, stream)
    if len(extents) == 1 and draft.style == "pixelated":
        return [_on_blocks(extents[0], stream)]
    if len(extents) == 1:
        high = GRID - MARGIN - extents[0]
        return [(stream.between(MARGIN, high), stream.between(MARGIN, high), extents[0])]
    if draft.relation == "inside":
        return _inside(extents, draft.things[1], stream)
    if draft.relation == "on":
        return _on(extents, draft.things, ink, stream)
    if draft.relation is None:
        return _scattered(extents, stream)
    boxes = _beside(
        extents if draft.relation in ("above", "left of") else extents[::-1],
        stream,
        vertical=draft.relation in ("above", "below"),
    )
    return boxes if draft.relation in ("above", "left of") else boxes[::-1]
