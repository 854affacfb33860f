"""Components of one model together, and strangers refused: by what the index notes of weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from unclip import Pipeline
from unclip.stages.autoregressive_prior import AutoregressivePriorStage
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderStage
from unclip.storage import belonging
from unclip.storage.folder import ModelFolder


def opened(path: Path) -> Pipeline:
    return Pipeline.from_pretrained(path, dtype="fp32", device="cpu")


def train_another_clip(path: Path) -> None:
    """CLIP of the same sizes takes the place of the one there."""
    torch.manual_seed(7)
    captions = ["a red circle above a blue square at night"] * 9
    stage = ClipStage.build(ClipSettings("tiny", vocab_size=560, context_length=24), captions)
    stage.save(ModelFolder(path))


def without_note(path: Path) -> None:
    """As older versions wrote it."""
    index = json.loads((path / "model_index.json").read_text())
    del index[belonging.NOTE]
    (path / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("noted", [True, False])
def test_another_clip_is_refused(noted: bool, tiny_copy: Path) -> None:
    if not noted:
        without_note(tiny_copy)
        opened(tiny_copy)
    train_another_clip(tiny_copy)
    with pytest.raises(
        ValueError, match=r"prior was trained with another text_encoder .*unclip train prior --over"
    ):
        opened(tiny_copy)


def test_a_component_of_another_model_is_refused(tiny_copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    stage = DecoderStage.load(ModelFolder(other), FrozenCLIP.load(ModelFolder(other)))
    for parameter in stage.network.parameters():
        parameter.data.add_(1)
    stage.save(ModelFolder(other))
    opened(other)
    shutil.rmtree(tiny_copy / "text_proj")
    shutil.copytree(other / "text_proj", tiny_copy / "text_proj")
    with pytest.raises(ValueError, match=r"decoder was trained with another text_proj"):
        opened(tiny_copy)


def test_a_spare_part_may_be_deleted(tiny_priors: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_priors, tmp_path / "copy"))
    folder = ModelFolder(path)
    clip = FrozenCLIP.load(folder)
    stage = AutoregressivePriorStage.load(folder, clip)
    index = folder.index()
    note = {**index[belonging.NOTE], "autoregressive_prior": {"text_encoder": "0" * 16}}
    (path / "model_index.json").write_text(json.dumps({**index, belonging.NOTE: note}))
    with pytest.raises(ValueError, match=r"unclip train ar-prior .*or delete .*autoregressive_pri"):
        opened(path)
    shutil.rmtree(path / "autoregressive_prior")
    assert opened(path).autoregressive_prior is None
    stage.save(folder)
    assert opened(path).autoregressive_prior is not None


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_other_precisions_are_the_same_model(dtype: str, tiny_model: Path, tmp_path: Path) -> None:
    Pipeline.from_pretrained(tiny_model, dtype=dtype, device="cpu").save_pretrained(tmp_path / "m")
    opened(tmp_path / "m")
    saved = ModelFolder(tmp_path / "m").index().get(belonging.NOTE)
    assert saved == (ModelFolder(tiny_model).index()[belonging.NOTE] if dtype == "bf16" else None)
    index = ModelFolder(tiny_model).index()  # fp16 rounds otherwise: not compared
    (tmp_path / "m" / "model_index.json").write_text(json.dumps(index))
    opened(tmp_path / "m")


@pytest.mark.parametrize(
    "note",
    [3, {"prior": 3}, {"prior": {"text_encoder": 3}}, {"x": {"y": ""}}, {"../x": {"y": "0"}}],
)
def test_notes_that_make_no_sense(note: object, tiny_copy: Path) -> None:
    index = ModelFolder(tiny_copy).index()
    (tiny_copy / "model_index.json").write_text(json.dumps({**index, belonging.NOTE: note}))
    with pytest.raises(ValueError, match=r"_trained_with is .*; it must say a fingerprint"):
        opened(tiny_copy)
    train_another_clip(tiny_copy)  # which is not lost for it


def test_what_was_learned_from_must_still_be_there(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    clip = FrozenCLIP.load(folder)
    learned = clip.fingerprints()
    assert learned == {name: belonging.print_of(tiny_copy / name) for name in learned}
    with folder.publishing(learned_from=learned):
        pass
    train_another_clip(tiny_copy)
    with (
        pytest.raises(ValueError, match=r"text_encoder of .* was replaced while this was trained"),
        folder.publishing(learned_from=learned),
    ):
        pass


def test_what_depends_on_what() -> None:
    index = {"prior": ["a", "b"], "decoder": ["a", "b"], "super_res_first": ["a", "b"]}
    assert belonging.dependents(index, ("text_encoder", "image_encoder")) == ["prior", "decoder"]
    assert belonging.dependents(index, ("super_res_first",)) == []


def test_what_somebody_added_belongs_to_what_it_learned_from(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    clip = FrozenCLIP.load(folder).fingerprints()
    assert set(clip) == {"text_encoder", "image_encoder"}
    with folder.publishing(learned_from=clip):
        weights = {"turn.weight": torch.ones(2, 2)}
        folder.save("echo", ("unclip", "Echo"), {"config.json": {}}, weights)
        folder.save("echo_scheduler", ("unclip", "Scheduler"), {"scheduler_config.json": {}})
    note = folder.index()[belonging.NOTE]
    assert note["echo"] == clip
    assert "echo_scheduler" not in note
    opened(tiny_copy)
    assert "echo" in belonging.dependents(folder.index(), ("text_encoder",))
    train_another_clip(tiny_copy)
    index = folder.index()
    assert index[belonging.NOTE]["echo"] == clip
    alone = {**index, belonging.NOTE: {"echo": clip}}
    with pytest.raises(ValueError, match=r"echo was trained with another .*-overwrite\), or"):
        belonging.check_belonging(alone, tiny_copy)
