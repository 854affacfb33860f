"""The table of a job: one prompt a row, with a seed or an id if it has them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.checks import many, shown
from unclip.data.tables import CAPTION_KEYS, captions_of, read_rows
from unclip.files import open_regular
from unclip.pipeline.inputs import check_prompts

_KEYS = ("prompt", *CAPTION_KEYS, "seed", "id")
_EXACT = 2**53  # a JSON number beyond is no longer the one that was written
_BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class Row:
    """One prompt of a job."""

    number: int
    """Among all rows, from 0 on."""
    prompt: str = ""
    seed: int | None = None
    """Of its first image, where the table says one."""
    id: str = ""
    """What the table calls it."""
    problem: str = ""
    """Why no image can be made of it; then the rest is empty."""


def read_prompts(table: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .csv or .parquet table; what is wrong with one is its `problem`.

    Columns: `prompt` (or `text`, `caption`), and perhaps `seed` and `id`; others are passed over.

    Raises:
        ValueError: the table cannot be read, or is none.
    """
    for number, (line, cells) in enumerate(read_rows(table, _KEYS)):
        try:
            yield Row(number, _prompt(cells), _seed(cells.get("seed")), _id(cells.get("id")))
        except ValueError as error:
            yield Row(number, problem=f"line {line}: {error}")


def counted(table: Path) -> tuple[int, str]:
    """How many rows a table has, and a hash of its bytes.

    Raises:
        ValueError: as `read_prompts`, or there are none.
    """
    rows = sum(1 for _ in read_prompts(table))
    if not rows:
        raise ValueError(f"{table} holds no prompts")
    digest = hashlib.sha256()
    with open_regular(table) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return rows, digest.hexdigest()


def _prompt(cells: Mapping[str, Any]) -> str:
    text = cells.get("prompt")
    if text is None and any(key in cells for key in CAPTION_KEYS):
        text = captions_of(cells, "the row")[0]
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the row holds no prompt; it needs a text under prompt, text or caption")
    return check_prompts(text)[0]


def _seed(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = int(value)
        exact = number == (value if isinstance(value, int | float) else number)
    except (TypeError, ValueError, OverflowError):
        exact, number = False, 0
    if isinstance(value, float) and abs(number) >= _EXACT:
        exact = False
    if isinstance(value, bool) or not exact or not -(2**63) <= number < 2**64:
        hint = (
            "a whole number" if not isinstance(value, float) else f"a whole number, below {_EXACT}"
        )
        raise ValueError(f"the seed {shown(value)} is not {hint}")
    return number


def _id(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list):
        raise ValueError("the id is neither a text nor a number")
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if len(text) > 200:
        raise ValueError(f"the id has {many(len(text), 'characters')}; 200 is the limit")
    return text
