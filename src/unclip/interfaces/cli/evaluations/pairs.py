"""`unclip evaluate pairs`: people say which model's images they prefer, on a page served here."""

import csv
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unclip import __version__
from unclip.checks import Notice, many, printable
from unclip.evaluation.people.questions import KINDS, Kind
from unclip.interfaces.cli.evaluations.shared import check_output, print_table, tell
from unclip.interfaces.cli.numbers import Count, Port, Seed
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_file, write_file

if TYPE_CHECKING:
    from unclip.evaluation.people.answers import Answer
    from unclip.evaluation.people.preferences import Summary

_LONGEST = 200  # characters of a rater's name


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Ask people, blind, which of two models' images they prefer: a page on this machine shows
    images side by side, and keeps every answer. Ctrl-C ends it with the summary; the same command
    goes on where it stopped."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Two folders of images or more, one a model: images that `unclip generate` or `unclip
    evaluate` made, or any with captions beside them."""
    ask: tuple[Kind, ...] = ()
    """Kinds of questions; if left out, all that the images allow. Diversity takes 16 images of a
    caption from each model."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 100
    """Questions of each kind for each two models."""
    seed: Seed = 0
    """Seed of which images are compared, of their order and of the sides."""
    rater: str = ""
    """Name of who answers; each person has an order of their own."""
    answers: Path = Path("out/answers.sqlite")
    """File that keeps the answers, of any number of people and comparisons."""
    port: Port | None = None
    """Port of the page on 127.0.0.1; 8765 if left out, or a free one."""
    summary: bool = False
    """The summary of the answers so far, without a page."""
    export: Path | None = None
    """Name of a .csv or .json file for the answers, one by one, without a page."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Name of a .json file for the summary."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate pairs` say, and give the exit code."""
    options = parse(Pairs, "evaluate pairs", arguments)
    check_output(options.output)
    if options.export is not None:
        check_file(options.export, ".csv", ".json")
    if len(options.rater) > _LONGEST:
        raise ValueError(f"--rater has {len(options.rater)} characters; {_LONGEST} are enough")
    from unclip.evaluation.people.answers import Answers
    from unclip.evaluation.people.folders import read_folders
    from unclip.evaluation.people.questions import questions_of
    from unclip.evaluation.people.survey import Survey

    looks = options.summary or options.export is not None
    if looks and not options.answers.exists():
        raise ValueError(
            f"there are no answers yet: {printable(str(options.answers))} is not there"
        )
    if not looks:
        check_file(options.answers)
    models = read_folders(list(options.folders))
    kinds = [kind for kind in KINDS if kind in options.ask]
    questions, lacking = questions_of(models, kinds, options.n, options.seed)
    kept = Answers(options.answers)
    for one in lacking:
        warnings.warn(f"not asked: {one}", Notice, stacklevel=2)
    if not looks:
        _serve(Survey(questions, kept, options.rater, options.seed), options.port)
    keys = {question.key for question in questions}
    every = kept.read()
    answers = [one for one in every if one.question in keys]
    if len(answers) < len(every):
        said = f"{many(len(every) - len(answers), 'answers')} of {printable(str(options.answers))} "
        said += "are to other questions (other images, -n or --seed) and do not count here"
        warnings.warn(said, Notice, stacklevel=2)
    if options.export is not None:
        print(f"{many(len(answers), 'answers')} written to {_export(options.export, answers)}")
    names = [model.name for model in models]
    return _tell(names, answers, options)


def _serve(survey: Any, port: int | None) -> None:
    """Until Ctrl-C, or SIGTERM."""
    from unclip.interfaces.survey.server import SurveyServer

    with SurveyServer(survey, port) as server:
        state = survey.state()
        left = state["total"] - state["done"]
        print(
            f"{many(left, 'questions')} of {state['total']:,} to answer: open {server.address} "
            "(Ctrl-C ends, and shows the summary)"
        )
        sys.stdout.flush()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)
        finally:
            signal.signal(signal.SIGTERM, before)
    print()


def _tell(models: list[str], answers: "list[Answer]", options: Pairs) -> int:
    from unclip.evaluation.people.preferences import summarise

    if not answers:
        print("no answers yet" + (": nothing is written" if options.output is not None else ""))
        return 0
    summary = summarise(answers, models, options.seed)
    report = {"unclip": __version__, "seed": options.seed, "n": options.n, "models": models}
    rows = _table(summary)
    tell(rows, report | summary.to_dict(), options.output)
    for kind, ranking in summary.rankings.items():
        print()
        strengths = [(one.model, one.strength) for one in ranking]
        print_table(
            [
                (f"{kind}, Bradley–Terry", "strength (95 %)"),
                *(
                    (name, f"{x.value:+.2f} ({x.low:+.2f} to {x.high:+.2f})")
                    for name, x in strengths
                ),
            ]
        )
    return 0


def _table(summary: "Summary") -> list[tuple[str, ...]]:
    """How often the first model was preferred, "not sure" counting as half for either."""
    rows: list[tuple[str, ...]] = [
        ("question", "models", "first", "not sure", "second", "first preferred (95 %)")
    ]
    for kind, found in summary.preferences.items():
        for one in found:
            counts = (f"{one.first}", f"{one.unsure}", f"{one.second}")
            rate = one.rate
            interval = f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
            rows.append((kind, f"{one.models[0]} / {one.models[1]}", *counts, interval))
    return rows


def _export(file: Path, answers: "list[Answer]") -> str:
    """All that is known of each answer, as a table or as JSON; what to tell the user."""
    from unclip.evaluation.people.answers import COLUMNS, rows_of
    from unclip.files import write_json

    rows = rows_of(answers)

    def write_csv(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, COLUMNS)
            writer.writeheader()
            writer.writerows({name: _inert(value) for name, value in row.items()} for row in rows)

    if file.suffix.lower() == ".csv":
        return write_file(file, write_csv)
    return write_file(file, lambda path: write_json(path, {"answers": rows}))


def _inert(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
