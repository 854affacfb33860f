"""Extractors by name and by path, and what is none."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from unclip import Pipeline
from unclip.checks import Notice
from unclip.evaluation.features.extractor import (
    NAMED,
    Extractor,
    features_of,
    open_extractor,
    open_extractors,
)
from unclip.evaluation.features.judge import of_judge
from unclip.evaluation.judge.network import load_judge
from unclip.files import read_safetensors, write_json, write_safetensors
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.encoders import CLIP
from unclip.storage.folder import ModelFolder

IMAGES = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


def whole_clip(model: Path, folder: Path) -> Path:
    """A model folder's CLIP as transformers would publish it."""
    clip = FrozenCLIP.load(ModelFolder(model))
    assert clip.image_encoder is not None
    joined = CLIP.joined(clip.text_encoder, clip.image_encoder)
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", joined.state_dict())
    text, image = (json.loads((model / name / "config.json").read_text())
                   for name in ("text_encoder", "image_encoder"))  # fmt: skip
    write_json(
        folder / "config.json",
        {"model_type": "clip", "text_config": text, "vision_config": image,
         "projection_dim": clip.width},
    )  # fmt: skip
    return folder


def test_clip_is_the_models_own_by_every_way_to_it(tiny_model: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    own = open_extractor("clip", pipe)
    folder = open_extractor(tiny_model, device="cpu")
    whole = open_extractor(whole_clip(tiny_model, tmp_path / "clip"), device="cpu")
    expected = pipe.clip.image(IMAGES)
    for extractor in (own, folder, whole):
        torch.testing.assert_close(extractor(IMAGES), expected)
        assert (extractor.size, extractor.dimensions) == (32, pipe.clip.width)
    assert own.hash == folder.hash
    assert (own.name, folder.name, whole.name) == ("clip", "tiny", "clip")


def test_the_hash_says_weights_and_preprocessing(tiny_model: Path, tmp_path: Path) -> None:
    first = open_extractor(tiny_model, device="cpu")
    assert len(first.hash) == 16
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert open_extractor(copy, device="cpu").hash == first.hash
    file = copy / "feature_extractor" / "preprocessor_config.json"
    write_json(file, {**json.loads(file.read_text()), "image_mean": [0.5, 0.5, 0.5]})
    assert open_extractor(copy, device="cpu").hash != first.hash


def test_precision_is_part_of_the_hash_and_offloading_is_not(tiny_model: Path) -> None:
    def opened(dtype: str, offload: bool = False) -> Extractor:
        pipe = Pipeline.from_pretrained(tiny_model, dtype=dtype, device="cpu", offload=offload)
        return open_extractor("clip", pipe)

    exact, rounded, offloaded = opened("fp32"), opened("bf16"), opened("fp32", True)
    assert exact.hash == offloaded.hash != rounded.hash
    assert torch.equal(exact(IMAGES), offloaded(IMAGES))


def test_features_of_batches(tiny_model: Path) -> None:
    extractor = open_extractor(tiny_model, device="cpu")
    found = features_of(extractor, [IMAGES[:2], IMAGES[2:]])
    torch.testing.assert_close(found, extractor(IMAGES))
    assert found.dtype == torch.float32
    with pytest.raises(ValueError, match="no images"):
        features_of(extractor, [])
    with pytest.raises(ValueError, match=r"give floats \(N, 3, H, W\)"):
        extractor(IMAGES.byte())


def test_a_row_from_outside_and_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMED, "mine", lambda: of_judge(load_judge(None)))
    mine, judge = (open_extractor(name, device="cpu") for name in ("mine", "judge"))
    assert (mine.name, judge.name, mine.hash) == ("mine", "judge", judge.hash)
    assert judge(IMAGES).shape == (3, judge.dimensions)


def test_what_is_no_extractor(tmp_path: Path, tiny_copy: Path) -> None:
    with pytest.raises(ValueError, match="no extractor 'inception': give one of clip, efficient"):
        open_extractor("inception")
    with pytest.raises(ValueError, match=r"cannot read .*config\.json"):
        open_extractor(tmp_path)
    for kind in ("bert", ["vit"], None):
        write_json(tmp_path / "config.json", {"model_type": kind})
        with pytest.raises(ValueError, match=r"says model_type .*, and extractors are clip, vit"):
            open_extractor(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "vit", "hidden_size": 16,
                                          "num_attention_heads": 2})  # fmt: skip
    with pytest.raises(ValueError, match="no safetensors weights"):
        open_extractor(tmp_path)
    ModelFolder(tiny_copy).remove("image_encoder")
    with pytest.raises(ValueError, match="no image_encoder"):
        open_extractor(tiny_copy)


def test_several_have_names_of_their_own_and_each_network_is_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    first, second = tmp_path / "a" / "m", tmp_path / "b" / "m"
    for folder in (first, second):
        folder.parent.mkdir()
        whole_clip(tiny_model, folder)
    tensors = read_safetensors(second / "model.safetensors")
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"] * 2
    write_safetensors(second / "model.safetensors", tensors)
    asked = [str(first), str(second), f"{first}/."]
    with pytest.warns(Notice, match="is the same network as"):
        found = open_extractors(asked, pipe)
    assert [one.name for one in found.values()] == ["m", str(second)]
