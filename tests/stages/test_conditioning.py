"""The frozen CLIP, conditions in batches, and dropping."""

import json
from pathlib import Path

import pytest
import torch

from unclip.stages.conditioning import FrozenCLIP, dropped
from unclip.storage.folder import ModelFolder
from unclip.tokenizer import Tokenizer

CAPTIONS = ["a red circle", "a small blue square to the left of a large green star", ""]


def test_nothing_of_it_trains(clip: FrozenCLIP) -> None:
    assert clip.image_encoder is not None
    for tower in (clip.text_encoder, clip.image_encoder):
        assert not tower.training
        assert not any(p.requires_grad for p in tower.parameters())


def test_a_caption_is_the_same_alone_and_in_a_batch(clip: FrozenCLIP) -> None:
    batch = clip.text(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        alone = clip.text([caption])
        length = alone.hidden.shape[1]
        torch.testing.assert_close(alone.z_t[0], batch.z_t[row])
        torch.testing.assert_close(alone.hidden[0], batch.hidden[row, :length])
        assert batch.mask[row].sum() == length


def test_conditions_are_repeated_expanded_and_joined(clip: FrozenCLIP) -> None:
    text, null = clip.text(CAPTIONS), clip.text([""])
    twice = text.repeat(2)
    assert len(twice) == 6
    assert torch.equal(twice.z_t[0], twice.z_t[1])
    assert torch.equal(twice.z_t[::2], text.z_t)
    both = text + null.expand(3)
    assert len(both) == 6
    length = null.hidden.shape[1]
    assert torch.equal(both.hidden[3:, :length], null.hidden.expand(3, -1, -1))
    assert not both.mask[3:, length:].any()
    assert torch.equal(both[slice(0, 3)].mask, text.mask)


def test_captions_are_dropped_at_the_rate_asked_for() -> None:
    captions = ["x"] * 20_000
    for rate in (0.0, 0.1, 0.5, 1.0):
        gone = dropped(captions, rate, torch.Generator().manual_seed(0)).count("")
        assert gone / len(captions) == pytest.approx(rate, abs=0.01)


def test_the_context_length_is_the_text_encoders(tiny_copy: Path) -> None:
    file = tiny_copy / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 1e30}))
    clip = FrozenCLIP.load(ModelFolder(tiny_copy))
    assert clip.tokenizer.context_length == 24
    assert clip.text(["red " * 100]).hidden.shape[1] == 24


def test_a_tokenizer_of_another_model_is_refused(tiny_copy: Path) -> None:
    Tokenizer.train(["every word is a new one here"] * 9, 620).save_pretrained(
        tiny_copy / "tokenizer"
    )
    vocab = json.loads((tiny_copy / "tokenizer" / "vocab.json").read_text())
    vocab["surplus"] = 10_000
    (tiny_copy / "tokenizer" / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(ValueError, match="ids up to 10000, but the text encoder knows 560"):
        FrozenCLIP.load(ModelFolder(tiny_copy))


def test_text_to_image_folders_have_no_image_tower(tiny_copy: Path) -> None:
    index = json.loads((tiny_copy / "model_index.json").read_text())
    del index["image_encoder"], index["feature_extractor"]
    (tiny_copy / "model_index.json").write_text(json.dumps(index))
    clip = FrozenCLIP.load(ModelFolder(tiny_copy))
    assert len(clip.text(["a"])) == 1
    with pytest.raises(ValueError, match="no image_encoder: it takes captions"):
        clip.image(torch.zeros(1, 3, 32, 32))


def test_it_is_saved_as_it_was_loaded(clip: FrozenCLIP, tmp_path: Path) -> None:
    clip.save(ModelFolder(tmp_path))
    again = FrozenCLIP.load(ModelFolder(tmp_path))
    assert torch.equal(again.text(CAPTIONS).z_t, clip.text(CAPTIONS).z_t)
    images = torch.rand(2, 3, 40, 50) * 2 - 1
    assert torch.equal(again.image(images), clip.image(images))
