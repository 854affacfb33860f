"""Python calls with one or two arguments of a wrong or unusual kind."""

import decimal
import fractions
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.fuzz.case import Case, Good
from tests.fuzz.hostile import WORDS
from unclip import Latents, Pipeline, Settings

_STEPS = {
    "prior_num_inference_steps": 1,
    "decoder_num_inference_steps": 1,
    "super_res_num_inference_steps": 1,
}
_CALLED = {
    "num_images_per_prompt": 1, "seed": 0, "generator": None, "output_type": "pil",
    "callback_on_step_end": None, "batch_size": None, "settings": Settings(), **_STEPS,
    "prior_guidance_scale": 2.0, "decoder_guidance_scale": 2.0, "sampler": "ddim", "eta": 0.5,
    "size": 16, "prior_num_candidates": 1, "prior": "diffusion", "guidance_interval": (0.1, 2.0),
    "guidance_kind": "branches", "reuse": 1, "resamples": 1, "steps": "default",
}  # fmt: skip
_NEEDED = ("decoder_num_inference_steps", "prior_num_inference_steps", "size")


class _Rude:
    """An object that cannot even be shown, and is equal to nothing."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


class _Text(str):
    """As good as any text."""


def _values() -> list[Any]:
    """Made anew: some can be used up."""
    nested: list[Any] = []
    nested.append(nested)
    return [
        None, True, 0, 1, -1, 3, 2**63, 2**64, -(2**63) - 1, 10**400, 1.0, 1.5, -0.5, 1e308,
        float("nan"), float("inf"), "", " ", "3", "x" * 100_000, "\x1b[2J", "\ud800", b"x", 1j,
        _Text("a star"), Path("x"), decimal.Decimal(1), fractions.Fraction(1, 2), _Rude(), object(),
        int, len, lambda *_: 3, [], (), {}, set(), [1], ["a"], ["a", 1], [None], {"a": 1}, nested,
        range(3), iter(["a"]), (x for x in (1, 2)), np.int64(1), np.int8(-1), np.uint64(2**63),
        np.float32(1.5), np.float64("nan"), np.bool_(True), np.str_("a star"), np.array(1),
        np.array([1, 2]), np.array([]), np.array(["a"]), np.array([None]), np.ones((2, 64)),
        np.datetime64("2020"), torch.tensor(1), torch.tensor(1.5), torch.tensor(True),
        torch.tensor([1, 2]), torch.tensor([]), torch.empty(0, 64), torch.randn(64),
        torch.randn(2, 64), torch.randn(2, 64, dtype=torch.float64), torch.full((1, 64), torch.nan),
        torch.randn(1, 64).to_sparse(), torch.randn(1, 64, device="meta"),
        torch.randn(1, 64).cfloat(),
        torch.randn(1, 64, requires_grad=True), torch.float16, torch.int8, torch.device("cpu"),
        torch.Generator(), [torch.Generator()], [torch.Generator()] * 2, Settings(), Settings,
        Image.new("RGB", (8, 8)), [Image.new("RGB", (8, 8))] * 2, (Image.new("L", (1, 1)),),
        Image.new("RGB", (0, 5)), Image.new("F", (4, 4), float("nan")), Image, _closed(),
Latents(torch.randn(1, 64), torch.randn(1, 3, 16, 16), 2),
        Latents(torch.randn(1, 32), torch.randn(1, 3, 16, 16), 2),
        ((0, 0), (1, 1)), [(0, 0, 1)], [(0, 0, 4, 4)], "ab", ("a", "b"),
    ]  # fmt: skip


def _closed() -> Image.Image:
    image = Image.new("RGB", (4, 4))
    image.close()
    return image


def make(random: Random, place: Path, good: Good) -> Case:
    torch.manual_seed(random.randrange(2**32))
    name, call, known = random.choice(_calls(good))
    needed = {key: value for key, value in known.items() if key not in _CALLED or key in _NEEDED}
    arguments, said, values = dict(needed), [], _values()
    for key in random.sample(sorted(known), min(len(known), random.choice((1, 1, 1, 2)))):
        value = random.choice(WORDS) if random.random() < 0.15 else random.choice(values)
        arguments[key] = value
        said.append(f"{key}={_shown(value)}")
    return Case(f"{name}({', '.join(said)})", call=lambda: call(**arguments))


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = type(value).__name__
    return ascii(text[:60])[1:-1]


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
    from unclip.pipeline.images import read_info, save_png

    save_png(Image.new("RGB", (4, 4)), path, info)
    read_info(path)


def _without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in names}
