"""`unclip train`: flags, recipe files, runs and mistakes, on a small folder of captioned images."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces.cli import main
from unclip.storage.folder import ModelFolder

TINY = {
    "clip": "--network.size tiny --network.vocab-size 560 --network.context-length 24",
    "prior": "--network.num-layers 1 --network.num-attention-heads 2 "
    "--network.attention-head-dim 16 --network.statistics 16",
    "decoder": "--network.widths 16 32 --network.layers 1 --network.groups 8 "
    "--network.head-width 16 --network.context-width 32",
    "upsampler": "--network.widths 16 32 --network.groups 8 --network.factor 2",
    "judge": "--network.widths 8 8 8 --network.blocks 1 1 1",
}
SHORT = (
    "--training.steps 2 --training.batch-size 4 --training.precision fp32 "
    "--training.preview-every 0 --data.workers 0"
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go into the folder that a command is started in."""
    monkeypatch.chdir(tmp_path)


def train(stage: str, *words: str, data: Path | None = None, model: str = "model") -> list[str]:
    source = ["--data", str(data), "--data.size", "32"] if data else []
    return ["train", stage, "--model", model, *source, *SHORT.split(), *TINY[stage].split(), *words]


def test_every_stage_on_ones_own_images(captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    for stage in ("clip", "prior", "decoder", "upsampler"):
        words = ["--data.size", "64"] if stage == "upsampler" else []
        assert main(train(stage, *words, data=captioned)) == 0
        said = capsys.readouterr()
        assert "24 images" in said.out
        assert "written to model; the run is in runs/model/" in said.out
        assert (tmp_path / "runs" / "model" / stage / "metrics.jsonl").is_file()
    assert main(["info", "model"]) == 0
    assert main(["generate", "x", "--model", "model", "--steps", "fast", "-o", "out.png"]) == 0
    assert Image.open("out.png").size == (64, 64)
    assert main(["evaluate", "clip", "--model", "model", "--data", "my-images", "-n", "8"]) == 0
    assert "among 8" in capsys.readouterr().out


def test_the_judge_learns_from_the_world_only(captioned: Path, capsys: Capture) -> None:
    assert main(train("judge")) == 0
    assert ModelFolder("model").has("judge")
    assert "only the built-in world has" in refused(
        train("judge", data=captioned, model="other"), capsys
    )


def test_dry_run_trains_nothing(captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(train("clip", "--dry-run", "--training.steps=10", data=captioned)) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 10
    assert "clip, on images of 32 px, which it sees at 32" in said
    assert "10 of 4 images: 1.82 epochs" in said
    for word in ("trained parameters", "operations per step", "memory, about", "MiB", "measured"):
        assert word in said
    words = train("clip", "--dry-run", "--verbose", "--training.steps=10", data=captioned)
    assert main(words) == 0
    verbose = capsys.readouterr().out
    recipe = tomllib.loads(verbose[: verbose.index(str(captioned), verbose.index("[optimiser]"))])
    assert recipe["training"]["steps"] == 10
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "runs").exists()


def test_dry_run_refuses_before_it_says_anything(captioned: Path, capsys: Capture) -> None:
    assert "has no CLIP" in refused(
        train("prior", "--dry-run", "--verbose", data=captioned), capsys
    )


def test_a_batch_larger_than_the_data_is_said_to_be(captioned: Path, capsys: Capture) -> None:
    says = "  repeated: a step shows each of 24 images 2.5 times\n"
    larger = ["--training.batch-size", "60", "--training.steps", "1", "--data.held-out", "0"]
    for more, said in ((["--dry-run", *larger], True), (["--dry-run"], False), (larger, True)):
        assert main(train("clip", *more, data=captioned)) == 0
        assert (says in capsys.readouterr().out) == said


def test_recipe_files_and_flags_over_them(captioned: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'stage = "clip"\n[network]\nsize = "tiny"\n[training]\nsteps = 3\nema = 0.5\n'
    )
    assert main(train("clip", "--recipe", str(recipe), data=captioned)) == 0  # --training.steps 2
    written = tomllib.loads(Path("runs/model/clip/recipe.toml").read_text())
    assert written["training"]["ema"] == 0.5
    assert written["training"]["steps"] == 2
    assert written["data"]["source"] == str(captioned)


def test_resume_and_overwrite(captioned: Path, capsys: Capture) -> None:
    assert main(train("clip", data=captioned)) == 0
    said = refused(train("clip", data=captioned), capsys)
    assert "--overwrite" in said
    assert "--resume" in said
    # A resumed run has its own recipe: only what is to change need be said.
    words = ["train", "clip", "--model", "model", "--resume", "--training.steps", "4"]
    assert main(words) == 0
    assert "from step 2 to 4" in capsys.readouterr().out
    lines = Path("runs/model/clip/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert main(train("clip", "--overwrite", data=captioned)) == 0
    assert "nothing to resume" in refused(
        ["train", "prior", "--model", "model", "--resume"], capsys
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[training]\nstepz = 3\n", "training: unknown key 'stepz'; did you mean 'steps'?"),
        ("[trainings]\nsteps = 3\n", "unknown table 'trainings'"),
        ('[training]\nsteps = "3"\n', "training: steps is '3'; it must be a whole number"),
        ("[data.world]\nmax_object = 1\n", "unknown key 'max_object'"),
        ("[training\n", "is not a TOML file"),
        ('stage = "prior"\n', "is a recipe for 'prior', not for 'clip'"),
        ("[optimiser]\nlearning_rate = -1.0\n", "learning_rate is -1.0"),
        ('[network]\nsize = "huge"\n', "huge"),
    ],
)
def test_bad_recipes(
    text: str, says: str, captioned: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "r.toml").write_text(text)
    words = ["train", "clip", "--model", "model", "--data", str(captioned), "--recipe", "r.toml"]
    assert says in refused(words, capsys)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--recipe none.toml", "cannot read none.toml"),
        ("--recipe smal", "there is no recipe 'smal'; did you mean 'small'?"),
        ("--data none", "does not exist"),
        ("--data emoji:photos", "photos"),
        ("--training.step 3", "perhaps you meant --training.steps N"),
        ("--training.batch-size 0", "batch_size is 0"),
        ("--device abacus", "abacus"),
        ("--resume", "nothing to resume"),
    ],
)
def test_bad_flags(words: str, says: str, tmp_path: Path, capsys: Capture) -> None:
    assert says in refused(["train", "clip", "--model", "model", *words.split()], capsys)
    assert not (tmp_path / "model").exists()


