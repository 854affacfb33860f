"""Features are computed once for an extractor and the pixels of a batch; damage costs a pass."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unclip.evaluation.features.kept import kept_features
from unclip.pixels import to_signed


class Means:
    """The mean of each channel."""

    name, size, dimensions = "means", 4, 3

    def __init__(self, hash: str = "0" * 16) -> None:
        self.hash, self.calls = hash, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean(dim=(2, 3))


def batches(value: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(value)
    return [
        to_signed(torch.randint(256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8))
        for n in (3, 2)
    ]


def test_features_are_computed_once(tmp_path: Path) -> None:
    means, told = Means(), []
    first = kept_features(means, batches(), tmp_path, told.append)
    assert torch.equal(first, torch.cat(batches()).mean(dim=(2, 3)))
    assert told == [3, 2]
    assert torch.equal(kept_features(means, batches(), tmp_path), first)
    assert means.calls == 2
    kept_features(means, batches(10), tmp_path)  # other pixels
    assert means.calls == 4
    kept_features(other := Means("1" * 16), batches(), tmp_path)  # another network
    assert other.calls == 2


def test_damage_is_computed_again(tmp_path: Path) -> None:
    means = Means()
    first = kept_features(means, batches(), tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    assert torch.equal(kept_features(means, batches(), tmp_path), first)
    assert means.calls == 4


def test_nothing_has_no_features(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        kept_features(Means(), [], tmp_path)
