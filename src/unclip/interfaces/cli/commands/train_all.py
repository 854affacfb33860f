"""`unclip train all`: every stage of a model, one after the other, within a budget of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.checks import printable
from unclip.config import dump_toml, to_mapping
from unclip.device.processes import this_process
from unclip.files import check_utf8
from unclip.interfaces.cli.numbers import seconds_in
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_folder
from unclip.interfaces.cli.sources import check_template, own_words
from unclip.training.run import run_folder

if TYPE_CHECKING:
    from unclip.stages.recipe import Data
    from unclip.training.progress import Asked
    from unclip.training.whole import Place, Tune

_BUDGETED, _DEFAULT = "small", "1h"  # the other recipes have steps of their own


@dataclass(frozen=True, kw_only=True)
class TrainAll:
    """Train CLIP, prior, decoder and, where there is something to enlarge, upsampler into a model
    folder, and tune how it is sampled."""

    model: Path
    """Model folder, which is created."""
    data: str | None = None
    """Captioned images: a folder, or emoji:shapes, the built-in world."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    budget: str | None = None
    """Time for everything, such as 90s, 30m or 2h; 1h if left out, but of recipes other than small
    their own steps."""
    recipe: str = "small"
    """Networks and how they are trained: small, medium or paper, or a TOML file."""
    init: str = "bundled"
    """Model from which decoder and upsampler start where images have its size: bundled, a folder,
    hf:owner/model, or none."""
    held_out: float | None = None
    """Fraction of a folder's images that is kept for measuring; if left out, as for a stage."""
    tune: bool = True
    """No choice of guidance and sampler at the end, on held-out captions."""
    run: Path | None = None
    """Folder of the stages' runs; runs/MODEL if left out."""
    resume: bool = False
    """Continuation of what was stopped, as it was asked for: no other flag is needed."""
    overwrite: bool = False
    """Replacement of what the model folder has already, and of unfinished runs."""
    dry_run: bool = False
    """Report of what would be trained and how long it takes on this machine, and no training."""
    verbose: bool = False
    """Recipes as well, with --dry-run."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""


def run(words: Sequence[str]) -> int:
    """Do what the words after `unclip train all` say, and give the exit code."""
    options = parse(TrainAll, "train all", words)
    budget = None if options.budget is None else seconds_in(options.budget, "--budget")
    if options.resume and options.dry_run:
        raise ValueError("--dry-run says what a new training takes; leave it or --resume out")
    if options.resume and (other := _said_beside_resume(options)):
        raise ValueError(
            f"a training that is resumed goes on as it was asked for: leave {other} out, or add "
            "--overwrite in --resume's place"
        )
    if options.data is None and not options.resume:
        raise ValueError("train all needs --data: a folder of captioned images, or emoji:shapes")
    if this_process().processes > 1:
        raise ValueError("train all is one process; several can train one stage after the other")
    folder = options.run or run_folder(options.model)
    for path in (options.model, folder):
        check_utf8(path)
        check_folder(path)
    from unclip.training.whole import Place

    place = Place(options.model, folder, options.device)
    tune = partial(_tune, device=options.device) if options.tune else None
    with own_words():
        stopped = _train(options, place, budget, tune)
    if stopped is None:
        return 0
    if not stopped:
        model, runs = printable(str(options.model)), printable(str(folder))
        print(f"trained: {model}; the runs, with their previews, are in {runs}")
    return 128 + stopped if stopped else 0


def _train(
    options: TrainAll, place: "Place", budget: float | None, tune: "Tune | None"
) -> int | None:
    """What `train_all` gives, or None for a dry run."""
    from unclip.training.outlook import Outlook, described, measured
    from unclip.training.whole import resume_all, train_all

    if options.resume:
        return resume_all(place, tune, options.data, budget)
    if options.dry_run:
        outlook = Outlook.of(_asked(options, budget))
        lines = described(outlook, measured(outlook.recipes, place.device))
        if options.verbose:
            tables = {name: to_mapping(one) for name, one in outlook.recipes.items()}
            print(dump_toml(tables), end="\n\n")
        print("\n".join(lines))
        return None
    return train_all(_asked(options, budget), place, tune, options.overwrite)


def _said_beside_resume(options: TrainAll) -> str:
    """A flag that would decide nothing; "" for none."""
    plain = TrainAll(model=options.model)
    for name in ("template", "recipe", "init", "held_out", "overwrite", "verbose"):
        if getattr(options, name) != getattr(plain, name):
            return "--" + name.replace("_", "-")
    return ""


def _asked(options: TrainAll, budget: float | None) -> "Asked":
    from unclip.stages.recipe import Data
    from unclip.training.progress import Asked

    if budget is None and options.recipe == _BUDGETED:
        budget = seconds_in(_DEFAULT, "--budget")
    check_template(options.template)
    data = Data(source=options.data or "", template=options.template)
    if options.held_out is not None:
        data = replace(data, held_out=options.held_out)
    init = "" if options.init == "none" else options.init
    return Asked(data, options.recipe, budget, init, options.tune)


def _tune(model: Path, data: "Data", seconds: float | None, device: str) -> None:
    """The last step: sampling's settings, by captions that were held out."""
    from unclip.evaluation.studies.tuning import tune

    with own_words():
        tune(
            model, data.source, seconds=seconds, report=partial(print, flush=True), device=device,
            template=data.template,
        )  # fmt: skip
