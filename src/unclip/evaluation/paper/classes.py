"""(g) Binding, counting, relations, rendered text and complex scenes, by class of prompts.

As GenEval (Ghosh et al., arXiv 2310.11513): an image is right or wrong, by what a detector finds.
The paper shows such failures in its section 7 and counts none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count as counting
from typing import Any, Final

from unclip.data.world.scene import RELATIONS, Scene, WorldConfig
from unclip.data.world.world import World
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import Detections
from unclip.evaluation.metrics.composition import background_right, holds, match, plain
from unclip.evaluation.paper import letters
from unclip.evaluation.paper.lab import Ask, Lab, Seen
from unclip.evaluation.paper.models import BUNDLED, GLIDE
from unclip.evaluation.paper.study import Cell, Row, Study, having, number, said

_NAMES: Final = {BUNDLED: "unCLIP", GLIDE: "GLIDE"}
_TRIES: Final = 40  # scenes that are looked through for each one of a class
_FIRST: Final = 400  # for the first of them


@dataclass(frozen=True)
class Class:
    """A class of prompts.

    Args:
        asks: in words.
        world: whose scenes the prompts are of.
        wanted: which of them belong to the class.
        right: whether an image is.
    """

    asks: str
    world: Callable[[WorldConfig], WorldConfig]
    wanted: Callable[[Scene], bool]
    right: Callable[[Detections, Scene], bool]


def _found(found: Detections, scene: Scene) -> bool:
    return all(match(found.objects, scene.objects))


def _coloured(found: Detections, scene: Scene) -> bool:
    pairs = zip(match(found.objects, scene.objects), scene.objects, strict=True)
    return all(one is not None and one.colour == thing.colour for one, thing in pairs)


def _exact(found: Detections, scene: Scene) -> bool:
    return _coloured(found, scene) and len(found.objects) == len(scene.objects)


def _counted(found: Detections, scene: Scene) -> bool:
    name = scene.objects[0].name
    return sum(one.name == name for one in found.objects) == len(scene.objects)


def _placed(found: Detections, scene: Scene) -> bool:
    first, second = match(found.objects, scene.objects)[:2]
    return bool(first and second and scene.relation and holds(scene.relation, first, second))


def _objects(
    number: int, relations: tuple[str, ...] | None = None
) -> Callable[[WorldConfig], WorldConfig]:
    """Scenes of so many plain objects; `relations` are those that two of them may stand in."""

    def world(config: WorldConfig) -> WorldConfig:
        sizes = tuple(dict.fromkeys((*config.sizes, *(("small", "medium") if number > 2 else ()))))
        related = config.relations if relations is None else relations
        return replace(plain(config, number), sizes=sizes, relations=related)

    return world


def _of_two(scene: Scene) -> bool:
    one, two = scene.objects
    return not scene.counted and one.name != two.name


def _to_bind(scene: Scene) -> bool:
    return _of_two(scene) and scene.objects[0].colour != scene.objects[1].colour


def _related(name: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.relation == name


CLASSES: Final = {
    "one object": Class("the shape", _objects(1), lambda s: True, _found),
    "colour": Class("the shape, in its colour", _objects(1), lambda s: True, _coloured),
    "background": Class("the background", _objects(1), lambda s: s.background_named,
                        background_right),
    "two objects": Class("both shapes", _objects(2), _of_two, _found),
    "binding": Class("two shapes, each in its own colour", _objects(2), _to_bind, _coloured),
    **{f"counting to {k}": Class(f"exactly {k} of a shape", _objects(k, ()), lambda s: s.counted,
                                 _counted)
       for k in (2, 3, 4)},
    **{name: Class(f"one shape {name} another", _objects(2, (name,)), _related(name), _placed)
       for name in RELATIONS},
    "three objects": Class("three shapes in their colours, and no more", _objects(3),
                           lambda s: not s.counted, _exact),
    "four objects": Class("four shapes in their colours, and no more", _objects(4),
                          lambda s: not s.counted, _exact),
}  # fmt: skip
TEXT: Final = "rendered text"


def cells(lab: Lab) -> list[Cell]:
    """Each class, of unCLIP and of GLIDE; a class that this world cannot ask for is left out."""
    found = []
    for name, kind in CLASSES.items():
        scenes = subjects(lab, kind)
        if not scenes:
            continue
        real = cache(partial(_right_of_real, lab, kind, scenes))
        for model, called in _models(lab):
            ask = _ask(lab, tuple(scene.caption for scene in scenes), model)
            setting = {"class": name, "model": called}
            measure = partial(_measure, lab, ask, kind, scenes, real)
            found.append(Cell(setting, measure, [ask]))
    texts = [letters.text(k) for k in range(_size(lab))]
    for model, called in _models(lab):
        ask = _ask(lab, tuple(one.caption for one in texts), model)
        measure = partial(_read, lab, ask, texts)
        found.append(Cell({"class": TEXT, "model": called}, measure, [ask]))
    return found


def _models(lab: Lab) -> list[tuple[str, str]]:
    return [(model, called) for model, called in _NAMES.items() if lab.models.has(model)]


def _ask(lab: Lab, captions: tuple[str, ...], model: str) -> Ask:
    return Ask(captions, model, settings=lab.settings(), stream=3)


def _size(lab: Lab) -> int:
    """Prompts of a class."""
    return max(16, lab.n // 4)


def subjects(lab: Lab, kind: Class) -> list[Scene]:
    """A class's scenes, or none where this world hardly has any."""
    wanted = _size(lab)
    try:
        found = list(_search(lab, kind, wanted))
    except ValueError:  # no scene of that many objects can be made of this vocabulary
        return []
    return found if len(found) == wanted else []


