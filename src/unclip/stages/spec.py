"""How a stage is trained: what its spec says, and what it may look at when it is built."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.checks import flag, printable
from unclip.config import from_mapping, merge, to_mapping
from unclip.data.embeddings import Embeddings
from unclip.data.sources import Source, Stream
from unclip.networks.clip_config import CLIPTextConfig
from unclip.stages.base import ComponentClasses, Replicas, Stage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.shipped import TABLES, recipe_of
from unclip.stages.sizes import Sized
from unclip.stages.warm_start import say_what_stays
from unclip.storage.folder import ModelFolder

S = TypeVar("S")
# What runs did that do not say it, as they are older.
_BEFORE = {"data": {"held_out": 0.0}, "training": {"validate_every": 0}}


@dataclass(frozen=True)
class BuildContext:
    """What a stage may look at when it is built.

    Attributes:
        folder: the model folder that it will be written into.
        source, data: the captioned images, and the recipe's words for them.
        captions: the first n captions.
        batches: whole batches of the training data, from the first until every image has come
            twice.
        replicas: the processes that share a batch.
        embeddings: precomputed ones that are learned from, if any are.
    """

    folder: ModelFolder
    source: Source | Stream
    data: Data
    device: torch.device
    captions: Callable[[int], list[str]]
    batches: Callable[[], Iterator[Batch]]
    replicas: Replicas
    embeddings: Embeddings | None = None

    def clip(self, origin: ModelFolder | None = None) -> FrozenCLIP:
        """The model folder's CLIP, or the origin's for a folder that has none yet, in fp32:
        autocast decides what is computed in less."""
        own = origin is None or self.folder.has("text_encoder")
        folder = self.folder if own or origin is None else origin
        if not folder.has("text_encoder"):
            mine = printable(str(self.folder.path))
            nobody = f"{mine} has no CLIP"
            if origin is not None:
                nobody = f"neither {mine} nor {printable(str(origin.path))} has a CLIP"
            raise ValueError(
                f"{nobody}, which this stage learns from; train clip first: "
                f"unclip train clip {flag('--model', self.folder.path)}"
            )
        with folder.steady():
            clip = FrozenCLIP.load(folder, torch.float32).to(self.device)
        if self.embeddings is not None:
            self.embeddings.check_clip(clip.fingerprints(), folder.path)
        return clip

    def has_own_clip(self, origin: ModelFolder) -> bool:
        """Whether the model folder's CLIP is another than the origin's, where both have one."""
        both = self.folder.has("text_encoder") and origin.has("text_encoder")
        return both and self.folder.fingerprint("text_encoder") != origin.fingerprint(
            "text_encoder"
        )

    def clip_of(self, origin: ModelFolder) -> FrozenCLIP:
        """The CLIP that the origin's networks listen to: its own, if it has one, in fp32."""
        if self.has_own_clip(origin):
            with origin.steady():
                return FrozenCLIP.load(origin, torch.float32).to(self.device)
        return self.clip(origin)

    def say_what_stays(
        self, what: str, origin: ModelFolder, network: nn.Module, left: Sequence[str]
    ) -> None:
        """One process says what of the origin's stage did not fit this model's CLIP."""
        if self.replicas.rank == 0:
            say_what_stays(what, origin.path, network, left)

    def check_size(self, size: int, origin: ModelFolder) -> None:
        """Refuse another model's networks for images of `size` pixels where data has others."""
        if size != self.data.size:
            raise ValueError(
                f"{origin.path} makes images of {size} pixels a side, but data.size is "
                f"{self.data.size}; add --data.size {size}"
            )


@dataclass(frozen=True)
class Probe:
    """How much a stage's network computes, where it is too large to be trained here.

    Attributes:
        compute: network, its settings, CLIP's text tower, pixels of a side of the data, N → the sum
            of what the network gives for N images and captions of full length, as a step of
            training asks it, on the meta device.
        listens: whether a step has the frozen CLIP read images and captions too.
    """

    compute: Callable[[Any, Any, CLIPTextConfig, int, int], Tensor]
    listens: bool = True


