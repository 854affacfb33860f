"""Runs with precomputed embeddings learn what they learn from images, and are refused where that
could not be."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tiny import tiny_recipe
from unclip.data.held_out import noted
from unclip.interfaces.cli import main
from unclip.stages.catalogue import STAGES
from unclip.stages.recipe import Recipe
from unclip.storage.folder import ModelFolder
from unclip.training import checkpoint
from unclip.training.job import Folders, check_processes
from unclip.training.start import start

SIZE = 32


@pytest.fixture(scope="session")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a CLIP alone."""
    path = tmp_path_factory.mktemp("clip") / "model"
    whole = ModelFolder(tiny_model)
    from unclip.stages.conditioning import FrozenCLIP

    FrozenCLIP.load(whole, torch.float32).save(ModelFolder(path))
    return path


@pytest.fixture
def place(model: Path, captioned: Path, tmp_path: Path) -> Path:
    """A folder with `model`, `my-images`, and embeddings of them with hidden states and without."""
    shutil.copytree(model, tmp_path / "model")
    (captioned / "002.txt").write_text("a star\na red star\n")
    for name, more in (("hidden", ["--hidden-states"]), ("plain", [])):
        words = ["embed", str(captioned), "-o", str(tmp_path / name), "--model", str(model)]
        words += ["--size", str(SIZE), "--precision", "fp32", "--images-per-shard", "9", *more]
        assert main(words) == 0
    return tmp_path


def recipe(stage: str, place: Path, store: str = "", **tables: dict[str, Any]) -> Recipe[Any]:
    data: dict[str, Any] = {"source": str(place / "my-images"), "held_out": 0.4, "size": SIZE}
    if store:
        data["embeddings"] = str(place / store)
    training = {"steps": 4, "batch_size": 6, "log_every": 1, "validate_every": 2}
    training |= tables.get("training", {})
    data |= tables.get("data", {})
    return tiny_recipe(stage, data=data, training=training, network=tables.get("network", {}))


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    kept = ("loss", "validation_loss", "validation_seen_loss", "gradient_norm")
    return [{key: line[key] for key in kept if key in line} for line in lines]


def train(stage: str, place: Path, name: str, how: Recipe[Any], **more: Any) -> Path:
    """Run it into a model folder of its own; the run."""
    if not (place / f"m-{name}").exists():
        shutil.copytree(place / "model", place / f"m-{name}")
    until = more.pop("until", None)
    where = Folders(place / f"m-{name}", place / f"r-{name}", **more)
    assert start(STAGES[stage], how, where, "cpu", until) == 0
    return place / f"r-{name}"


@pytest.mark.parametrize(
    ("stage", "network"),
    [
        ("prior", {"drop_text": 0.5}),
        ("ar-prior", {"drop_text": 0.5}),
        ("decoder", {}),
        ("decoder", {"caption_tokens": "own", "text_layers": 1}),
        ("decoder", {"condition": "text_embedding"}),
    ],
)
def test_losses_are_those_of_images(stage: str, network: Mapping[str, Any], place: Path) -> None:
    given = {"network": dict(network)}
    wanted = losses(train(stage, place, "images", recipe(stage, place, **given)))
    assert sum("validation_loss" in line for line in wanted) == 2
    # A prior needs no source at all; a decoder that reads captions alone needs hidden states.
    stores = ["hidden"] if network.get("condition") else ["hidden", "plain"]
    for store in stores:
        found = losses(train(stage, place, store, recipe(stage, place, store, **given)))
        assert [one.keys() for one in found] == [one.keys() for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            for key in one:
                assert one[key] == pytest.approx(other[key], rel=2e-4), (store, key)
    if stage == "prior":
        lone = {"data": {"source": "emoji", "size": 8}, **given}
        run = train(stage, place, "alone", recipe(stage, place, "plain", **lone))
        for one, other in zip(losses(run), wanted, strict=True):
            assert one == pytest.approx(other, rel=2e-4)
        published = ModelFolder(place / "m-alone")
        assert noted(published, "prior") == 0.4
        assert "_trained_on" not in published.index()


def test_a_resumed_run_is_the_same_to_the_last_bit(place: Path) -> None:
    how = recipe("prior", place, "hidden", training={"checkpoint_every": 1})
    whole = train("prior", place, "whole", how)
    train("prior", place, "parts", how, until=2)
    parts = train("prior", place, "parts", how, resume=True)
    files = [checkpoint.checkpoints(run / "checkpoints")[-1] for run in (whole, parts)]
    one, other = map(load_file, files)
    assert all(torch.equal(one[key], other[key]) for key in one)
    shutil.rmtree(place / "hidden")
    shutil.copytree(place / "plain", place / "hidden")
    with pytest.raises(ValueError, match="was trained on other data than is given now"):
        train("prior", place, "parts", how, resume=True)
    (place / "hidden" / "00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 shards are missing .*00001"):
        train("prior", place, "parts", how, resume=True)


def test_what_cannot_be_right_is_refused(place: Path, tiny_model: Path) -> None:
    def refused(stage: str, store: str = "plain", **tables: dict[str, Any]) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            train(stage, place, "refused", recipe(stage, place, store, **tables), overwrite=True)
        assert not (place / "r-refused").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "clip learns from images themselves" in refused("clip")
    assert "upsampler learns from images themselves" in refused("upsampler")
    assert "add --data SOURCE" in refused("decoder", data={"source": "emoji"})
    assert "data.flip mirrors images" in refused("prior", data={"flip": True})
    glide = {"condition": "caption"}
    assert "embed with --hidden-states" in refused("decoder", network=glide)
    assert "holds no embeddings" in refused("prior", "my-images")
    image = Image.open(place / "my-images" / "000.png")
    image.crop((0, 0, 30, 32)).save(place / "my-images" / "000.png")
    assert "not of " in refused("prior")
    words = ["embed", str(place / "my-images"), "-o", str(place / "oblong"), "--size", str(SIZE)]
    assert main([*words, "--model", str(place / "model"), "--precision", "fp32"]) == 0
    assert "add --data.crop centre" in refused("decoder", "oblong", data={"held_out": 0.0})
    how = recipe("decoder", place, "oblong", data={"crop": "centre"}, training={"steps": 1})
    train("decoder", place, "centre", how)
    other = ModelFolder(place / "m-refused")
    from unclip.stages.clip import ClipSettings, ClipStage

    torch.manual_seed(1)
    settings = ClipSettings("tiny", vocab_size=560, context_length=24)
    ClipStage.build(settings, ["a star"] * 9).save(other)
    assert "of another CLIP than that of" in refused("prior", "oblong")


def test_more_processes_than_images_are_refused() -> None:
    check_processes(3, 3)
    with pytest.raises(ValueError, match="4 processes were started, but there are 3 images"):
        check_processes(4, 3)
