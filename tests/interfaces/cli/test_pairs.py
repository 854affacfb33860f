"""`unclip evaluate pairs`: what it says, keeps, exports, and refuses."""

import csv
import json
from pathlib import Path

import pytest

from tests.evaluation.people.sets import image_set
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces.cli import main
from unclip.interfaces.survey.server import SurveyServer


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three models; nobody opens the page, but every question gets an answer: the redder one."""
    monkeypatch.chdir(tmp_path)

    def answered(server: SurveyServer, poll_interval: float) -> None:
        survey = server.survey
        assert server.address.startswith("http://127.0.0.1:")
        while (state := survey.state())["number"] is not None:
            best = max(survey.order[state["number"]].question.models)
            choice = next(
                choice
                for choice in ("first", "second")
                if survey.order[state["number"]].preferred(choice) == best
            )
            survey.answer(state["key"], choice, 2.0, f"click-{state['done']:03}-{survey.rater}")
        raise KeyboardInterrupt

    monkeypatch.setattr(SurveyServer, "serve_forever", answered)
    return [str(image_set(Path(name), 90 * k)) for k, name in enumerate("abc")]


def test_answers_a_summary_and_a_ranking(folders: list[str], capsys: Capture) -> None:
    words = ["evaluate", "pairs", *folders, "-n", "4"]
    assert main([*words, "-o", "summary.json"]) == 0
    said = capsys.readouterr()
    assert "24 questions of 24 to answer: open http://127.0.0.1:" in said.out
    assert said.err.count("not asked: diversity") == 3
    assert "caption       a / b   0      0         4       0.0% (0.0% to 49.0%)" in said.out
    ranking = said.out.partition("caption, Bradley–Terry")[2].split("\n")[1:4]
    assert [row.split()[0] for row in ranking] == ["c", "b", "a"]
    summary = json.loads(Path("summary.json").read_text())
    assert summary["models"] == ["a", "b", "c"]
    assert summary["preferences"]["caption"][0]["second"] == 4

    assert main([*words, "--rater", "anna", "--ask", "caption"]) == 0  # a second person
    assert "12 questions of 12 to answer" in capsys.readouterr().out
    assert main([*words, "--summary"]) == 0
    assert "caption       a / b   0      0         8" in capsys.readouterr().out


def test_folders_in_another_order_are_the_same_comparison(
    folders: list[str], capsys: Capture
) -> None:
    words = ["--ask", "caption", "-n", "2"]
    assert main(["evaluate", "pairs", "b", "a", *words]) == 0
    assert "caption   b / a   2      0         0" in capsys.readouterr().out
    assert main(["evaluate", "pairs", "a", "b", *words, "--summary"]) == 0
    assert "caption   a / b   0      0         2" in capsys.readouterr().out
    others = ["evaluate", "pairs", "a", "c", *words, "--summary", "-o", "sum.json"]
    assert main(others) == 0
    said = capsys.readouterr()
    assert "2 answers of out/answers.sqlite are to other questions" in said.err
    assert "no answers yet: nothing is written" in said.out
    assert not Path("sum.json").exists()


def test_it_goes_on_where_it_stopped(
    folders: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "pairs", *folders[:2], "--ask", "caption"]
    assert main([*words, "-n", "2"]) == 0
    assert main([*words, "-n", "5"]) == 0  # more questions: those with an answer keep it
    said = capsys.readouterr().out
    assert "3 questions of 5 to answer" in said
    assert "Bradley" not in said  # two models have a rate


def test_export(folders: list[str], capsys: Capture) -> None:
    Path("a", "0-00.txt").write_text("=HYPERLINK(1)")
    Path("b", "0-00.txt").write_text("=HYPERLINK(1)")
    words = ["evaluate", "pairs", *folders[:2], "--ask", "caption"]
    assert main(words) == 0
    for name in ("answers.csv", "answers.json"):
        assert main([*words, "--export", name]) == 0
        assert f"6 answers written to {name}" in capsys.readouterr().out
    with open("answers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    whole = json.loads(Path("answers.json").read_text())["answers"]
    assert [row["preferred"] for row in rows] == [one["preferred"] for one in whole] == ["b"] * 6
    assert {one["caption"] for one in whole} > {"=HYPERLINK(1)"}
    assert not any(row["caption"].startswith("=") for row in rows)  # no formula for a spreadsheet


def test_bad_requests(folders: list[str], capsys: Capture) -> None:
    Path("empty").mkdir()
    Path("text").write_text("no answers" * 200)
    for words, says in (
        ("a", "give two folders"),
        ("a a", "named twice"),
        ("a empty", "there is no image in empty"),
        ("a none", "does not exist"),
        ("a b --ask diversity", "no caption has 16 images"),
        ("a b --ask beauty", "beauty"),
        ("a b --summary", "there are no answers yet"),
        ("a b --export x.csv", "there are no answers yet"),
        ("a b --export x.txt", "does not end in .csv or .json"),
        ("a b --answers text", "holds no answers"),
        ("a b --answers a", "is a folder"),
        ("a b --port 0", "--port: the value is 0"),
        ("a b -n 0", "-n/--n: the value is 0"),
        ("a b -o a", "is a folder"),
        (f"a b --rater {'x' * 300}", "--rater has 300 characters"),
    ):
        assert says in refused(["evaluate", "pairs", *words.split()], capsys)
