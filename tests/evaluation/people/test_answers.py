"""Answers survive kills, come from several tabs at once, and are never changed."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.evaluation.people.sets import image_set
from unclip.evaluation.people.answers import COLUMNS, Answers, rows_of
from unclip.evaluation.people.folders import read_folders
from unclip.evaluation.people.questions import Seated, questions_of, seat
from unclip.evaluation.people.survey import Survey


@pytest.fixture
def order(tmp_path: Path) -> list[Seated]:
    models = read_folders([image_set(tmp_path / name, k) for k, name in enumerate("ab")])
    return seat(questions_of(models, ("caption",), 6, 0)[0], 0, "")


def test_the_last_answer_of_a_person_counts(order: list[Seated], tmp_path: Path) -> None:
    kept = Answers(tmp_path / "new" / "answers.sqlite")
    for number, (rater, choice) in enumerate(
        (("", "first"), ("anna", "unsure"), ("", "second"), ("", "second"))
    ):
        kept.append(order[0], rater, choice, 1.5, f"click-{min(number, 2)}")
    assert [(one.rater, one.choice) for one in kept.read()] == [("anna", "unsure"), ("", "second")]
    assert len(kept.read(every=True)) == 3  # the same click, sent twice, is one
    assert kept.chosen("") == {order[0].question.key: "second"}
    one = kept.read()[-1]
    assert one.preferred == order[0].preferred("second")
    assert one.score == float(one.preferred == "a")
    row = rows_of([one])[0]
    assert tuple(row) == COLUMNS
    assert row["time"].startswith("20")
    with pytest.raises(ValueError, match="choice must be one of"):
        kept.append(order[0], "", "third", 1.0, "click-9")


def test_nothing_is_changed_or_deleted(order: list[Seated], tmp_path: Path) -> None:
    kept = Answers(tmp_path / "answers.sqlite")
    kept.append(order[0], "", "first", 1.0, "click-1")
    with closing(sqlite3.connect(kept.file)) as database:
        for statement in ("UPDATE answers SET choice = 'second'", "DELETE FROM answers"):
            with pytest.raises(sqlite3.DatabaseError, match="only appended"):
                database.execute(statement)


def test_many_tabs_at_once(order: list[Seated], tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    tabs = [Answers(file), Answers(file)]

    def click(number: int) -> None:
        tabs[number % 2].append(order[number % 6], "", "first", 1.0, f"click-{number:03}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(click, range(60)))
    assert len(tabs[0].read(every=True)) == 60
    assert len(tabs[1].read()) == 6
    assert tabs[0].secret() == tabs[1].secret()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_an_answer_that_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    folders = [image_set(tmp_path / name, k) for k, name in enumerate("ab")]
    program = """
import sys
from pathlib import Path
from unclip.evaluation.people.answers import Answers
from unclip.evaluation.people.folders import read_folders
from unclip.evaluation.people.questions import questions_of, seat
*folders, file = map(Path, sys.argv[1:])
order = seat(questions_of(read_folders(folders), ("caption",), 6, 0)[0], 0, "")
kept = Answers(file)
for number in range(10**6):
    kept.append(order[number % 6], "", "first", 1.0, f"click-{number}")
    print(number, flush=True)
"""
    words = [*map(str, folders), str(tmp_path / "answers.sqlite")]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    confirmed = [int(child.stdout.readline()) for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    confirmed += [int(line) for line in rest.split("\n")[:-1]]
    kept = Answers(tmp_path / "answers.sqlite").read(every=True)
    assert len(confirmed) <= len(kept) <= len(confirmed) + 1
    assert len(Answers(tmp_path / "answers.sqlite").read()) == 6


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("these are no answers " * 100)
    with closing(sqlite3.connect(tmp_path / "other")) as database:
        database.execute("CREATE TABLE mine (x)")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, says in (
        ("text", "holds no answers"),
        ("other", "another program's"),
        ("link", "it is a link"),
        ("text/answers", "cannot write"),
    ):
        with pytest.raises(ValueError, match=says):
            Answers(tmp_path / name)


def test_a_survey_goes_on_where_it_stopped(order: list[Seated], tmp_path: Path) -> None:
    questions = [one.question for one in order]
    kept = Answers(tmp_path / "answers.sqlite")
    survey = Survey(questions, kept, "", 0)
    assert survey.state()["number"] == 0
    first = survey.state()
    assert survey.answer(first["key"], "first", 1.0, "click-01") == {"next": 1}
    again = Survey(questions, Answers(kept.file), "", 0)  # after a restart
    assert (again.state()["number"], again.state()["done"]) == (1, 1)
    assert again.state(0)["choice"] == "first"
    assert again.state(0)["sides"] == first["sides"]  # open tabs still show their images
    for number in range(1, 6):
        reply = again.answer(again.state()["key"], "unsure", 1.0, f"click-1{number}")
    assert reply == {"next": None}
    assert again.state() == {"number": None, "total": 6, "done": 6}
    assert Survey(questions, kept, "anna", 0).state()["done"] == 0
    with pytest.raises(ValueError, match="no such question"):
        survey.answer("unknown", "first", 1.0, "click-30")


def test_nothing_on_the_page_names_a_model(order: list[Seated], tmp_path: Path) -> None:
    survey = Survey([one.question for one in order], Answers(tmp_path / "a.sqlite"), "", 0)
    state = survey.state()
    image = survey.image(state["sides"][0][0])
    assert image.startswith(b"\x89PNG")
    assert b"model" not in image  # the notes are gone
    assert set(state) == {"number", "total", "done", "key", "kind", "caption", "sides", "choice"}
    with pytest.raises(ValueError, match="no such image"):
        survey.image("../a/0-00.png")


def test_a_nonce_is_one_answers(order: list[Seated], tmp_path: Path) -> None:
    kept = Answers(tmp_path / "answers.sqlite")
    kept.append(order[0], "", "first", 1.0, "click-1")
    with pytest.raises(ValueError, match="this nonce is another answer's"):
        kept.append(order[1], "", "first", 1.0, "click-1")
    with pytest.raises(ValueError, match="not printable"):
        kept.append(order[1], "", "first", 1.0, "\ud800" * 8)
    with pytest.raises(ValueError, match="cannot be used: NOT NULL"):
        kept.append(order[1], "", "first", None, "click-2")  # type: ignore[arg-type]
    assert len(kept.read(every=True)) == 1
    kept.file.unlink()
    with pytest.raises(ValueError, match="is no longer there"):
        kept.append(order[1], "", "first", 1.0, "click-3")
    assert not kept.file.exists()
