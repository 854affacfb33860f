"""A model folder of either published kind becomes stages; what does not fit is refused first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from unclip.acceleration.compiling import check_compiler, compiled
from unclip.acceleration.int8 import to_int8
from unclip.acceleration.offload import Offload
from unclip.acceleration.openvino import accelerate, check_openvino
from unclip.acceleration.packing import pack
from unclip.checks import shown, true_or_false
from unclip.config import one_of
from unclip.data import held_out, trained_on
from unclip.device.memory import give_back
from unclip.device.names import ENGINES
from unclip.device.precision import device_named, dtype_named, fastest_dtype
from unclip.networks.diffusion_prior import DiffusionPrior
from unclip.networks.unet import UNet
from unclip.pipeline.settings import model_says
from unclip.stages import suiting
from unclip.stages.catalogue import STAGES
from unclip.stages.catalogue import priors as known_priors
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import TEXT_ENCODER, DecoderSettings, DecoderStage
from unclip.stages.decoder.network import MASKS
from unclip.stages.prior import Prior
from unclip.stages.upsampler import FIRST, SCHEDULERS, UpsamplerStage
from unclip.storage.belonging import check_belonging
from unclip.storage.folder import ModelFolder, bundled
from unclip.storage.hub import Access, commit_of, resolve_model
from unclip.storage.weights import variants

TEXT_TO_IMAGE, VARIATION = "UnCLIPPipeline", "UnCLIPImageVariationPipeline"
_COMMON = ("text_encoder", "tokenizer", *STAGES["decoder"].components)
NEEDED = {  # beside a prior for captions, see `needed_components`
    TEXT_TO_IMAGE: _COMMON,
    VARIATION: (*_COMMON, "image_encoder", "feature_extractor"),
}
NOTES = (held_out.NOTE, trained_on.NOTE, suiting.TUNED)
"""Of an index: what was learned from, and what was chosen by measuring."""
UPSAMPLING = (FIRST, SCHEDULERS[FIRST])
CLASSES: dict[str, tuple[str, ...]] = {
    name: classes
    for spec in STAGES.values()
    for name, classes in {**spec.components, **spec.optional}.items()
}
"""What a model folder may hold that is opened, and the classes that each may have."""


@dataclass(frozen=True)
class LoadedModel:
    """The stages of a model; without a prior it makes variations of images only."""

    clip: FrozenCLIP
    priors: list[Prior]
    decoder: DecoderStage
    upsamplers: list[UpsamplerStage]

    @classmethod
    def load(cls, model: ModelFolder, dtype: torch.dtype, device: torch.device) -> Self:
        """Read every component of a model folder.

        Args:
            dtype: with int8, what is not in 8 bits is in the machine's faster floating-point type.

        Raises:
            ValueError: what is missing, damaged or does not fit, in one sentence.
        """
        in_int8 = dtype == torch.int8
        if in_int8 and model.offload is not None:
            raise ValueError("int8 weights are made once, at opening: open it without offload")
        dtype = fastest_dtype(device.type) if in_int8 else dtype
        kind = check_index(model)
        check_belonging(model.index(), model.path)
        clip = FrozenCLIP.load(model, dtype).to(device)
        known = known_priors().values() if kind == TEXT_TO_IMAGE else []
        priors = [
            one.load(model, clip, dtype) for one in known if model.has(next(iter(one.COMPONENTS)))
        ]
        decoder = DecoderStage.load(model, clip, dtype)
        names = [name for name in SCHEDULERS if model.has(name)]
        upsamplers = [UpsamplerStage.load(model, name, dtype) for name in names]
        sizes = [decoder.size, *(stage.size for stage in upsamplers)]
        if sizes != sorted(set(sizes)):
            raise ValueError(
                f"{model.path}: decoder and upsamplers make {', '.join(map(str, sizes))} pixels, "
                "which do not grow: they are not of one model"
            )
        loaded = cls(clip, priors, decoder, upsamplers)
        for network in loaded.networks:
            network.requires_grad_(False).eval()
            if model.offload is None:
                network.to(device)
        for network in loaded.denoisers if in_int8 else []:
            to_int8(network)
        return loaded

    @property
    def denoisers(self) -> list[torch.nn.Module]:
        """What computes at every step: `networks`, of the decoder's the U-Net alone."""
        return [self.decoder.network.decoder if n is self.decoder.network else n
                for n in self.networks]  # fmt: skip

    def pack(self) -> None:
        """Lay out the weights of the priors for their steps, which are products with few rows."""
        for prior in self.priors:
            pack(prior.network)
        give_back()  # the weights as they were

    def compile(self) -> None:
        """Have torch compile what priors by diffusion and U-Nets compute at every step.

        Captions are then of one length, padding included. A network is compiled when it is first
        used, again for the first other number of images, and from then on for any number; one
        sample alone can be a third case.

        Raises:
            ValueError: torch cannot compile here.
        """
        check_compiler(self.clip.device, "open without compile")
        self.clip.trims = False
        for network in self.denoisers:
            if isinstance(network, UNet | DiffusionPrior):
                compile_steps(network)

    def accelerate(self) -> None:
        """Have OpenVINO compute the steps of the U-Nets; priors stay as they are."""
        for network in self.denoisers:
            if isinstance(network, UNet):
                accelerate(network)

    @property
    def networks(self) -> list[torch.nn.Module]:
        """Priors, decoder, its student and upsamplers."""
        priors = [stage.network for stage in self.priors]
        upsamplers = [network for stage in self.upsamplers for network in stage.networks]
        student = [self.decoder.student.network] if self.decoder.student else []
        return [*priors, self.decoder.network, *student, *upsamplers]


