"""`unclip tune`: sampler, guidance and candidates that suit a model, found by measuring."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unclip.checks import shown, whole_number
from unclip.interfaces.cli.numbers import Count, Seed, seconds_in
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_folder
from unclip.interfaces.cli.sources import check_template, own_words


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Find the sampler, guidance and candidates that suit a model, by measuring images for held-out
    captions with the model's own CLIP, and write them into the model folder.
    """

    model: tyro.conf.Positional[str]
    """Model folder."""
    data: str | None = None
    """Data: the folder that the model was trained on, whose held-out images are taken, or others;
    what the model folder says that it was trained on, if left out."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    budget: str = "5m"
    """Time that it may take, e.g. 90s, 5m or 1h; "none" tries everything."""
    n: Annotated[Count | None, tyro.conf.arg(aliases=["-n"])] = None
    """Captions, with two images each; if left out, 32, or as many as there is time for."""
    seed: Seed = 0
    """Seed of the noise, and of which captions are taken."""
    device: str = "auto"
    """Device that computes: auto, cpu, cuda or cuda:N; auto is a GPU if there is one."""
    dry_run: bool = False
    """Measurements only: nothing is written."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip tune` say, and give the exit code."""
    options = parse(Tune, "tune", arguments)
    seconds = None if options.budget == "none" else seconds_in(options.budget, "--budget")
    from unclip.evaluation.metrics.likeness import LEAST
    from unclip.files import real_path
    from unclip.storage.folder import bundled
    from unclip.storage.hub import hub_name, resolve_model

    if hub_name(options.model) and not options.dry_run:
        raise ValueError(
            f"{shown(options.model)} is kept in the Hub's cache, where nothing is changed: save it "
            "into a folder of your own and tune that, or add --dry-run to measure only"
        )
    folder = resolve_model(options.model, None, None, ())
    if real_path(folder) == real_path(bundled("model")) and not options.dry_run:
        raise ValueError(
            "the bundled model is part of the package and stays as it is: add --dry-run to measure "
            "only, or tune a copy"
        )
    if options.n is not None:
        whole_number(options.n, "-n", LEAST)
    if not options.dry_run:
        check_folder(folder)  # now, not after minutes of measuring
    check_template(options.template)
    with own_words():
        _tune(folder, options, seconds)
    return 0


def _tune(folder: Path, options: Tune, seconds: float | None) -> None:
    from unclip.evaluation.studies.tuning import tune

    tune(
        folder, options.data, seconds=seconds, device=options.device, captions=options.n,
        seed=options.seed, write=not options.dry_run, report=_say, template=options.template,
    )  # fmt: skip


def _say(line: str) -> None:
    print(line, flush=True)
