"""Images of every kind at the border, and CLIP's preprocessing against transformers'."""

import contextlib
import io
import json
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unclip.data.transforms import (
    ImageProcessor,
    image_size,
    open_image,
    open_transparency,
    square,
    to_pil,
    to_rgb,
    to_tensor,
    upright,
)
from unclip.networks.preprocessing import ImageProcessorConfig, preprocess


def picture(width: int = 37, height: int = 23, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: compressible, and without symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    base = np.stack([200 * x / width, 200 * y / height, 100 + 100 * x * y / width / height], -1)
    return Image.fromarray((base + noise).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation_gives_the_upright_picture(kind: str, orientation: int) -> None:
    straight = picture(48, 32)
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # must be turned clockwise to be upright
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored[orientation](np.asarray(straight))))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(
        image, kind, exif=exif, **options | ({"lossless": True} if kind == "WEBP" else {})
    )
    opened = open_image(data)
    assert opened.size == straight.size
    assert np.abs(pixels(opened) - pixels(straight)).max() <= (12 if kind == "JPEG" else 0)
    assert upright(opened) is opened  # or it would be turned twice
    turned = upright(Image.open(io.BytesIO(data)))  # what users of the Python API have
    assert np.array_equal(pixels(turned), pixels(opened))
    assert upright(turned) is turned
    assert upright(turned.convert("L").convert("RGB")).size == straight.size


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(10)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        (tmp_path / "pipe.png", "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "a\0b.png", "cannot be the name of a file"),
        (tmp_path / "no\x1b[2J\n.png", r"no\\x1b\[2J\\n.png does not exist"),
    ):
        for reader in (open_image, image_size):
            with pytest.raises(ValueError, match=reason) as caught:
                reader(path)
            assert str(caught.value).isprintable()


def test_transparency_is_composited_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert open_image(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(half)).getpixel((0, 0)) == (255, 127, 127)
    assert open_image(encoded(Image.new("LA", (4, 4), (0, 0)))).getpixel((1, 1)) == (255,) * 3
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    assert open_image(encoded(palette)).getpixel((0, 0)) == (10, 20, 30)
    assert open_image(encoded(palette, transparency=1)).getpixel((0, 0)) == (255,) * 3
    grey = Image.new("L", (4, 4), 7)
    assert open_image(encoded(grey, transparency=7)).getpixel((0, 0)) == (255,) * 3
    premultiplied = Image.new("LA", (4, 4), (100, 0)).convert("La")
    assert to_rgb(premultiplied).getpixel((0, 0)) == (255,) * 3


def test_where_a_picture_is_transparent() -> None:
    image = Image.new("RGBA", (4, 2), (9, 9, 9, 255))
    image.putpixel((0, 0), (9, 9, 9, 0))
    image.putpixel((1, 0), (9, 9, 9, 127))
    image.putpixel((2, 0), (9, 9, 9, 128))
    file = io.BytesIO()
    image.save(file, "PNG")
    mask = open_transparency(file.getvalue(), name="mask")
    assert mask.mode == "L"
    assert np.asarray(mask).tolist() == [[255, 255, 0, 0], [0, 0, 0, 0]]
    opaque = Image.new("RGBA", (2, 2), (0, 0, 0, 255))
    for other, says in (
        (image.convert("RGB"), "has no transparency"), (opaque, "is transparent nowhere"),
    ):  # fmt: skip
        file = io.BytesIO()
        other.save(file, "PNG")
        with pytest.raises(ValueError, match=f"mask .*{says}"):
            open_transparency(file.getvalue(), name="mask")


def test_one_bit_cmyk_and_other_colour_spaces() -> None:
    assert open_image(encoded(Image.new("1", (3, 3), 1))).getpixel((0, 0)) == (255,) * 3
    source = picture(64, 64)
    for mode, kind, options in (
        ("CMYK", "JPEG", {"quality": 98}),
        ("CMYK", "TIFF", {}),
        ("YCbCr", "TIFF", {}),
    ):
        if mode == "YCbCr" and PIL.__version__.startswith("12.3"):
            continue  # it does not read what it has written
        opened = open_image(encoded(source.convert(mode), kind, **options))
        assert opened.mode == "RGB"
        assert np.abs(pixels(opened) - pixels(source)).mean() < 6, (mode, kind)


def test_deep_pixels_are_scaled_not_clipped() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    expected = np.repeat(ramp[..., None], 3, -1).astype(int)
    sixteen = Image.fromarray(ramp * 257)
    assert sixteen.mode == "I;16"
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(pixels(open_image(encoded(sixteen, kind))), expected)
    assert np.array_equal(pixels(to_rgb(Image.fromarray((ramp * 257).astype(np.int32)))), expected)
    wide = Image.fromarray(ramp.astype(np.int32) * 1000 - 50_000)  # stretched from min to max
    assert np.array_equal(pixels(to_rgb(wide)), expected)
    for scale in (1.0, 1 / 255):
        values = (ramp * scale).astype(np.float32)
        assert np.array_equal(
            pixels(open_image(encoded(Image.fromarray(values), "TIFF"))), expected
        )
    assert to_rgb(Image.fromarray(np.full((2, 2), 1e9, np.float32))).getpixel((0, 0)) == (0, 0, 0)
    for bad in (np.nan, np.inf, -np.inf):
        broken = Image.fromarray(np.array([[bad, 0.5]], np.float32))
        with pytest.raises(ValueError, match="NaN or infinite"):
            open_image(encoded(broken, "TIFF"))