@dataclass(frozen=True)
class StageSpec(Generic[S]):
    """How `unclip train NAME` trains a stage; it stands beside the stage.

    Attributes:
        recipe: the defaults.
        components: what it writes into the model folder, and of which classes.
        build: a fresh stage.
        warm_start: the same with the networks of another model, for `training.init`.
        warm_start_components: components that `warm_start` may read beside its own and CLIP's.
        teacher: components that the whole run learns from.
        source: data with more than images and captions; else `open_data`.
        network: what is trained, without the weights that `build` measures or copies, for a CLIP
            whose text tower this is and images of so many pixels a side. It is counted on the meta
            device, where it takes no memory; without it, only `build` can say how large it is.
        probe: how that network is counted.
        optional: components that only some of these stages have.
        notes: keys of the index that it writes beside them.
        sampled_as: what arguments that are about its sampling begin with; "" if it is not sampled.
        check_fit: refuses a model folder, the first, whose other components are of no use with
            these, which are of another model, the second; for what `unclip borrow` takes over.
        embeddings: whether precomputed ones (`data.embeddings`) stand "alone", in the place of
            images, or "beside images", for CLIP's part alone; "" where they are of no use.
        absent: what fields of the network's settings meant in runs that were begun before there
            were any, so that such a run goes on as it was.
    """

    name: str
    recipe: Recipe[S]
    components: ComponentClasses
    build: Callable[[S, BuildContext], Stage]
    warm_start: Callable[[S, BuildContext, ModelFolder], Stage] | None = None
    warm_start_components: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    source: Callable[[Recipe[S]], Source | Stream] | None = None
    network: Callable[[S, CLIPTextConfig, int], nn.Module] | None = None
    probe: Probe | None = None
    optional: ComponentClasses = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sampled_as: str = ""
    check_fit: Callable[[ModelFolder, ModelFolder], None] | None = None
    embeddings: Literal["", "alone", "beside images"] = ""
    absent: Mapping[str, Any] = field(default_factory=dict)


def load_recipe(
    spec: StageSpec[S], recipe: str | Path | None, size: str | None = None
) -> Recipe[S]:
    """The stage's defaults with a recipe over them, and a network of another size.

    Args:
        recipe: the name of one that comes with the package (`stages/shipped.py`), or a TOML file.
    """
    if recipe is None:
        return parse_recipe(spec, {}, "the flags", size)
    return parse_recipe(spec, recipe_of(recipe, spec.name), str(recipe), size)


def resumed_recipe(spec: StageSpec[S], file: Path, size: str | None = None) -> Recipe[S]:
    """The recipe that a run wrote into its folder, an older version's too."""
    before = {**_BEFORE, "network": spec.absent}
    mapping = merge(before, recipe_of(file, spec.name))
    return parse_recipe(spec, mapping, str(file), size)


def parse_recipe(
    spec: StageSpec[S], mapping: dict[str, Any], where: str, size: str | None = None
) -> Recipe[S]:
    """A recipe from a mapping; keys left out keep the stage's defaults.

    With a `size`, what sizes decide is no longer as the mapping says.
    """
    for key in mapping:
        if key not in TABLES:
            raise ValueError(f"{where}: unknown table {key!r}; known: {', '.join(sorted(TABLES))}")
    network: Any = spec.recipe.network
    merged = to_mapping(spec.recipe)
    if isinstance(network, Sized):
        merged["network"] = network.given()
    merged = merge(merged, mapping)
    if isinstance(network, Sized) and size is not None and isinstance(merged["network"], Mapping):
        merged["network"] = network.sized(merged["network"], size)
    return Recipe(
        from_mapping(type(spec.recipe.network), merged["network"], f"{where}: network"),
        from_mapping(Data, merged["data"], f"{where}: data"),
        from_mapping(Training, merged["training"], f"{where}: training"),
        from_mapping(Optimiser, merged["optimiser"], f"{where}: optimiser"),
    )
