"""`unclip generate`: captions to image files."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unclip.checks import many
from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.options import PromptOptions, captions_of, computed_as, parse
from unclip.interfaces.cli.outputs import check_output, is_file, write_file, write_image, written_by
from unclip.interfaces.cli.streams import progress_bar
from unclip.storage.assets import bundled
from unclip.words import read_vocabulary

if TYPE_CHECKING:
    from unclip.outputs.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Generate(PromptOptions, MarkingOptions):
    """Make images for captions."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What the images should show."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Images for each prompt."""
    side_by_side: bool = False
    """Images side by side, each on one thread of a CPU, as many at once as there are threads."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """A folder, or a .png file; several images in one file become a labelled sheet."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip generate` say, and give the exit code."""
    options = parse(Generate, "generate", arguments, description=_described())
    started = time.perf_counter()
    from unclip.device.precision import name_of
    from unclip.pipeline.inputs import check_count

    prompts = captions_of(options.prompts)
    count = check_count(options.n, len(prompts))
    check_output(options.output)
    provenance = options.provenance()
    settings, pipe = options.settings(), options.open()
    opened = time.perf_counter()
    total = pipe.evaluations(settings) * len(prompts) * count  # refuses what cannot be done
    with progress_bar(total) as bar:
        made = pipe(
            prompts,
            count,
            seed=options.seed,
            settings=settings,
            batch_size=options.batch_size,
            side_by_side=options.side_by_side,
            callback_on_step_end=lambda *step: bar.update(step[-1]["images"]),
        )
    done = time.perf_counter()
    used = settings.changed() | computed_as(pipe)
    given = {name: getattr(options, name) for name in ("batch_size", "variant")}
    given |= {"revision": pipe.revision or options.revision}
    given |= {
        name: getattr(options, name) or None for name in ("offload", "compile", "side_by_side")
    }
    given |= {"watermark": None if options.watermark else False}
    used |= {name: value for name, value in given.items() if value is not None}
    notes = {"settings": used, **written_by(options.model, pipe)}
    where = write(made.images, prompts, made.seeds, notes, options.output, provenance)
    count, size = len(made.images), "×".join(map(str, made.images[0].size))
    print(
        f"{many(count, 'images')} of {size} pixels in {done - opened:.1f} s "
        f"(opened in {opened - started:.1f} s; {name_of(pipe.dtype)} on {pipe.device}): {where}"
    )
    return 0


def _described() -> str:
    """What the command does, and what captions of the bundled model can speak of."""
    known = read_vocabulary(bundled("model") / "tokenizer")
    said = f"\n\nThe bundled model knows {known}." if known else ""
    return f"{Generate.__doc__}{said}"


def write(
    images: Sequence[Any],
    prompts: Sequence[str],
    seeds: Sequence[int | None],
    notes: dict[str, Any],
    output: Path,
    provenance: "Provenance",
) -> str:
    """Write images into a folder, one file, or one sheet; returns what to tell the user.

    Args:
        images: those of the first prompt, then those of the second, …
        seeds: of each image.
        notes: what all have in common.
        provenance: how they say that they were generated.
    """
    from unclip.outputs.images import labelled_sheet

    count = len(images) // len(prompts)
    if is_file(output) and len(images) > 1:
        rows = [list(images[i : i + count]) for i in range(0, len(images), count)]
        all_notes = {
            "prompt": list(prompts), "n": count, "seed": seeds[0], "output": output.name, **notes
        }  # fmt: skip
        labels = [f"seed {seed}" for seed in seeds[:count]]
        sheet = labelled_sheet(rows, list(prompts), labels)
        made = [box for row in sheet.boxes for box in row if box is not None]
        save = partial(provenance.save_png, sheet.image, info=all_notes, only=made)
        where = write_file(output, save)
        return f"{where}, a sheet of {len(prompts)} × {count}"
    names = [_slug(prompt) for prompt in prompts]
    repeated = len(set(names)) < len(names)
    files = []
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        info = {"prompt": prompts[i // count], "seed": seed, **notes}
        save = partial(provenance.save_png, image, info=info)
        name = f"{names[i // count]}-{seed}{f'-{i // count}' * repeated}.png"
        files.append(write_image(output, name, save))
    return files[0] if len(files) == 1 else f"{files[0]} … {Path(files[-1]).name}"


def _slug(prompt: str) -> str:
    """A file name that still says what the image shows."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:60]
    return words.encode()[:150].decode(errors="ignore") or "image"  # names end at 255 bytes
