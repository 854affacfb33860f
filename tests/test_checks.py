import math

import numpy as np
import pytest
import torch

from unclip.checks import flag, many, printable, real_number, shown, whole_number


def test_one_thing_is_no_plural():
    assert many(1, "images without a caption") == "1 image without a caption"
    assert many(1234, "images") == "1,234 images"
    assert many(0, "threads") == "0 threads"
    assert many(1, "words were") == "1 word was"
    assert many(1, "images are") == "1 image is"
    assert many(1, "archives: unpack") == "1 archive: unpack"


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_python_numpy_and_torch_are_taken(value):
    number = whole_number(value, "seed", 0, 10)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize(
    "value",
    [None, "3", 3.0, 2.5, True, np.True_, torch.tensor(True), np.array([3, 4]), torch.ones(2), [3]],
)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match=r"seed is .*; it must be a whole number"):
        whole_number(value, "seed")


def test_bounds_are_said():
    assert whole_number(0, "n", 0) == 0
    with pytest.raises(ValueError, match="n is -1; it must be 0 or more"):
        whole_number(-1, "n", 0)
    with pytest.raises(ValueError, match="n is 5000; it must be between 1 and 4,096"):
        whole_number(5000, "n", 1, 4096)
    with pytest.raises(ValueError, match=r"n is .* digits|n is .*…"):
        whole_number(10**400, "n", 1, 4096)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), torch.tensor(2.0), np.int8(2)])
def test_real_numbers_of_python_numpy_and_torch_are_taken(value):
    number = real_number(value, "scale")
    assert number == 2.0
    assert type(number) is float


@pytest.mark.parametrize("value", [None, "2", True, [1.0], torch.ones(3), 1j, object()])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"scale is .*; it must be a number"):
        real_number(value, "scale")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match="it must be a finite number"):
        real_number(value, "scale")
    assert real_number(math.inf, "sigma", 0, math.inf) == math.inf


def test_what_is_shown_is_short_and_printable():
    assert shown("a") == "'a'"
    assert len(shown("x" * 100_000)) < 120
    assert len(shown(10**6000)) < 120

    class Rude:
        def __repr__(self):
            raise RuntimeError

    assert shown(Rude()) == "a Rude"


def test_a_terminal_obeys_nothing_that_is_printed():
    assert printable("a red ★ ❤️ family 👨‍👩‍👧") == "a red ★ ❤️ family 👨‍👩‍👧"
    assert printable("\x1b]0;title\x07 \u202eabc\x9b") == r"\x1b]0;title\x07 \u202eabc\x9b"


def test_flags_are_read_back() -> None:
    assert flag("--model", "models/mine") == "--model models/mine"
    assert flag("--model", "my model") == "--model 'my model'"
    assert flag("--model", "-dash") == "--model=-dash"
    assert flag("--model", "a\nb") == "--model 'a\\nb'"
