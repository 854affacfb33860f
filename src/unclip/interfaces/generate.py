"""`unclip generate`: captions to image files."""

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unclip import __version__
from unclip.interfaces.options import Prompted, made_on, parse
from unclip.interfaces.streams import progress_bar


@dataclass(frozen=True, kw_only=True)
class Generate(Prompted):
    """Make images for captions."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What the images should show."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Images for each prompt."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """A folder, or a .png file; several images in one file become a labelled sheet."""


def run(arguments: Sequence[str]) -> int:
    options = parse(Generate, "generate", arguments)
    started = time.perf_counter()
    from unclip.models.precision import name_of
    from unclip.pipeline.request import check_count, check_prompts

    prompts = check_prompts(options.prompts)
    count = check_count(options.n, len(prompts))
    check_output(options.output)
    pipe, settings = options.open(), options.settings()
    opened = time.perf_counter()
    for prompt in prompts:
        unread = pipe.clip.tokenizer.dropped(prompt)
        if unread:
            print(
                f"this model reads no further than: … {unread[:60]!r} is ignored", file=sys.stderr
            )
    with progress_bar(pipe.evaluations(settings) * len(prompts) * count) as bar:
        made = pipe(
            prompts,
            count,
            seed=options.seed,
            settings=settings,
            batch_size=options.batch_size,
            callback_on_step_end=lambda *step: bar.update(step[-1]["images"]),
        )
    done = time.perf_counter()
    # The precision too: where it is chosen by a measurement, the next one may choose otherwise.
    used = settings.changed() | {"precision": name_of(pipe.dtype)}
    for name in ("batch_size", "revision", "variant", "offload", "compile"):
        if getattr(options, name) not in (None, False):
            used[name] = getattr(options, name)
    notes = {
        "model": options.model, "settings": used, "machine": made_on(pipe), "version": __version__,
    }  # fmt: skip
    where = write(made.images, prompts, made.seeds, notes, options.output)
    many, size = len(made.images), "×".join(map(str, made.images[0].size))
    print(
        f"{many} image{'s' * (many > 1)} of {size} pixels in {done - opened:.1f} s "
        f"(opened in {opened - started:.1f} s; {name_of(pipe.dtype)} on {pipe.device}): {where}"
    )
    return 0


def is_file(output: Path) -> bool:
    """Whether `--output` names a file rather than a folder."""
    return bool(output.suffix) and not output.is_dir()


def check_output(output: Path) -> None:
    """Find out before the work, not after it, whether images can be written there."""
    if is_file(output) and output.suffix.lower() != ".png":
        raise ValueError(f"{output} does not end in .png; images are written as PNG only")
    check_folder(output.parent if is_file(output) else output)


def check_file(file: Path, *endings: str) -> None:
    """Find out before the work whether a file of this name can be written."""
    if file.suffix.lower() not in endings:
        raise ValueError(f"{file} does not end in {' or '.join(endings)}")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the name of a file")
    check_folder(file.parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder that nothing can be written into, or that cannot be made."""
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into the folder {folder}: {error.strerror}") from None


def write(
    images: Sequence[Any],
    prompts: Sequence[str],
    seeds: Sequence[int | None],
    notes: dict[str, Any],
    output: Path,
) -> str:
    """Write images into a folder, one file, or one sheet; returns what to tell the user.

    Args:
        images: those of the first prompt, then those of the second, …
        seeds: of each image.
        notes: what all have in common.
    """
    from unclip.pipeline.images import contact_sheet, save_png

    count = len(images) // len(prompts)
    if is_file(output) and len(images) > 1:
        rows = [list(images[i : i + count]) for i in range(0, len(images), count)]
        all_notes = {
            "prompt": list(prompts), "n": count, "seed": seeds[0], "output": output.name, **notes
        }  # fmt: skip
        labels = [f"seed {seed}" for seed in seeds[:count]]
        contact_sheet(rows, list(prompts), labels, output, info=all_notes)
        return f"{output}, a sheet of {len(prompts)} × {count}"
    names = [_slug(prompt) for prompt in prompts]
    repeated = len(set(names)) < len(names)
    files = []
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        name = f"{names[i // count]}-{seed}{f'-{i // count}' * repeated}.png"
        file = output if is_file(output) else output / name
        save_png(image, file, {"prompt": prompts[i // count], "seed": seed, **notes})
        files.append(file)
    return str(files[0]) if len(files) == 1 else f"{files[0]} … {files[-1].name}"


def _slug(prompt: str) -> str:
    """A file name that still says what the image shows."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:60]
    return words.encode()[:150].decode(errors="ignore") or "image"  # names end at 255 bytes
