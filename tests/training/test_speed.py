"""How a step's time goes on from measured ones."""

import pytest

from unclip.training.speed import _extended


def test_a_line_through_two_measurements() -> None:
    """An optimiser of 1 s, and 0.1 s an image."""
    assert _extended([(2, 1.2), (10, 2.0)], 100) == pytest.approx(11.0)
    assert _extended([(2, 1.2), (8, 1.0), (10, 2.0)], 10) == 2.0


def test_noise_makes_no_step_shorter_than_what_was_measured() -> None:
    assert _extended([(2, 1.2), (10, 0.9)], 100) == 0.9


def test_one_image_is_all() -> None:
    assert _extended([(1, 0.5)], 1) == 0.5
