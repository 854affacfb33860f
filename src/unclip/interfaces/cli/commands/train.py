"""`unclip train STAGE`: flags and recipe files to a run.

What is heavy is imported inside functions, as `unclip train all --help` goes through here too.
"""

import dataclasses
import signal
from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from unclip.checks import printable, real_number, whole_number
from unclip.config import dump_toml, suggest, to_mapping
from unclip.device.processes import this_process
from unclip.files import check_utf8
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_folder
from unclip.stages.catalogue import STAGES, Row, Stages
from unclip.training.run import RECIPE, check_owner, run_folder

if TYPE_CHECKING:
    from unclip.stages.recipe import Recipe
    from unclip.stages.spec import StageSpec
    from unclip.training.plan import Elsewhere

SPECS = Stages(ChainMap({"judge": Row("unclip.evaluation.judge.training:SPEC")}, STAGES.rows))
_USAGE = """\
usage: unclip train all --model DIR --data SOURCE [--budget 1h]
       unclip train STAGE --model DIR [--data SOURCE] …

all: every stage of a model, one after the other, within a budget of time
stages: {names}
unclip train all --help says more; unclip train STAGE --help lists every field of its recipe."""


@dataclasses.dataclass(frozen=True)
class _Flags:
    """Folders a run reads and writes."""

    model: Path
    """Model folder, which is created or gets a new component."""
    recipe: str | None = None
    """Values in place of the defaults: small, medium or paper, which come with the package, or a
    TOML file."""
    run: Path | None = None
    """Folder of checkpoints and metrics; runs/MODEL/STAGE if left out."""
    resume: bool = False
    """Continuation of the run from its newest checkpoint, with its own recipe."""
    overwrite: bool = False
    """Replacement of what the model folder has already, and of an unfinished run."""
    dry_run: bool = False
    """Report of what would be trained and what it takes, in ten lines, and no training."""
    processes: int = 1
    """Devices that the run is planned for, with --dry-run: memory of each, and days."""
    rate: float | None = None
    """TFLOP/s that each of them does, with --dry-run; what products reach here if left out."""
    verbose: bool = False
    """Whole recipe as well, with --dry-run."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip train` say, and give the exit code."""
    words = list(arguments)
    names = ", ".join(SPECS)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE.format(names=names))
        return 0 if words else 2
    name = words.pop(0)
    if name == "all":
        from unclip.interfaces.cli.commands.train_all import run as run_all

        return run_all(words)
    if name not in SPECS:
        raise ValueError(f"unknown stage {name!r}{suggest(name, [*SPECS, 'all'])}")
    from unclip.stages.recipe import Recipe
    from unclip.storage.folder import ModelFolder
    from unclip.training.job import Folders
    from unclip.training.plan import plan
    from unclip.training.start import start

    spec = SPECS[name]
    words = [_data_flag(word) for word in words]
    default = _default(spec, words)
    options: Any = parse(
        _options(spec), f"train {name}", words, default=default,
        description=f"Train the stage {name!r} into a model folder.",
    )  # fmt: skip
    recipe = Recipe(options.network, options.data, options.training, options.optimiser)
    _check_start(recipe, default, words, options.resume)
    folder = options.run or run_folder(options.model, name)
    check_utf8(options.model)
    check_utf8(folder)  # of checkpoints
    check_folder(options.model)  # now, not after hours of training
    check_folder(folder)
    if not options.dry_run and _elsewhere(options):
        raise ValueError(
            "--processes and --rate are for --dry-run; torchrun starts several processes "
            "(docs/cluster.md)"
        )
    folders = Folders(options.model, folder, options.resume, options.overwrite)
    if options.dry_run:
        planned = plan(spec, recipe, folders, options.device, _elsewhere(options))
        if options.verbose:
            print(dump_toml({"stage": name, **to_mapping(recipe)}), end="\n\n")
        print(planned)
        return 0
    stopped = start(spec, recipe, folders, options.device)
    if stopped:
        print(f"stopped by {signal.Signals(stopped).name}; add --resume to continue", flush=True)
        return 128 + stopped
    if this_process().rank == 0:  # the first of torchrun's processes speaks for all
        model, where = printable(str(options.model)), printable(str(folder))
        there = ModelFolder(options.model)
        written = [*spec.components, *filter(there.has, spec.optional)]
        print(f"{', '.join(written)} written to {model}; the run is in {where}")
    return 0


def _check_start(recipe: "Recipe[Any]", default: Any, words: Sequence[str], resume: bool) -> None:
    """Refuse flags that would decide nothing where weights are there to start from."""
    from unclip.stages.sizes import Sized

    if resume and recipe.training.init != default.training.init:
        raise ValueError(
            "a run that is resumed goes on from its own weights: leave --training.init out"
        )
    decided = recipe.network.decided() if isinstance(recipe.network, Sized) else ()
    for name in decided if recipe.training.init else ():
        flag = f"--network.{name.replace('_', '-')}"
        if _value(words, flag) is not None:
            raise ValueError(
                f"the network has the sizes of {printable(recipe.training.init)}, which "
                f"--training.init names: leave {flag} out"
            )


def _elsewhere(options: _Flags) -> "Elsewhere | None":
    """The other machines that a dry run is for, if it is for others."""
    from unclip.training.plan import Elsewhere

    if options.processes == 1 and options.rate is None:
        return None
    processes = whole_number(options.processes, "--processes", 1, 2**20)
    if options.rate is None:
        return Elsewhere(processes)
    return Elsewhere(processes, 1e12 * real_number(options.rate, "--rate", 1e-6, 1e6))


def _data_flag(word: str) -> str:
    """`--data SOURCE` is short for `--data.source SOURCE`."""
    return "--data.source" + word.removeprefix("--data") if word.split("=")[0] == "--data" else word


def _default(spec: "StageSpec[Any]", words: Sequence[str]) -> Any:
    """The options before flags: the stage's defaults, a recipe file's, or the resumed run's."""
    from unclip.stages.spec import load_recipe, resumed_recipe

    recipe_file, model, folder, size = (
        _value(words, f"--{name}") for name in ("recipe", "model", "run", "network.size")
    )
    if "--resume" in words and model:
        run = Path(folder) if folder else run_folder(Path(model), spec.name)
        if not (run / RECIPE).is_file():
            raise ValueError(
                f"nothing to resume: {run} holds no run of {spec.name}; if it is elsewhere, "
                "say where with --run"
            )
        check_owner(run, spec.name, Path(model), resume=True)
        recipe = resumed_recipe(spec, run / RECIPE, size)
    else:
        recipe = load_recipe(spec, recipe_file, size)
    parts = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    return _options(spec)(model=tyro.MISSING, **parts)


def _value(words: Sequence[str], flag: str) -> str | None:
    """A flag's value, which is needed before the others can be read."""
    for word, following in zip(words, [*words[1:], None], strict=False):
        if word == flag:
            return following
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None


def _options(spec: "StageSpec[Any]") -> type[Any]:
    """The flags of one stage: those of every run, and every field of its recipe."""
    parts = dataclasses.fields(spec.recipe)
    return dataclasses.make_dataclass(
        f"Train{spec.name.title().replace('-', '')}",
        [
            (part.name, type(getattr(spec.recipe, part.name)), dataclasses.field(kw_only=True))
            for part in parts
        ],
        bases=(_Flags,),
        frozen=True,
    )
