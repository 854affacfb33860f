"""Manipulations through latents: end points, exactness, and everything that is refused.

The random decoder predicts v: nobody trained it, and for v the steps of DDIM can be inverted still.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import scenes
from unclip import Pipeline
from unclip.checks import Notice
from unclip.data.transforms import to_pil
from unclip.files import read_facts
from unclip.outputs.latents import Latents

SMALL: dict[str, Any] = {"size": 16, "output_type": "tensor"}
STEPS = 30


@pytest.fixture(scope="module")
def pipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    import shutil

    copy = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "v"))
    file = copy / "decoder_scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    return Pipeline.from_pretrained(copy, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [to_pil(image) for image in scenes(2)["images"]]


@pytest.fixture(scope="module")
def latents(pipe: Pipeline, pictures: list[Image.Image]) -> Latents:
    return pipe.invert(pictures, STEPS)


# ---- latents --------------------------------------------------------------------------------


def test_eta_0_from_inverted_latents_reconstructs(
    pipe: Pipeline, pictures: list[Image.Image], latents: Latents
) -> None:
    assert min(pipe.psnr(pictures, latents)) > 35
    back = pipe.reconstruct(latents, **SMALL).images
    assert torch.equal(back, pipe.vary(latents, eta=0.0, seed=5, **SMALL).images)
    far = [
        (pipe.vary(latents, eta=eta, **SMALL).images - back).abs().mean() for eta in (0.1, 0.5, 1.0)
    ]
    assert 0 < far[0] < far[1] < far[2]


def test_latents_are_the_same_from_a_file(pipe: Pipeline, latents: Latents, tmp_path: Path) -> None:
    latents.save(tmp_path / "l.safetensors")
    again = Latents.load(tmp_path / "l.safetensors")
    assert torch.equal(again.z_i, latents.z_i)
    assert torch.equal(again.x_T, latents.x_T)
    assert (again.steps, again.model) == (STEPS, pipe.fingerprint)


def test_latents_of_another_model(pipe: Pipeline, latents: Latents) -> None:
    for wrong, says in (
        (replace(latents, model="0123456789abcdef"), "made by another model"),
        (replace(latents, z_i=latents.z_i[:, :-1]), "width 63 .* this model 64"),
        (replace(latents, x_T=latents.x_T[..., :8, :8]), "8 pixels"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe.vary(wrong)


def test_damaged_latents(latents: Latents, tmp_path: Path) -> None:
    file = tmp_path / "l.safetensors"
    for path, says in ((file, "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=says):
            Latents.load(path)
    save_file({"z_i": latents.z_i}, file)
    with pytest.raises(ValueError, match="holds no latents"):
        Latents.load(file)
    latents.save(file)
    save_file({"z_i": latents.z_i, "x_T": latents.x_T / 0}, file, read_facts(file))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Latents.load(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Latents.load(file)


# ---- manipulations --------------------------------------------------------------------------


def test_the_ends_of_a_blend_are_the_reconstructions(pipe: Pipeline, latents: Latents) -> None:
    back = pipe.reconstruct(latents, **SMALL).images
    blend = pipe.blend(latents, 3, **SMALL).images
    assert torch.equal(blend[[0, 2]], back)
    assert torch.equal(pipe.blend(latents, weights=[0, 1], **SMALL).images, back[1:])
    half = pipe.blend(latents, weights=[2, 2], **SMALL).images
    assert torch.allclose(half, blend[1:2], atol=1e-4)
    fixed = pipe.blend(latents, 3, noise="fixed", **SMALL).images
    assert torch.equal(fixed[:1], back[:1])
    assert not torch.equal(fixed[2:], back[1:])


def test_blends_of_images_share_the_noise(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    quick = SMALL | {"decoder_num_inference_steps": 2, "seed": 3}
    blend = pipe.blend(pictures, 3, **quick).images
    assert torch.equal(blend[[0, 2]], pipe.vary(pictures, **quick).images)


def test_the_ends_of_an_edit(pipe: Pipeline, latents: Latents) -> None:
    back = pipe.reconstruct(latents, **SMALL).images
    unguided = {"decoder_guidance_scale": 1.0, **SMALL}  # the last is decoded as any z_i
    edits = pipe.edit(latents, "a red circle", "a photo", [0.0, 0.3, 1.0], **unguided).images
    assert torch.equal(edits[[0, 3]], back)  # three of the first image, then three of the second
    assert 0 < (edits[1] - edits[0]).abs().mean() < (edits[2] - edits[0]).abs().mean()
    z_d = pipe.embed_texts("a red circle") - pipe.embed_texts("a photo")
    z_d = z_d / z_d.norm() * latents.z_i[:1].norm()
    only = replace(latents, z_i=z_d, x_T=latents.x_T[:1])
    assert torch.allclose(pipe.reconstruct(only, **SMALL).images, edits[2:3], atol=1e-3)


def test_guidance_grows_as_latents_are_edited(pipe: Pipeline, latents: Latents) -> None:
    def edits(theta: Any, **asked: Any) -> torch.Tensor:
        made = pipe.edit(latents, "a red circle", "a photo", theta, **asked, **SMALL)
        return made.images  # type: ignore[no-any-return]

    alone = [edits(theta, decoder_guidance_scale=1 + 2 * theta) for theta in (0.0, 0.2)]
    alone.append(edits(0.7, decoder_guidance_scale=2.0))
    assert torch.equal(alone[0], pipe.reconstruct(latents, **SMALL).images)
    assert (alone[1] - edits(0.2, decoder_guidance_scale=1.0)).abs().mean() > 0.01
    several = edits([0.0, 0.2, 0.7])
    assert all(torch.equal(several[k::3], alone[k]) for k in range(3))
    at_once = edits([0.0, 0.2, 0.7], batch_size=6)
    assert torch.allclose(at_once, several, atol=1e-3)  # sums in another order
    wrong: Any
    for wrong, says in (([1.0], "1 scale was given for 2 images"), ([1.0, -1.0], "scale")):
        with pytest.raises(ValueError, match=says):
            pipe.decode_embeddings(latents.z_i, scales=wrong, **SMALL)


def test_all_components_are_the_plain_decode(pipe: Pipeline, latents: Latents) -> None:
    one = replace(latents, z_i=latents.z_i[:1], x_T=latents.x_T[:1])
    world = pipe.embed_images([to_pil(image) for image in scenes(6, first=10)["images"]])
    probed = pipe.probe(one, world, [1, 64], **SMALL).images
    by_itself = pipe.probe(one, world, **SMALL).images
    assert len(by_itself) == 4  # 20, 30, 40 and all 64
    torch.testing.assert_close(by_itself[-1:], probed[1:], atol=1e-4, rtol=0)
    assert (probed[1:] - pipe.reconstruct(one, **SMALL).images).abs().max() < 1e-2
    assert not torch.equal(probed[:1], probed[1:])


def test_embed_then_decode_is_vary(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    quick = SMALL | {"decoder_num_inference_steps": 2}
    z_i = pipe.embed_images(pictures)
    varied = pipe.vary(pictures, 2, **quick).images
    assert torch.equal(pipe.decode_embeddings(z_i, 2, **quick).images, varied)
    assert torch.equal(pipe.decode_embeddings(z_i[0].numpy(), 2, **quick).images, varied[:2])


@pytest.mark.parametrize(
    ("embeddings", "says"),
    [
        (torch.zeros(1, 63), "width 63, but this model's embeddings have width 64"),
        (torch.zeros(2, 1, 64), r"shape \(2, 1, 64\)"),
        (torch.zeros(0, 64), r"shape \(0, 64\)"),
        (torch.zeros(1, 64, dtype=torch.long), "int64"),
        (torch.zeros(1, 64).numpy().astype("int32"), "int32"),
        (torch.full((1, 64), float("nan")), "NaN"),
        (torch.full((1, 64), 1e300, dtype=torch.float64), "NaN or infinite"),
        (torch.full((1, 64), 1e300, dtype=torch.float64).numpy(), "NaN or infinite"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.zeros(1, 64, dtype=torch.complex64), "complex64"),
        (torch.zeros(1, 64).numpy().astype("O"), "object values"),
        ([[0.0] * 64], "not list"),
    ],
)
def test_bad_embeddings(pipe: Pipeline, embeddings: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pipe.decode_embeddings(embeddings)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (torch.zeros(2, 3, 16, 16), r"shape \(2, 3, 16, 16\); x_T of 1 embedding is \(1, 3, 16"),
        (torch.zeros(1, 3, 8, 8), r"shape \(1, 3, 8, 8\)"),
        (torch.zeros(3, 16, 16), r"shape \(3, 16, 16\)"),
        (torch.full((1, 3, 16, 16), float("nan")), "start holds NaN"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.long), "int64"),
        (torch.zeros(1, 3, 16, 16).numpy(), "must be a tensor, not ndarray"),
    ],
)
def test_bad_noise(pipe: Pipeline, start: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pipe.decode_embeddings(torch.zeros(1, 64), start=start)


def test_latents_that_do_not_pair_up(latents: Latents) -> None:
    with pytest.raises(ValueError, match=r"z_i \(2, 64\) and x_T \(1, 3, 16, 16\) are no latents"):
        replace(latents, x_T=latents.x_T[:1])


def test_photos_are_upright(pipe: Pipeline, tmp_path: Path) -> None:
    """What a camera says of its orientation holds for images, and masks, that users opened."""
    turned, exif = Image.new("RGB", (32, 24), (0, 0, 200)), Image.Exif()
    turned.paste((200, 0, 0), (0, 0, 16, 24))
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(tmp_path / "photo.png", exif=exif)
    photo, upright = (
        Image.open(tmp_path / "photo.png"),
        turned.transpose(Image.Transpose.ROTATE_270),
    )
    assert torch.equal(pipe.embed_images(photo), pipe.embed_images(upright))
    assert torch.equal(pipe.squares(photo), pipe.squares(upright))
    quick = {"decoder_num_inference_steps": 1, "prior_num_inference_steps": 1, "resamples": 1}
    quick |= {"super_res_num_inference_steps": 1, "output_type": "tensor"}
    mask = Image.new("L", turned.size)
    mask.paste(255, (2, 2, 9, 9))
    mask.save(tmp_path / "mask.png", exif=exif)
    made = [
        pipe.inpaint(image, "a star", area, **quick).images
        for image, area in (
            (photo, Image.open(tmp_path / "mask.png")),
            (upright, mask.transpose(Image.Transpose.ROTATE_270)),
        )
    ]
    assert made[0].shape[-2:] == (32, 24)
    assert torch.equal(*made)


def test_captions_that_are_cut_are_said(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    long, quick = "a red circle " * 40 + "zebra", {"decoder_num_inference_steps": 1, **SMALL}
    for call in (
        lambda: pipe(long, prior_num_inference_steps=1, **quick),
        lambda: pipe.inpaint(pictures[0], long, boxes=[(1, 1, 9, 9)], **quick),
        lambda: pipe.edit(pictures[0], long, **quick),
        lambda: pipe.edit(pictures[0], "a red circle", long, **quick),
        lambda: pipe.embed_texts(["a red circle", long]),
        lambda: pipe.text_direction(long),
    ):
        with pytest.warns(Notice, match="24 tokens of a caption; .*zebra.* is ignored"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        pipe.embed_texts("a red circle")


def test_images_whose_files_are_damaged(pipe: Pipeline, tmp_path: Path) -> None:
    """Pillow opens lazily: what is wrong with the pixels shows when they are read."""
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    for call in (pipe.vary, pipe.embed_images, pipe.invert, pipe.upscale):
        with pytest.raises(ValueError, match=r"short\.png is damaged or cut short"):
            call(Image.open(tmp_path / "short.png"))


def test_theta_of_any_number_type(pipe: Pipeline, latents: Latents) -> None:
    quick = SMALL | {"decoder_num_inference_steps": 2}
    made = [
        pipe.edit(latents, "a star", theta=theta, **quick).images
        for theta in (0.5, torch.tensor(0.5), torch.tensor([0.5]), (0.5,))
    ]
    assert all(torch.equal(images, made[0]) for images in made[1:])


def test_bad_manipulations(pipe: Pipeline, pictures: list[Image.Image], latents: Latents) -> None:
    for call, says in (
        (lambda: pipe.blend(pictures[:1]), "at least 2 of each"),
        (lambda: pipe.blend(pictures, weights=[1]), "1 weight was given for 2"),
        (lambda: pipe.blend(pictures, noise="both"), "unknown noise 'both'; known: fixed, slerp"),
        (lambda: pipe.edit(latents, "a star", theta=1.5), "θ is 1.5"),
        (lambda: pipe.edit(latents, "a star", theta=[]), "between 0 and 1"),
        (lambda: pipe.edit(latents, "a star", "a star"), "nothing to change"),
        (lambda: pipe.edit(latents, " "), "the prompt is empty"),
        (lambda: pipe.probe(latents, latents.z_i), "2 images were given"),
        (lambda: pipe.probe(pictures[0], latents.z_i[:1]), "take more"),
        (
            lambda: pipe.probe(pictures[0], latents.z_i, [65]),
            "a number of components is 65; it must be between 0 and 64",
        ),
        (lambda: pipe.invert(pictures, 0), "num_inference_steps is 0"),
        (lambda: pipe.invert("x.png"), "x.png does not exist"),
        (lambda: pipe.vary(None), "an array or a tensor, not NoneType"),
        (lambda: pipe.vary([]), "there is no image"),
        (lambda: pipe.vary(Image.new("RGB", (0, 5))), "0 x 5: it has no pixels"),
        (lambda: pipe.upscale(Image.new("RGB", (5, 0))), "5 x 0: it has no pixels"),
        (lambda: pipe.vary(latents, eta=float("nan")), "eta is nan"),
        (lambda: pipe.vary(latents, decoder_guidance_scale=float("inf")), "scale is inf"),
        (lambda: pipe.vary(latents, 0), "0 images were asked for"),
        (lambda: pipe.blend(latents, 1), "1 frames between 2 images"),
        (lambda: pipe.blend(latents, 10**9), "images were asked for at once"),
        (lambda: pipe.blend(latents, weights=[1, float("nan")]), "weights is nan"),
        (lambda: pipe.edit(latents, "a star", theta=float("nan")), "θ is nan"),
        (lambda: pipe.edit(latents, "a star", theta="0.4"), "θ is '0.4'"),
        (lambda: pipe.edit(latents, "a star", theta=[0.1] * 501), "1,002 images were asked for"),
        (lambda: pipe.edit(latents, 3), "a prompt must be a string, not int"),
        (lambda: pipe.embed_texts(["a star", ""]), "the prompt is empty"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
