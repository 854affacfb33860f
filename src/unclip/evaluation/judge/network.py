"""The judge: a small detector that says what is in an image of the built-in world's shapes.

It knows nothing of CLIP: it is trained on the ground truth of scenes (`judge_training.py`), and
`composition.py` holds its findings against captions. Objects are found as centres (Zhou et al.
2019, "Objects as Points"), on a grid with two slots per cell: the second is for an object that
lies inside another one and so shares its centre.

Shapes: N images, K = 4 objects at most, S = 2 slots, G = 16 cells along a side.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.checks import flag
from unclip.config import Between, Checked, Width, from_mapping
from unclip.data.world.scene import BACKGROUNDS, COLOURS, MAX_OBJECTS, SHAPES, Scene
from unclip.device.shapes import on_meta
from unclip.files import MAX_CONFIG, read_json
from unclip.networks.layers import Unit
from unclip.storage.folder import bundled, check_links
from unclip.storage.weights import load_weights

SIDE: Final = 64  # pixels; images of other sizes are resized
CELLS: Final = 16  # G
SLOTS: Final = 2  # S
THRESHOLD: Final = 0.4  # least confidence of a detection
COLOURS_OF: Final = {"flat": 1, "gradient": 2}  # how many colours a background has
M = TypeVar("M", bound=nn.Module)
Blocks = Annotated[int, Between(0, 256)]
_OUTPUTS: Final = (1, len(SHAPES), len(COLOURS), 3)  # objectness, shape, colour, place
# Two findings are the same object if they agree about centre and extent (fractions of the side);
# distinct objects of real scenes are 8/64 apart or, one inside the other, 20/64 different in size.
_SAME_CENTRE: Final = 5 / 64
_SAME_EXTENT: Final = 10 / 64


@dataclass(frozen=True)
class JudgeConfig(Checked):
    """Channels and residual blocks at 32, 16 and 8 cells a side."""

    widths: tuple[Width, Width, Width] = (32, 80, 128)  # channels at each of the three sizes
    blocks: tuple[Blocks, Blocks, Blocks] = (1, 2, 2)  # residual blocks at each of them

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width % 8 for width in self.widths):
            raise ValueError(f"the judge's widths are {self.widths}; they must be multiples of 8")

    def to_json(self) -> dict[str, Any]:
        return {"_class_name": "Judge", **asdict(self)}

    @classmethod
    def from_json(cls, mapping: dict[str, Any], where: str) -> Self:
        if mapping.get("_class_name") != "Judge":
            raise ValueError(f"{where}: `_class_name` is not Judge, so this is no judge network")
        known = {key: value for key, value in mapping.items() if not key.startswith("_")}
        return from_mapping(cls, known, where)


class Maps(NamedTuple):
    """What the network says; all but `place` are logits."""

    objectness: Tensor  # (N, S, G, G)
    shape: Tensor  # (N, S, 15, G, G)
    colour: Tensor  # (N, S, 11, G, G)
    place: Tensor  # (N, S, 3, G, G): centre x, y from the cell's centre in cells; extent in sides
    kind: Tensor  # (N, 6) of the background
    colours: Tensor  # (N, 11) of the background, each on its own


class Judge(nn.Module):
    """Images (N, 3, 64, 64) in [-1, 1] → `Maps`; see `resize` for other sizes."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _conv(12, fine))  # 32 × 32
        self.fine = nn.Sequential(*(_Block(fine) for _ in range(config.blocks[0])))
        self.to_middle = _conv(fine, middle, stride=2)  # 16 × 16
        self.middle = nn.Sequential(*(_Block(middle) for _ in range(config.blocks[1])))
        self.to_coarse = _conv(middle, coarse, stride=2)  # 8 × 8
        self.coarse = nn.Sequential(*(_Block(coarse) for _ in range(config.blocks[2])))
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.joined = _Block(middle)
        self.objects = nn.Sequential(_norm(middle), nn.SiLU(), nn.Conv2d(middle, _channels(), 1))
        self.patches = nn.Sequential(_norm(coarse), nn.SiLU(), nn.Conv2d(coarse, 32, 1))
        self.background = nn.Linear(32 * 4 * 4, len(BACKGROUNDS) + len(COLOURS))

    def initialise(self) -> Self:
        """Start from "nothing is anywhere", so that the empty cells do not drown the others."""
        head = self.objects[-1]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        with torch.no_grad():
            head.weight.mul_(0.1)
            head.bias.zero_()
            head.bias.view(SLOTS, -1)[:, 0] = -5.0
        return channels_last(self)

    def forward(self, images: Tensor) -> Maps:
        x = images.contiguous(memory_format=torch.channels_last)
        middle = self.middle(self.to_middle(self.fine(self.stem(x))))
        coarse = self.coarse(self.to_coarse(middle))
        wide = F.interpolate(self.from_coarse(coarse), scale_factor=2.0)
        cells = self.objects(self.joined(middle + wide)).float()  # (N, S·30, G, G)
        cells = cells.unflatten(1, (SLOTS, -1))
        objectness, shape, colour, place = cells.split(_OUTPUTS, dim=2)
        patches = F.silu(F.adaptive_avg_pool2d(self.patches(coarse), 4))
        behind = self.background(patches.flatten(1)).float()
        kind, colours = behind.split((len(BACKGROUNDS), len(COLOURS)), dim=1)
        return Maps(objectness.squeeze(2), shape, colour, place, kind, colours)


