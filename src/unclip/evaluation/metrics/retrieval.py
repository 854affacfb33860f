"""How well CLIP tells images and captions apart: retrieval, zero-shot classes, preferences.

The mathematics takes embeddings; the rest gets them from a `FrozenCLIP` and a data source.
Shapes: N images or captions, M keys, C classes, D embedding width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.checks import whole_number
from unclip.data.sources import Source, Stream, length, read
from unclip.data.world.scene import COLOURS, SHAPES, Scene, WorldConfig
from unclip.evaluation.intervals import Rate
from unclip.evaluation.metrics.composition import held_out
from unclip.evaluation.metrics.matrices import directions, paired
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP

KS: Final = (1, 5)
TEMPLATES: Final = ("a {}", "a picture of a {}", "an image of a {}")
_BATCH: Final = 128


@dataclass(frozen=True)
class Retrieval:
    """Recall at k by k, over all queries.

    Attributes:
        among: how many candidates each query was held against.
        text_to_image: captions whose own image is among the k nearest.
        image_to_text: images whose own caption is among the k nearest.
    """

    among: int
    text_to_image: dict[int, Rate]
    image_to_text: dict[int, Rate]

    def to_dict(self) -> dict[str, Any]:
        return {
            "among": self.among,
            "text_to_image": {f"recall@{k}": r.to_dict() for k, r in self.text_to_image.items()},
            "image_to_text": {f"recall@{k}": r.to_dict() for k, r in self.image_to_text.items()},
        }

    def __str__(self) -> str:
        lines = [
            f"{name} recall@{k} among {self.among}: {rate}"
            for name, rates in (
                ("text to image", self.text_to_image),
                ("image to text", self.image_to_text),
            )
            for k, rate in rates.items()
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class ZeroShot:
    """Accuracy of the nearest class description, among `classes`."""

    classes: int
    accuracy: Rate

    def to_dict(self) -> dict[str, Any]:
        return {"classes": self.classes} | self.accuracy.to_dict()


# ---- on embeddings --------------------------------------------------------------------------


def ranks(queries: Tensor, keys: Tensor, labels: Sequence[Hashable] | None = None) -> Tensor:
    """How many wrong keys are at least as near to each query (N, D) as its own key in (N, D).

    Args:
        queries, keys: embeddings; the i-th belong together. Nearness is the cosine.
        labels: entries with equal labels (equal captions, say) are equally right.

    Returns:
        (N,) ranks, 0 for the nearest. Ties count as wrong: equal embeddings find nothing.

    Raises:
        ValueError: see `paired`; not as many labels.
    """
    paired(queries, keys, "queries", "keys")
    if labels is not None and len(labels) != len(queries):
        raise ValueError(f"{len(labels)} labels were given for {len(queries)} pairs")
    cosine = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).T  # (N, N)
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(x, len(numbers)) for x in (labels or range(len(queries)))]
    code = torch.tensor(codes, device=cosine.device)
    right = code[:, None] == code[None, :]
    own = cosine.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return ((cosine >= own) & ~right).sum(dim=1)


def retrieval(
    z_t: Tensor,
    z_i: Tensor,
    labels: Sequence[Hashable] | None = None,
    among: int | None = None,
    ks: Sequence[int] = KS,
) -> Retrieval:
    """Both directions of retrieval among N pairs (N, D), or among each `among` of them in turn.

    Raises:
        ValueError: see `paired`; fewer pairs than `among`, or numbers that are none.
    """
    paired(z_t, z_i, "captions", "images")
    among = len(z_t) if among is None else whole_number(among, "among")
    ks = [whole_number(k, "k", 1) for k in ks]
    if among < 2 or len(z_t) < among:
        raise ValueError(
            f"retrieval among {among} needs that many pairs (2 or more), not {len(z_t)}"
        )
    whole = len(z_t) - len(z_t) % among
    directions: list[dict[int, Rate]] = []
    for queries, keys in ((z_t, z_i), (z_i, z_t)):
        places = torch.cat(
            [
                ranks(queries[a:b], keys[a:b], labels[a:b] if labels is not None else None)
                for a, b in ((start, start + among) for start in range(0, whole, among))
            ]
        )
        directions.append({k: Rate(int((places < k).sum()), whole) for k in ks})
    return Retrieval(among, *directions)


def classify(z_i: Tensor, classes: Tensor, truth: Sequence[int]) -> ZeroShot:
    """Images (N, D) held against class embeddings (C, D); `truth` has each image's class.

    Raises:
        ValueError: see `directions`; widths that differ, or a class that is none of them.
    """
    directions(z_i, "images", least=1)
    directions(classes, "classes", least=1)
    if z_i.shape[1] != classes.shape[1]:
        raise ValueError(
            f"images of width {z_i.shape[1]} and classes of width {classes.shape[1]} cannot be "
            "compared; take one CLIP for both"
        )
    truth = [whole_number(one, "a class") for one in truth]
    if len(truth) != len(z_i) or (len(truth) and not 0 <= min(truth) <= max(truth) < len(classes)):
        raise ValueError(
            f"{len(truth)} classes were given for {len(z_i)} images; give each image one of "
            f"0 to {len(classes) - 1}"
        )
    nearest = (F.normalize(z_i.float(), dim=-1) @ F.normalize(classes.float(), dim=-1).T).argmax(1)
    right = int((nearest.cpu() == torch.tensor(truth, dtype=torch.long)).sum())
    return ZeroShot(len(classes), Rate(right, len(truth)))


def preferred(z_i: Tensor, right: Tensor, wrong: Tensor) -> Rate:
    """Images (N, D) nearer to their `right` caption (N, D) than to a `wrong` one; ties are not.

    Raises:
        ValueError: see `paired`.
    """
    paired(z_i, right, "images", "right captions")
    paired(z_i, wrong, "images", "wrong captions")
    z_i, right, wrong = (F.normalize(z.float(), dim=-1) for z in (z_i, right, wrong))
    nearer = (z_i * right).sum(dim=1) > (z_i * wrong).sum(dim=1)
    return Rate(int(nearer.sum()), len(z_i))


# ---- with a CLIP ----------------------------------------------------------------------------


def class_embeddings(
    clip: FrozenCLIP, names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """Each name's mean direction over the templates, which hold "{}" once: (C, D)."""
    if not names or not templates or any("{}" not in template for template in templates):
        raise ValueError('zero-shot classes need names, and templates with "{}" for the name')
    prompts = [template.replace("{}", name) for name in names for template in templates]
    z_t = F.normalize(embed_captions(clip, prompts), dim=-1)
    return F.normalize(z_t.view(len(names), len(templates), -1).mean(dim=1), dim=-1)


