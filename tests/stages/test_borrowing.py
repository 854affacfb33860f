"""Stages that a model folder takes over from another model."""

import shutil
from pathlib import Path

import pytest
import torch

from unclip.data.held_out import note, noted
from unclip.pipeline.pipeline import Pipeline
from unclip.stages.borrowing import borrow
from unclip.stages.clip import ClipStage
from unclip.storage.belonging import check_belonging
from unclip.storage.folder import ModelFolder, bundled

UPSAMPLER = ["super_res_first", "super_res_last", "super_res_scheduler"]


@pytest.fixture
def without(tiny_copy: Path) -> ModelFolder:
    """A model that has all but an upsampler."""
    folder = ModelFolder(tiny_copy)
    with folder.publishing():
        for name in UPSAMPLER:
            folder.remove(name)
    return folder


def files(folder: ModelFolder, component: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.component(component).iterdir()}


def test_an_upsampler_is_taken_over_whole(without: ModelFolder, tiny_model: Path) -> None:
    origin = ModelFolder(tiny_model)
    assert borrow(["upsampler"], without, origin) == UPSAMPLER
    assert all(files(without, name) == files(origin, name) for name in UPSAMPLER)
    first, last = (next(without.component(n).glob("*.safetensors")) for n in UPSAMPLER[:2])
    assert first.samefile(last)
    assert not any(first.samefile(file) for file in tiny_model.glob("super_res_*/*.safetensors"))
    made = [Pipeline.from_pretrained(path)("a red circle", seed=2, num_images_per_prompt=1,
            prior_num_inference_steps=2, decoder_num_inference_steps=2,
            super_res_num_inference_steps=2).images[0]
            for path in (without.path, tiny_model)]  # fmt: skip
    assert made[0].tobytes() == made[1].tobytes()


def test_how_it_is_sampled_comes_with_it(without: ModelFolder, tiny_model: Path) -> None:
    origin = ModelFolder(shutil.copytree(tiny_model, without.path.parent / "origin"))
    origin.update_index({"_defaults": {"sampler": "heun", "eta": 0.5, "super_res_eta": 0.25}})
    without.update_index({"_defaults": {"decoder_eta": 0.75, "super_res_eta": 1.0}})
    borrow(["upsampler"], without, origin)
    said = {"decoder_eta": 0.75, "super_res_sampler": "heun", "super_res_eta": 0.25}
    assert without.index()["_defaults"] == said


def test_what_is_there_stays_unless_it_is_to_be_replaced(tiny_copy: Path, tiny_model: Path) -> None:
    folder = ModelFolder(tiny_copy)
    with pytest.raises(ValueError, match="already has a super_res_first; add --overwrite"):
        borrow(["upsampler"], folder, ModelFolder(tiny_model))
    note(folder, "upsampler", 0.25)
    borrow(["upsampler"], folder, ModelFolder(tiny_model), overwrite=True)
    assert noted(folder, "upsampler") is None


def test_another_size_is_refused(without: ModelFolder, tmp_path: Path) -> None:
    said = r"enlarges images from 32 to 128 pixels a side, but the decoder of .* makes 16"
    before = without.index()
    with pytest.raises(ValueError, match=said):
        borrow(["upsampler"], without, ModelFolder(bundled("model")))
    assert without.index() == before


def test_what_listens_to_clip_comes_with_it_or_stays_away(tiny_model: Path, tmp_path: Path) -> None:
    origin, folder = ModelFolder(tiny_model), ModelFolder(tmp_path / "new")
    with pytest.raises(ValueError, match=r"with its text_encoder only, which .* does not have"):
        borrow(["decoder"], folder, origin)
    assert not folder.path.exists()
    borrow(["clip", "prior", "decoder"], folder, origin)
    check_belonging(folder.index(), folder.path)
    assert folder.index()["_prior_num_candidates"] == origin.index()["_prior_num_candidates"]
    assert folder.index()["_trained_with"] == origin.index()["_trained_with"]
    clip = ClipStage.load(origin)
    with torch.no_grad():
        clip.network.text_projection.weight.neg_()
    other = ModelFolder(tmp_path / "other")
    clip.save(other)
    with pytest.raises(ValueError, match="has another: train it, beginning with that one's"):
        borrow(["prior"], other, origin)


def test_what_a_model_does_not_have(without: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no upsampler to give: it lacks super_res_first"):
        borrow(["upsampler"], ModelFolder(tmp_path / "new"), without)
    with pytest.raises(ValueError, match="there is no model folder"):
        borrow(["upsampler"], without, ModelFolder(tmp_path / "nothing"))


def test_notes_and_students_of_the_stage_before_go(tiny_copy: Path, tiny_model: Path) -> None:
    folder = ModelFolder(tiny_copy)
    with folder.publishing():
        folder.duplicate("decoder", "decoder_distilled")
        folder.update_index({"_decoder": {"condition": "caption"}})
    borrow(["decoder"], folder, ModelFolder(tiny_model), overwrite=True)
    assert not folder.has("decoder_distilled")
    assert "_decoder" not in folder.index()


def test_what_cannot_be_copied_leaves_nothing(tiny_copy: Path, tmp_path: Path) -> None:
    (weights,) = (tiny_copy / "super_res_first").glob("*.safetensors")
    weights.unlink()
    weights.symlink_to(weights.with_name("none.safetensors"))
    with pytest.raises((ValueError, OSError)):
        borrow(["upsampler"], ModelFolder(tmp_path / "new"), ModelFolder(tiny_copy))
    assert not (tmp_path / "new").exists()
