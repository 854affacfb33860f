"""Retrieval and zero-shot classification, on embeddings with known answers and on a tiny CLIP."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unclip.data.registry import open_source
from unclip.data.world.scene import WorldConfig
from unclip.evaluation.intervals import Rate
from unclip.evaluation.metrics.retrieval import (
    class_embeddings,
    classify,
    clip_retrieval,
    preferred,
    ranks,
    retrieval,
    world_preferences,
    world_zero_shot,
)
from unclip.networks.clip import ImageEncoder, TextEncoder
from unclip.networks.preprocessing import ImageProcessorConfig
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP

PLAIN = {"max_objects": 2, "textures": ["plain"], "styles": ["plain"]}


def noisy(n: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    z_t = torch.randn(n, 16, generator=draw)
    return z_t, z_t + noise * torch.randn(n, 16, generator=draw)


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    torch.manual_seed(0)
    source = open_source("emoji:shapes", size=32)
    stage = ClipStage.build(
        ClipSettings("tiny", 520, 32), [source[i]["caption"] for i in range(50)]
    )
    config, state = stage.network.config, stage.network.state_dict()
    text, image = TextEncoder(config.text), ImageEncoder(config.vision)
    for tower in (text, image):
        tower.load_state_dict({key: state[key] for key in tower.state_dict()})
    size = config.vision.image_size
    return FrozenCLIP(text, stage.tokenizer, image, ImageProcessorConfig.for_clip(size))


def test_ranks_against_the_definition() -> None:
    z_t, z_i = noisy(40, 1.5)
    cosine = torch.nn.functional.cosine_similarity(z_t[:, None], z_i[None], dim=-1)
    expected = [sum(float(c) > float(row[i]) for c in row) for i, row in enumerate(cosine)]
    assert ranks(z_t, z_i).tolist() == expected


def test_perfect_and_collapsed_embeddings() -> None:
    z_t, z_i = noisy(64, 0.0)
    result = retrieval(z_t, 3.0 * z_i)
    assert result.among == 64
    for rates in (result.text_to_image, result.image_to_text):
        assert rates == {1: Rate(64, 64), 5: Rate(64, 64)}
    constant = torch.ones(64, 16)
    assert retrieval(constant, constant).text_to_image[5] == Rate(0, 64)


def test_recall_grows_with_k_and_falls_with_noise() -> None:
    clear, dim = (retrieval(*noisy(256, noise)) for noise in (0.5, 2.0))
    for result in (clear, dim):
        assert result.text_to_image[1].right <= result.text_to_image[5].right
    assert clear.text_to_image[1].accuracy > dim.text_to_image[1].accuracy > 0.05
    json.dumps(clear.to_dict())
    assert "recall@5 among 256" in str(clear)


def test_equal_captions_are_equally_right() -> None:
    z_t, z_i = noisy(10, 0.0)
    z_t[1], z_i = z_t[0], z_i[[1, 0, *range(2, 10)]]
    assert ranks(z_t, z_i).tolist()[0] > 0
    assert ranks(z_t, z_i, ["same", "same", *"abcdefgh"]).tolist()[0] == 0


def test_pools_are_searched_one_by_one() -> None:
    z_t, z_i = noisy(100, 1.5)
    pooled = retrieval(z_t, z_i, among=20, ks=(1,))
    assert pooled.text_to_image[1].total == 100
    right = [retrieval(z_t[a : a + 20], z_i[a : a + 20]) for a in range(0, 100, 20)]
    assert pooled.text_to_image[1].right == sum(r.text_to_image[1].right for r in right)
    assert retrieval(z_t, z_i, among=30).text_to_image[1].total == 90


def test_classification() -> None:
    classes = torch.eye(4, 16)
    truth = [0, 1, 2, 3, 3]
    images = 2.0 * classes[truth] + 0.1
    assert classify(images, classes, truth).accuracy == Rate(5, 5)
    assert classify(images, classes, [1, 1, 2, 3, 3]).to_dict()["accuracy"] == 0.8


def test_with_a_clip_and_the_world(clip: FrozenCLIP) -> None:
    source = open_source("emoji:shapes", size=32, split="held-out", options={"emoji": PLAIN})
    result = clip_retrieval(clip, source, n=24, pools=2)
    assert result.among == 24
    assert result.text_to_image[1].total == 48
    assert result.text_to_image[1].accuracy < 0.5  # it is untrained
    config = WorldConfig(size=32, textures=("plain",), styles=("plain",))
    scores = world_zero_shot(clip, config, n=20)
    assert {name: score.classes for name, score in scores.items()} == {"shape": 15, "colour": 11}
    assert scores["shape"].accuracy.total == 20


def test_the_nearer_caption_is_preferred_and_ties_are_not() -> None:
    z_i = torch.eye(4)
    right, wrong = z_i.clone(), z_i.roll(1, dims=0)
    assert preferred(z_i, 3 * right, wrong) == Rate(4, 4)
    assert preferred(z_i, right, 5 * right) == Rate(0, 4)
    assert preferred(z_i, wrong, right) == Rate(0, 4)


def test_preferences_in_the_world(clip: FrozenCLIP) -> None:
    rates = world_preferences(clip, WorldConfig(max_objects=2), 40)
    assert {name: rate.total for name, rate in rates.items()} == {"colours": 40, "relation": 40}
    none = world_preferences(clip, WorldConfig(max_objects=2, relations=()), 10)
    assert none["relation"] == Rate(0, 0)


def test_a_bag_of_words_is_blind_to_binding_and_order(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preferences see what retrieval hides: without places, a text is a bag of its tokens."""

    def bag(captions: list[str]) -> Any:
        ids = clip.tokenizer(captions).ids
        counts = torch.nn.functional.one_hot(ids, len(clip.tokenizer)).sum(dim=1).float()
        draw = torch.Generator().manual_seed(0)
        return SimpleNamespace(z_t=counts @ torch.randn(counts.shape[1], 64, generator=draw))

    monkeypatch.setattr(clip, "text", bag)
    rates = world_preferences(clip, WorldConfig(max_objects=2, sizes=("medium",)), 60)
    assert all(rate.right < rate.total / 2 for rate in rates.values())  # nearly all are ties


