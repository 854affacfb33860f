"""Python calls with one or two arguments of a wrong or unusual kind."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from tests.fuzz.case import Case, Good
from tests.fuzz.hostile import WORDS
from tests.fuzz.values import near, shown_value, values
from unclip import Latents, Pipeline, Settings

_STEPS = {
    "prior_num_inference_steps": 1,
    "decoder_num_inference_steps": 1,
    "super_res_num_inference_steps": 1,
}
_CALLED: dict[str, Any] = {
    **{name: field.default for name, field in Settings.__dataclass_fields__.items()},
    "num_images_per_prompt": 1, "seed": 0, "generator": None, "output_type": "pil",
    "callback_on_step_end": None, "batch_size": None, "settings": Settings(), **_STEPS,
    "prior_guidance_scale": 2.0, "decoder_guidance_scale": 2.0, "sampler": "ddim", "eta": 0.5,
    "size": 16, "prior_num_candidates": 1, "prior": "diffusion", "guidance_interval": (0.1, 2.0),
    "guidance_kind": "branches", "reuse": 1, "resamples": 1, "steps": "default",
    "negative_prompt": "a star", "height": 16, "decoder_latents": torch.zeros(1, 3, 16, 16),
    "return_dict": True,
}  # fmt: skip
_NEEDED = ("decoder_num_inference_steps", "prior_num_inference_steps", "size")


def make(random: Random, place: Path, good: Good) -> Case:
    torch.manual_seed(random.randrange(2**32))
    name, call, known = random.choice(_calls(good))
    needed = {
        key: value
        for key, value in known.items()
        if key not in _CALLED or key in _NEEDED or call is Latents
    }
    arguments, said, others = dict(needed), [], values()
    for key in random.sample(sorted(known), min(len(known), random.choice((1, 1, 1, 2)))):
        way = random.random()
        if way < 0.4 and key in known:
            value = random.choice(near(known[key]))
        else:
            value = random.choice(WORDS if way < 0.5 else others)
        if key == "callback_on_step_end" and callable(value):
            value = print  # what others raise is theirs
        arguments[key] = value
        said.append(f"{key}={shown_value(value)}")
    return Case(f"{name}({', '.join(said)})", call=lambda: call(**arguments))


def _calls(good: Good) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Public methods, and arguments that are right; those in `_CALLED` are optional."""
    pipe = good.pipe
    image = Image.new("RGB", (20, 16), (200, 30, 30))
    latents = Latents.load(good.root / "latents.safetensors")
    z_i = torch.randn(2, 64)
    some = {"image": image, "decoder_num_inference_steps": 1, **_CALLED}
    return [
        ("pipe", pipe, {"prompt": "a star", **_CALLED}),
        ("pipe", pipe, {"prompt": ["a star", "a heart"], **_CALLED}),
        ("vary", pipe.vary, some),
        ("vary", pipe.vary, {**some, "image": latents}),
        ("blend", pipe.blend, _without(
            {**some, "image": [image, image], "frames": 2, "weights": None, "noise": "slerp"},
            "num_images_per_prompt")),
        ("edit", pipe.edit, _without(
            {**some, "prompt": "a star", "source_prompt": "a heart", "theta": 0.4},
            "num_images_per_prompt")),
        ("inpaint", pipe.inpaint, {
            **some, "prompt": "a star", "mask": None, "boxes": [(0, 0, 9, 9)], "resamples": 1}),
        ("probe", pipe.probe, _without(
            {**some, "embeddings": z_i, "components": (2,)}, "num_images_per_prompt")),
        ("upscale", pipe.upscale, _without(
            {**some, "size": 40}, "num_images_per_prompt", "batch_size")),
        ("decode_embeddings", pipe.decode_embeddings, {
            "image_embeddings": z_i, "start": torch.randn(2, 3, 16, 16), **_CALLED}),
        ("invert", pipe.invert, {
            "image": image, "num_inference_steps": 2, "batch_size": None,
            "callback_on_step_end": None}),
        ("embed_images", pipe.embed_images, {"image": image}),
        ("embed_texts", pipe.embed_texts, {"prompt": "a star"}),
        ("text_direction", pipe.text_direction, {"prompt": "a star", "source_prompt": "a heart"}),
        ("squares", pipe.squares, {"image": image}),
        ("psnr", pipe.psnr, {"image": image, "latents": latents}),
        ("reconstruct", pipe.reconstruct, {"latents": latents}),
        ("Settings", Settings, {key: _CALLED[key] for key in Settings.__dataclass_fields__}),
        ("from_pretrained", Pipeline.from_pretrained, {
            "folder": good.model, "revision": None, "variant": None, "dtype": "fp32",
            "device": "cpu", "offload": False, "compile": False}),
        ("save_pretrained", pipe.save_pretrained, {"folder": "saved"}),
        ("Latents", Latents, {
            "z_i": z_i, "x_T": torch.randn(2, 3, 16, 16), "steps": 2, "model": ""}),
        ("Latents.save", latents.save, {"path": "l.safetensors"}),
        ("Latents.load", Latents.load, {"path": good.root / "latents.safetensors"}),
        ("save_png", _save_png, {"path": "x.png", "info": {"prompt": "a", "seed": 1}}),
    ]  # fmt: skip


def _save_png(path: Any, info: Any) -> None:
    from unclip.outputs.images import read_info, save_png

    save_png(Image.new("RGB", (4, 4)), path, info)
    read_info(path)


def _without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in names}
