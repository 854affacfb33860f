"""Every command with one or two flags, or a word, replaced by a hostile one."""

import dataclasses
import os
import shutil
import typing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import CODES, QUICK, Case, Good
from tests.fuzz.hostile import WORDS
from tests.fuzz.recipes import good_recipe
from unclip.config import dump_toml
from unclip.evaluation.people.answers import Answers
from unclip.interfaces.cli.commands import (
    batch,
    blend,
    decode,
    edit,
    embed,
    generate,
    info,
    inpaint,
    invert,
    probe,
    serve,
    tune,
    upscale,
    vary,
    verify,
    world,
)
from unclip.interfaces.cli.commands.train import SPECS, _options
from unclip.interfaces.cli.evaluations import (
    aesthetic,
    clip,
    diversity,
    edits,
    fid,
    guidance,
    inpainting,
    memorisation,
    pairs,
    reconstruction,
    upsampling,
)
from unclip.pipeline.knobs import concerning, flag_of
from unclip.pipeline.settings import Settings
from unclip.stages.catalogue import STAGES

_IMAGES = (*QUICK, "-o", "o.png")
_PRIOR = ("--prior-steps", "1")
_MEASURED = ("-n", "2", "--trust", "--batch-size", "2", *QUICK)
_DRAWN = ("-n", "2", "--data", "images", "--batch-size", "2", *QUICK)
_COMMANDS: dict[tuple[str, ...], tuple[Any, tuple[str, ...]]] = {
    ("generate", "a star"): (generate.Generate, (*_IMAGES, *_PRIOR)),
    ("vary", "good.png"): (vary.Vary, _IMAGES),
    ("blend", "good.png", "good.png"): (blend.Blend, (*_IMAGES, "--frames", "2")),
    ("edit", "good.png", "--to", "a star"): (edit.Edit, (*_IMAGES, "--invert-steps", "2")),
    ("inpaint", "good.png", "a star", "--box", "0,0,9,9"): (
        inpaint.Inpaint, (*_IMAGES, *_PRIOR, "--resamples", "1"),
    ),
    ("probe", "good.png", "--data", "two.npy"): (probe.Probe, (*_IMAGES, "--components", "2")),
    ("invert", "good.png"): (
        invert.Invert, ("--precision", "fp32", "--steps", "2", "-o", "o.safetensors"),
    ),
    ("embed", "good.png"): (embed.Embed, ("--precision", "fp32", "-o", "o.npy")),
    ("decode", "two.npy"): (decode.Decode, _IMAGES),
    ("upscale", "good.png"): (
        upscale.Upscale, ("--precision", "fp32", "--super-res-steps", "1", "-o", "o.png"),
    ),
    ("data", "emoji", "--preview", "o.png"): (
        world.Look, ("--kinds", "shapes", "--rows", "1", "--columns", "2", "--size", "32"),
    ),
    ("info",): (info.Info, ()),
    ("verify", "good.png"): (verify.Verify, ()),
    ("batch", "prompts.csv"): (batch.Batch, (*QUICK, *_PRIOR, "-o", "job")),
    # Open to other machines without keys: nothing is served.
    ("serve",): (serve.Serve, ("--host", "0.0.0.0")),
    ("tune", "model"): (
        tune.Tune, ("--dry-run", "--data", "images", "-n", "4", "--budget", "1s"),
    ),
    ("evaluate", "clip"): (clip.Clip, ("-n", "4", "--data", "images", "--size", "16")),
    ("evaluate", "fid"): (
        fid.Fid, ("-n", "2", "--data", "images", "--batch-size", "2", *QUICK, *_PRIOR),
    ),
    ("evaluate", "diversity"): (diversity.Diversity, (*_DRAWN, *_PRIOR)),
    ("evaluate", "guidance"): (guidance.Guidance, (*_DRAWN, *_PRIOR, "--scales", "1", "2")),
    ("evaluate", "aesthetic"): (aesthetic.Aesthetic, (*_DRAWN, *_PRIOR, "--probe", "two.npy")),
    ("evaluate", "reconstruction"): (
        reconstruction.Reconstruction, (*_DRAWN, "--invert-steps", "2"),
    ),
    ("evaluate", "upsampling"): (
        upsampling.Upsampling,
        ("-n", "2", "--data", "images", "--precision", "fp32", "--super-res-steps", "1"),
    ),
    ("evaluate", "edits"): (
        edits.Edits, (*_MEASURED, "--invert-steps", "1", "--theta", "0.5"),
    ),
    ("evaluate", "inpainting"): (
        inpainting.Inpainting, (*_MEASURED, *_PRIOR, "--resamples", "1"),
    ),
    ("evaluate", "memorisation"): (memorisation.Memorisation, (*_DRAWN, *_PRIOR)),
    ("evaluate", "pairs", "images", "others"): (
        pairs.Pairs, ("--summary", "--answers", "kept.sqlite"),
    ),
    **{
        ("train", name): (_options(SPECS[name]), ("--dry-run", "--recipe", f"{name}.toml"))
        for name in STAGES
    },
    ("train", "judge"): (_options(SPECS["judge"]), ("--dry-run", "--data.workers", "0")),
}  # fmt: skip
_NUMBERS = (
    *("0", "1", "-1", "2", "3", "8", "16", "32", "33", "1e9", "0.5", "1.5", "nan", "inf", "1e-9"),
    *(str(2**20), str(2**31), str(2**63), str(2**64), "1" + "0" * 400, "-1" + "0" * 30),
)
_GOOD = (
    *("1", "2", "8", "16", "32", "0.5", "1.0", "fast", "paper", "default", "ddim", "ddpm", "dpm++"),
    *("heun", "karras", "trailing", "leading", "linspace"),
    *("branches", "diffusion", "autoregressive", "slerp", "fixed", "cpu", "fp32", "bf16", "auto"),
    *("model", "images", "out", "o.png", "good.png", "two.npy", "emoji:shapes", "red", "0,0,4,4"),
)
_ENCODINGS = ("utf-8",) * 7 + ("ascii", "cp1252", "utf-16")


