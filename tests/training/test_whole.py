"""`train all`: every stage, in a budget, and from any kill on."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import captioned_folder
from tests.tiny import tiny_recipes
from unclip.config import dump_toml
from unclip.stages.recipe import Data
from unclip.storage.folder import ModelFolder
from unclip.training import whole
from unclip.training.outlook import Outlook, described, measured
from unclip.training.plan import Needs
from unclip.training.progress import Asked
from unclip.training.run import run_folder
from unclip.training.start import start
from unclip.training.whole import Place, resume_all, train_all


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.chdir(tmp_path)
    captioned_folder(tmp_path / "my-images", 16, size=64)
    return Asked(Data("my-images"), tiny_recipes(tmp_path / "tiny.toml"))


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of any stage is said to take that long, and none is tried out."""

    def needed(recipes: Any, device: str) -> dict[str, Needs]:
        return {name: Needs(1000, 1.0, 1, 1.0, 0.5, "", 1900) for name in recipes}

    monkeypatch.setattr(whole, "measured", needed)


def place(name: str) -> Place:
    return Place(Path("models") / name, Path("runs") / name, "cpu")


def fingerprints(model: Path) -> list[str]:
    folder = ModelFolder(model)
    return [folder.fingerprint(one) for one in ("text_encoder", "prior", "decoder")]


@pytest.mark.usefixtures("half_a_second")
def test_what_was_killed_goes_on_bit_for_bit(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = []

    def keep(model: Path, data: Data, seconds: float | None) -> None:
        tuned.append((model, data.source, seconds))

    assert train_all(asked, place("whole"), keep) == 0
    said = capsys.readouterr().out
    for line in ("[1/5] clip: 4 steps of 2 images of 32 px", "[5/5] tune took"):
        assert line in said
    assert tuned == [(Path("models/whole"), "my-images", 180.0)]
    assert ModelFolder(Path("models/whole")).has("super_res_first")
    assert said.count("of 16 images usable") == 0  # it is said once, by what is measured first
    assert "to draw with it: unclip generate " in said

    def stopped(spec: Any, recipe: Any, folders: Any, device: str, until: int, **told: Any) -> int:
        """The decoder ends at its second step, as by Ctrl-C."""
        if spec.name != "decoder":
            return start(spec, recipe, folders, device, until, **told)
        assert start(spec, recipe, folders, device, 2, **told) == 0
        return signal.SIGINT

    monkeypatch.setattr(whole, "start", stopped)
    assert train_all(asked, place("parts"), None) == signal.SIGINT
    said = capsys.readouterr().out
    assert "stopped by SIGINT; to go on: unclip train all --model models/parts --resume" in said
    monkeypatch.setattr(whole, "start", start)
    assert resume_all(place("parts"), None) == 0
    said = capsys.readouterr().out
    assert "training from step 2 to 4" in said
    assert "clip: " not in said
    assert fingerprints(Path("models/parts")) == fingerprints(Path("models/whole"))
    assert resume_all(place("parts"), None) == 0  # nothing is left
    assert "training from" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="was begun with the data my-images"):
        resume_all(place("parts"), None, "others")
    assert resume_all(place("parts"), None, "./my-images") == 0  # the same
    with pytest.raises(ValueError, match=r"all stages of models/parts are trained"):
        resume_all(place("parts"), None, budget=60.0)
    shutil.rmtree("models/parts/decoder")
    with pytest.raises(ValueError, match="models/parts has no decoder, which the run in"):
        resume_all(place("parts"), None)


