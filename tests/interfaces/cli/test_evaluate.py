"""`unclip evaluate`: tables, JSON files, mistakes. Numbers are tested in tests/evaluation."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import Judge, JudgeConfig
from unclip.evaluation.judge.training import JudgeStage
from unclip.evaluation.metrics import composition
from unclip.interfaces.cli import main
from unclip.storage.folder import ModelFolder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated images are kept below the folder that one is in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a judge that knows nothing, held against few real scenes."""
    monkeypatch.setattr(composition, "_REAL", 20)
    torch.manual_seed(0)
    network = Judge(JudgeConfig((8, 8, 8), (1, 1, 1))).initialise()
    JudgeStage(network).save(ModelFolder(tmp_path / "judge"))
    return tmp_path / "judge"


def test_clip_on_the_world(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "new" / "clip.json"
    words = ["evaluate", "clip", "--model", str(tiny_model), "-n", "8", "-o", str(report)]
    assert main(words) == 0
    said = capsys.readouterr().out
    for row in ("text → image, among 8", "image → text, among 8", "zero-shot colour, of 11"):
        assert row in said
    numbers = json.loads(report.read_text())
    assert numbers["retrieval"]["among"] == 8
    assert numbers["world"]["split"] == "held-out"
    assert numbers["model"] == str(tiny_model)


def test_clip_on_a_small_folder(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    """256 pairs are a default, not a condition."""
    data = captioned_folder(tmp_path / "few", 5)
    assert main(["evaluate", "clip", "--model", str(tiny_model), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "5 pairs are all there are: each is held against these, not 256" in said
    assert "text → image, among 5, first 1" in said
    assert str(Rate(1, 1)).endswith(", 1 case)")
    assert str(Rate(1, 2)).endswith(", 2 cases)")


def test_classes_get_captions_by_a_template(
    tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("cat", "dog"):
        captioned_folder(tmp_path / name, 3)
        for text in (tmp_path / name).glob("*.txt"):
            text.unlink()
    words = ["evaluate", "clip", "--model", str(tiny_model), "--data", str(tmp_path)]
    assert "--template 'a photo of a {}' makes captions" in refused(words, capsys)
    assert main([*words, "--template", "a photo of a {}"]) == 0
    assert "among 6" in capsys.readouterr().out
    look = ["data", "inspect", str(tmp_path), "--size", "64", "--template", "a {}"]
    assert main(look) == 0
    assert "your images are 32 px: a size of 32 or smaller" in capsys.readouterr().out


def test_composition(tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    words = [
        "evaluate", "composition", "--model", str(tiny_model), "--judge", str(judge), "-n", "3",
        "--steps", "fast", "--batch-size", "2",
    ]  # fmt: skip
    assert main(words) == 2  # after a notice of captions that the tiny model cuts
    assert "the judge gets only" in capsys.readouterr().err
    assert main([*words, "--trust", "--output", str(report)]) == 0
    said = capsys.readouterr().out
    assert "background" in said
    assert "real, by the judge" in said
    numbers = json.loads(report.read_text())
    assert numbers["generated"]["scenes"] == 3
    assert numbers["steps"] == "fast"
    assert numbers["precision"] in ("fp32", "bf16")


def test_fid(tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "fid.json"
    words = [
        "evaluate", "fid", "--model", str(tiny_model), "-n", "3", "--size", "16", "--steps", "fast",
        "--reuse", "1", "--guidance-interval", "0", "5", "-o", str(report),
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    for row in ("FID  ", "KID × 1000", "CMMD", "real images of the same captions"):
        assert row in said
    numbers = json.loads(report.read_text())
    assert numbers["fid"]["images"] == 3
    assert numbers["fid"]["generated"] > 0
    assert numbers["guidance_interval"] == [0.0, 5.0]
    assert main([*words, "--data", str(captioned), "--clip", str(tiny_model)]) == 0
    assert json.loads(report.read_text())["data"] == str(captioned)


def test_edits(tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    words = [
        "evaluate", "edits", "--model", str(tiny_model), "--judge", str(judge), "-n", "2",
        "--theta", "0.3", "0.5", "--steps", "fast", "--invert-steps", "2",
    ]  # fmt: skip
    assert main([*words, "--trust", "-o", str(report)]) == 0
    said = capsys.readouterr().out
    for row in ("colour      inverted", "background  fresh", "variation, η = 1", "blend, θ = 0"):
        assert row in said
    numbers = json.loads(report.read_text())
    assert numbers["scenes"] == 2
    assert set(numbers["edits"]["fresh"]) == {"0.3", "0.5"}
    assert numbers["edits"]["fresh"]["0.3"]["object"]["success"]["total"] == 1
    assert numbers["theta"] == [0.3, 0.5]


def test_inpainting(tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    words = [
        "evaluate", "inpainting", "--model", str(tiny_model), "--judge", str(judge), "-n", "2",
        "--steps", "fast", "--resamples", "1", "--trust", "-o", str(report),
    ]  # fmt: skip
    assert main(words) == 0
    assert "jump at the border" in capsys.readouterr().out
    numbers = json.loads(report.read_text())
    assert numbers["object"]["total"] == numbers["scenes"] == 2
    assert numbers["resamples"] == 1
    assert numbers["seam"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("clip -n 1", "take at least 2 pairs"),
        ("clip --data none", "does not exist"),
        ("clip --output {tmp}", "is a folder"),
        ("composition --judge {tmp}", "holds no judge"),
        ("composition --judge {judge} -n 0", "-n/--n: the value is 0"),
        ("composition --judge {judge} --size 48", "16, 32 pixels"),
        ("fid -n 1", "n is 1"),
        ("fid --data none", "does not exist"),
        ("fid --size 48", "16, 32 pixels"),
        ("composition --judge {judge} --world.max-objects 9", "max_objects is 9"),
        ("edits --judge {judge} -n 1", "n is 1"),
        ("edits --judge {judge} --theta 2", "--theta: the value is 2.0"),
        ("edits --judge {judge} --size 48", "16, 32 pixels"),
        ("edits --judge {judge} -n 4", "the judge gets only"),
        ("inpainting --judge {judge} -n 0", "-n/--n: the value is 0"),
        ("inpainting --judge {judge} -n 4", "the judge gets only"),
        ("inpainting --judge {judge} --size 48", "16, 32 pixels"),
        ("inpainting --judge {judge} --resamples 0", "resamples"),
    ],
)
def test_bad_requests(
    words: str, says: str, tiny_model: Path, judge: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = words.format(tmp=tmp_path, judge=judge).split()
    assert says in refused(["evaluate", *command, "--model", str(tiny_model)], capsys)
