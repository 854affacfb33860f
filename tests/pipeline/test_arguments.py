"""Every argument of the Python API with values of every wrong kind: the result, or one sentence.

The table has each public callable with arguments that work; each argument in turn is replaced by
each of the wrong values. Most are right for some argument, so that what must hold of all is that
nothing but a `ValueError` of one short line is raised, and before the work.
"""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip import CLIP, Latents, Pipeline, Settings, Tokenizer
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import noise_from
from unclip.pipeline.loading import LoadedModel
from unclip.pipeline.requests import Request
from unclip.stages.decoder import DecoderStage
from unclip.stages.encoders import load_image_encoder, load_text_encoder
from unclip.storage.folder import ModelFolder

PICTURE = Image.new("RGB", (20, 20), (200, 0, 0))
LONGEST = 430  # characters of a sentence; it may name all settings


class Odd:
    """Raises whatever is asked of it."""

    def _raise(self, *_: Any) -> Any:
        raise RuntimeError

    __repr__ = __eq__ = __float__ = __index__ = __len__ = _raise
    __hash__ = None  # type: ignore[assignment]


WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 2.0, 2.5, float("nan"), float("inf"), 2**64, 10**400, 1j, Decimal("0.5")),
    *("x", "", "a\0b", "\ud800", "x" * 5000, b"x", bytearray(b"x"), Path("nowhere/x.png")),
    *([], [1], [0.5, 0.5], ["a"], [["a"]], ["a", None], (1, 2, 3), {}, {"a": 1}, {1}, iter("ab")),
    *(Odd(), [Odd()], int, np, lambda: None, np.random.default_rng(0), torch.float32, torch.int64),
    *(np.zeros((20, 20, 3), np.uint8), np.array(["a", "b"]), np.array([None]), np.zeros((2, 63))),
    *(torch.zeros(2, 64, device="meta"), torch.eye(64).to_sparse(), torch.zeros(0), torch.ones(2)),
    *(np.ones((1, 64), int), np.ones((1, 64), complex), torch.ones(1, 1, 64), torch.ones(1, 64)),
    *(PICTURE, [PICTURE], Image.new("F", (3, 3), float("nan")), Settings(), torch.Generator()),
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def clip(tiny_model: Path) -> CLIP:
    folder = ModelFolder(tiny_model)
    return CLIP.joined(load_text_encoder(folder), load_image_encoder(folder))


Table = dict[str, tuple[Callable[..., Any], dict[str, Any]]]


def of_pipelines(pipe: Pipeline, tiny_model: Path) -> Table:
    quick = {"size": 16, "decoder_num_inference_steps": 1, "prior_num_inference_steps": 1}
    step = {key: value for key, value in quick.items() if "prior" not in key}
    common = {
        "num_images_per_prompt": 1, "seed": 0, "generator": None, "output_type": "np",
        "batch_size": None, "settings": None, "negative_prompt": None, "return_dict": True,
        "decoder_latents": None, "callback_on_step_end_tensor_inputs": ["latents"], **step,
    }  # fmt: skip
    latents, z_i = pipe.invert([PICTURE, PICTURE], 1), torch.randn(4, 64)
    one = Latents(latents.z_i[:1], latents.x_T[:1], 1)
    text, noise = pipe.clip.text(["a star"]), noise_from(torch.Generator())
    settings, drawing = Settings(**quick), ("seed", "generator", "output_type", "settings")
    upscaling = {"image": PICTURE, **{name: common[name] for name in drawing}, "size": None}
    return {
        "call": (
            pipe,
            {"prompt": "a", **common, **quick, "height": 16, "width": None, "prior_latents": None},
        ),
        "decode_embeddings": (
            pipe.decode_embeddings,
            {"image_embeddings": z_i[:1], "start": None, "scales": None, **common},
        ),
        "inpaint": (
            pipe.inpaint,
            {"image": PICTURE, "prompt": "a", "mask": None, "boxes": [(2, 2, 8, 8)], **common,
             **quick, "resamples": 1},
        ),
        "upscale": (pipe.upscale, upscaling),
        "vary": (pipe.vary, {"image": PICTURE, **common}),
        "reconstruct": (pipe.reconstruct, {"latents": one, **common}),
        "blend": (pipe.blend, {"image": [PICTURE] * 2, "frames": 2, "noise": "slerp", **step}),
        "mean": (pipe.blend, {"image": latents, "weights": [1, 2], **step}),
        "edit": (
            pipe.edit, {"image": PICTURE, "prompt": "a", "source_prompt": "b", "theta": 0.4, **step}
        ),
        "probe": (pipe.probe, {"image": PICTURE, "embeddings": z_i, "components": [1], **step}),
        "invert": (
            pipe.invert, {"image": PICTURE, "num_inference_steps": 1, "batch_size": None}
        ),
        "psnr": (pipe.psnr, {"image": PICTURE, "latents": one}),
        "embed_images": (pipe.embed_images, {"image": PICTURE}),
        "embed_texts": (pipe.embed_texts, {"prompt": "a"}),
        "text_direction": (pipe.text_direction, {"prompt": "a", "source_prompt": "b"}),
        "to": (pipe.to, {"device": "cpu", "dtype": "fp32"}),
        "evaluations": (pipe.evaluations, {"settings": settings, "start": "prior"}),
        "inpainting_steps": (pipe.inpainting_steps, {"settings": settings}),
        "upscaling_steps": (pipe.upscaling_steps, {"image": PICTURE, "settings": Settings()}),
        "sampling": (pipe.sampling, {"stage": "prior", "settings": settings}),
        "batch_size_for": (pipe.batch_size_for, {"batch_size": 1}),
        "embed": (pipe.embed, {"text": text, "noise": noise, "settings": settings}),
        "decode": (
            pipe.decode,
            {"z_i": z_i[:1], "text": text, "noise": noise, "settings": settings, "start": None,
             "known": None, "scales": None},
        ),
        "from_pretrained": (
            Pipeline.from_pretrained,
            {"folder": tiny_model, "revision": None, "variant": None, "dtype": "fp32",
             "device": "cpu", "offload": False, "compile": False, "engine": "torch",
             "torch_dtype": "fp32",
             "cache_dir": None, "token": None, "local_files_only": False, "use_safetensors": None},
        ),
        "Pipeline": (
            Pipeline,
            {"clip": pipe.clip, "prior": pipe.prior, "decoder": pipe.decoder,
             "upsamplers": pipe.upsamplers, "defaults": None, "name": "x", "fingerprint": ""},
        ),
    }  # fmt: skip


