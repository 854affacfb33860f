"""Files of embeddings, and of latents, of every wrong kind."""

import io
import pickle
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.case import QUICK, Case, Good
from tests.fuzz.hostile import replace, spoil_bytes, spoil_json, spoil_safetensors

_NPY_HEADS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 64), }",
    "{'descr': '%s', 'fortran_order': False, 'shape': (2, 64), }",
    "{'descr': '<f4', 'fortran_order': %s, 'shape': (2, 64), }",
    "{'descr': '<f4', 'shape': (2, 64), 'x': %s}",
    "%s",
)
_NPY_VALUES = (
    *("2", "-1", "0", "10**9", str(2**62), "1000000000000", "None", "True", "'x'", "(2,", "[", "O"),
    *("<f8", "|O", "|V4", "<U8", "<c8", "<M8[s]", "<f2", ">f4", "|b1", "<i4", "__import__('os')"),
    *("(" * 9000, "1" + "0" * 400, "\x1b[2J", "x" * 70_000),
)


_PRIOR = (
    *("--network.num-layers", "1", "--network.num-attention-heads", "2", "--data.workers", "0"),
    *("--network.attention-head-dim", "16", "--network.statistics", "4", "--dry-run"),
    *("--training.batch-size", "2", "--training.precision", "fp32"),
)


def make(random: Random, place: Path, good: Good) -> Case:
    if random.random() < 0.3:
        return _stored(random, place, good)
    if random.random() < 0.5:
        file = good.copy("two.safetensors", place)
        said = (replace if random.random() < 0.15 else spoil_safetensors)(random, file)
    else:
        file = good.copy("two.npy", place)
        said = _spoil_npy(random, file, good.pipe.clip.width)
    if file.is_file() and random.random() < 0.1:
        ending = random.choice((".npy", ".safetensors", ".npz", ".pt", ".NPY", "", ".png"))
        file = file.rename(place / f"x{ending}")
        said += f", named {file.name}"
    common = ("--model", str(good.model), *QUICK, "-o", "o.png")
    image = str(good.image)
    decode, probe = (
        ("decode", file.name),
        ("probe", image, "--components", "2", "--data", file.name),
    )
    return Case(said, (*random.choice((decode, decode, probe)), *common))


def _stored(random: Random, place: Path, good: Good) -> Case:
    """A folder of embeddings that a prior is to learn from."""
    folder = good.copy("stored", place)
    file = random.choice(sorted(folder.iterdir()))
    of_kind = spoil_json if file.suffix == ".json" else spoil_safetensors
    said = random.choice((of_kind, of_kind, of_kind, spoil_bytes, replace))(random, file)
    if random.random() < 0.1:
        file.unlink(missing_ok=True)
        said = "is gone"
    words = ("train", "prior", "--model", str(good.model), "--run", "r", *_PRIOR)
    return Case(f"{file.name} {said}", (*words, "--data.embeddings", "stored"))


def _spoil_npy(random: Random, file: Path, width: int) -> str:
    way = random.random()
    if way < 0.25:
        return random.choice((replace, spoil_bytes))(random, file)
    if way < 0.6:  # a header by hand, before some true bytes
        value = random.choice(_NPY_VALUES)
        head = (random.choice(_NPY_HEADS) % value).encode() + b"\n"
        version = random.choice((1, 1, 2, 3, 9))
        size = len(head).to_bytes(2 if version == 1 and len(head) < 2**16 else 4, "little")
        file.write_bytes(b"\x93NUMPY" + bytes((version, 0)) + size + head + bytes(8 * width))
        return f"header {head[:80]!r}"
    name, value = random.choice(_arrays(width))
    if isinstance(value, bytes):
        file.write_bytes(value)
    else:
        np.save(file, value, allow_pickle=True)
    return name


def _arrays(width: int) -> list[tuple[str, Any]]:
    ones = np.ones((2, width), np.float32)
    archive = io.BytesIO()
    np.savez(archive, a=ones)
    dtypes = ("f2", "f8", "g", "i8", "u1", "?", "c8", "U3", "M8[s]", "V4", ">f4")
    shapes = (
        *((), (width,), (0, width), (2, 0), (1, 1, width), (2, width + 1), (1001, width)),
        (1,) * 32,
    )
    return [
        *((dtype, np.zeros((2, width), dtype)) for dtype in dtypes),
        *((f"shape {shape}", np.ones(shape, np.float32)) for shape in shapes),
        ("fortran", np.asfortranarray(ones)), ("NaN", ones * np.nan), ("zeros", ones * 0),
        ("1e300", ones.astype(np.float64) * 1e300), ("objects", np.array([None, {}], object)),
        ("records", np.zeros(2, [("a", "f4", (width,))])),
        ("zip", archive.getvalue()), ("zip's head", b"PK\x03\x04" + bytes(100)),
        ("pickle", pickle.dumps(ones)), ("two arrays", b""),
    ]  # fmt: skip