class _Block(Unit):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.conv_1 = _conv(width, width)
        self.conv_2 = _conv(width, width)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv_1(F.silu(self.norm(x)))
        return x + self.conv_2(F.silu(hidden))  # type: ignore[no-any-return]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)


def _channels() -> int:
    return SLOTS * sum(_OUTPUTS)


def channels_last(judge: M) -> M:
    """The same judge in the memory layout that its convolutions are fastest in."""
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return judge


def resize(images: Tensor) -> Tensor:
    """Square images (N, 3, H, H) → (N, 3, 64, 64): box average of larger, bilinear of smaller."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(
            f"the judge looks at square RGB images (N, 3, H, H), not at {tuple(images.shape)}"
        )
    if images.shape[-1] > SIDE:
        return F.interpolate(images, (SIDE, SIDE), mode="area")
    if images.shape[-1] < SIDE:
        return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return images


# ---- ground truth ---------------------------------------------------------------------------


def label(scene: Scene) -> tuple[Tensor, Tensor]:
    """A scene's ground truth as tensors.

    Returns:
        objects: (K, 6) slot, shape, colour, x, y, extent; slot -1 where there is no object.
        background: (3,) kind, colour, colour; -1 where there is no colour.
    """
    objects = torch.full((MAX_OBJECTS, 6), -1.0)
    for place, thing in enumerate(scene.objects):
        slot = int(scene.relation == "inside" and place == 0)
        names = (SHAPES.index(thing.name), COLOURS.index(thing.colour))
        objects[place] = torch.tensor([slot, *names, thing.x, thing.y, thing.extent])
    codes = [COLOURS.index(name) for name in scene.background.colours]
    behind = [BACKGROUNDS.index(scene.background.kind), *codes, -1, -1][:3]
    return objects, torch.tensor(behind)


class Targets(NamedTuple):
    """What `Maps` should say about the objects; all (N, S, G, G), places with 3 channels."""

    distance: Tensor  # cells to the nearest object's cell, 0 at it; infinite in empty slots
    shape: Tensor  # of the nearest object
    colour: Tensor
    place: Tensor  # (N, S, 3, G, G)


def encode(objects: Tensor) -> Targets:
    """Labels (N, K, 6) as targets of the maps; each cell answers for its nearest object."""
    slot, shape, colour, x, y, extent = objects.unbind(dim=-1)  # (N, K)
    cells = torch.arange(CELLS, device=objects.device)
    across = (cells - (x * CELLS).floor()[..., None]).abs()  # (N, K, G)
    down = (cells - (y * CELLS).floor()[..., None]).abs()
    steps = torch.maximum(down[..., :, None], across[..., None, :])  # (N, K, G, G)
    mine = slot[:, None] == torch.arange(SLOTS, device=objects.device)[:, None]  # (N, S, K)
    steps = torch.where(mine[..., None, None], steps[:, None], torch.inf)  # (N, S, K, G, G)
    distance, owner = steps.min(dim=2)  # (N, S, G, G)

    def nearest(values: Tensor) -> Tensor:  # (N, K) → (N, S, G, G)
        return values.gather(1, owner.flatten(1)).view_as(owner)

    offset_x = nearest(x) * CELLS - (cells + 0.5)
    offset_y = nearest(y) * CELLS - (cells[:, None] + 0.5)
    place = torch.stack([offset_x, offset_y, nearest(extent)], dim=2)
    return Targets(distance, nearest(shape).long(), nearest(colour).long(), place)


# ---- findings -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detection:
    """One object that was found; `x`, `y`, `extent` in fractions of the side, as in scenes."""

    name: str
    colour: str
    x: float
    y: float
    extent: float
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Detections:
    """Everything that was found in one image, the surest object first."""

    objects: tuple[Detection, ...]
    background: str
    background_colours: tuple[str, ...] = ()  # in no order

    @classmethod
    def of(cls, scene: Scene) -> Self:
        """What a judge that is always right finds."""
        objects = tuple(
            Detection(thing.name, thing.colour, thing.x, thing.y, thing.extent)
            for thing in scene.objects
        )
        return cls(objects, scene.background.kind, scene.background.colours)


def decode(maps: Maps, threshold: float = THRESHOLD) -> list[Detections]:
    """The maps' findings, image by image."""
    confidence = maps.objectness.sigmoid()
    found: list[list[Detection]] = [[] for _ in range(len(confidence))]
    where = (confidence >= threshold).nonzero()  # (M, 4): image, slot, row, column
    image, slot, row, column = where.unbind(dim=1)
    sure = confidence[image, slot, row, column]
    shape = maps.shape[image, slot, :, row, column].argmax(dim=1)
    colour = maps.colour[image, slot, :, row, column].argmax(dim=1)
    place = maps.place[image, slot, :, row, column]  # (M, 3)
    x, y = (column + 0.5 + place[:, 0]) / CELLS, (row + 0.5 + place[:, 1]) / CELLS
    numbers = torch.stack([x, y, place[:, 2], sure], dim=1)
    order = sure.argsort(descending=True, stable=True)
    columns = (values[order].tolist() for values in (image, shape, colour, numbers))
    for number, name, tone, floats in zip(*columns, strict=True):
        new = Detection(SHAPES[name], COLOURS[tone], *floats)
        if not any(_same(new, old) for old in found[number]):
            found[number].append(new)
    kinds = [BACKGROUNDS[kind] for kind in maps.kind.argmax(dim=1).tolist()]
    ranked = maps.colours.argsort(dim=1, descending=True).tolist()
    return [
        Detections(
            tuple(objects), kind, tuple(COLOURS[c] for c in tones[: COLOURS_OF.get(kind, 0)])
        )
        for objects, kind, tones in zip(found, kinds, ranked, strict=True)
    ]