def test_class_embeddings_are_mean_directions(clip: FrozenCLIP) -> None:
    both = class_embeddings(clip, ["circle", "star"], ["a red {}", "a blue {}"])
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))
    apart = [class_embeddings(clip, ["star"], [t])[0] for t in ("a red {}", "a blue {}")]
    torch.testing.assert_close(both[1], torch.nn.functional.normalize(apart[0] + apart[1], dim=0))


def test_bad_input_is_said_in_one_sentence(clip: FrozenCLIP) -> None:
    z_t, z_i = noisy(8, 0.0)
    with pytest.raises(ValueError, match="do not pair up"):
        ranks(z_t, z_i[:, :4])
    with pytest.raises(ValueError, match="3 labels"):
        ranks(z_t, z_i, ["a", "b", "c"])
    with pytest.raises(ValueError, match="do not pair up"):
        retrieval(z_t, z_i[:6])
    for among in (1, 9, 0):
        with pytest.raises(ValueError, match="retrieval among"):
            retrieval(z_t, z_i, among=among)
    with pytest.raises(ValueError, match="0 to 7"):
        classify(z_t, z_i, [8] * 8)
    with pytest.raises(ValueError, match="and templates with"):
        class_embeddings(clip, ["circle"], ["a circle"])
    source = open_source("emoji:shapes", size=32)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        clip_retrieval(clip, source, n=1)
    blind = FrozenCLIP(clip.text_encoder, clip.tokenizer, None, None)
    with pytest.raises(ValueError, match="no image_encoder"):
        clip_retrieval(blind, source, n=2, pools=1)
