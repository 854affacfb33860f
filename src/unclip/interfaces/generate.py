"""`unclip generate`: captions to image files."""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unclip import __version__


@dataclass(frozen=True)
class Generate:
    """Make images for captions."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What the images should show."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Images for each prompt."""
    seed: int = 0
    """Of the first image; image k has seed + k."""
    model: str | None = None
    """A model folder; the bundled model if left out."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """A folder, or a .png file; several images in one file become a labelled sheet."""
    steps: Literal["fast", "default", "paper"] = "default"
    """Preset of samplers and steps."""
    guidance: float | None = None
    """Guidance scale of the decoder; the model's own if left out."""
    prior_guidance: float | None = None
    """Guidance scale of the prior; the model's own if left out."""
    prior_steps: int | None = None
    decoder_steps: int | None = None
    super_res_steps: int | None = None
    sampler: Literal["ddpm", "ddim", "dpm++"] | None = None
    """For all stages; the preset's if left out."""
    eta: float = 0.0
    """Stochasticity of DDIM, 0 to 1."""
    size: int | None = None
    """Pixels of a side, one of the model's sizes; the largest if left out."""
    batch_size: int = 16
    """Images computed at once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"


def run(arguments: Sequence[str]) -> int:
    options = tyro.cli(Generate, prog="unclip generate", args=list(arguments))
    started = time.perf_counter()
    from unclip.pipeline.pipeline import Pipeline, Settings, check_count, check_prompts

    prompts = check_prompts(options.prompts)
    count = check_count(options.n, len(prompts))
    check_output(options.output)
    pipe = Pipeline.from_pretrained(options.model, dtype=options.precision, device=options.device)
    opened = time.perf_counter()
    settings = Settings(
        options.steps,
        options.prior_steps,
        options.decoder_steps,
        options.super_res_steps,
        options.prior_guidance,
        options.guidance,
        options.sampler,
        options.eta,
        options.size,
    )
    for prompt in prompts:
        unread = pipe.clip.tokenizer.dropped(prompt)
        if unread:
            print(
                f"this model reads no further than: … {unread[:60]!r} is ignored", file=sys.stderr
            )
    bar = _progress(pipe.evaluations(settings) * -(-len(prompts) * count // options.batch_size))
    made = pipe(
        prompts,
        count,
        seed=options.seed,
        settings=settings,
        batch_size=options.batch_size,
        callback_on_step_end=lambda *_: bar.update(),
    )
    bar.close()
    done = time.perf_counter()
    notes = [
        {
            "prompt": prompt,
            "seed": seed,
            "model": options.model,
            "settings": settings.changed(),
            "version": __version__,
        }
        for prompt, seed in zip(made.prompts, made.seeds, strict=True)
    ]
    where = write(made.images, notes, prompts, count, options.output)
    size = "×".join(map(str, made.images[0].size))
    print(
        f"{len(made.images)} image{'s' * (len(made.images) > 1)} of {size} in {done - opened:.1f} s "
        f"(opened in {opened - started:.1f} s, {str(pipe.dtype).removeprefix('torch.')} on "
        f"{pipe.device}): {where}"
    )
    return 0


def check_output(output: Path) -> None:
    """Find out before the work, not after it, whether images can be written there."""
    folder = output.parent if output.suffix else output
    if output.suffix and output.suffix.lower() != ".png":
        raise ValueError(f"{output} does not end in .png; images are written as PNG only")
    if output.suffix and output.is_dir():
        raise ValueError(f"{output} is a folder; give it without the .png, or another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".unclip-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write images into {folder}: {error.strerror}") from None


def write(
    images: Sequence[Any],
    notes: Sequence[dict[str, Any]],
    prompts: Sequence[str],
    count: int,
    output: Path,
) -> str:
    """Write images into a folder, one file, or one sheet; returns what to tell the user."""
    from unclip.pipeline.images import contact_sheet, save_png

    if output.suffix and len(images) == 1:
        save_png(images[0], output, notes[0])
        return str(output)
    if output.suffix:
        rows = [list(images[i : i + count]) for i in range(0, len(images), count)]
        seeds = [f"seed {note['seed']}" for note in notes[:count]]
        contact_sheet(rows, list(prompts), seeds, output, info=notes[0])
        return f"{output}, a sheet of {len(prompts)} × {count}"
    files = [
        output / f"{_slug(note['prompt'])}-{note['seed']}{f'-{i // count}' * repeated}.png"
        for i, note in enumerate(notes)
        for repeated in [len(set(map(_slug, prompts))) < len(prompts)]
    ]
    for image, file, note in zip(images, files, notes, strict=True):
        save_png(image, file, note)
    return str(files[0]) if len(files) == 1 else f"{files[0]} … {files[-1].name}"


def _slug(prompt: str) -> str:
    """A file name that still says what the image shows."""
    return re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:60] or "image"


def _progress(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="step", leave=False, disable=not sys.stderr.isatty())
