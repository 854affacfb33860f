"""Folders in the published layout, as diffusers writes them, with random weights; and the oracle.

Random networks hide behind clipped noise: a decoder that says too little leaves x_0 to the noise.
The last layers are scaled (`LOUD`) so that images depend on every network; tests hold that they do.

Where ε is predicted, x_0 = (x - σ ε) / α divides by 5e-5 at t = 999: a pixel whose x - σ ε happens
to lie within that of 0, one in 10⁴ or 10⁵, turns a rounding error into 1e-2. Everywhere else such
an x_0 is clipped. Runs that meet such a pixel (`Pair.make` looks for them) take the next seed.

diffusers keeps the schedulers' tables in float32, where ᾱ_0 has lost three digits: the final x_0
comes out multiplied by 0.9995, and not by 1 as its own formula says. The oracle here has our
float64 tables.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.test_networks import randomise
from unclip.diffusion.schedules import Schedule
from unclip.networks.unet_config import adm_config
from unclip.tokenizer import Tokenizer

CAPTIONS = [
    "a cat", "a red circle above a small blue square on a green field!", "two stars",
    "a purple heart left of an orange triangle, at night, by the sea",
]  # fmt: skip
LOUD = {"prior": 6.0, "decoder": 2.0, "super_res": 4.0}


@dataclass(frozen=True)
class Case:
    """One random model. Sizes in the order of the networks' own configurations."""

    clip: tuple[int, int, int] = (24, 2, 2)  # width, layers, heads
    context: int = 16
    prior: tuple[int, int, int] = (2, 8, 2)  # heads, width of a head, layers
    decoder: tuple[tuple[int, ...], int, int, int, int] = ((8, 16), 1, 12, 4, 4)
    #       widths, layers, width of the context, of a head, groups
    attend_from: int = 1
    extra_tokens: int = 4
    upsampler: tuple[tuple[int, ...], int, int] = ((8, 16), 1, 4)  # widths, layers, groups
    sizes: tuple[int, int] = (8, 16)
    act: str = "quick_gelu"
    pooled_by_eos: bool = True
    image: tuple[int, int, int] = (12, 16, 4)  # CLIP's image tower: width, pixels, patch
    processes: dict[str, dict[str, Any]] = field(default_factory=dict)


CASES = [
    Case(),
    Case((16, 1, 1), 9, (1, 7, 1), ((6,), 1, 5, 3, 3), 0, 1, ((10,), 2, 5), (4, 12), "gelu"),
    Case((21, 2, 3), 77, (3, 5, 2), ((6, 9, 12), 1, 7, 3, 3), 2, 4, ((9, 6), 1, 3), (8, 12)),
    Case((32, 1, 4), 24, (2, 16, 1), ((8, 16, 24, 32), 1, 24, 8, 8), 1, 4, ((8, 8, 16, 16), 1, 8)),
    Case((20, 3, 5), 9, (4, 5, 3), ((10, 20), 2, 9, 5, 5), 1, 6, ((5, 15), 1, 5), (6, 18), "gelu"),
    Case((24, 1, 2), 16, (2, 6, 1), ((12, 8), 1, 6, 2, 2), 0, 2, pooled_by_eos=False),
    Case((18, 2, 2), 32, (1, 11, 2), ((7, 21), 1, 9, 7, 7), 1, 3, ((8, 16, 8), 1, 4), (4, 16)),
    Case(
        (24, 2, 2), 20, (2, 8, 2), ((8, 12), 1, 10, 4, 4), 1, 4, ((8, 16), 1, 4), (8, 32),
        processes={
            "prior_scheduler": {"clip_sample_range": 2.0, "num_train_timesteps": 500},
            "decoder_scheduler": {"clip_sample": False, "prediction_type": "sample"},
            "super_res_scheduler": {"prediction_type": "sample"},
        },
    ),
]  # fmt: skip


@cache
def oracle() -> Any:
    """The modules of diffusers and transformers that tests use."""
    import diffusers
    import transformers
    from diffusers.pipelines.deprecated import unclip
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    return type(
        "Oracle",
        (),
        {
            "diffusers": diffusers,
            "transformers": transformers,
            "unclip": unclip,
            "TextProj": UnCLIPTextProjModel,
        },
    )


@cache
def tokens() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 540)