def of_others(pipe: Pipeline, clip: CLIP, tiny_model: Path, place: Path) -> Table:
    latents, tokenizer = pipe.invert(PICTURE, 1), pipe.clip.tokenizer
    latents.save(place / "l.safetensors")
    side = clip.config.vision.image_size
    text, image = clip.towers()
    return {
        "Settings": (Settings, dict.fromkeys(Settings.__dataclass_fields__) | {"steps": "fast"}),
        "with_values": (Settings().with_values, {"overrides": {"eta": 1.0}}),
        "Latents": (Latents, {"z_i": latents.z_i, "x_T": latents.x_T, "steps": 2, "model": ""}),
        "save": (latents.save, {"path": place / "l.safetensors"}),
        "load": (Latents.load, {"path": place / "l.safetensors"}),
        "for_reconstruction": (Settings().for_reconstruction, {"steps": 1, "edits": False}),
        "guided": (Settings().guided, {"scales": [1.0], "count": 1}),
        "check": (latents.check, {"width": 64, "size": 16, "model": ""}),
        "Tokenizer": (
            Tokenizer, {"vocab": tokenizer.vocab, "merges": tokenizer.merges, "pad_token": "!"}
        ),
        "encode": (tokenizer, {"texts": ["a"]}),
        "dropped": (tokenizer.dropped, {"text": "a"}),
        "train": (Tokenizer.train, {"captions": ["a"], "vocab_size": 514, "context_length": 9}),
        "tokenizer": (
            Tokenizer.from_pretrained, {"folder": tiny_model / "tokenizer", "context_length": 24}
        ),
        "CLIP": (CLIP, {"config": clip.config}),
        "clip": (
            CLIP.from_pretrained,
            {"folder": place, "dtype": None, "revision": None, "variant": None},
        ),
        "encode_text": (clip.encode_text, {"ids": torch.tensor([[1, 2, 3]])}),
        "encode_image": (clip.encode_image, {"images": torch.zeros(1, 3, side, side)}),
        "joined": (CLIP.joined, {"text": text, "image": image}),
    }  # fmt: skip


