"""Flags to dataclasses, through tyro, and those that commands share: which model, and how it is
sampled. What does not parse becomes one sentence.
"""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

from unclip.interfaces.cli.numbers import (
    Batch,
    Fraction,
    Guidance,
    Noise,
    Pixels,
    Seed,
    Steps,
    rules,
)

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.request import Settings

T = TypeVar("T")
SamplerName = Literal["ddpm", "ddim", "dpm++"]
_ENDLESS = 1_000_000
_FRAME, _RULES = "╭╮╰╯│ ", "─-"  # tyro draws with ASCII where the terminal is not UTF-8


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Flags for the model and where it runs."""

    model: str | None = None
    """A model folder, or hf:owner/model on the Hugging Face Hub; the bundled model if left out."""
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


def made_on(pipe: "Pipeline") -> str:
    """For an image's notes: what rounding depends on beside the settings."""
    import torch

    from unclip.device.instructions import instructions

    if pipe.device.type != "cpu":
        return str(pipe.device)
    return f"cpu ({instructions().kernels}, {torch.get_num_threads()} threads)"


@dataclass(frozen=True, kw_only=True)
class Sampled(Opening):
    """Flags for how images are drawn from their embeddings."""

    seed: Seed = 0
    """Of the first image; the others count on."""
    steps: Literal["fast", "default", "paper"] = "default"
    """Preset of samplers and steps."""
    guidance: Guidance | None = None
    """Guidance scale of the decoder; if left out, 1 with inverted latents, else the model's own."""
    guidance_interval: tuple[Noise, Noise] | None = None
    """Lowest and highest noise level σ, noise over signal, at which to guide; "0 inf" is all. The
    preset's if left out."""
    guidance_kind: Literal["branches", "distilled"] | None = None
    """Both branches of guidance in the decoder, or, at half the cost, what a student has learned
    of them, if the model has one; the preset's if left out."""
    decoder_steps: Steps | None = None
    super_res_steps: Steps | None = None
    sampler: SamplerName | None = None
    """For all stages; if left out, ddim with inverted latents, else the preset's."""
    eta: Fraction | None = None
    """Stochasticity of ddim and dpm++, 0 to 1; if left out, 0 with inverted latents, else the
    model's own."""
    reuse: Steps | None = None
    """Compute deep features at every so many steps of decoder and upsampler, and reuse them in
    between; 1 is every step. If left out, 1 with inverted latents, else the preset's."""
    size: Pixels | None = None
    """Pixels of a side, one of the model's sizes; the largest if left out."""
    batch_size: Batch | None = None
    """Images computed at once; if left out, 16 on a GPU and 1 on a CPU."""

    def settings(self) -> "Settings":
        """Those of the pipeline."""
        from unclip.pipeline.request import Settings

        return Settings(
            steps=self.steps,
            decoder_num_inference_steps=self.decoder_steps,
            super_res_num_inference_steps=self.super_res_steps,
            decoder_guidance_scale=self.guidance,
            sampler=self.sampler,
            eta=self.eta,
            size=self.size,
            guidance_interval=self.guidance_interval,
            guidance_kind=self.guidance_kind,
            reuse=self.reuse,
        )


@dataclass(frozen=True, kw_only=True)
class Prompted(Sampled):
    """Flags for how images are drawn from captions."""

    prior: Literal["diffusion", "autoregressive"] | None = None
    """Which prior draws the embedding, where the model has both; its own choice if left out."""
    prior_steps: Steps | None = None
    prior_guidance: Guidance | None = None
    """Guidance scale of the prior; the model's own if left out."""

    def settings(self) -> "Settings":
        return replace(
            super().settings(),
            prior=self.prior,
            prior_num_inference_steps=self.prior_steps,
            prior_guidance_scale=self.prior_guidance,
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
    out, said = _Paper(sys.stdout), _Paper(sys.stderr)
    helping = any(word in ("-h", "--help") for word in arguments)
    width = shutil.get_terminal_size().columns if helping else _ENDLESS
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(said),
            _columns(width),
        ):
            parsed: T = tyro.cli(options, prog=prog, args=list(arguments), registry=rules(), **more)
            return parsed
    except SystemExit as stop:
        if not stop.code:
            print(out.getvalue(), end="")
            raise
        raise ValueError(f"{sentence(said.getvalue())} (see {prog} --help)") from None


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    """Have tyro, which asks the environment, break lines there: in a sentence of ours nowhere."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


class _Paper(io.StringIO):
    """What tyro prints, as for a stream but without colours, which are escapes of a terminal."""

    encoding = "utf-8"

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.encoding = getattr(stream, "encoding", None) or "utf-8"


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
    words = words.removesuffix(" Expected 1 values").removesuffix(".")
    for title, *flags in others:
        if title.startswith("Perhaps you meant") and flags:
            words += f"; perhaps you meant {flags[0]}"
    return words