@pytest.mark.usefixtures("half_a_second")
def test_what_another_process_trained_meanwhile_is_never_replaced(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While this one measures; and while it trains what comes before."""
    mine, quick = place("mine"), whole.measured

    def slow(recipes: Any, device: str) -> dict[str, Needs]:
        if not (mine.model / "model_index.json").exists():
            monkeypatch.setattr(whole, "measured", quick)
            assert train_all(asked, mine, None) == 0
        return quick(recipes, device)

    monkeypatch.setattr(whole, "measured", slow)
    with pytest.raises(ValueError, match="models/mine already has a text_encoder"):
        train_all(asked, mine, None)

    kept = Path("runs/other/decoder/checkpoints/step-00000009")

    def meanwhile(spec: Any, *given: Any, **told: Any) -> int:
        if spec.name == "upsampler":
            kept.mkdir(parents=True)
        return start(spec, *given, **told)

    monkeypatch.setattr(whole, "start", meanwhile)
    kept.mkdir(parents=True)
    with pytest.raises(ValueError, match="runs/other/decoder holds an unfinished run"):
        train_all(asked, place("other"), None)
    shutil.rmtree(kept)
    with pytest.raises(ValueError, match="runs/other/decoder holds an unfinished run"):
        train_all(asked, place("other"), None)
    assert kept.is_dir()


@pytest.mark.usefixtures("half_a_second")
def test_upsamplers_of_other_data_go_and_a_run_elsewhere_is_named(
    asked: Asked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_all(asked, place("mine"), None) == 0
    captioned_folder(tmp_path / "small", 16, size=32)
    small = replace(asked, data=Data("small"))
    monkeypatch.setattr(whole, "start", lambda *given, **told: signal.SIGTERM)
    elsewhere = replace(place("mine"), run=Path("else where"))
    assert train_all(small, elsewhere, None, overwrite=True) == signal.SIGTERM
    assert not ModelFolder(Path("models/mine")).has("super_res_first")
    said = capsys.readouterr().out
    assert "--model models/mine --run 'else where' --resume" in said
    monkeypatch.setattr(whole, "start", start)
    assert resume_all(elsewhere, None) == 0  # what --overwrite was said of goes later, too
    assert run_folder(Path("elsewhere/mine")) != Path("runs/mine")  # that of a model of its name


@pytest.mark.usefixtures("half_a_second")
def test_a_stage_killed_before_its_first_checkpoint_begins_again(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(spec: Any, recipe: Any, folders: Any, device: str, until: int, **told: Any) -> int:
        folders.run.mkdir(parents=True, exist_ok=True)
        mapping = {"stage": spec.name, **whole.to_mapping(recipe)}
        (folders.run / "recipe.toml").write_text(dump_toml(mapping))
        return signal.SIGTERM

    monkeypatch.setattr(whole, "start", killed)
    assert train_all(asked, place("mine"), None) == signal.SIGTERM
    monkeypatch.setattr(whole, "start", start)
    assert resume_all(place("mine"), None) == 0
    assert ModelFolder(Path("models/mine")).has("decoder")


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("slower", [0.15, 1.0, 3.0])
def test_the_budget_holds_whatever_was_measured_before(
    slower: float, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are decided anew by those that were made: half a second each was measured."""
    now, made, ended = 0.0, {}, {}

    def trained(spec: Any, recipe: Any, folders: Any, device: str, until: int, **told: Any) -> int:
        nonlocal now
        now += 1.0 + (until - made.get(spec.name, 0)) * 0.5 * slower  # a second to begin
        made[spec.name], ended[spec.name] = until, recipe.training.steps
        kept = folders.run / "checkpoints" / f"step-{until:08}.safetensors"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.touch()
        mapping = {"stage": spec.name, **whole.to_mapping(recipe)}
        (folders.run / "recipe.toml").write_text(dump_toml(mapping))
        return 0

    monkeypatch.setattr(whole, "start", trained)
    monkeypatch.setattr(whole.time, "monotonic", lambda: now)
    assert train_all(replace(asked, budget=3600.0), place("mine"), None) == 0
    assert 0.85 * 3600 < now < 3600  # the rest is for the tuning
    assert made == ended
    noted = json.loads(Path("runs/mine/all.json").read_text())
    assert noted["done"] == ["clip", "prior", "upsampler", "decoder"]
    assert noted["laps"]["decoder"] == 3
    assert sum(noted["took"].values()) == pytest.approx(now)


@pytest.mark.usefixtures("half_a_second")
def test_another_budget_is_that_of_the_stage_under_way_too(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, made = 0.0, {}

    def trained(spec: Any, recipe: Any, folders: Any, device: str, until: int, **told: Any) -> int:
        nonlocal now
        now += (until - made.get(spec.name, 0)) * 0.5
        made[spec.name] = until
        kept = folders.run / "checkpoints" / f"step-{until:08}.safetensors"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.touch()
        mapping = {"stage": spec.name, **whole.to_mapping(recipe)}
        (folders.run / "recipe.toml").write_text(dump_toml(mapping))
        again = spec.name == "decoder" and until < recipe.training.steps / 10
        return signal.SIGINT if again and now < 1000 else 0

    monkeypatch.setattr(whole, "start", trained)
    monkeypatch.setattr(whole.time, "monotonic", lambda: now)
    train_all(replace(asked, budget=1800.0, tune=False), place("mine"), None)
    assert made["decoder"] < made["prior"]  # it was stopped soon
    stopped = now
    monkeypatch.setattr(whole, "_check_there", lambda *given: None)  # nothing is published here
    assert resume_all(place("mine"), None, budget=900.0) == 0
    assert stopped < now
    assert 0.85 * 900 < now < 900
    noted = json.loads(Path("runs/mine/all.json").read_text())
    assert made == noted["steps"]


def test_the_table_says_what_is_trained_and_how_long(asked: Asked) -> None:
    outlook = Outlook.of(asked)
    takes = measured(outlook.recipes, "cpu")
    lines = described(outlook, takes)
    assert len(lines) <= 10
    rows = {line.split()[0]: line for line in lines}
    assert "4 x 3" in rows["decoder"]  # of 14, two are held out
    assert "64 px" in rows["upsampler"]
    assert "on this machine, by steps measured now" in lines[-1]
    assert not Path("models").exists()
    all_seen = replace(asked, data=replace(asked.data, held_out=0.0))
    assert any("no image is held out" in line for line in described(Outlook.of(all_seen), takes))
    with pytest.raises(ValueError, match="is too short"):
        described(replace(outlook, asked=replace(asked, budget=0.5)), takes)


def test_decoder_and_upsampler_start_from_a_model_of_their_size(asked: Asked) -> None:
    bundled = replace(asked, init="bundled", recipe="small")
    inits = {name: one.training.init for name, one in Outlook.of(bundled).recipes.items()}
    assert inits == {"clip": "", "prior": "", "upsampler": "", "decoder": "bundled"}
    # Networks that are not the bundled ones begin from nothing.
    others = Outlook.of(replace(asked, init="bundled")).recipes
    assert {one.training.init for one in others.values()} == {""}


def test_what_is_there_already_is_not_touched(asked: Asked, tiny_copy: Path) -> None:
    before = fingerprints(tiny_copy)
    with pytest.raises(ValueError, match="already has a text_encoder; add --overwrite"):
        train_all(asked, replace(place("mine"), model=tiny_copy), None)
    assert fingerprints(tiny_copy) == before
    assert not Path("runs").exists()
