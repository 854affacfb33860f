"""How fast captioned images are read: a folder, tar shards, Parquet, against webdataset's reader.

python benchmarks/data.py [--images FOLDER] [--count 1000] [--side 256] [--size 64] [--rounds 7]

One process, no workers, one thread; seconds are those of the processor, so that what else the
machine does counts less. The same images, scenes of the built-in world as JPEG or a folder's, lie
as a folder, as tar shards, as Parquet (if pyarrow is there) and as a saved data set: first the
batches of an epoch are compared, training's and held-out, which must be equal to the last bit.
Each way then reads all of them once a round, in turn with the others, and turns them into squares
of `size` pixels: ours in shuffled order, webdataset in the order of the shards, which is all that
it can do without an index. Precomputed embeddings, of the bundled model, are read without images.
Prints medians as a Markdown table; the need of training is given by `--need`, the images a second
that the fastest stage takes (the bundled model's prior, docs/experiments.md).
"""

import argparse
import contextlib
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from common import machine
from unclip.data.batches import Order, batches
from unclip.data.embedded import EmbeddedSource, alone
from unclip.data.embeddings import Embeddings
from unclip.data.mixture import Mixture
from unclip.data.registry import open_source
from unclip.data.sources import Source, Stream, length
from unclip.data.transforms import square, to_bytes
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.interfaces.cli import main as unclip

_SHARD = 250  # images of a shard
_BATCH = 50


def drawn(folder: Path, count: int, side: int) -> None:
    """Scenes of the built-in world as JPEG, with their captions."""
    world = World(WorldConfig(size=side))
    for number in range(count):
        pixels, caption = world[number]
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=90)
        (folder / f"{number:06d}.txt").write_text(caption)


def packed(folder: Path, root: Path) -> list[Path]:
    """The images of a folder as shards."""
    files = sorted(file for file in folder.iterdir() if file.suffix != ".txt")
    shards = []
    for start in range(0, len(files), _SHARD):
        shards.append(root / f"{start // _SHARD:04d}.tar")
        with tarfile.open(shards[-1], "w") as tar:
            for file in files[start : start + _SHARD]:
                tar.add(file, file.name)
                tar.add(file.with_suffix(".txt"), f"{file.stem}.txt")
    return shards


def tabled(folder: Path, root: Path) -> dict[str, Path]:
    """The same as Parquet and Arrow; nothing without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return {}
    files = sorted(file for file in folder.iterdir() if file.suffix != ".txt")
    rows = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "text": [file.with_suffix(".txt").read_text().splitlines() for file in files],
    }
    table = pa.table(rows)
    pq.write_table(table, root / "all.parquet", row_group_size=100)
    place = str(root / "all.arrow")
    with pa.OSFile(place, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return {"Parquet": root / "all.parquet", "Arrow": root / "all.arrow"}


def compared(names: dict[str, str], size: int) -> str:
    """A line that says that all ways give the same batches; an error where they do not."""
    count = 0
    for split in ("train", "held-out"):
        sources = [
            open_source(name, size=size, split=split, held_out=0.05) for name in names.values()
        ]
        steps = -(-length(sources[0]) // _BATCH)
        streams = [batches(source, Order.of(source), _BATCH) for source in sources]
        for number, (first, *others) in enumerate(zip(*streams, strict=True)):
            for name, other in zip(list(names)[1:], others, strict=True):
                same = torch.equal(first["images"], other["images"])
                if not same or first["captions"] != other["captions"]:
                    raise SystemExit(f"batch {number} of {split} differs: {name}")
            count += 1
            if number + 1 == steps:
                break
    return f"{', '.join(names)}: {count} batches of {_BATCH}, training's and held-out, are equal"


def precomputed(name: str, root: Path, size: int) -> EmbeddedSource | Mixture:
    """The same data's embeddings by the bundled model, with hidden states."""
    words = [name, "-o", str(root / "embeddings"), "--size", str(size), "--hidden-states"]
    with contextlib.redirect_stdout(io.StringIO()):
        if unclip(["embed", *words, "--precision", "fp32"]):
            raise SystemExit("the images could not be embedded")
    return alone(Embeddings.open(root / "embeddings"), 0.0)


def ours(source: Source | Stream) -> Callable[[], int]:
    """Reads every image once, shuffled."""
    order, steps = Order.of(source), length(source) // _BATCH
    epoch = 0

    def read() -> int:
        nonlocal epoch
        stream = batches(source, order, _BATCH, start_step=epoch * steps)
        for _, _ in zip(range(steps), stream, strict=False):
            pass
        epoch += 1
        return steps * _BATCH

    return read


def theirs(shards: list[Path], size: int) -> Callable[[], int] | None:
    """webdataset's reader on the same shards, and the same squares; None without the package."""
    try:
        import webdataset as wds
    except ImportError:
        return None

    def sample(one: tuple[Any, str]) -> tuple[torch.Tensor, str]:
        image, text = one
        return to_bytes(square(Image.open(io.BytesIO(image)).convert("RGB"), size)), text

    def read() -> int:
        data = wds.WebDataset([str(shard) for shard in shards], shardshuffle=False)
        pipe = data.to_tuple("jpg;png;webp;jpeg", "txt").map(sample)
        count = 0
        part: list[torch.Tensor] = []
        for image, _ in pipe:
            part.append(image)
            count += 1
            if len(part) == _BATCH:
                torch.stack(part)
                part = []
        return count

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, help="folder of images with a .txt beside each")
    parser.add_argument("--count", type=int, default=1000, help="scenes, where no folder is given")
    parser.add_argument("--side", type=int, default=256, help="their side in pixels")
    parser.add_argument("--size", type=int, default=64, help="side of what is trained on, pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--need", type=float, default=332, help="images/s that training takes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = options.images or root / "folder"
        if options.images is None:
            folder.mkdir()
            drawn(folder, options.count, options.side)
        shards = packed(folder, root)
        names = {"folder": str(folder), "tar shards": f"wds:{root}"}
        names |= {name: f"hf:{file}" for name, file in tabled(folder, root).items()}
        sources: dict[str, Source | Stream] = {}
        seconds = {}
        for name, place in names.items():
            began = time.perf_counter()
            sources[name] = open_source(place, size=options.size, split="all")
            seconds[name] = time.perf_counter() - began
        same = compared(names, options.size)
        sources["precomputed"] = precomputed(str(folder), root, options.size)
        ways = {name: ours(source) for name, source in sources.items()}
        webdataset = theirs(shards, options.size)
        if webdataset is not None:
            ways["webdataset's reader"] = webdataset
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, read in ways.items():
                began = time.process_time()
                count = read()
                rates[name].append(count / (time.process_time() - began))
    print(machine(torch.device("cpu")))
    print(same)
    opened, indexed = (seconds[name] for name in ("folder", "tar shards"))
    print(f"opening the folder took {opened:.2f} s, indexing the shards {indexed:.2f} s")
    print("| way | images per second of a core, median (range) | of webdataset's | of the need |")
    print("|---|---|---|---|")
    middle = {name: statistics.median(of_way) for name, of_way in rates.items()}
    base = middle.get("webdataset's reader")
    for name, of_way in rates.items():
        of_theirs = f"{middle[name] / base:.2f}" if base else ""
        span = f"{min(of_way):,.0f} to {max(of_way):,.0f}"
        of_need = f"{middle[name] / options.need:.1f}"
        print(f"| {name} | {middle[name]:,.0f} ({span}) | {of_theirs} | {of_need} |")


if __name__ == "__main__":
    main()
