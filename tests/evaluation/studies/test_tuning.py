"""What `unclip tune` finds, that it is used, and that nothing is half-written."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import captioned_folder
from unclip.data.held_out import note
from unclip.data.trained_on import note as note_data
from unclip.diffusion.registry import SAMPLERS
from unclip.evaluation.studies import tuning
from unclip.evaluation.studies.tuning import tune
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import PRESETS, Preset, Settings
from unclip.storage.folder import ModelFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"steps": 2}
    monkeypatch.setitem(PRESETS, "default", Preset(few, few, few, few))
    monkeypatch.setattr(tuning, "SCALES", (1.0, 4.0))
    monkeypatch.setattr(tuning, "CANDIDATES", (1, 2))
    monkeypatch.setattr(tuning, "SAMPLERS", {name: SAMPLERS[name] for name in ("ddpm", "ddim")})


def tuned(folder: Path, data: str | None = "emoji:shapes", **more: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    given = {"seconds": None, "captions": 4, "device": "cpu"} | more
    return tune(folder, data, report=lines.append, **given), lines


def test_what_is_found_is_written_and_used(tiny_copy: Path, tmp_path: Path) -> None:
    folder = ModelFolder(tiny_copy)
    folder.update_index({"_defaults": {"super_res_eta": 0.25, "sampler": "ddim"}})
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    found, lines = tuned(tiny_copy)
    index = folder.index()
    # Nothing trained this: guidance only burns it.
    assert index["_defaults"]["decoder_guidance_scale"] == 1.0
    assert index["_defaults"].items() >= {"super_res_eta": 0.25, "sampler": "ddim"}.items()
    assert index["_prior_num_candidates"] == found["says"]["prior_num_candidates"]
    assert found["better"] > 0
    assert found["after"] < found["before"]
    assert any(line.startswith("decoder guidance 1 ") and "better by" in line for line in lines)
    pipe = Pipeline.from_pretrained(tiny_copy)
    sampling = pipe.sampling("decoder", Settings())
    assert sampling.guidance.scale == 1.0
    assert sampling.sampler == found["says"]["decoder_sampler"]
    assert pipe.sampling("super_res", Settings()).sampler == "ddim"
    note = index["_tuned"]
    assert note["captions"] == 4
    assert (note["data"], note["split"]) == ("emoji:shapes", "held-out")
    assert note["says"].items() <= index["_defaults"].items()
    assert tuned(other)[0] == found  # the seed decides it all


def test_both_priors_are_tuned(tiny_priors: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_priors, tmp_path / "both"))
    _, lines = tuned(folder)
    says = ModelFolder(folder).index()["_defaults"]
    assert {"prior", "prior_guidance_scale", "autoregressive_prior_guidance_scale"} <= says.keys()
    assert any(line.startswith("autoregressive prior ") for line in lines)
    Pipeline.from_pretrained(folder)


def test_what_was_held_out_is_measured_on_and_a_path_is_not_noted(
    tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "coordinates", lambda pipe, says: [[{"prior_eta": 1.0}]])
    data, folder = captioned_folder(tmp_path / "mine", 24), ModelFolder(tiny_copy)
    lines = tuned(tiny_copy, str(data))[1]
    assert "24 images" in lines[0]
    assert lines[0].endswith("may have been trained on: 4 captions, 2 images each")
    assert folder.index()["_tuned"]["data"] == "a folder"
    note(folder, "decoder", 0.5)
    lines = tuned(tiny_copy, str(data))[1]
    assert ", the 50 % that training held out: 4 captions" in lines[0]
    assert folder.index()["_tuned"]["split"] == "held-out"
    note(folder, "decoder", 0.1)
    assert "training held out only" in tuned(tiny_copy, str(data))[1][0]


def test_the_folder_says_what_it_was_trained_on(tiny_copy: Path) -> None:
    with pytest.raises(ValueError, match="does not say what it was trained on: give the folder"):
        tuned(tiny_copy, None)
    note_data(ModelFolder(tiny_copy), "decoder", "emoji:shapes", {"emoji": {"max_objects": 1}})
    lines = tuned(tiny_copy, None, seconds=1e-6)[1]
    assert lines[0].startswith("measuring on emoji:shapes, scenes that training holds out")


def test_without_time_nothing_is_written(tiny_copy: Path) -> None:
    before = (tiny_copy / "model_index.json").read_bytes()
    found, lines = tuned(tiny_copy, seconds=1e-6)
    assert found["tried"] == 0
    assert "no time to try anything, and nothing is written" in lines[-1]
    assert (tiny_copy / "model_index.json").read_bytes() == before


def test_what_is_interrupted_leaves_everything_as_it_was(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in tiny_copy.rglob("*") if path.is_file()}
    made, calls = tuning.made, []

    def stopped(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(tuning, "made", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuned(tiny_copy)
    assert {path: path.read_bytes() for path in tiny_copy.rglob("*") if path.is_file()} == before


def test_a_model_that_was_trained_meanwhile_is_refused(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unclip.stages.conditioning import FrozenCLIP
    from unclip.stages.diffusion_prior import PriorStage

    def trained(study: Any, says: Any) -> Any:
        folder = ModelFolder(tiny_copy)
        stage = PriorStage.load(folder, FrozenCLIP.load(folder), torch.float32)
        with torch.no_grad():
            for parameter in stage.network.parameters():
                parameter.add_(1)
        stage.save(folder)
        study.tried = 1
        return says

    monkeypatch.setattr(tuning, "swept", trained)
    with pytest.raises(ValueError, match="was trained further meanwhile; tune it again"):
        tuned(tiny_copy)
    assert "_tuned" not in ModelFolder(tiny_copy).index()


def test_after_the_last_seed_comes_the_first(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, device="cpu")
    says = tuning.present(pipe)
    last = tuning.made(pipe, ["a", "b"], says, 2**64 - 2)
    # As many at once: some CPUs round otherwise in a batch than alone.
    assert torch.equal(last[1], tuning.made(pipe, ["b", "a"], says, 0)[0])


def test_what_cannot_be_measured_is_refused(tiny_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data has 3 captioned images to measure on"):
        tuned(tiny_copy, str(captioned_folder(tmp_path / "few", 3)))
    with pytest.raises(ValueError, match="captions is 3; it must be 4 or more"):
        tuned(tiny_copy, captions=3)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing"):
        tuned(tiny_copy, str(tmp_path / "nothing"))
    ModelFolder(tiny_copy).remove("image_encoder")
    with pytest.raises(ValueError, match="has no image_encoder, which tuning measures"):
        tuned(tiny_copy)
    with pytest.raises(ValueError, match="there is no model folder"):
        tuned(tmp_path / "missing")