def load(
    folder: str | Path | None,
    revision: str | None,
    variant: str | None,
    dtype: str | torch.dtype,
    device: str | torch.device,
    offload: bool,
    compile: bool,
    engine: str,
    access: Access,
) -> dict[str, Any]:
    """The arguments of a `Pipeline` for a model folder; see `Pipeline.from_pretrained`."""
    offload, compile = true_or_false(offload, "offload"), true_or_false(compile, "compile")
    place = device_named(device)
    precision = dtype_named(dtype, place)
    openvino = one_of(engine, "engine", ENGINES) == "openvino"
    _check_together(
        {"offload": offload, "int8": precision == torch.int8},
        {"compile": compile, "engine openvino": openvino},
    )
    if openvino:
        check_openvino(place, precision)
    choice = revision, variant, CLASSES
    path = resolve_model(bundled("model") if folder is None else folder, *choice, access)
    model = ModelFolder(path, variant, Offload(place) if offload else None)
    with model.steady():
        loaded, defaults = LoadedModel.load(model, precision, place), read_defaults(model)
        index = model.index()
        print_ = model.fingerprint("decoder", "text_proj", "text_encoder", "image_encoder")
    if compile:
        loaded.compile()
    else:
        loaded.pack()
    if openvino:
        loaded.accelerate()
    return {
        "clip": loaded.clip,
        "prior": loaded.priors,
        "decoder": loaded.decoder,
        "upsamplers": loaded.upsamplers,
        "defaults": defaults,
        "name": str(folder or "bundled"),
        "revision": commit_of(path) or "",
        "fingerprint": print_,
        "notes": {name: index[name] for name in NOTES if name in index},
    }


def _check_together(storage: Mapping[str, bool], speed: Mapping[str, bool]) -> None:
    """Refuse two ways of computing, and any of them where weights lie in another way."""
    ways = [name for name, asked in speed.items() if asked]
    for other in [name for name, asked in storage.items() if asked and ways] + ways[1:]:
        raise ValueError(f"{other} and {ways[0]} do not go together: open without one of them")


def compile_steps(network: UNet | DiffusionPrior) -> None:
    """Compile what `proceed` computes, in place; what it looks up stays outside, where it is plain
    Python that would be compiled anew for every timestep."""
    setattr(network, "_run", compiled(network._run))  # noqa: B010


def _name(prior: type[Prior]) -> str:
    """Of the component that says that a model has it."""
    return next(iter(prior.COMPONENTS))


def needed_components(model: ModelFolder, kind: str) -> list[str]:
    """What a model of this kind cannot be without, upsamplers aside."""
    needed, decoder = list(NEEDED[kind]), DecoderSettings.noted(model)
    if kind == TEXT_TO_IMAGE and decoder.condition == "image":  # else the caption is enough
        known = list(known_priors().values())
        there = [one for one in known if model.index().get(_name(one))]
        needed += (there or known)[0].COMPONENTS
    parts = {TEXT_ENCODER: decoder.caption_tokens == "own", MASKS: model.index().get(MASKS)}
    return needed + [name for name, wanted in parts.items() if wanted]


def read_defaults(model: ModelFolder) -> dict[str, Any]:
    """What the index notes of how the model is to be sampled where nothing else is asked for."""
    return model_says(model.index().get("_defaults", {}), f"{model.path}: _defaults")


def check_index(model: ModelFolder) -> str:
    """The kind of a model folder, if it has every component and each is of a known class."""
    index = model.index()
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in NEEDED:
        what = "no pipeline" if kind is None else f"a {shown(kind)}"
        raise ValueError(
            f"{model.path} is {what}; what can be opened is a folder of the "
            f"{' or the '.join(NEEDED)}"
        )
    needed = needed_components(model, kind)
    for upsampler, scheduler in SCHEDULERS.items():
        needed += [upsampler, scheduler] if index.get(upsampler) else []
    for name in needed:
        model.component(name)
    for name, known in CLASSES.items():
        entry = index.get(name)
        if isinstance(entry, list) and entry[1] is not None and entry[1] not in known:
            raise ValueError(
                f"{model.path}: {name} is a {shown(entry[1])}; only {' or '.join(known)} is known "
                "there"
            )
    wanted = model.variant
    if wanted and not any(wanted in variants(model.path / name) for name in needed):
        raise ValueError(f"{model.path} has no weights of the variant {wanted!r}")
    return str(kind)