def test_animation_gives_its_first_frame() -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(red, kind, save_all=True, append_images=[blue], **options)
        assert open_image(data).getpixel((0, 0)) == (255, 0, 0), kind


def test_big_jpegs_are_decoded_smaller_but_never_below_twice_the_size(tmp_path: Path) -> None:
    path = tmp_path / "big.jpg"
    picture(1600, 1200).save(path, quality=95)
    assert open_image(path).size == (1600, 1200)
    assert image_size(path) == (1600, 1200)
    small = open_image(path, size=64)
    assert 128 <= min(small.size) < 300
    close = np.abs(pixels(square(small, 64)) - pixels(square(open_image(path), 64)))
    assert close.mean() < 2
    assert min(open_image(path, size=1000).size) == 1200


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_bad_files_give_one_sentence_with_their_name(tmp_path: Path) -> None:
    whole = encoded(picture(200, 200))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"  # would start Ghostscript
    broken = {
        "cut.png": (whole[: len(whole) // 2], "damaged or cut short"),
        "cut.jpg": (encoded(picture(200, 200), "JPEG")[:900], "damaged or cut short"),
        "cut.gif": (encoded(picture(200, 200), "GIF")[:900], "damaged or cut short"),
        "text.png": (b"a red circle on a blue square\n", "not an image"),
        "empty.png": (b"", "not an image"),
        "script.eps": (eps, "not an image"),
        "bomb.png": (bomb(60_000, 60_000), "pixels"),
        "zero.png": (bomb(0, 5), "damaged|pixels|not an image"),
    }
    for name, (data, reason) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=reason) as caught:
            open_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        open_image(tmp_path / "folder.png")
    with pytest.raises(ValueError, match="does not exist"):
        open_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"upload 3 .*more than 1,000 pixels"):
        open_image(whole, max_pixels=1000, name="upload 3")
    with pytest.raises(ValueError, match="the image is not an image"):
        open_image(b"nonsense")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_raise_anything_but_value_error() -> None:
    draw = random.Random(0)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000"):
        whole = encoded(picture(24, 24), kind)
        for _ in range(30):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            with contextlib.suppress(ValueError):  # and nothing else
                assert open_image(bytes(data), max_pixels=10**6).mode == "RGB"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_exif_does_not_stop_the_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(data).size == (37, 23)


def test_tensor_and_back_is_exact() -> None:
    image = picture(9, 5)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 5, 9)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert tensor.abs().max() <= 1
    assert np.array_equal(pixels(to_pil(tensor)), pixels(image))
    levels = torch.arange(256, dtype=torch.float32).div(127.5).sub(1).expand(3, 1, 256)
    assert np.array_equal(pixels(to_pil(levels))[0, :, 0], np.arange(256))
    extreme = torch.tensor([-7.0, -1.0, 0.0, 1.0, 9.0]).expand(3, 1, 5).bfloat16()
    assert pixels(to_pil(extreme))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_pil(torch.full((3, 2, 2), torch.nan))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 2**32))
