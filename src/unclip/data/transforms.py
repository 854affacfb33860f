"""Images at the border: files of any kind become RGB, RGB becomes tensors in [-1, 1] and back.

Shapes: N batch, C = 3 channels, H height, W width, n side of a square image in pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from os import PathLike, fspath
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unclip.checks import printable
from unclip.files import open_regular
from unclip.networks.preprocessing import ImageProcessorConfig, normalise
from unclip.pixels import to_signed, to_uint8

MAX_PIXELS = 178_956_970
"""Largest image that is opened by default, the limit at which Pillow too refuses: 0.5 GB as RGB."""

# Pillow knows forty formats; these are the ones for pictures. The rest stays shut on purpose: EPS
# starts Ghostscript, TGA has no signature, so that text files pass for pictures.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc"),
    *(".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pgm", ".pjp", ".pjpeg", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""File name endings, in lower case, that count as images in a folder."""

_ORIENTATION = 0x0112  # the EXIF tag
_WITH_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # Pillow's keys
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: str | PathLike[str] | bytes,
    *,
    size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> Image.Image:
    """Open any picture as upright 8-bit RGB.

    EXIF orientation is applied, transparency is composited on white, animations give their first
    frame, deeper pixels are scaled to 8 bits (`to_rgb`). Any aspect ratio opens, 1 x 10000
    included. Colour profiles are ignored: values are taken as sRGB.

    source: a path, or the bytes of a file. size: the shorter side that will be needed, in pixels;
    big JPEGs are then decoded at a fraction of their size, never under twice `size`.
    name: what to call the picture in errors; the path by default.

    Raises ValueError, one sentence with the name, for anything that is not a whole picture of at
    most `max_pixels`.
    """
    name = _name_of(source) if name is None else printable(name)
    with _opened(source, name, max_pixels) as image:
        with _named_errors(name):
            if size is not None:
                _decode_smaller(image, 2 * size)
            image.load()
        turn = _turn(image)
        try:
            pixels = to_rgb(image)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        pixels = pixels.copy() if turn is None else pixels.transpose(turn)
    pixels.info.clear()  # above all the orientation, which is done
    return pixels


