"""The mark is unseen, survives what it should, and is not found where it is not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from unclip.outputs import watermark
from unclip.outputs.images import labelled_sheet
from unclip.outputs.watermark import find, mark

NUMBER = 0x8421C3A5


def scene(seed: int, size: int) -> Image.Image:
    """Shapes on a soft texture, with black and white."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for colour in ("white", "black", "red"):
        x, y = random.integers(0, size // 2, 2)
        draw.ellipse((x, y, x + size // 3, y + size // 4), fill=colour)
    grain = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
    return Image.blend(image, grain.filter(ImageFilter.GaussianBlur(1)), 0.1)


def psnr(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, float) - np.asarray(other, float)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def jpeg(image: Image.Image, quality: int = 50) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def cropped(image: Image.Image) -> Image.Image:
    width, height = (round(0.9 * side) for side in image.size)
    return image.crop((11, 5, 11 + width, 5 + height))


KINDS = {
    "flat": lambda size: Image.new("RGB", (size, size), (40, 90, 200)),
    "white": lambda size: Image.new("RGB", (size, size), "white"),
    "scene": lambda size: scene(1, size),
    "grain": lambda size: Image.effect_noise((size, size), 20).convert("RGB"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [128, 256])
def test_a_mark_is_found_and_not_seen(kind: str, size: int) -> None:
    image = KINDS[kind](size)
    number = NUMBER if size == 256 else 0
    marked = mark(image, number)
    found = find(marked)
    assert psnr(image, marked) >= 41
    assert found.marked
    assert found.scale == 1
    assert (found.number or 0) == number
    assert found.sure == (size == 256)
    assert not find(image).marked


@pytest.mark.parametrize("change", [jpeg, halved, cropped])
def test_the_number_survives(change: Callable[[Image.Image], Image.Image]) -> None:
    found = [find(change(mark(scene(seed, 256), NUMBER + seed))) for seed in range(4)]
    assert [one.number for one in found] == [NUMBER + seed for seed in range(4)]
    assert all(one.marked for one in found)


def test_presence_survives_jpeg_at_128_pixels() -> None:
    assert all(find(jpeg(mark(scene(seed, 128)))).marked for seed in range(8))


def test_any_shape_and_a_grey_image_can_be_marked() -> None:
    image = scene(2, 400).crop((3, 0, 333, 140))
    assert find(mark(image)).marked
    grey = mark(image.convert("L"))
    assert grey.mode == "L"
    assert find(grey).marked


def test_unmarked_images_are_not_found_and_p_values_are_bounds() -> None:
    found = [find(scene(seed, 128)) for seed in range(16)]
    assert not any(one.marked for one in found)
    # By Hoeffding's inequality at most one in ten has p < 0.1; with the union bound far fewer.
    assert sum(one.p < 0.1 for one in found) <= 2


def test_a_pattern_that_repeats_is_no_mark() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    image = Image.fromarray(np.tile(tile, (2, 2)))
    assert not find(image).marked


def test_what_is_kept_is_kept_bit_for_bit() -> None:
    before = scene(3, 256)
    after = before.copy()
    after.paste(scene(4, 160), (40, 60))
    marked = np.asarray(mark(after, NUMBER, kept=before))
    same = (np.asarray(before) == np.asarray(after)).all(-1)
    assert (marked[same] == np.asarray(before)[same]).all()
    assert find(Image.fromarray(marked)).marked


def test_a_sheet_is_marked_in_its_images_alone() -> None:
    pictures = [[scene(seed, 128) for seed in row] for row in ((1, 2), (3, 4))]
    sheet = labelled_sheet(pictures, ["one", "two"], ["a", "b"])
    boxes = [box for row in sheet.boxes for box in row if box is not None]
    assert [sheet.image.crop(box).tobytes() for box in boxes] == [
        one.tobytes() for row in pictures for one in row
    ]
    marked = mark(sheet.image, NUMBER, only=boxes)
    assert find(marked).number == NUMBER
    assert all(find(marked.crop(box)).marked for box in boxes)
    assert all(psnr(sheet.image.crop(box), marked.crop(box)) > 40 for box in boxes)
    for image in (sheet.image, marked):
        for box in boxes:
            image.paste("white", box)
    assert sheet.image.tobytes() == marked.tobytes()


def test_a_number_that_cannot_be_said_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        mark(scene(0, 127))
    for number in (-1, 2**32):
        with pytest.raises(ValueError, match="cannot say"):
            mark(scene(0, 256), number)
    with pytest.raises(ValueError, match="cannot say"):
        mark(scene(0, 128), 1)


def test_the_pattern_is_the_one_of_every_version() -> None:
    """Images that are marked today are to be found by every later version."""
    pattern = watermark._pattern()
    assert pattern.places[:3].tolist() == [[4, 2, 4], [7, 13, 6], [15, 2, 7]]
    assert pattern.signs[:8].tolist() == [1, -1, -1, -1, -1, 1, 1, -1]
