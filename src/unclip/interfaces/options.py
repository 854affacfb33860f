"""Flags to dataclasses, through tyro, and those that name a model; what does not parse becomes one
sentence.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

T = TypeVar("T")
_FRAME, _RULES = "╭╮╰╯│ ", "─-"  # tyro draws with ASCII where the terminal is not UTF-8


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Flags for the model and where it runs."""

    model: str | None = None
    """A model folder, or a model's name on the Hugging Face Hub; the bundled model if left out."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """The faster of fp32 and bf16 if left out; int8, for CPUs only, is an approximation."""
    device: str = "auto"
    offload: bool = False
    """Keep one component's weights in memory at a time, for small machines; slower."""
    compile: bool = False
    """Compile the networks' steps with torch, for many images on a GPU: the first take minutes."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    variant: str | None = None
    """Which weights are read where a model has several, e.g. fp16."""

    def open(self) -> "Pipeline":
        """The model that the flags name."""
        from unclip.pipeline.pipeline import Pipeline

        return Pipeline.from_pretrained(
            self.model,
            revision=self.revision,
            variant=self.variant,
            dtype=self.precision,
            device=self.device,
            offload=self.offload,
            compile=self.compile,
        )


def parse(options: Callable[..., T], command: str, arguments: Sequence[str], **more: Any) -> T:
    """Build `options` from the words after `unclip COMMAND`.

    Args:
        more: tyro's `default` and `description`.

    Raises:
        ValueError: an unknown or missing flag, or a value that is none.
        SystemExit: help was asked for, and printed.
    """
    prog = f"unclip {command}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: T = tyro.cli(options, prog=prog, args=list(arguments), **more)
            return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{sentence(said.getvalue())} (see {prog} --help)") from None


def sentence(box: str) -> str:
    """What tyro says in a box: its first paragraph, and the flag that was perhaps meant."""
    rows = [text for line in box.splitlines() if (text := line.strip(_FRAME))]
    paragraphs: list[list[str]] = [[]]
    for text in rows[1:]:  # the first is a title
        if set(text) <= set(_RULES):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    first, *others = [rows for rows in paragraphs if rows] or [["these flags make no sense"]]
    words = " ".join(first).removeprefix("Error parsing ").removesuffix(".")
    for title, *flags in others:
        if title.startswith("Perhaps you meant") and flags:
            words += f"; perhaps you meant {flags[0]}"
    return words
