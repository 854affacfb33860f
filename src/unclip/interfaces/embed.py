"""`unclip embed`: CLIP embeddings of images, folders of them, and texts, as a file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.interfaces.generate import check_file, progress_bar
from unclip.interfaces.options import Opening, parse

if TYPE_CHECKING:
    from torch import Tensor

    from unclip.pipeline.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Embed(Opening):
    """Write CLIP embeddings, one row for each image or text."""

    what: tyro.conf.Positional[tuple[str, ...]]
    """Names of images, folders of images (all in them, by name), and texts: what is no file or
    folder, and does not end like an image's name, is a text."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("embeddings.safetensors")
    """A .npy or a .safetensors file; the latter names its rows."""


def run(arguments: Sequence[str]) -> int:
    options = parse(Embed, "embed", arguments)
    started = time.perf_counter()
    import torch

    from unclip.data.transforms import SUFFIXES
    from unclip.pipeline.latents import write_embeddings
    from unclip.pipeline.request import check_prompts

    if not options.what:
        raise ValueError("there is nothing to embed: give images, folders or texts")
    check_file(options.output, ".npy", ".safetensors")
    found: list[Path | str] = []
    for word in options.what:
        path = Path(word[:1000])
        if word and is_there(path):
            found += images_in(path) if path.is_dir() else [path]
        elif path.suffix.lower() in SUFFIXES:
            raise ValueError(f"{word} does not exist")
        else:
            found += check_prompts(word)
    pipe = options.open()
    rows = []
    with progress_bar(len(found)) as bar:
        for one in found:
            rows.append(pipe.embed_texts(one) if isinstance(one, str) else _image(pipe, one))
            bar.update()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_embeddings(options.output, torch.cat(rows), [str(x) for x in found], pipe.fingerprint)
    took = time.perf_counter() - started
    print(f"{len(rows)} embeddings of width {pipe.clip.width} in {took:.1f} s: {options.output}")
    return 0


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; a text may be no possible name of one."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def images_in(folder: Path) -> list[Path]:
    """All images below a folder, in the order of their names."""
    from unclip.data.transforms import SUFFIXES

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no images")
    return files


def embeddings_of(pipe: "Pipeline", data: str, samples: int) -> "Tensor":
    """At most `samples` embeddings (M, D): of the built-in world, of a folder, or from a file."""
    import torch

    from unclip.data.sources import open_source
    from unclip.data.transforms import open_image, to_pil
    from unclip.pipeline.latents import read_embeddings

    if samples < 2:
        raise ValueError(f"{samples} samples were asked for; components need at least 2")
    if data.partition(":")[0] != "emoji":
        path = Path(data)
        if not path.is_dir():
            return read_embeddings(path, pipe.clip.width)[:samples]
        files = images_in(path)[:samples]
        images = (open_image(file) for file in files)
    else:
        world, files = open_source(data, size=pipe.sizes[-1]), []
        images = (to_pil(world[i]["image"] / 127.5 - 1) for i in range(samples))
    rows = []
    with progress_bar(len(files) or samples) as bar:
        for image in images:
            rows.append(pipe.embed_images(image))
            bar.update()
    return torch.cat(rows).cpu()


def _image(pipe: "Pipeline", path: Path) -> "Tensor":
    from unclip.data.transforms import open_image

    return pipe.embed_images(open_image(path))