def make(random: Random, place: Path, good: Good) -> Case:
    for name in ("model", "images", "two.npy"):
        good.copy(name, place)
    good.copy("images/000.png", place).rename(place / "good.png")
    (place / "folder").mkdir()
    (place / "loop").symlink_to("loop")
    os.mkfifo(place / "fifo")
    start = random.choice(list(_COMMANDS))
    options, quick = _COMMANDS[start]
    words = [*start, *quick]
    (place / "prompts.csv").write_text("prompt,seed\na star,1\na heart,2\n")
    if start[0] not in ("info", "data", "tune", "verify") and start[1:2] != ("pairs",):
        words += ["--model", "model"]
    if start[1:2] == ("pairs",):
        shutil.copytree(place / "images", place / "others")
        shutil.copy(place / "others" / "001.png", place / "others" / "000.png")
        Answers(place / "kept.sqlite")
    if start[0] == "train" and start[1] in STAGES:
        Path(place, f"{start[1]}.toml").write_text(dump_toml(good_recipe(start[1])))
    spoilt = []
    for _ in range(random.choice((1, 1, 2))):
        if random.random() < 0.2 and len(start) > 1:  # one of the words that come first
            at, word = random.randrange(len(start)), random.choice(WORDS)
            words[at] = word
            spoilt.append(f"{start[at]} → {word[:40]!r}")
            continue
        flag = random.choice(_flags(options) + _knobs(options))
        pool = random.choice((WORDS, _NUMBERS, _GOOD))
        given = [random.choice(pool) for _ in range(random.choice((1, 1, 1, 1, 0, 2)))]
        words += [f"{flag}={given[0]}"] if given and random.random() < 0.3 else [flag, *given]
        spoilt.append(f"{flag} {[one[:40] for one in given]}")
    title = f"{' '.join(start[:2])}: {', '.join(spoilt)}"
    codes = CODES.get(start[0], Case.codes)
    return Case(title, tuple(words), encoding=random.choice(_ENCODINGS), codes=codes)


def _knobs(options: Any) -> list[str]:
    """Those of the knobs, which `parse` adds."""
    known = concerning(Settings, getattr(options, "stages", ()))
    return [f"--{flag_of(name, one)}" for name, one in known.items()]


@cache
def _flags(options: Any, prefix: str = "--") -> list[str]:
    """Names of all flags, those of nested tables too."""
    hints, found = typing.get_type_hints(options), []
    for field in dataclasses.fields(options):
        name = f"{prefix}{field.name.strip('_').replace('_', '-')}"
        nested = dataclasses.is_dataclass(hints[field.name])
        found += _flags(hints[field.name], f"{name}.") if nested else [name]
    return [name for name in found if name != "--compile"]  # takes minutes, rightly
