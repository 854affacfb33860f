"""`unclip embed`: CLIP embeddings of images, folders of them, and texts, as a file; or of all of
captioned data, as a folder that training reads (`embed_source.py`).
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from unclip.checks import many, printable, shown
from unclip.interfaces.cli.numbers import BatchSize, Pixels, whole
from unclip.interfaces.cli.options import ModelOptions, parse
from unclip.interfaces.cli.outputs import check_file, write_file
from unclip.interfaces.cli.streams import progress_bar

T = TypeVar("T")

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from unclip.pipeline.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Embed(ModelOptions):
    """Write CLIP embeddings: one row for each image or text into a file, or those of captioned data
    into a folder, for training (--data.embeddings)."""

    what: tyro.conf.Positional[tuple[str, ...]]
    """Into a file: names of images, folders of images (all in them, by name; damaged ones are named
    and passed over), and texts: what is no file or folder, and does not end like an image's name,
    is a text. Into a folder: one name of captioned data, as `unclip train --data` takes it."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("embeddings.safetensors")
    """Name of a .npy or a .safetensors file; the latter names its rows. Or of a folder: a name
    without an ending."""
    hidden_states: bool = False
    """Into a folder: hidden states of captions as well, so that training does without CLIP."""
    size: Pixels | None = None
    """Into a folder: pixels of a side that images have for CLIP; those of CLIP if left out."""
    template: str = ""
    """Into a folder: caption of images that only a class is known of, such as "a photo of a {}"."""
    images_per_shard: Annotated[int, whole(1, 2**20)] = 2048
    """Into a folder: images of a file; what a kill loses."""
    batch_size: BatchSize = 32
    """Into a folder: images computed at once."""
    workers: Annotated[int, whole(1, 256)] = min(8, os.cpu_count() or 1)
    """Into a folder: threads that decode images."""

    def source(self) -> str | None:
        """The name of the data whose embeddings go into a folder; None where rows go into a file.

        Raises:
            ValueError: the output is the other kind.
        """
        from unclip.data.registry import FOLDER, parse

        named = [word for word in self.what if parse(word)[0] != FOLDER and ":" in word]
        ending = self.output.suffix.lower() in (".npy", ".safetensors")
        if ending or (self.output.suffix and not self.output.is_dir()):
            if named and ending:
                raise ValueError(
                    f"{shown(named[0])} is captioned data: its embeddings go into a folder; give a "
                    "name without an ending, such as -o embeddings"
                )
            return None
        if len(self.what) != 1:
            raise ValueError(
                f"a folder holds the embeddings of one source, not of {len(self.what)} things; "
                "give a mixture ('mix:3 DATA + 1 DATA'), or a .npy or .safetensors file for -o"
            )
        return self.what[0]


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip embed` say, and give the exit code."""
    options = parse(Embed, "embed", arguments)
    started = time.perf_counter()
    if not options.what:
        raise ValueError("there is nothing to embed: give images, folders or texts")
    if (source := options.source()) is not None:
        from unclip.interfaces.cli.commands.embed_source import embed_source

        return embed_source(options, source)
    import torch

    from unclip.data.transforms import SUFFIXES, image_size, open_image
    from unclip.outputs.latents import write_embeddings
    from unclip.pipeline.inputs import check_prompts

    check_file(options.output, ".npy", ".safetensors")
    found: list[Path | str] = []
    for word in options.what:
        path = Path(word[:1000])
        if word and is_there(path):
            if path.is_dir():
                found += images_in(path)
            else:
                image_size(path)  # one that was named is refused before the work
                found.append(path)
        elif path.suffix.lower() in SUFFIXES:
            raise ValueError(f"{word} does not exist")
        else:
            found += check_prompts(word)
    pipe = options.open()
    kept, rows = _embedded(
        pipe, found, lambda one: one if isinstance(one, str) else open_image(one)
    )
    z, names = torch.cat(rows), [str(one) for one in kept]
    where = write_file(
        options.output, lambda path: write_embeddings(path, z, names, pipe.clip.print)
    )
    took = time.perf_counter() - started
    print(f"{many(len(rows), 'embeddings')} of width {pipe.clip.width} in {took:.1f} s: {where}")
    return 0


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; a text may be no possible name of one."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def images_in(folder: Path) -> list[Path]:
    """All images below a folder, in the order of their names, as training finds them; what else is
    there, and not read, is said.

    Raises:
        ValueError: there is none.
    """
    from unclip.data.captions import counted
    from unclip.data.walk import LINKED, walk

    found = walk(folder)
    where = printable(str(folder))
    for line in counted(found.unread):
        print(f"{where}: skipped: {line}", file=sys.stderr)
    linked = [name for name in found.images if name in set(found.linked)]
    for line in counted({LINKED: linked} if linked else {}):
        print(f"{where}: used: {line}", file=sys.stderr)
    if not found.images:
        raise ValueError(f"{where} holds no images")
    return [folder / name for name in found.images]


def embeddings_of(pipe: "Pipeline", data: str, samples: int, template: str = "") -> "Tensor":
    """At most `samples` embeddings (M, D): of captioned data, of a folder's images, or from a file;
    of more images those that a fixed seed draws."""
    import torch

    from unclip.data.batches import Order
    from unclip.data.registry import FOLDER, parse
    from unclip.data.shuffled import shuffled
    from unclip.data.sources import length, read
    from unclip.data.transforms import from_bytes, open_image
    from unclip.interfaces.cli.sources import open_named
    from unclip.outputs.latents import read_embeddings

    if samples < 2:
        raise ValueError(f"{many(samples, 'samples were')} asked for; components need at least 2")
    kind, place = parse(data)
    if kind != FOLDER:
        source = shuffled(open_named(data, size=pipe.sizes[-1], template=template))
        count = min(samples, length(source))
        drawn = read(source, range(count))

        def pixels(_: int) -> "Image.Image":
            sample = next(drawn, None)
            if sample is None:  # an error has ended it
                raise ValueError(f"{printable(data)} gives no more images")
            return from_bytes(sample["image"])

        _, rows = _embedded(pipe, range(count), pixels)
    elif Path(place).is_dir():  # without captions, too
        found = images_in(Path(place))
        order = Order(len(found))
        chosen = [found[order(number)] for number in range(min(samples, len(found)))]
        _, rows = _embedded(pipe, chosen, open_image)
    else:
        return read_embeddings(Path(place), pipe.clip.width, pipe.clip.print)[:samples]
    return torch.cat(rows).cpu()


def _embedded(
    pipe: "Pipeline", several: Sequence[T], read: "Callable[[T], Image.Image | str]"
) -> "tuple[list[T], list[Tensor]]":
    """Those that can be read, and the rows of their embeddings; the others are named, and do not
    end the work.

    Raises:
        ValueError: none of them can be read.
    """
    from unclip.data.captions import UNREADABLE, counted

    kept: list[T] = []
    rows: list[Tensor] = []
    damaged: list[str] = []
    with progress_bar(len(several)) as bar:
        for one in several:
            bar.update()
            try:
                what = read(one)
            except ValueError as error:
                damaged.append(str(error))
                continue
            rows.append(
                pipe.embed_texts(what) if isinstance(what, str) else pipe.embed_images(what)
            )
            kept.append(one)
    if not rows:
        raise ValueError(f"there is nothing to embed: {damaged[0]}")
    for line in counted({UNREADABLE: damaged} if damaged else {}):
        print(f"skipped: {line}", file=sys.stderr)
    return kept, rows
