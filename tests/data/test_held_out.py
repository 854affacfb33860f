"""Images that training does not see: which ones, and the model folder's note of it."""

from pathlib import Path

import pytest

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture
from tests.tiny import tiny_recipe
from unclip.data.folder import FolderSource
from unclip.data.held_out import NOTE, fraction_of, is_held_out, note, settled
from unclip.data.registry import open_source
from unclip.data.shuffled import shuffled
from unclip.data.sources import Stream
from unclip.interfaces.cli import main
from unclip.stages.catalogue import STAGES
from unclip.stages.recipe import open_data
from unclip.storage.folder import ModelFolder
from unclip.training.job import Folders
from unclip.training.start import start


def test_a_larger_fraction_holds_out_the_same_and_more() -> None:
    names = [f"deep/{number}.png" for number in range(1000)]
    few, many = ({n for n in names if is_held_out(n, f)} for f in (0.05, 0.2))
    assert few < many
    assert 20 < len(few) < 90
    assert 150 < len(many) < 250
    assert not any(is_held_out(name, 0.0) for name in names)


def test_the_note_is_that_of_the_stage_that_saw_most(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    assert fraction_of(folder) == 0
    note(folder, "upsampler", None)  # the built-in world: nothing to note
    assert NOTE not in folder.index()
    note(folder, "clip", 0.1)
    note(folder, "prior", 0.2)
    assert (fraction_of(folder), fraction_of(folder, "prior")) == (0.1, 0.2)
    assert fraction_of(folder, "decoder") == 0
    note(folder, "clip", 0.0)  # trained anew, on all
    assert fraction_of(folder) == 0
    note(folder, "clip", None)
    assert fraction_of(folder) == 0.2


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0.1, "must be an object"),
        ({"clip": "x"}, "'clip' is 'x'; it must be a number"),
        ({"clip": 7}, "must be between 0.0 and 1.0"),
        ({"rule": "md5"}, "holds images out by 'md5'"),
    ],
)
def test_notes_of_others_are_refused(tiny_copy: Path, value: object, says: str) -> None:
    folder = ModelFolder(tiny_copy)
    folder.update_index({NOTE: value})
    with pytest.raises(ValueError, match=says):
        fraction_of(folder)


def test_all_stages_hold_out_what_the_first_one_did(tiny_copy: Path, tmp_path: Path) -> None:
    folder = ModelFolder(tiny_copy)
    assert settled(ModelFolder(tmp_path / "new"), "prior", None, 0.05) == 0.05
    assert settled(folder, "prior", None, 0.05) == 0.05
    note(folder, "upsampler", 0.3)
    assert settled(folder, "prior", None, 0.05) == 0.3
    note(folder, "clip", 0.1)
    assert settled(folder, "prior", None, 0.05) == 0.1
    assert settled(folder, "prior", 0.1, 0.05) == 0.1
    with pytest.raises(ValueError, match=r"held_out is 0.2, but clip of .* with 0.1: leave it out"):
        settled(folder, "prior", 0.2, 0.05)
    assert settled(folder, "clip", 0.2, 0.05) == 0.2  # it is trained first, and may choose


def test_a_folder_of_one_image_is_trained_on_whether_or_not_its_name_is_held_out(
    tmp_path: Path,
) -> None:
    for name in range(20):
        data = captioned_folder(tmp_path / f"{name}", 1)
        (data / "000.png").rename(data / f"{name}.png")
        (data / "000.txt").rename(data / f"{name}.txt")
        source = FolderSource(data, 32, split="train", held_out=0.5)
        assert len(source) == 1
        assert source.check().held_out == 0
        assert source.unseen() is None


def test_train_holds_out_and_evaluate_measures_what_was(tmp_path: Path, capsys: Capture) -> None:
    data, model = captioned_folder(tmp_path / "mine", 30), tmp_path / "model"
    (data / "000.txt").write_text("a caption that is longer by far than what CLIP reads " * 5)
    table = {"source": str(data), "world": {}, "held_out": 0.3}
    recipe = tiny_recipe("clip", data=table, training={"steps": 1, "batch_size": 4})
    out = [item.name for item in FolderSource(data, 32, split="held-out", held_out=0.3).items]
    seen = open_data(recipe.data)
    assert isinstance(seen, FolderSource)
    assert {item.name for item in seen.items}.isdisjoint(out)
    assert len(seen) + len(out) == 30
    assert start(STAGES["clip"], recipe, Folders(model, tmp_path / "run"), "cpu") == 0
    said = capsys.readouterr().out
    assert f"held out: {len(out)} of 30 images" in said
    assert f"of {len(seen)} captions, to the 24 tokens that CLIP reads; a larger" in said
    assert fraction_of(ModelFolder(model), "clip") == 0.3

    words = ["evaluate", "clip", "--model", str(model), "--data", str(data), "-n", "4"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert f"split held-out of {data}: {len(out)} of 30 images, 8 drawn by a fixed seed" in said
    assert "did not see them (data.held_out 0.3)" in said
    assert main([*words, "--split", "all"]) == 0
    assert "may have been trained on them" in capsys.readouterr().err


def test_a_folder_is_measured_in_an_order_of_its_own(tmp_path: Path) -> None:
    source = FolderSource(captioned_folder(tmp_path / "mine", 30), 32)
    mixed = shuffled(source)
    assert not isinstance(mixed, Stream)
    captions = [mixed.caption(index) for index in range(30)]
    assert captions == [shuffled(source).caption(index) for index in range(30)]  # type: ignore[union-attr]
    assert captions != list(source.captions())
    assert sorted(captions) == sorted(source.captions())
    assert mixed[0]["caption"] == captions[0]
    assert mixed.fingerprint() != source.fingerprint()
    world = open_source("emoji:shapes", size=32)
    assert shuffled(world) is world


def test_what_no_note_covers_is_said(tiny_model: Path, captioned: Path, capsys: Capture) -> None:
    words = ["evaluate", "clip", "--model", str(tiny_model), "-n", "4"]
    assert main([*words, "--data", str(captioned)]) == 0
    assert "24 of 24 images, 16 drawn by a fixed seed" in (said := capsys.readouterr().err)
    assert "the model may have been trained on them" in said
    for data, split, says in (
        (str(captioned), "held-out", "notes no images that its training held out"),
        ("emoji:shapes", "train", "--split is for folders"),
    ):
        assert main([*words, "--data", data, "--split", split]) == 2
        assert says in capsys.readouterr().err


def test_recipes_that_hold_out_nothing_sensible() -> None:
    for value in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="held_out is"):
            tiny_recipe("clip", data={"source": "mine", "held_out": value})
    with pytest.raises(ValueError, match="emoji data holds out a part of its own"):
        tiny_recipe("clip", data={"held_out": 0.1})