def embed_captions(clip: FrozenCLIP, captions: Sequence[str]) -> Tensor:
    """z_t (N, D)."""
    parts = [captions[i : i + _BATCH] for i in range(0, len(captions), _BATCH)]
    return torch.cat([clip.text(part).z_t for part in parts])


def embed_images(clip: FrozenCLIP, images: Sequence[Tensor]) -> Tensor:
    """Images (3, H, W) uint8 → z_i (N, D)."""
    parts = [torch.stack(list(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
    return torch.cat([clip.image(to_signed(part.to(clip.device))) for part in parts])


def clip_retrieval(
    clip: FrozenCLIP, source: Source | Stream, n: int = 256, pools: int = 4, ks: Sequence[int] = KS
) -> Retrieval:
    """Retrieval among `n` pairs of a (held-out) source, over `pools` disjoint sets of them.

    A caption that occurs twice is found with either of its images.

    Raises:
        ValueError: the source has fewer pairs, or the model has no image encoder.
    """
    if n < 2 or pools < 1:
        raise ValueError(f"n is {n} and pools is {pools}; take at least 2 pairs and 1 pool")
    if length(source) < n * pools:
        raise ValueError(
            f"{pools} × {n} pairs were asked for, but there are only {length(source)}; ask for less"
        )
    samples = list(read(source, range(n * pools)))
    captions = [sample["caption"] for sample in samples]
    z_t = embed_captions(clip, captions)
    z_i = embed_images(clip, [sample["image"] for sample in samples])
    return retrieval(z_t, z_i, captions, n, ks)


def world_zero_shot(clip: FrozenCLIP, config: WorldConfig, n: int = 500) -> dict[str, ZeroShot]:
    """Zero-shot classes of single held-out shapes: "shape" and "colour".

    A shape's class is described by captions in all colours, and a colour's in all shapes.
    """
    world = held_out(replace(config, kinds=("shapes",), min_objects=1, max_objects=1))
    scenes: list[Scene] = [world.scene(i) for i in range(n)]
    pixels = [torch.from_numpy(world.render(s)).permute(2, 0, 1).contiguous() for s in scenes]
    z_i = embed_images(clip, pixels)
    shapes = class_embeddings(clip, SHAPES, [f"a {colour} {{}}" for colour in COLOURS])
    colours = class_embeddings(clip, COLOURS, [f"a {{}} {shape}" for shape in SHAPES])
    return {
        "shape": classify(z_i, shapes, [SHAPES.index(s.objects[0].name) for s in scenes]),
        "colour": classify(z_i, colours, [COLOURS.index(s.objects[0].colour) for s in scenes]),
    }


def world_preferences(clip: FrozenCLIP, config: WorldConfig, n: int = 500) -> dict[str, Rate]:
    """How often held-out scenes of two objects are nearer to their caption than to a misreading.

    A misreading has the caption's own words: with the objects' colours swapped ("colours"), which
    asks for binding, or with one in the other's place ("relation"), which asks for order. Of the
    first 4 n scenes, n of each kind, as far as there are so many; by chance half are right.
    Retrieval hides both: a bag of words finds nearly every image among a few hundred.
    """
    world = held_out(replace(config, kinds=("shapes",), min_objects=2, max_objects=2))
    cases: dict[str, list[tuple[int, str]]] = {"colours": [], "relation": []}
    for i in range(4 * n):
        for kind, wrong in world.misread(i).items():
            if len(cases[kind]) < n:
                cases[kind].append((i, wrong))
        if all(len(found) == n for found in cases.values()):
            break
    rates = {}
    for kind, found in cases.items():
        if not found:
            rates[kind] = Rate(0, 0)
            continue
        scenes = [world.scene(i) for i, _ in found]
        pixels = [torch.from_numpy(world.render(s)).permute(2, 0, 1).contiguous() for s in scenes]
        right = embed_captions(clip, [scene.caption for scene in scenes])
        misread = embed_captions(clip, [wrong for _, wrong in found])
        rates[kind] = preferred(embed_images(clip, pixels), right, misread)
    return rates