def test_a_wrong_value_is_one_sentence(
    pipe: Pipeline, clip: CLIP, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where what is a name may be written
    # What works takes no time either; networks are not what is tested.
    monkeypatch.setattr(
        Diffusion, "sample", lambda _, __, like, *rest, **more: torch.zeros_like(like)
    )
    monkeypatch.setattr(DecoderStage, "invert", lambda _, images, *rest: images)
    parts = LoadedModel(pipe.clip, list(pipe.priors.values()), pipe.decoder, pipe.upsamplers)
    monkeypatch.setattr(LoadedModel, "load", lambda *_: parts)
    table = of_pipelines(pipe, tiny_model) | of_others(pipe, clip, tiny_model, tmp_path)
    wrong, slow = [], []
    for name, (function, arguments) in table.items():
        if name != "clip":  # whose folder is none
            function(**arguments)
        for argument in arguments:
            for value in WRONG:
                if argument == "compile" and value is True:
                    continue
                started = time.process_time()
                try:
                    function(**{**arguments, argument: value})
                    continue
                except ValueError as error:
                    sentence = str(error)
                    good = len(sentence) < LONGEST and "\n" not in sentence
                except Exception as error:
                    sentence, good = f"{type(error).__name__}: {error}", False
                if not good:
                    wrong.append(f"{name}({argument}={type(value).__name__}): {sentence[:80]}")
                if time.process_time() - started > 1:
                    slow.append(f"{name}({argument}={type(value).__name__})")
    assert not wrong
    assert len(slow) < 3, slow  # a busy machine, perhaps


@pytest.mark.parametrize(
    "number", [np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3])[0], np.array(3)]
)
def test_any_whole_number_is_one(pipe: Pipeline, number: Any) -> None:
    quick = {"size": 16, "prior_num_inference_steps": 1, "output_type": "tensor"}
    made = pipe("a star", seed=number, decoder_num_inference_steps=number, **quick)
    plain = pipe("a star", seed=3, decoder_num_inference_steps=3, **quick)
    assert torch.equal(made.images, plain.images)
    assert made.seeds == [3]
    assert type(made.seeds[0]) is int
    latents = pipe.invert(PICTURE, number)
    assert type(latents.steps) is int
    boxes = np.array([[2, 2, 8, 8]])
    fast = {"decoder_num_inference_steps": 1, "resamples": 1, **quick}
    both = [pipe.inpaint(PICTURE, "a", boxes=b, **fast).images for b in (boxes, boxes.tolist())]
    assert torch.equal(*both)


@pytest.mark.parametrize("number", [np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_any_real_number_is_one(number: Any) -> None:
    assert Settings(eta=number, guidance_interval=(number, 1)) == Settings(
        eta=0.5, guidance_interval=(0.5, 1.0)
    )
    assert type(Settings(eta=number).eta) is float


def test_seeds_are_torchs(pipe: Pipeline) -> None:
    quick = {"size": 16, "prior_num_inference_steps": 1, "decoder_num_inference_steps": 1}
    largest = 2**64 - 1
    made = [pipe("a", seed=s, output_type="tensor", **quick).images for s in (-1, largest)]
    assert torch.equal(*made)
    assert Request(seed=-(2**63)).seeds(1, 2) == [-(2**63), 1 - 2**63]
    for seed in (2**64, -(2**63) - 1, 3.0, "3", True, None):
        with pytest.raises(ValueError, match="seed is"):
            Request(seed=seed)  # type: ignore[arg-type]


def test_nothing_is_computed_for_what_is_refused(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: Any) -> None:
        raise AssertionError

    for method in ("encode", "text"):
        monkeypatch.setattr(pipe.clip, method, compute)
    for wrong in (
        {"seed": "3"}, {"output_type": "jpg"}, {"batch_size": 0}, {"settings": "x"}, {"size": 17},
        {"generator": 3}, {"decoder_num_inference_steps": 10**6}, {"step": 3}, {"eta": 2},
        {"decoder_num_inference_steps": 2000}, {"num_images_per_prompt": 0}, {"start": None},
        {"callback_on_step_end": 3},
    ):  # fmt: skip
        for call in (
            lambda wrong=wrong: pipe.vary(PICTURE, **wrong),
            lambda wrong=wrong: pipe.blend([PICTURE] * 2, **wrong),
            lambda wrong=wrong: pipe.edit(PICTURE, "a star", **wrong),
            lambda wrong=wrong: pipe.probe(PICTURE, torch.randn(4, 64), **wrong),
            lambda wrong=wrong: pipe("a star", **wrong),
        ):
            with pytest.raises(ValueError, match=" "):
                call()
    for refused in (
        lambda: pipe.edit(PICTURE, "a star", theta=2),
        lambda: pipe.blend([PICTURE] * 2, noise="none"),  # type: ignore[arg-type]
        lambda: pipe.blend([PICTURE] * 2, weights=[1]),
        lambda: pipe.invert(PICTURE, 2000),
        lambda: pipe.invert(PICTURE, 2.0),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=" "):
            refused()


def test_calls_that_take_one_take_one(pipe: Pipeline) -> None:
    for call in (
        lambda: pipe.edit(PICTURE, ["a star", "a ring"]),  # type: ignore[arg-type]
        lambda: pipe.inpaint(PICTURE, ["a star"], boxes=[(1, 1, 3, 3)]),  # type: ignore[arg-type]
        lambda: pipe.text_direction(["a star"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="a prompt must be a string, not list"):
            call()
