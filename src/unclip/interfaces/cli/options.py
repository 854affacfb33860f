"""Flags to dataclasses, through tyro, and those that commands share: which model, and how it is
sampled. What does not parse becomes one sentence.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from unclip.checks import Notice, many
from unclip.interfaces.cli.numbers import BatchSize, Seed, flag_type, rules
from unclip.pipeline.knobs import concerning, flag_of, hints_of
from unclip.pipeline.settings import DECODING, STAGES, flags, known
from unclip.pipeline.translation import EXPLAINED

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings

T = TypeVar("T")
_ENDLESS = 1_000_000
_FRAME, _RULES = "╭╮╰╯│ ", "─-"  # tyro draws with ASCII where the terminal is not UTF-8


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Flags for the model and where it runs."""

    model: str | None = None
    """Model folder, or hf:owner/model on the Hugging Face Hub; the bundled model if left out."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Data type of the networks, by these names or torch's (bfloat16); auto is the faster of fp32
    and bf16. int8, for CPUs only, is an approximation."""
    device: str = "auto"
    """Device that computes: auto, cpu, cuda or cuda:N; auto is a GPU if there is one."""
    offload: bool = False
    """Weights of one component in memory at a time, for small machines; slower."""
    compile: bool = False
    """Compilation of the networks by torch, for many images on a GPU: the first take minutes."""
    engine: Literal["torch", "openvino"] = "torch"
    """Engine that computes U-Nets on a CPU; openvino is faster on many, see unclip doctor."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub."""
    variant: str | None = None
    """Name of the weights that are read where a model has several, e.g. fp16."""

    def open(self) -> "Pipeline":
        """The model that the flags name."""
        from unclip.device.threads import is_crowded
        from unclip.pipeline.pipeline import Pipeline

        pipe = Pipeline.from_pretrained(
            self.model,
            revision=self.revision,
            variant=self.variant,
            dtype=self.precision,
            device=self.device,
            offload=self.offload,
            compile=self.compile,
            engine=self.engine,
        )
        pipe.set_progress_bar_config(disable=True)  # commands show their own
        if pipe.device.type == "cpu" and is_crowded():
            warnings.warn(
                "other programs keep this machine busy: with OMP_NUM_THREADS=1 set, images may be "
                "made several times as fast",
                Notice,
                stacklevel=2,
            )
        return pipe


def computed_as(pipe: "Pipeline") -> dict[str, str]:
    """For an image's notes: how the networks computed, as flags say it.

    The precision too: where it is chosen by a measurement, the next one may choose otherwise.
    """
    from unclip.device.precision import name_of

    engine = {} if pipe.engine == "torch" else {"engine": pipe.engine}
    return {"precision": name_of(pipe.dtype), **engine}


def made_on(pipe: "Pipeline") -> str:
    """For an image's notes: what rounding depends on beside the settings."""
    import torch

    from unclip.device.instructions import instructions

    if pipe.device.type != "cpu":
        return str(pipe.device)
    engine = ""
    if pipe.engine == "openvino":
        from unclip.acceleration.openvino import version

        engine = f", OpenVINO {version()}"
    threads = many(torch.get_num_threads(), "threads")
    return f"cpu ({instructions().kernels}, {threads}{engine})"


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(ModelOptions):
    """Flags of what is sampled: the seed, and the knobs that concern its stages.

    The knobs are fields of `Settings`; `parse` adds them to the class, see `with_knobs`.
    """

    stages: ClassVar[tuple[str, ...]] = DECODING
    inverts: ClassVar[bool] = False
    """Whether the command can start from inverted latents."""
    seed: Seed = 0
    """Seed of the first image; the others count on."""

    def settings(self) -> "Settings":
        """Those of the pipeline."""
        names = concerning(known(), self.stages)
        return known()(**{name: getattr(self, name) for name in names if hasattr(self, name)})


@dataclass(frozen=True, kw_only=True)
class BatchOptions(SamplingOptions):
    """Flags of what makes several images."""

    batch_size: BatchSize | None = None
    """Images computed at once; if left out, 16 on a GPU and 1 on a CPU."""


@dataclass(frozen=True, kw_only=True)
class PromptOptions(BatchOptions):
    """Flags of images that are drawn from captions."""

    stages: ClassVar[tuple[str, ...]] = STAGES


def captions_of(prompts: Sequence[str]) -> list[str]:
    """Prompts that images are drawn for, checked; an empty one, perhaps a slip, is told of."""
    from unclip.pipeline.inputs import check_prompts

    checked = check_prompts(prompts, empty=True)
    if not all(text.strip() for text in checked):
        warnings.warn(
            "the prompt is empty: images are drawn without a caption", Notice, stacklevel=2
        )
    return checked


def with_knobs(options: Any) -> Any:
    """The options with a flag for every knob that concerns their stages, but for those that they
    have already."""
    kind = known()
    fields: list[Any] = []
    for name, one in concerning(kind, getattr(options, "stages", ())).items():
        if name in getattr(options, "__dataclass_fields__", {}):
            continue
        sentence = one.sentence(
            getattr(options, "inverts", False), getattr(options, "edits", False)
        )
        argument = tyro.conf.arg(name=flag_of(name, one), help=sentence)
        hint: Any = Annotated[flag_type(hints_of(kind)[name], one.words), argument]
        fields.append((name, hint, kind.__dataclass_fields__[name].default))
    if not fields:
        return options
    return make_dataclass(
        options.__name__, fields, bases=(options,), frozen=True, kw_only=True,
        namespace={"__doc__": options.__doc__},
    )  # fmt: skip


def parse(options: Callable[..., T], command: str, arguments: Sequence[str], **more: Any) -> T:
    """Build `options`, with their knobs, from the words after `unclip COMMAND`.

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
    flagged = with_knobs(options)
    if helping:
        from unclip.interfaces.cli.helping import described, wrapped

        flagged, default = described(flagged, more.get("default"))
        more = more | ({} if default is None else {"default": default})
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(said),
            _columns(width),
        ):
            parsed: T = tyro.cli(flagged, prog=prog, args=list(arguments), registry=rules(), **more)
            return parsed
    except SystemExit as stop:
        if not stop.code:
            page = out.getvalue()
            print(wrapped(page, width) if helping else page, end="")
            raise
        said_so = sentence(said.getvalue())
        meant = _meant(said_so) if getattr(options, "stages", ()) else ""
        if meant:  # better than the flag that is nearest in its letters
            said_so = f"{said_so.partition('; perhaps')[0]}; {meant}"
        raise ValueError(f"{said_so} (see {prog} --help)") from None


def _meant(unrecognised: str) -> str:
    """What to type for a flag that is an argument of Python's, ours or diffusers'; else nothing."""
    begun = re.match(r"Unrecognized options: --([\w-]+)", unrecognised)
    name, named = begun[1].replace("-", "_") if begun else "", flags()
    if name in named:
        return f"perhaps you meant --{named[name]}"
    words = re.split(r"(\w+)", EXPLAINED.get(name, ""))
    told = ["--" + named[word] if "_" in word and word in named else word for word in words]
    text = "".join(told).replace("steps=", "--steps ")
    return f"there is no {begun[0].split()[-1]}: {text}" if begun and told != words else ""


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
    for title, *near in others:
        if title.startswith("Perhaps you meant") and near:
            words += f"; perhaps you meant {near[0]}"
    return words
