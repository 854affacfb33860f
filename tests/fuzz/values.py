"""Python values that nobody expects, and values close to good ones."""

import decimal
import fractions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip import Latents, Settings


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


def values() -> list[Any]:
    """What can be given for anything. Made anew each time: some can be used up."""
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


def near(good: Any) -> list[Any]:
    """What means the same as a good value, or nearly."""
    if isinstance(good, Tensor):
        array = good.numpy()
        return [
            *(array, array.astype(">f8"), array.T, good.double(), good.half(), good.long()),
            *(good.tolist(), good[:1], good[None], good * torch.nan, good.to("meta")),
            good.clone().requires_grad_(),
        ]
    if isinstance(good, Image.Image):
        modes = [good.convert(mode) for mode in ("1", "P", "CMYK", "RGBA", "F", "I;16")]
        return [[good], (good,), np.array(good), good.tobytes(), good.resize((1, 500)), *modes]
    if isinstance(good, str | Path):
        kinds = (_Text, np.str_, Path, str.encode, list, str.upper, lambda text: [text])
        return [f"{good} ", *(kind(str(good)) for kind in kinds)]
    if isinstance(good, int | float):
        numbers = (np.int64, np.int8, np.float32, np.array, torch.tensor, decimal.Decimal)
        own = (float, str, bool, fractions.Fraction, lambda x: x + 1, lambda x: -x, lambda x: [x])
        return [kind(good) for kind in (*numbers, *own)]
    if isinstance(good, list | tuple):
        return [list(good), tuple(good), iter(good), good * 2, good[:1], good[:0], [good]]
    return [None, good, [good], str(good)]


def shown_value(value: Any) -> str:
    """A little of a value, for a title."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = type(value).__name__
    return ascii(text[:60])[1:-1]