def _search(lab: Lab, kind: Class, wanted: int) -> Iterator[Scene]:
    world = World(kind.world(lab.config))
    there = 0
    for index in counting():
        if there == wanted or index >= (_TRIES * wanted if there else _FIRST):
            return
        scene = world.scene(index)
        if kind.wanted(scene):
            there += 1
            yield scene


def _measure(
    lab: Lab, ask: Ask, kind: Class, scenes: Sequence[Scene], real: Callable[[], Rate]
) -> dict[str, Any]:
    return {"right": _rate(lab.draw(ask), kind, scenes), "of real ones": real()}


def _right_of_real(lab: Lab, kind: Class, scenes: Sequence[Scene]) -> Rate:
    numbers = [scene.index for scene in scenes]
    return _rate(lab.look_at(lab.paint(kind.world(lab.config), numbers)[1]), kind, scenes)


def _rate(seen: Seen, kind: Class, scenes: Sequence[Scene]) -> Rate:
    right = [kind.right(one, scene) for one, scene in zip(seen.found, scenes, strict=True)]
    return Rate(sum(right), len(right))


def _read(lab: Lab, ask: Ask, texts: Sequence[letters.Text]) -> dict[str, Any]:
    reader = letters.Reader(lab.device)
    names = [read for images in lab.images(ask) for read in reader(images)]
    real = [read for images in letters.drawn(texts, lab.size, lab.batch) for read in reader(images)]

    def rate(read: Sequence[str]) -> Rate:
        right = [one == text.letter for one, text in zip(read, texts, strict=True)]
        return Rate(sum(right), len(right))

    return {"right": rate(names), "of real ones": rate(real)}


def verdict(rows: Sequence[Row]) -> str:
    """What is easy, what is not, and whether it is what the paper names."""
    ours = having(rows, model="unCLIP")
    if not ours:
        return "Not measured yet."
    order = sorted(ours, key=lambda row: number(row, "right"))
    weak, strong = order[:4], order[-3:]

    def listed(some: Sequence[Row]) -> str:
        return ", ".join(f"{row['setting']['class']} {said(row, 'right', True)}" for row in some)

    told = f"Weakest: {listed(weak)}. Strongest: {listed(strong[::-1])}."
    theirs = {row["setting"]["class"]: row for row in having(rows, model="GLIDE")}
    pairs = [(row, theirs[row["setting"]["class"]]) for row in ours
             if row["setting"]["class"] in theirs]  # fmt: skip
    binding = [pair for pair in pairs if pair[0]["setting"]["class"] == "binding"]
    if binding:
        one, other = binding[0]
        worse = number(one, "right") < number(other, "right")
        told += (
            f" Binding: unCLIP {said(one, 'right', True)}, GLIDE {said(other, 'right', True)}: "
            + (
                "unCLIP binds worse than GLIDE, as the paper says."
                if worse
                else "the paper finds unCLIP to bind worse than GLIDE, and here it does not: its "
                "CLIP was trained on captions that differ in nothing but whose colour is which."
            )
        )
    chance = 1 / len(letters.LETTERS)
    text = having(ours, **{"class": TEXT})
    if text:
        told += (
            f" Rendered text is at {number(text[0], 'right'):.0%}, where guessing gives "
            f"{chance:.0%}: letters are not in the training data of this world, so that this says "
            "what a model does with what it has never seen, while the paper's had seen text and "
            "spells it wrongly. Scenes of three and four objects, too, are more than its captions "
            "have in training, unless the model was trained on them."
        )
    return told


STUDY: Final = Study(
    "g",
    "classes",
    "Classes of prompts",
    "How often an image is right, by the class of its prompt; beside it, how often the judge finds "
    "real pictures of the same prompts right. Text is read by a reader of ten letters.",
    "Section 7: unCLIP is worse than GLIDE at binding attributes to objects, cannot write coherent "
    "text, and lacks detail in complex scenes. No rates are given.",
    ("right", "of real ones"),
    cells,
    verdict,
)
