"""Answers in SQLite: appended, never changed.

Each is one committed row before the page is told so: the write-ahead log with `synchronous = FULL`
keeps it through a kill or a power cut. Several tabs and processes may append at once. Of several
answers of one person to one question the last one counts, so that a mind can be changed, and an
answer that is sent again, since its reply was lost, is kept once (`nonce`).
"""

import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from unclip.checks import printable
from unclip.evaluation.people.questions import Seated
from unclip.files import check_no_link

Choice = Literal["first", "second", "unsure"]
CHOICES: Final[tuple[Choice, ...]] = get_args(Choice)
_PATIENCE: Final = 30  # seconds that a writer waits for another one
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    nonce TEXT NOT NULL UNIQUE,        -- of one click
    time REAL NOT NULL,                -- seconds since 1970
    rater TEXT NOT NULL,
    question TEXT NOT NULL,            -- see Question.key
    kind TEXT NOT NULL,
    caption TEXT NOT NULL,
    model_a TEXT NOT NULL,
    model_b TEXT NOT NULL,
    swapped INTEGER NOT NULL,          -- whether b was shown first
    choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'unsure')),
    preferred TEXT NOT NULL,           -- a model, or '' where unsure
    seconds REAL NOT NULL              -- from the question to the answer
);
CREATE INDEX IF NOT EXISTS by_question ON answers (rater, question, id);
CREATE TABLE IF NOT EXISTS secret (value TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON answers
    BEGIN SELECT RAISE(ABORT, 'answers are only appended'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON answers
    BEGIN SELECT RAISE(ABORT, 'answers are only appended'); END;
"""


@dataclass(frozen=True)
class Answer:
    """One row; see `_SCHEMA`."""

    time: float
    rater: str
    question: str
    kind: str
    caption: str
    model_a: str
    model_b: str
    swapped: bool
    choice: str
    preferred: str
    seconds: float

    @property
    def score(self) -> float:
        """Of model a: 1 where it was preferred, 0 where b was, and between them ½."""
        return 0.5 if not self.preferred else float(self.preferred == self.model_a)


COLUMNS: Final = tuple(Answer.__dataclass_fields__)
"""Of an exported table."""


class Answers:
    """A file of answers, which is made where it is not there.

    Raises:
        ValueError: the file is another one's, or cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._made = file, False
        self._make()
        self._made = True

    def _make(self) -> None:
        """The file, where it is not there."""
        file = self.file
        check_no_link(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write {file}: {error.strerror}") from None
        with self._opened() as database:
            if self._version(database) == _VERSION:
                return
            database.execute("BEGIN IMMEDIATE")  # another process may make it just now
            version = self._version(database)
            foreign = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version not in (0, _VERSION) or (foreign and not version):
                raise ValueError(f"{self._where} is another program's file; name another one")
            for statement in _statements(_SCHEMA):
                database.execute(statement)
            database.execute(
                "INSERT INTO secret SELECT ? WHERE NOT EXISTS (SELECT 1 FROM secret)",
                (secrets.token_urlsafe(24),),
            )
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.execute("COMMIT")

    @staticmethod
    def _version(database: sqlite3.Connection) -> int:
        return int(database.execute("PRAGMA user_version").fetchone()[0])

    @property
    def _where(self) -> str:
        return printable(str(self.file))

    def secret(self) -> str:
        """A word that pages prove themselves by; the same after a restart, for open tabs."""
        with self._opened() as database:
            return str(database.execute("SELECT value FROM secret").fetchone()[0])

    def append(self, seated: Seated, rater: str, choice: str, seconds: float, nonce: str) -> None:
        """Keep an answer; it is on the disk when this returns.

        Raises:
            ValueError: no such choice; the disk is full, or the file cannot be written.
        """
        if choice not in CHOICES:
            raise ValueError(f"the choice must be one of {', '.join(CHOICES)}")
        if not nonce.isprintable():  # half characters too, which SQLite does not take
            raise ValueError("the nonce has characters that are not printable")
        one = seated.question
        preferred = seated.preferred(choice)
        row = (
            *(nonce, time.time(), rater, one.key, one.kind, one.caption, *one.models),
            *(seated.swapped, choice, preferred, seconds),
        )
        with self._opened() as database:
            with suppress(sqlite3.OperationalError):  # somebody reads; the next answer will
                database.execute("PRAGMA journal_mode = WAL")
            columns = ", ".join(("nonce", *COLUMNS))
            marks = ", ".join("?" * len(row))
            try:
                database.execute(f"INSERT INTO answers ({columns}) VALUES ({marks})", row)
            except sqlite3.IntegrityError:
                kept = database.execute(
                    "SELECT rater, question, choice FROM answers WHERE nonce = ?", (nonce,)
                ).fetchone()
                if kept is None:
                    raise
                if kept != (rater, one.key, choice):
                    said = "this nonce is another answer's; load the page again"
                    raise ValueError(said) from None

    def read(self, every: bool = False) -> list[Answer]:
        """The answers that count, oldest first; or all that were ever given."""
        newest = "SELECT max(id) FROM answers GROUP BY rater, question"
        where = "" if every else f"WHERE id IN ({newest})"
        with self._opened() as database:
            rows = database.execute(
                f"SELECT {', '.join(COLUMNS)} FROM answers {where} ORDER BY id"
            ).fetchall()
        return [Answer(**_typed(dict(zip(COLUMNS, row, strict=True)))) for row in rows]

    def chosen(self, rater: str) -> dict[str, str]:
        """Question → what this person chose last."""
        return {one.question: one.choice for one in self.read() if one.rater == rater}

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own, which commits each statement."""
        if self._made and not self.file.is_file():  # SQLite would begin an empty one
            raise ValueError(f"{self._where} is no longer there; put it back, or start again")
        try:
            with closing(
                sqlite3.connect(self.file, timeout=_PATIENCE, isolation_level=None)
            ) as database:
                database.execute("PRAGMA synchronous = FULL")
                yield database
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise ValueError(f"{self._where} holds no answers; name another file") from None
            raise ValueError(f"{self._where} cannot be used: {error}") from None


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"swapped": bool(row["swapped"])}


def _statements(script: str) -> Iterator[str]:
    """Those of a script, whole; triggers have semicolons inside."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def rows_of(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Answers for a table, with the time as text."""
    return [vars(one) | {"time": _as_text(one.time)} for one in answers]


def _as_text(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