def test_a_folder_without_captions(captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    for file in captioned.glob("*.txt"):
        file.unlink()
    said = refused(train("clip", data=captioned), capsys)
    assert "no usable image with a caption" in said
    assert not (tmp_path / "model").exists()


def test_an_image_that_is_a_text_file_is_skipped(captioned: Path, capsys: Capture) -> None:
    (captioned / "000.png").write_text("this is no image")
    assert main(train("clip", data=captioned)) == 0
    assert "000.png" in capsys.readouterr().out


def test_a_prior_needs_a_clip(captioned: Path, capsys: Capture) -> None:
    for stage in ("prior", "decoder"):
        said = refused(train(stage, data=captioned, model="my model"), capsys)
        assert "train clip first: unclip train clip --model 'my model'" in said
        assert not Path("my model").exists()


def test_a_model_folder_that_is_a_file(captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "model").write_text("")
    said = refused(train("clip", data=captioned), capsys)
    assert "Not a directory" in said
    assert not (tmp_path / "runs").exists()  # refused before the training, not after it


def test_models_of_one_name_have_runs_of_their_own(captioned: Path, capsys: Capture) -> None:
    for model in ("a/mine", "b/mine"):
        assert main(train("clip", data=captioned, model=model)) == 0
    runs = sorted(path.parent.parent.name for path in Path("runs").glob("*/clip/checkpoints"))
    assert len(runs) == 2
    assert runs[0] == "mine"
    for model in ("a/mine", "b/mine"):
        words = ["train", "clip", "--model", model, "--resume", "--training.steps", "3"]
        assert main(words) == 0
    steps = [path.name for path in sorted(Path("runs").glob("*/clip/checkpoints/*3.safetensors"))]
    assert len(steps) == 2
    words = ["--run", "runs/mine/clip", "--overwrite"]
    said = refused(train("clip", *words, data=captioned, model="b/mine"), capsys)
    assert "a run of another model" in said
    assert "a/mine" in said


def test_an_older_run_may_be_another_models(captioned: Path, capsys: Capture) -> None:
    assert main(train("clip", data=captioned, model="a/mine")) == 0
    Path("runs/mine/clip/run.json").unlink()  # which older versions did not write
    said = refused(train("clip", data=captioned, model="b/mine"), capsys)
    assert "--resume" in said
    assert "--overwrite" not in said


def test_fewer_steps_leave_the_recipe_alone(captioned: Path, capsys: Capture) -> None:
    assert main(train("clip", data=captioned)) == 0
    before = Path("runs/model/clip/recipe.toml").read_text()
    words = ["train", "clip", "--model", "model", "--resume", "--training.steps", "1"]
    assert "at step 2 already" in refused(words, capsys)
    assert Path("runs/model/clip/recipe.toml").read_text() == before


def test_names_that_are_not_utf8(captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    odd = captioned.rename(tmp_path / "d\udcff")
    assert "it must be valid Unicode text" in refused(train("clip", data=odd), capsys)
    for words in (["--run", "r\udcff"], ["--model", "m\udcff"]):
        assert "has a name that is not UTF-8" in refused(train("clip", *words), capsys)


def test_a_run_of_before_goes_on_as_it_was(captioned: Path, capsys: Capture) -> None:
    """Older runs say nothing of held-out images or measurements, and saw all."""
    assert main(train("clip", "--data.held-out", "0", data=captioned)) == 0
    file = Path("runs/model/clip/recipe.toml")
    lines = file.read_text().splitlines(keepends=True)
    new = ("held_out", "crop", "flip", "validate_every")
    file.write_text("".join(line for line in lines if not line.startswith(new)))
    capsys.readouterr()
    assert main(["train", "clip", "--model", "model", "--resume", "--training.steps", "3"]) == 0
    said = capsys.readouterr().out
    assert "held out: none, as data.held_out is 0" in said
    assert "validat" not in said
    assert main(train("decoder", "--data.held-out", "0.2", data=captioned)) == 2
    assert "data.held_out is 0.2, but clip of model was trained with 0" in capsys.readouterr().err


def test_nothing_is_resumed_by_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "all", "--model", "models/mine", "--resume", "--dry-run"]
    assert main(words) == 2
    assert "leave it or --resume out" in capsys.readouterr().err


def test_folders_of_classes_are_trained_whole_by_a_template(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "classes").mkdir()
    for name in ("cat", "dog"):
        for text in captioned_folder(tmp_path / "classes" / name, 8).glob("*.txt"):
            text.unlink()
    words = ["train", "all", "--model", "model", "--data", "classes", "--dry-run"]
    assert "classes: --template 'a photo of a {}' makes captions" in refused(words, capsys)
    assert "--template is 'cat'; it needs {}" in refused([*words, "--template", "cat"], capsys)
    assert main([*words, "--template", "a photo of a {}", "--verbose"]) == 0
    assert 'template = "a photo of a {}"' in capsys.readouterr().out


def test_few_images_are_measured_twice_at_most(
    captioned: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unclip.stages import diffusion_prior

    seen: list[int] = []

    def counted(clip: Any, batches: Any, count: int) -> Any:
        kept = list(batches)
        seen.append(sum(len(one["captions"]) for one in kept))
        return embedding_statistics(clip, kept, count)

    embedding_statistics = diffusion_prior.embedding_statistics
    monkeypatch.setattr(diffusion_prior, "embedding_statistics", counted)
    assert main(train("clip", data=captioned)) == 0
    assert main(train("prior", "--network.statistics", "8192", data=captioned)) == 0
    assert seen == [44]  # 22 images, as the others are held out


def test_an_empty_recipe_name_is_no_folder(captioned: Path, capsys: Capture) -> None:
    said = "the recipe's name is empty; give small"
    assert said in refused(train("clip", "--recipe", "", data=captioned), capsys)
    words = ["train", "all", "--model", "model", "--data", "my-images", "--recipe", ""]
    assert said in refused(words, capsys)


def test_what_another_model_decides_is_not_asked_for(
    captioned: Path, tiny_model: Path, capsys: Capture
) -> None:
    data = ["--data", str(captioned), "--data.size", "16", *SHORT.split()]
    words = ["train", "decoder", "--model", "model", *data, "--training.init", str(tiny_model)]
    for flag in ("--network.size=tiny", "--network.layers=2"):
        assert f"names: leave {flag.split('=')[0]} out" in refused([*words, flag], capsys)
    assert main(words) == 0
    again = ["train", "decoder", "--model", "model", "--resume", "--training.steps", "3"]
    said = refused([*again, "--training.init", "none"], capsys)
    assert "goes on from its own weights: leave --training.init out" in said
    assert main(again) == 0
    capsys.readouterr()
    for nothing in ("/dev/null", "nowhere", str(captioned)):
        wrong = [*words[:4], *data, "--overwrite", "--training.init", nothing]
        said = refused(wrong, capsys)
        assert "is not a model folder" in said or "there is no model folder" in said


def test_a_models_name_cannot_speak_to_a_terminal(captioned: Path, capsys: Capture) -> None:
    assert main(train("clip", data=captioned, model="a\nb")) == 0
    assert "written to a\\nb; the run is in runs/a\\nb/clip" in capsys.readouterr().out
    said = refused(train("prior", data=captioned, model="./-dash"), capsys)
    assert "train clip first: unclip train clip --model=-dash" in said