def test_square_is_square_for_every_shape(width: int, height: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert square(picture(width, height), size, "random", generator).size == (size, size)
    assert square(picture(width, height), size).size == (size, size)


def test_square_crops_what_it_says() -> None:
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    assert pixels(square(Image.fromarray(stripes), 8)).min() >= 0
    assert pixels(square(Image.fromarray(stripes), 10)).min() == 255
    wide = picture(60, 10)
    starts = set()
    for seed in range(40):
        crop = square(wide, 10, "random", torch.Generator().manual_seed(seed))
        again = square(wide, 10, "random", torch.Generator().manual_seed(seed))
        assert crop.tobytes() == again.tobytes()
        starts.add(crop.tobytes())
    assert len(starts) > 20
    tall = square(wide.transpose(Image.Transpose.TRANSPOSE), 10)
    assert np.array_equal(pixels(tall).transpose(1, 0, 2), pixels(square(wide, 10)))


def test_absurd_aspect_ratios_cost_nothing() -> None:
    thin = Image.new("RGB", (1, 10_000), (10, 20, 30))
    assert square(open_image(encoded(thin)), 1024).getpixel((5, 5)) == (10, 20, 30)
    config = ImageProcessorConfig(size=224, crop_size=224)
    assert ImageProcessor(config)(thin).shape == (1, 3, 224, 224)  # 2 gigapixels if done naively


def test_flip_is_off_unless_asked_for() -> None:
    image = picture(16, 16)
    plain = square(image, 16)
    assert plain.tobytes() == image.tobytes()
    flips = [
        square(image, 16, generator=torch.Generator().manual_seed(seed), flip=True)
        for seed in range(20)
    ]
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert {flip.tobytes() for flip in flips} == {image.tobytes(), mirrored}


def test_square_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        square(picture(), 0)
    with pytest.raises(ValueError, match="needs a generator"):
        square(picture(), 8, "random")
    with pytest.raises(ValueError, match="needs a generator"):
        square(picture(), 8, flip=True)


MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX")


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    if "A" in mode or "a" in mode:
        alpha = Image.linear_gradient("L").resize(image.size)
        image = image.convert("RGBA")
        image.putalpha(alpha)
        if mode == "PA":
            image = image.convert("P").convert("PA")
            image.putalpha(alpha)
            return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_equals_transformers_in_every_mode(mode: str) -> None:
    oracle_class = pytest.importorskip("transformers").CLIPImageProcessorPil
    config = ImageProcessorConfig(size=24, crop_size=24)
    oracle = oracle_class(**config.to_json())
    level = 1 / 255 / min(config.image_std)
    for width, height in ((24, 24), (37, 23), (23, 61), (25, 24), (101, 100), (70, 300), (12, 11)):
        image = in_mode(picture(width, height), mode)
        ours = ImageProcessor(config)(image)
        theirs = oracle(image, return_tensors="pt")["pixel_values"]
        assert ours.shape == theirs.shape == (1, 3, 24, 24)
        assert (ours - theirs).abs().max() <= level * 1.01, (mode, width, height)
        assert (ours - theirs).abs().mean() <= level / 20


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": 17, "width": 31}},
        {"size": 20, "crop_size": 33},
        {"size": 41, "crop_size": 16},
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False},
        {"resample": 2},
        {"resample": 1},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 0.002},
    ],
)
def test_equals_transformers_in_every_setting(change: dict[str, object]) -> None:
    oracle_class = pytest.importorskip("transformers").CLIPImageProcessorPil
    config = ImageProcessorConfig.from_json({"size": 24, "crop_size": 24, **change})
    image = picture(45, 30)
    theirs = oracle_class(**config.to_json())(image, return_tensors="pt")["pixel_values"]
    ours = ImageProcessor(config)(image)
    level = config.rescale_factor if config.do_rescale else 1.0
    level /= min(config.image_std) if config.do_normalize else 1.0
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= level * 1.01
    if config.resample in (2, 3):
        batch = to_tensor(image)[None]
        assert (preprocess(batch, config) - theirs).abs().max() <= level * 1.6


def test_very_long_pictures_are_close_to_transformers() -> None:
    oracle = pytest.importorskip("transformers").CLIPImageProcessorPil
    config = ImageProcessorConfig(size=24, crop_size=24)
    for width, height in ((7, 300), (500, 9)):
        ours = ImageProcessor(config)(picture(width, height))
        theirs = oracle(**config.to_json())(picture(width, height), return_tensors="pt")
        assert (ours - theirs["pixel_values"]).abs().mean() < 0.5 / 255 / 0.26


def test_transformers_opens_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    oracle_class = pytest.importorskip("transformers").CLIPImageProcessorPil
    config = ImageProcessorConfig(size=32, crop_size=32, resample=2)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config.to_json()))
    oracle = oracle_class.from_pretrained(tmp_path)
    assert ImageProcessorConfig.from_json(json.loads(oracle.to_json_string())) == config
    assert ImageProcessorConfig.from_json(config.to_json()) == config


def test_processor_takes_lists_and_refuses_paths() -> None:
    processor = ImageProcessor(ImageProcessorConfig(size=8, crop_size=8))
    assert processor([picture(), picture(9, 50)]).shape == (2, 3, 8, 8)
    for nothing in ([], "photo.png", [np.zeros((8, 8, 3))]):
        with pytest.raises(ValueError, match="expected Pillow images"):
            processor(nothing)  # type: ignore[arg-type]
    loose = ImageProcessor(ImageProcessorConfig(size=8, do_center_crop=False))
    with pytest.raises(ValueError, match="same size"):
        loose([picture(), picture(9, 50)])
    strict = ImageProcessor(ImageProcessorConfig(do_convert_rgb=False))
    with pytest.raises(ValueError, match="do_convert_rgb"):
        strict(picture().convert("L"))


@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 40), (23, 61), (64, 32), (12, 12)])
def test_tensors_are_prepared_like_pictures(height: int, width: int) -> None:
    config = ImageProcessorConfig(size=24, crop_size=24)
    image = picture(width, height)
    batch = to_tensor(image)[None].requires_grad_()
    ours = preprocess(batch, config)
    theirs = ImageProcessor(config)(image)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1.6 / 255 / min(config.image_std)
    ours.sum().backward()
    assert batch.grad is not None
    with pytest.raises(ValueError, match="bicubic"):
        preprocess(batch, ImageProcessorConfig(resample=1))
