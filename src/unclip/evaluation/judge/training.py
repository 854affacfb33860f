"""How the judge is trained: on labelled scenes of the built-in world, by the one training loop.

Shapes: N images, K objects at most, S slots, G cells along a side.
"""

from dataclasses import replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip import draws
from unclip.batch import Batch
from unclip.data.registry import FORMATS, parse
from unclip.data.sources import Sample
from unclip.data.world.scene import BACKGROUNDS, COLOURS, Scene, WorldConfig
from unclip.data.world.source import WorldSource
from unclip.data.world.world import World
from unclip.evaluation.judge.network import (
    COLOURS_OF,
    SIDE,
    Judge,
    JudgeConfig,
    encode,
    label,
    resize,
)
from unclip.randomness import Draws
from unclip.stages.base import Replicas
from unclip.stages.recipe import Data, Optimiser, Recipe, Training, open_data
from unclip.stages.spec import BuildContext, StageSpec
from unclip.storage.folder import ModelFolder

# Pixels that scenes are drawn with, before they become the judge's 64: it must not care.
RENDERED: Final = (32, 32, 64, 128)
CLOSE: Final = ("inside", "on")
_SHAPES_ONLY: Final = 'the judge knows shapes only; set data.source to "emoji:shapes"'
_COLOURED: Final = tuple(BACKGROUNDS.index(kind) for kind in COLOURS_OF)


class LabelledSample(Sample):
    """objects: (K, 6) and background: (3,), as `judge.label` makes them."""

    objects: Tensor
    background: Tensor


class LabelledScenes(WorldSource):
    """The built-in world with its ground truth, drawn at several sizes and resized to 64 px.

    Every second scene is of a world where objects are inside or on one another as often as can
    be: those are rare and the hardest to tell.
    ValueError if the configuration asks for emoji: the judge knows shapes only.
    """

    def __init__(self, config: WorldConfig) -> None:
        if config.kinds != ("shapes",):
            raise ValueError(_SHAPES_ONLY)
        super().__init__(replace(config, size=SIDE))
        close = tuple(name for name in CLOSE if name in config.relations)
        self._close = self.world
        if close and config.max_objects > 1:
            options = replace(self.config, relations=close, min_objects=2, max_objects=2)
            self._close = World(options)

    def scene(self, index: int) -> Scene:
        """The ground truth of sample `index`."""
        return (self.world if index % 2 else self._close).scene(index)

    def __getitem__(self, index: int) -> LabelledSample:
        scene = self.scene(index)
        size = Draws(self.config.seed, index).pick(RENDERED)
        objects, background = label(scene)
        image = torch.from_numpy(self.world.render(scene, size)).permute(2, 0, 1)  # (3, H, W)
        if size != SIDE:
            image = resize(image[None].float())[0].round().byte()
        return {
            "image": image.contiguous(),
            "caption": scene.caption,
            "objects": objects,
            "background": background,
        }

    @classmethod
    def open(cls, data: Data) -> "LabelledScenes":
        """The recipe's scenes, of all combinations. ValueError for data without ground truth."""
        kind, place = parse(data.source)
        if not FORMATS[kind].ground_truth:
            raise ValueError(
                "the judge learns from ground truth, which only the built-in world has; "
                f'set data.source to "emoji:shapes", not to {data.source!r}'
            )
        if data.flip:
            raise ValueError("the judge learns where things are: leave data.flip out")
        if ((place,) if place else data.world.kinds) != ("shapes",):
            raise ValueError(_SHAPES_ONLY)  # before emoji are looked for, which need a font
        # All combinations: a judge that has learned that some do not exist sees other shapes in
        # their place, and would mark down the very images that generalise.
        source = open_data(data, split="all")
        assert isinstance(source, WorldSource)
        return cls(source.config)


