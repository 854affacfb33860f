"""Samples with precomputed embeddings are those without them; what is damaged or foreign is refused
by name."""

import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import captioned_folder
from unclip.data.batches import Order, batches
from unclip.data.embedded import alone, embedded, pictures_in
from unclip.data.embeddings import INDEX, Embeddings, Plan, parts_of, write_part, write_shard
from unclip.data.mixture import Mixture
from unclip.data.registry import open_source
from unclip.files import read_json, write_json

WIDTH, PER_SHARD, SIZE = 4, 5, 16


def written(folder: Path, name: str, unreadable: int | None = None, hidden: str = "fp32") -> Path:
    """Embeddings that say whose they are: z_i is the image's row, z_t the caption's number, and as
    many tokens as the caption has letters."""
    source = open_source(name, size=SIZE, split="all")
    sources = pictures_in(source, name)
    weights = tuple(map(str, source.weights)) if isinstance(source, Mixture) else ()
    clip = {"text_encoder": "a", "image_encoder": "b"}
    plan = Plan(
        name, SIZE, clip, WIDTH, hidden, "fp32", PER_SHARD, parts_of(sources), weights
    )  # fmt: skip
    folder.mkdir()
    for number, one in enumerate(sources):
        write_part(folder, number, one)
    plan.write(folder)
    texts = [one.pictures.captions(int(n)) for one in sources for n in one.numbers]
    before = np.cumsum([0, *map(len, texts)])
    for shard in range(plan.shards):
        rows = plan.rows(shard)
        mine = [text for row in rows for text in texts[row]]
        numbers = torch.arange(before[rows.start], before[rows.stop])
        lengths = torch.tensor([len(text) for text in mine])
        tensors = {
            "z_i": torch.tensor(rows).float()[:, None].expand(-1, WIDTH).contiguous(),
            "readable": torch.tensor([row != unreadable for row in rows]).byte(),
            "last": torch.tensor([len(texts[row]) for row in rows]).cumsum(0),
            "z_t": numbers.float()[:, None].expand(-1, WIDTH).contiguous(),
        }
        if hidden:
            of_token = numbers.repeat_interleave(lengths)
            tensors |= {
                "hidden": of_token.float()[:, None].expand(-1, WIDTH).contiguous(),
                "ids": of_token.int(),
                "token_ends": lengths.cumsum(0),
            }
        write_shard(folder, plan, shard, tensors)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve captioned images, some with two captions."""
    folder = captioned_folder(tmp_path / "images", 12)
    for number in range(0, 12, 3):
        (folder / f"{number:03}.txt").write_text(f"first of {number}\nsecond of {number}\n")
    return folder


def opened(name: str, **more: Any) -> Any:
    return open_source(name, size=SIZE, held_out=0.3, **more)


@pytest.mark.parametrize("with_images", [False, True])
def test_samples_are_those_of_the_images(images: Path, tmp_path: Path, with_images: bool) -> None:
    (images / "005.png").write_bytes((images / "005.png").read_bytes()[:200])  # its header is fine
    store = Embeddings.open(written(tmp_path / "e", str(images), unreadable=5))
    plain = opened(str(images))
    source = embedded(plain, store, str(images), with_images)
    others = [source, pickle.loads(pickle.dumps(source))]
    if not with_images:
        others.append(alone(store, 0.3))
    texts = [one for number in range(12) for one in plain.pictures.captions(number)]
    for other in others:
        assert len(other) == len(plain) < 12
        assert [one.caption(3) for one in (other, plain)] == [plain.caption(3)] * 2
        for index in range(3 * len(plain)):
            ours, theirs = other[index], plain[index]
            assert ours["caption"] == theirs["caption"]
            assert ("unreadable" in ours) == ("unreadable" in theirs)
            number = int(ours["z_t"][0])
            assert texts[number] == theirs["caption"]
            assert ours["caption"] in plain.pictures.captions(int(ours["z_i"][0]))
            assert len(ours["hidden"]) == len(ours["ids"]) == ours["tokens"] == len(texts[number])
            assert set(ours["ids"].tolist()) == {number}
            if with_images:
                assert torch.equal(ours["image"], theirs["image"])
            else:
                assert "image" not in ours
        kept = [one.unseen() for one in (other, plain)]
        assert [len(one) for one in kept] == [len(plain.unseen())] * 2
        assert kept[0][0]["caption"] == kept[1][0]["caption"]
    assert len({one.fingerprint() for one in (*others, plain)}) == (2 if with_images else 3)


def test_batches_are_filled_up_and_the_same_for_any_workers(images: Path, tmp_path: Path) -> None:
    store = Embeddings.open(written(tmp_path / "e", str(images)))
    source = embedded(opened(str(images)), store, "", images=False)
    order = Order.of(source)
    ours = list(islice(batches(source, order, 4), 4))
    theirs = batches(source, order, 4, num_workers=2)
    for one, other in zip(ours, islice(theirs, 4), strict=True):
        assert one["captions"] == other["captions"]
        assert one["hidden"].shape == (4, max(map(len, one["captions"])), WIDTH)
        for key in ("z_i", "z_t", "hidden", "ids", "tokens"):
            assert torch.equal(one[key], other[key])
    theirs.close()


def test_mixtures_have_the_embeddings_of_their_parts(images: Path, tmp_path: Path) -> None:
    other = captioned_folder(tmp_path / "others", 7)
    name = f"mix:2 {images} + 1 {other}"
    store = Embeddings.open(written(tmp_path / "e", name, hidden=""))
    assert store.plan.images == 19
    plain = opened(name)
    for source in (embedded(plain, store, name, images=False), alone(store, 0.3)):
        assert isinstance(source, Mixture)
        assert source.weights == [Fraction(2), Fraction(1)]
        for index in range(40):
            assert source[index]["caption"] == plain[index]["caption"]
            assert set(source[index]) == {"caption", "z_i"}
            part, number = plain.find(index)
            of_part = plain.parts[part]
            row = 12 * part + int(of_part.numbers[number % len(of_part)])
            assert source[index]["z_i"][0] == row  # type: ignore[typeddict-item]
    # A part alone is a source that was embedded, too.
    assert embedded(opened(str(other)), store, "", images=False)[0]["z_i"][0] >= 12  # type: ignore[typeddict-item]


def _other_captions(images: Path, _: Path) -> None:
    (images / "001.txt").write_text("another caption")


def _other_image(images: Path, _: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(images / "001.png")


def _truncated(_: Path, store: Path) -> None:
    file = store / "00001.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def _flipped(_: Path, store: Path) -> None:
    raw = bytearray((store / "00001.safetensors").read_bytes())
    raw[-5] ^= 1
    (store / "00001.safetensors").write_bytes(raw)


def _changed(key: str, value: object) -> Callable[[Path, Path], None]:
    def change(_: Path, store: Path) -> None:
        write_json(store / INDEX, read_json(store / INDEX) | {key: value})

    return change


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_other_captions, "and not of .*images as it is now"),
        (_other_image, "and not of .*images as it is now"),
        (lambda _, store: (store / "00002.safetensors").unlink(), "1 of 3 shards are missing"),
        (lambda _, store: (store / INDEX).unlink(), "holds no embeddings"),
        (_truncated, "00001.safetensors is damaged"),
        (_flipped, "00001.safetensors is damaged .its bytes are not those"),
        (lambda _, store: (store / "00000.safetensors").rename(store / "00001.safetensors"),
         "shards are missing"),
        (lambda _, store: (store / "pictures-0.safetensors").write_bytes(b"x"),
         "missing or damaged"),
        (_changed("size", 17), "is of other embeddings"),
        (_changed("size", 0), "is not what `unclip embed` writes"),
        (_changed("per_shard", 10**9), "is damaged|is of other"),
        (_changed("width", "4"), "is not what `unclip embed` writes"),
        (_changed("more", 1), "is not what `unclip embed` writes"),
        (_changed("parts", [{"where": "x"}]), "is not what `unclip embed` writes"),
        (_changed("weights", ["1/0"]), "is not what `unclip embed` writes"),
        (_changed("hidden", "bf16"), "is damaged|is of other"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_of_other_data_is_refused(
    images: Path, tmp_path: Path, spoil: Callable[[Path, Path], object], sentence: str
) -> None:
    store = written(tmp_path / "e", str(images))
    spoil(images, store)
    with pytest.raises(ValueError, match=sentence) as error:
        embedded(opened(str(images)), Embeddings.open(store), str(images), images=False)
    assert "\n" not in str(error.value)


def test_images_that_were_too_small_are_counted(images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (7, 7)).save(images / "002.png")
    store = Embeddings.open(written(tmp_path / "e", str(images)))
    smaller = open_source(str(images), size=12)
    with pytest.raises(ValueError, match=r"1 of 12 images .* embed with --size 12"):
        embedded(smaller, store, str(images), images=True)
    with pytest.raises(ValueError, match="samples without end"):
        embedded(open_source("emoji:shapes", size=32), store, "emoji:shapes", images=True)


def test_another_clip_is_refused(images: Path, tmp_path: Path) -> None:
    store = Embeddings.open(written(tmp_path / "e", str(images)))
    store.check_clip({"text_encoder": "a", "image_encoder": "b"}, Path("m"))
    with pytest.raises(ValueError, match="of another CLIP than that of m; embed anew"):
        store.check_clip({"text_encoder": "a", "image_encoder": "c"}, Path("m"))
    assert json.loads((tmp_path / "e" / INDEX).read_text())["clip"]["image_encoder"] == "b"