def _same(one: Detection, other: Detection) -> bool:
    return (
        max(abs(one.x - other.x), abs(one.y - other.y)) < _SAME_CENTRE
        and abs(one.extent - other.extent) < _SAME_EXTENT
    )


@torch.no_grad()
def judge_images(judge: Judge, images: Tensor, batch: int = 64) -> list[Detections]:
    """What is in images (N, 3, H, H) in [-1, 1] of any size.

    Raises:
        ValueError: the images have another shape, or hold numbers that are not finite.
    """
    images = resize(images)
    if not bool(images.isfinite().all()):
        raise ValueError("there are images with values that are not finite; nothing can be judged")
    device = next(judge.parameters()).device
    found: list[Detections] = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found += decode(judge(part.to(device, torch.float32).clamp(-1, 1)))
    return found


def load_judge(path: str | Path | None = None) -> Judge:
    """The bundled judge, or one from a folder: a component (config.json) or a model with a judge.

    Raises:
        ValueError: there is none, or its files are damaged or of another network.
    """
    if path is None:
        folder = bundled("judge")
        missing = "this installation has no bundled judge; train one with `unclip train judge`"
    else:
        folder = Path(path)
        if not (folder / "config.json").is_file():
            folder = folder / "judge"
        missing = f"{path} holds no judge; train one: unclip train judge {flag('--model', path)}"
    if not (folder / "config.json").is_file():
        raise ValueError(missing)
    check_links(folder if path is None else Path(path), folder, *folder.iterdir())
    written = read_json(folder / "config.json", MAX_CONFIG)
    config = JudgeConfig.from_json(written, str(folder / "config.json"))
    with on_meta():
        judge = Judge(config)
    load_weights(judge, folder, torch.float32)
    return channels_last(judge.eval().requires_grad_(False))