class JudgeStage:
    """The judge's losses; see `judge.encode` for what it has to say."""

    def __init__(self, network: Judge, replicas: Replicas | None = None) -> None:
        self.network, self.replicas = network, replicas

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Objectness, shape, colour and place of objects; kind and colours of the background.

        Each is a mean over what the whole batch shows of it, wherever in the batch it is.
        """
        images = blemish(batch["images"], generator)
        maps = self.network(images)
        targets = encode(batch["objects"])
        centres, near = targets.distance == 0, targets.distance <= 1
        count, answering = centres.sum(), self._share(near.sum())
        with torch.autocast(images.device.type, enabled=False):
            # Cells beside a centre may answer as well, or not: `decode` joins them.
            presence = F.binary_cross_entropy_with_logits(
                maps.objectness, centres.float(), (~near | centres).float(), reduction="sum"
            )
            shape, colour = (m.movedim(2, -1)[near] for m in (maps.shape, maps.colour))  # (M, C)
            place, true_place = (m.movedim(2, -1)[near] for m in (maps.place, targets.place))
            losses = {
                "objectness": presence / count.clamp(min=1) * self._share(count),
                "shape": F.cross_entropy(shape, targets.shape[near]) * answering,
                "colour": F.cross_entropy(colour, targets.colour[near]) * answering,
                "place": F.smooth_l1_loss(place, true_place, beta=0.1) * answering,
                "background": F.cross_entropy(maps.kind, batch["background"][:, 0]),
                "background_colours": self._colours_loss(maps.colours, batch["background"]),
            }
        hits = (shape.argmax(dim=1) == targets.shape[near]).float().mean() * answering
        return {"loss": torch.stack(list(losses.values())).sum(), **losses, "shape_accuracy": hits}

    def _colours_loss(self, logits: Tensor, background: Tensor) -> Tensor:
        """Presence of each colour (N, 11) in flat backgrounds and gradients, of labels (N, 3)."""
        here = logits.device
        wanted = (background[:, 1:, None] == torch.arange(len(COLOURS), device=here)).any(1)
        coloured = (background[:, 0, None] == torch.tensor(_COLOURED, device=here)).any(1)
        each = F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none").sum(1)
        count = coloured.sum()
        return (each * coloured).sum() / count.clamp(min=1) * self._share(count)

    def _share(self, count: Tensor) -> Tensor:
        """How many of something there are here, in units of the mean over all processes: what makes
        of a mean over these a part of the mean over all of them. 1 in a process that is alone."""
        counts = count[None] if self.replicas is None else self.replicas.gather(count[None])
        return count.clamp(min=1) / counts.float().mean().clamp(min=1 / len(counts))

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        return None

    def save(self, folder: ModelFolder) -> None:
        """judge, in half precision."""
        weights = {key: value.half() for key, value in self.network.state_dict().items()}
        config = {"config.json": self.network.config.to_json()}
        folder.save("judge", ("unclip", "Judge"), config, weights, stem="model")


def blemish(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and casts of colour as generated images have them; each image its own share."""

    def uniform(*shape: int) -> Tensor:
        return draws.uniform(len(images), *shape, generator=generator)

    noise = draws.normal(*images.shape, generator=generator)
    softness = (2 * uniform(1, 1, 1) - 1).clamp(min=0)  # half of the images stay sharp
    gain, shift = 1 + 0.1 * (uniform(1, 1, 1) - 0.5), 0.12 * (uniform(3, 1, 1) - 0.5)
    grain = 0.12 * (2 * uniform(1, 1, 1) - 1).clamp(min=0)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (torch.lerp(images, blurred, softness) * gain + shift + grain * noise).clamp(-1, 1)


def _build(config: JudgeConfig, context: BuildContext) -> JudgeStage:
    return JudgeStage(Judge(config).initialise(), context.replicas)


SPEC = StageSpec(
    "judge",
    Recipe(
        JudgeConfig(),
        Data(source="emoji:shapes"),
        Training(steps=2400, batch_size=32, ema=0.99, preview_every=0),
        Optimiser(learning_rate=1.5e-3, weight_decay=0.05, beta2=0.99, warmup=200, decay=0.5),
    ),
    {"judge": ("Judge",)},
    _build,
    source=lambda recipe: LabelledScenes.open(recipe.data),
)
