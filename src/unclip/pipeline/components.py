"""The parts of a pipeline by their names in a model folder, and what it is in a few lines."""

from typing import TYPE_CHECKING, Any

import torch

from unclip.acceleration.packing import weights_of
from unclip.device.precision import name_of
from unclip.stages.decoder import TEXT_ENCODER
from unclip.stages.decoder.network import MASKS
from unclip.stages.decoder.student import STUDENT
from unclip.stages.upsampler import FIRST, LAST, SCHEDULERS

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline


def components(pipe: "Pipeline") -> dict[str, Any]:
    """Networks, tokenizer, and the configurations of schedulers and image processor, by name.

    `pipe.prior` and `pipe.decoder` are stages, which have their networks as `network`; every other
    component is an attribute of the pipeline too.
    """
    clip, decoder = pipe.clip, pipe.decoder
    found: dict[str, Any] = {"text_encoder": clip.text_encoder, "tokenizer": clip.tokenizer}
    found |= {"image_encoder": clip.image_encoder, "feature_extractor": clip.processor}
    for prior in pipe.priors.values():
        name = next(iter(prior.COMPONENTS))
        process = getattr(prior, "process", None)
        found |= {name: prior.network, f"{name}_scheduler": process and process.config}
    found |= {"decoder": decoder.network.decoder, "text_proj": decoder.network.text_proj}
    found |= {TEXT_ENCODER: decoder.network.text_encoder, MASKS: decoder.network.masks}
    found |= {STUDENT: decoder.student and decoder.student.network}
    found |= {"decoder_scheduler": decoder.process.config}
    for upsampler in pipe.upsamplers:
        found |= {upsampler.component: upsampler.network}
        if upsampler.component == FIRST:
            found |= {LAST: upsampler.last or upsampler.network}
        found |= {SCHEDULERS[upsampler.component]: upsampler.process.config}
    return {name: part for name, part in found.items() if part is not None}


def description(pipe: "Pipeline") -> str:
    """A few lines: what goes in and comes out, the networks' parameters, and where they are."""
    networks = {
        name: sum(weight.numel() for weight in weights_of(part))
        for name, part in components(pipe).items()
        if isinstance(part, torch.nn.Module)
    }
    width = max(map(len, networks))
    what = "images for captions" if pipe.priors or not pipe.decoder.needs_prior else "variations"
    sizes = " → ".join(f"{size} px" for size in pipe.sizes)
    rows = [
        f"  {name:<{width}}  {count / 1e6:,.1f} M parameters" for name, count in networks.items()
    ]
    return "\n".join([
        f"{type(pipe).__name__} {pipe.name!r}: {what}, {sizes}",
        *rows,
        f"  {name_of(pipe.dtype)} on {pipe.device}, embeddings of width {pipe.clip.width}",
    ])  # fmt: skip
