"""Diversity and CLIP score: written out, per caption, and their intervals."""

import math

import pytest
import torch
import torch.nn.functional as F

from unclip.evaluation.metrics.spread import clip_score, diversity


def rows(count: int, seed: int, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 0.5


def test_diversity_is_the_mean_over_pairs() -> None:
    features = rows(9, 0)
    unit = F.normalize(features.double())
    pairs = [1 - float(unit[i] @ unit[j]) for i in range(9) for j in range(i)]
    assert diversity(features).value == pytest.approx(sum(pairs) / len(pairs))
    assert diversity(features[:1].expand(5, -1)).value == pytest.approx(0.0, abs=1e-12)
    assert diversity(torch.eye(4)).value == pytest.approx(1.0)


def test_diversity_of_images_for_the_same_caption() -> None:
    features = rows(8, 1)
    captions = ["a", "b", "a", "b", "a", "c", "d", "d"]  # one of c is alone
    parts = [diversity(features[[k for k, c in enumerate(captions) if c == of]]).value
             for of in "abd"]  # fmt: skip
    found = diversity(features, captions)
    assert found.value == pytest.approx(sum(parts) / 3)
    assert found.low < found.value < found.high


def test_its_interval_is_what_new_images_change() -> None:
    found = [diversity(rows(60, seed)) for seed in range(80)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([(one.high - one.low) / (2 * 1.959964) for one in found])
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.25)


def test_clip_score() -> None:
    z_i, z_t = rows(7, 1), rows(7, 2)
    expected = 100 * F.cosine_similarity(z_i.double(), z_t.double())
    assert clip_score(3 * z_i, z_t).value == pytest.approx(float(expected.mean()))
    assert clip_score(z_i, z_i).value == pytest.approx(100.0)
    assert math.isnan(clip_score(z_i[:1], z_t[:1]).low)


def test_what_has_no_diversity() -> None:
    features = rows(4, 0)
    for arguments, says in (
        ((features[:1],), "of 1 image; it takes 2"),
        ((torch.zeros(3, 2),), "all 0, which have no direction"),
        ((features, ["a"]), "1 groups were given for 4 images"),
        ((features, list("abcd")), "make several for each caption"),
    ):
        with pytest.raises(ValueError, match=says):
            diversity(*arguments)
    with pytest.raises(ValueError, match="do not pair up"):
        clip_score(features, features[:, :2])
