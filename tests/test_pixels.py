"""Bytes to [-1, 1] and back, by one formula and without loss."""

import torch

from unclip.pixels import to_levels, to_signed, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    signed = to_signed(LEVELS)
    assert signed.dtype == torch.float32
    assert torch.equal(signed, LEVELS / 127.5 - 1)  # to the last bit
    assert torch.equal(to_uint8(signed), LEVELS)
    assert signed[0] == -1
    assert signed[255] == 1


def test_floats_are_clamped_and_rounded() -> None:
    given = torch.tensor([-7.0, -1.0, 0.0, 0.001, 1.0, 1.001, torch.inf])
    assert to_uint8(given).tolist() == [0, 0, 128, 128, 255, 255, 255]
    assert to_levels(torch.tensor(0.0)) == 127.5


def test_levels_may_be_floats_and_stay_as_they_are() -> None:
    levels = torch.tensor([0.0, 10.5, 255.0])
    assert torch.equal(to_signed(levels), levels / 127.5 - 1)
    assert levels.tolist() == [0.0, 10.5, 255.0]