def open_transparency(
    source: str | PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """Where a picture is transparent: mode L, upright, 255 there (alpha below 128 of 255), else 0.

    Raises:
        ValueError: as `open_image`; nothing is transparent, or the picture has no transparency.
    """
    name = _name_of(source) if name is None else printable(name)
    with _opened(source, name, max_pixels) as image:
        with _named_errors(name):
            image.load()
        turn = _turn(image)
        there = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        if not there:
            raise ValueError(f"{name} has no transparency; what is transparent in it is repainted")
        alpha = image.convert("LA" if image.mode == "La" else "RGBA").getchannel("A")
    mask = alpha.point([255] * 128 + [0] * 128)
    if mask.getextrema() == (0, 0):
        raise ValueError(f"{name} is transparent nowhere; what is transparent in it is repainted")
    return mask if turn is None else mask.transpose(turn)


def upright(image: Image.Image) -> Image.Image:
    """A Pillow image turned as its EXIF orientation asks, which it then no longer carries.

    What `open_image` gives is upright already, and passes unchanged.

    Raises:
        ValueError: see `read_pixels`.
    """
    read_pixels(image)  # first, because Pillow turns TIFFs itself when it reads them
    turn = _turn(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key not in _WITH_ORIENTATION}
    return turned


def read_pixels(image: Image.Image) -> None:
    """Let a Pillow image, which opens lazily, read its file now.

    Raises:
        ValueError: the file is damaged or cut short, or the image has no pixels.
    """
    with _named_errors(str(getattr(image, "filename", "") or "the image")):
        image.load()
    if 0 in image.size:
        raise ValueError(f"the image is {image.width} x {image.height}: it has no pixels")


def image_size(
    source: str | PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> tuple[int, int]:
    """(width, height) in pixels from the header alone, as stored; ValueError as `open_image`."""
    name = _name_of(source) if name is None else printable(name)
    with _opened(source, name, max_pixels) as image:
        return image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Pillow image of any mode -> mode RGB, 8 bits, transparency on white.

    16-bit grey is scaled by 255/65535. 32-bit integers are taken as 16-bit where all values fit
    into 0..65535, otherwise stretched from their smallest to their largest value. Floats are taken
    as 0..1, else as 0..255, where all values fit, otherwise stretched. ValueError for NaN or
    infinite values.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_rgb(image)
    if image.mode == "La":  # Pillow converts it to LA and to nothing else
        image = image.convert("LA")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """Pillow image of any mode -> (3, H, W) float32 in [-1, 1]."""
    return to_signed(to_bytes(image))


def to_bytes(image: Image.Image) -> Tensor:
    """Pillow image of any mode -> (3, H, W) uint8, contiguous."""
    pixels = np.array(to_rgb(image))  # (H, W, 3), a copy that torch may own
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1], clamped and rounded -> Pillow RGB; exact inverse of `to_tensor`.

    ValueError for NaN or infinite values: they would turn into arbitrary pixels.
    """
    assert image.ndim == 3, f"expected (3, H, W), got {tuple(image.shape)}"
    assert image.shape[0] == 3, f"expected (3, H, W), got {tuple(image.shape)}"
    image = image.detach().float().cpu()
    if not bool(torch.isfinite(image).all()):
        raise ValueError("the image holds NaN or infinite values, so it cannot be shown or saved")
    return from_bytes(to_uint8(image))


def from_bytes(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 -> Pillow RGB."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def square(
    image: Image.Image,
    size: int,
    crop: Literal["centre", "random"] = "centre",
    generator: torch.Generator | None = None,
    *,
    flip: bool = False,
) -> Image.Image:
    """Cut the largest square out of the picture and scale it to (size, size).

    crop: "centre", or "random" along the longer side. flip: mirror every second picture at random;
    off by default, since captions say left and right. Both draws need a `generator`.

    The filter is Pillow's antialiased bicubic: CLIP's own, sharper than box and with about half the
    ringing of Lanczos at the hard edges of drawings. Cropping first costs the same for any aspect
    ratio, and reads the same pixels as resizing first: the filter sees beyond the crop.
    """
    if size < 1:
        raise ValueError(f"the image size must be at least 1 pixel, not {size}")
    if (crop == "random" or flip) and generator is None:
        raise ValueError("a random crop or flip needs a generator")
    width, height = image.size
    side = min(width, height)
    room = max(width, height) - side
    offset = room // 2 if crop == "centre" else _below(room + 1, generator)
    left, top = (offset, 0) if width > height else (0, offset)
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    if flip and _below(2, generator) == 1:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def _below(bound: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(bound, (), generator=generator))


@cache
def _formats() -> tuple[str, ...]:
    Image.init()  # imports every plugin once, so that threads do not race for it later
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _name_of(source: str | PathLike[str] | bytes) -> str:
    return "the image" if isinstance(source, bytes) else printable(fspath(source))


@contextmanager
def _opened(
    source: str | PathLike[str] | bytes, name: str, max_pixels: int
) -> Iterator[Image.Image]:
    """The picture with its header read; its file is open until the block ends."""
    with BytesIO(source) if isinstance(source, bytes) else _open_file(source, name) as file:
        with _named_errors(name):
            image = Image.open(file, formats=_formats())
        with image:
            width, height = image.size
            if width * height == 0 or width * height > max_pixels:
                reason = "no pixels" if width * height == 0 else f"more than {max_pixels:,} pixels"
                raise ValueError(f"{name} is {width} x {height}, {reason}, so it is not opened")
            yield image


def _open_file(path: str | PathLike[str], name: str) -> BinaryIO:
    """The file, unless it is none that ends: a pipe would keep its reader waiting."""
    try:
        return open_regular(path)
    except OSError as error:
        raise _said(name, error) from None


def _decode_smaller(image: Image.Image, shorter: int) -> None:
    """Let the JPEG decoder skip resolution while the shorter side stays at least `shorter`."""
    scale = shorter / min(image.size)
    if scale < 1:
        image.draft(image.mode, (round(image.width * scale), round(image.height * scale)))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to refuse the picture
        return None


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    values: npt.NDArray[np.float64] = np.asarray(image).astype(np.float64)  # (H, W)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise ValueError("the image holds NaN or infinite values; replace them by numbers")
    limits = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    for limit in limits:
        if low >= 0 and high <= limit:
            low, high = 0.0, limit
            break
    levels = (values - low) * (255 / max(high - low, 1e-300))
    return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Whatever Pillow raises becomes a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise _said(name, error) from None


def _said(name: str, error: Exception) -> ValueError:
    """The sentence for what the system or a decoder raised."""
    match error:
        case FileNotFoundError():
            reason = "does not exist"
        case IsADirectoryError():
            reason = "is a folder, not an image"
        case PermissionError():
            reason = "cannot be read: permission denied"
        case UnidentifiedImageError():
            reason = f"is not an image in a known format ({', '.join(_formats())})"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning() | MemoryError():
            reason = "has too many pixels to be opened"
        case OSError() if error.strerror:  # the system's, not a decoder's
            reason = f"cannot be read: {error.strerror}"
        case _:
            reason = f"is damaged or cut short ({printable(str(error))})"
    return ValueError(f"{name} {reason}")


# --- CLIP's preprocessing -------------------------------------------------------------------------

_LONG = 8  # aspect ratio from which on only the crop is computed


class ImageProcessor:
    """CLIP's preprocessing with Pillow: shorter side to n, centre crop, normalise.

    Equal to transformers' CLIPImageProcessor (its Pillow backend) within one grey level, with two
    exceptions: modes deeper than 8 bits, which it clips at 255 and `to_rgb` scales (and RGBa, whose
    alpha it drops), and images longer than 8:1, where Pillow orders its two passes differently.
    """

    def __init__(self, config: ImageProcessorConfig | None = None) -> None:
        self.config = config or ImageProcessorConfig()

    def __call__(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Pillow images of any mode and size -> (N, 3, n, n) float32, normalised."""
        images = [images] if isinstance(images, Image.Image) else list(images)
        if not images or not all(isinstance(image, Image.Image) for image in images):
            raise ValueError("expected Pillow images, at least one; `open_image` opens a file")
        pixels = [self._pixels(image) for image in images]
        if len({tuple(one.shape) for one in pixels}) > 1:
            raise ValueError("without do_center_crop the images must all have the same size")
        return normalise(torch.stack(pixels).float(), self.config)

    def _pixels(self, image: Image.Image) -> Tensor:
        if not self.config.do_convert_rgb and image.mode != "RGB":
            raise ValueError(f"the image has mode {image.mode}, and do_convert_rgb is off")
        image = to_rgb(image)
        height, width = self.config.resized(image.height, image.width)
        top, left, bottom, right = self.config.crop_box(height, width)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if (height, width) != (image.height, image.width):
            filter_ = Image.Resampling(self.config.resample)
            if max(height, width) <= _LONG * min(height, width):
                image = image.resize((width, height), filter_)
            else:  # compute the inside of the crop alone: resized whole, 1 x 10000 fills gigabytes
                x, y = image.width / width, image.height / height
                box = (x0 * x, y0 * y, x1 * x, y1 * y)
                image = image.resize((x1 - x0, y1 - y0), filter_, box=box)
                left, top, right, bottom = left - x0, top - y0, right - x0, bottom - y0
        return to_bytes(image.crop((left, top, right, bottom)))  # pads with black