def theirs(case: Case, folder: Path, kind: str = "UnCLIPPipeline") -> Any:
    """diffusers' pipeline with random weights; `folder` is for the tokenizer's files."""
    lib, (width, layers, heads) = oracle(), case.clip
    tokens().save_pretrained(folder)
    tokenizer = lib.transformers.CLIPTokenizer.from_pretrained(
        folder, model_max_length=case.context
    )
    text = lib.transformers.CLIPTextConfig(
        vocab_size=len(tokens()), hidden_size=width, intermediate_size=2 * width,
        projection_dim=width, num_hidden_layers=layers, num_attention_heads=heads,
        max_position_embeddings=case.context, hidden_act=case.act,
        eos_token_id=tokens().eos_id if case.pooled_by_eos else 2, bos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    parts = {
        "text_encoder": lib.transformers.CLIPTextModelWithProjection(text),
        "tokenizer": tokenizer,
        **_networks(case, lib),
        **_schedulers(case, lib),
    }
    if kind == "UnCLIPPipeline":
        heads, head_width, layers = case.prior
        parts["prior"] = lib.diffusers.PriorTransformer(
            heads, head_width, layers, embedding_dim=width, num_embeddings=case.context
        )
    else:
        del parts["prior_scheduler"]
        parts |= _image_tower(case, lib)
    for seed, name in enumerate(sorted(parts)):
        if isinstance(parts[name], nn.Module):
            randomise(parts[name], seed)
            _make_loud(parts[name], name)
    pipe = getattr(lib.unclip, kind)(**parts)
    pipe.set_progress_bar_config(disable=True)
    return with_float64_tables(pipe)


def _networks(case: Case, lib: Any) -> dict[str, Any]:
    widths, layers, context, head, groups = case.decoder
    decoder = adm_config(
        case.sizes[0], widths, layers, out_channels=6, context_width=context, head_width=head,
        groups=groups, attend_from=case.attend_from,
    )  # fmt: skip
    widths, layers, groups = case.upsampler
    upsampler = adm_config(case.sizes[1], widths, layers, in_channels=6, groups=groups)
    return {
        "decoder": lib.diffusers.UNet2DConditionModel.from_config(decoder.to_json()),
        "super_res_first": lib.diffusers.UNet2DModel.from_config(upsampler.to_json()),
        "super_res_last": lib.diffusers.UNet2DModel.from_config(upsampler.to_json()),
        "text_proj": lib.TextProj(
            clip_extra_context_tokens=case.extra_tokens,
            clip_embeddings_dim=case.clip[0],
            time_embed_dim=decoder.time_embed_dim,
            cross_attention_dim=context,
        ),
    }


def _schedulers(case: Case, lib: Any) -> dict[str, Any]:
    processes = {
        "prior_scheduler": {"prediction_type": "sample", "clip_sample_range": 5.0},
        "decoder_scheduler": {"variance_type": "learned_range"},
        "super_res_scheduler": {},
    }
    return {
        name: lib.diffusers.UnCLIPScheduler(**(values | case.processes.get(name, {})))
        for name, values in processes.items()
    }


def _image_tower(case: Case, lib: Any) -> dict[str, Any]:
    width, pixels, patch = case.image
    vision = lib.transformers.CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, projection_dim=case.clip[0],
        num_hidden_layers=2, num_attention_heads=2, image_size=pixels, patch_size=patch,
        hidden_act=case.act,
    )  # fmt: skip
    return {
        "image_encoder": lib.transformers.CLIPVisionModelWithProjection(vision),
        "feature_extractor": lib.transformers.CLIPImageProcessorPil(
            size={"shortest_edge": pixels}, crop_size=pixels
        ),
    }


@torch.no_grad()
def _make_loud(network: nn.Module, name: str) -> None:
    if name == "image_encoder":
        network.vision_model.embeddings.patch_embedding.weight *= 4
        network.vision_model.embeddings.class_embedding *= 0.1
        network.visual_projection.weight *= 12
    last = {
        "prior": "proj_to_clip_embeddings",
        "decoder": "conv_out",
        "super_res_first": "conv_out",
        "super_res_last": "conv_out",
    }.get(name)
    if last is None:
        return
    factor = LOUD["super_res" if name.startswith("super_res") else name]
    for parameter in getattr(network, last).parameters():
        parameter *= factor
        if name == "decoder":  # variances far outside their range would make x_t explode
            parameter[3:] *= 0.3 / factor
    if name == "prior":
        network.clip_std.data = network.clip_std.abs() + 0.5


def with_float64_tables(pipe: Any) -> Any:
    for name, scheduler in pipe.components.items():
        if name.endswith("scheduler"):
            schedule = Schedule.cosine(scheduler.config.num_train_timesteps)
            scheduler.betas, scheduler.alphas_cumprod = schedule.betas, schedule.alphas_cumprod
            scheduler.alphas = 1 - schedule.betas
    return pipe


def run_theirs(pipe: Any, *arguments: Any, **more: Any) -> dict[str, Tensor]:
    """What their pipeline makes: "z_i" (N, D), "small" and "image" (N, 3, ·, ·) in [-1, 1]."""
    seen: dict[str, Tensor] = {}
    step = pipe.decoder_scheduler.step

    def watched(*step_arguments: Any, **values: Any) -> Any:
        made = step(*step_arguments, **values)
        seen["small"] = made.prev_sample.clamp(-1, 1)
        return made

    def note(_: nn.Module, __: Any, values: dict[str, Any]) -> None:
        seen["z_i"] = values["image_embeddings"]

    handle = pipe.text_proj.register_forward_pre_hook(note, with_kwargs=True)
    pipe.decoder_scheduler.step = watched
    try:
        images = pipe(*arguments, output_type="np", **more).images
    finally:
        handle.remove()
        pipe.decoder_scheduler.step = step
    seen["image"] = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    return seen


def run_ours(pipe: Any, call: Any, *arguments: Any, **more: Any) -> dict[str, Tensor]:
    """The same of ours; `call` is `pipe` itself, or `pipe.vary`."""
    seen: dict[str, Tensor] = {}
    decode = pipe.decode

    def watched(z_i: Tensor, *others: Any) -> Tensor:
        seen["z_i"], seen["small"] = z_i, decode(z_i, *others)
        return seen["small"]

    pipe.decode = watched
    try:
        seen["image"] = call(*arguments, output_type="tensor", **more).images
    finally:
        del pipe.decode
    return seen
