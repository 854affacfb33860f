"""Names of data become sources in one place, and a format from outside is one row."""

from collections.abc import Iterator
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import captioned_folder
from tests.data.world.test_glyphs import needs_font
from tests.interfaces.cli.test_cli import Capture
from tests.tiny import tiny_recipe
from unclip.data.batches import Order, batches
from unclip.data.captions import Report
from unclip.data.folder import FolderSource
from unclip.data.registry import FOLDER, FORMATS, Format, Request, open_source, parse
from unclip.data.sources import Sample, Stream
from unclip.data.transforms import to_bytes
from unclip.data.world.scene import WorldConfig
from unclip.data.world.source import WorldSource
from unclip.interfaces.cli import main
from unclip.interfaces.cli.commands.embed import embeddings_of
from unclip.pipeline.pipeline import Pipeline
from unclip.stages.catalogue import STAGES
from unclip.training.job import Folders
from unclip.training.start import start


def test_open_source_knows_the_world_and_folders(tmp_path: Path) -> None:
    world = open_source("emoji:shapes", size=32, seed=3, options={"emoji": {"max_objects": 1}})
    assert isinstance(world, WorldSource)
    assert world.config.max_objects == 1
    assert world.endless
    held_out = open_source("emoji:shapes", size=32, split="held-out")
    assert isinstance(held_out, WorldSource)
    assert held_out.config.split == "held-out"
    opened = open_source(str(captioned_folder(tmp_path / "data", 3)), size=16)
    assert isinstance(opened, FolderSource)
    assert opened.crop == "random"
    validation = open_source(str(tmp_path / "data"), size=16, split="all")
    assert isinstance(validation, FolderSource)
    assert validation.crop == "centre"


@pytest.mark.parametrize(
    ("spec", "options", "reason"),
    [
        ("emoji:cats", {}, "choose emoji, emoji:shapes"),
        ("emoji:shapes", {"split": "test"}, "choose one of train"),
        ("emoji:shapes", {"options": {"emoji": {"max_object": 1}}}, "max_objects"),
        ("emoji:shapes", {"options": {"emoji": {"max_objects": 99}}}, "max_objects"),
        ("emoji:shapes", {"size": 5}, "size"),
        ("https://example.org/data.tar", {}, "is an address"),
        ("zip:a", {}, r"no data of the kind .zip.; known: .*folder.*wds:.*; emoji, emoji:shapes"),
        ("nowhere", {}, "does not exist"),
        (".", {"size": 0}, "1 to 4096"),
    ],
)
def test_open_source_refuses(spec: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_source(spec, **{"size": 32, **options})


@pytest.mark.parametrize("name", ["", "folder:"])
def test_an_empty_name_is_not_the_folder_that_one_is_in(name: str) -> None:
    with pytest.raises(ValueError, match="the name of the data is empty; give a folder"):
        open_source(name, size=32)


def test_what_names_no_kind_is_the_path_of_a_folder(tmp_path: Path) -> None:
    assert parse("emoji") == ("emoji", "")
    assert parse("emoji:shapes") == ("emoji", "shapes")
    assert parse("folder:emoji") == (FOLDER, "emoji")
    paths = ("photos", "./emoji", "folder", r"C:\\photos", "C:photos", "a/b:c", "", "zip:shards")
    for path in paths:
        assert parse(path) == (FOLDER, path)
    with pytest.raises(ValueError, match="does not exist"):
        open_source("C:photos", size=16)  # on Windows, a drive
    odd = captioned_folder(tmp_path / "of:me", 2)
    assert len(open_source(str(odd), size=16)) == 2


def test_a_folder_is_found_by_a_name_like_a_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    captioned_folder(tmp_path / "me:2024", 2)
    assert len(open_source("me:2024", size=16)) == 2


@needs_font
def test_options_are_the_kinds_own() -> None:
    config = WorldConfig(seed=7, max_objects=2, size=128)
    opened = open_source("emoji:emoji", size=32, split="all", options={"emoji": config})
    assert isinstance(opened, WorldSource)
    assert (opened.config.seed, opened.config.max_objects, opened.config.size) == (7, 2, 32)
    assert (opened.config.kinds, opened.config.split) == (("emoji",), "all")
    both = open_source("emoji", size=32, seed=3, options={"mine": {"unknown": 1}})
    assert isinstance(both, WorldSource)
    assert (both.config.kinds, both.config.seed) == (("shapes", "emoji"), 3)


class Tape:
    """A folder as a stream: its images in order, again and again; counts what it decodes."""

    endless = False

    def __init__(self, request: Request) -> None:
        self.folder = FolderSource(request.place, request.size)
        self.size = request.size
        self.decoded = 0

    def read(self, positions: Iterator[int]) -> Iterator[Sample]:
        wanted = next(positions)
        for place, item in zip(count(), cycle(self.folder.items), strict=False):
            if place == wanted:
                self.decoded += 1
                with Image.open(self.folder.root / item.name) as image:
                    pixels = to_bytes(image.resize((self.size, self.size)))
                yield {"image": pixels, "caption": f"{place}: {item.captions[0]}"}
                wanted = next(positions)

    def captions(self) -> Iterator[str]:
        return (f"{place}: {item.captions[0]}" for place, item in enumerate(self.folder.items))

    def check(self, decode: bool = False) -> Report:
        return self.folder.check(decode)

    def fingerprint(self) -> str:
        return self.folder.fingerprint()


@pytest.fixture
def tape(captioned: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a stream that is registered from outside."""
    monkeypatch.setitem(FORMATS, "tape", Format(Tape, "tape:FOLDER (a test's own)"))
    return f"tape:{captioned}"


def taken(stream: Any, steps: int) -> list[list[str]]:
    found = [batch["captions"] for batch in islice(stream, steps)]
    stream.close()
    return found


def test_a_stream_is_the_same_for_any_number_of_workers_and_resumes(tape: str) -> None:
    source = open_source(tape, size=16)
    assert isinstance(source, Stream)
    assert not isinstance(open_source("emoji:shapes", size=32), Stream)
    order = Order.of(source)
    whole = list(islice(batches(source, order, 6), 9))  # 54 samples: more than two passes
    captions = [caption for batch in whole for caption in batch["captions"]]
    assert [int(caption.split(":")[0]) for caption in captions] == list(range(54))
    assert torch.equal(whole[0]["images"], whole[4]["images"])  # a pass has 24
    for workers in (1, 2, 3):
        again = list(islice(batches(source, order, 6, num_workers=workers), 9))
        for one, other in zip(whole, again, strict=True):
            assert one["captions"] == other["captions"]
            assert torch.equal(one["images"], other["images"])
    expected = [batch["captions"] for batch in whole]
    assert taken(batches(source, order, 6, 5), 4) == expected[5:]
    assert taken(batches(source, order, 6, 5, num_workers=2), 4) == expected[5:]
    ranks = [taken(batches(source, order, 6, 2, rank, 3), 4) for rank in range(3)]
    together = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert together == expected[2:6]


def test_a_stream_decodes_only_what_is_asked_for(tape: str) -> None:
    source = open_source(tape, size=16)
    assert isinstance(source, Tape)
    assert len(taken(batches(source, Order.of(source), 6, 3, 1, 3), 2)) == 2
    assert source.decoded == 4  # two of six, twice
    with pytest.raises(ValueError, match="in its own order"):
        batches(source, Order(24), 6)


class Short(Tape):
    def read(self, positions: Iterator[int]) -> Iterator[Sample]:
        return islice(super().read(positions), 5)


def test_a_stream_that_ends_is_said(captioned: Path) -> None:
    source = Short(Request(str(captioned), 16, None, "train", 0.0, {}))
    stream = batches(source, Order.of(source), 4)
    next(stream)
    with pytest.raises(ValueError, match="has ended"):
        next(stream)


@pytest.mark.parametrize("kind", ["tape", "mine"])
def test_a_row_is_enough_to_train_evaluate_and_embed(
    kind: str, tape: str, captioned: Path, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    def opened(request: Request) -> FolderSource:
        return FolderSource(request.place, request.size, split=request.split)

    monkeypatch.setitem(FORMATS, "mine", Format(opened, "mine:FOLDER"))
    name = tape.replace("tape", kind)
    table = {"source": name, "world": {}, "size": 32}
    recipe = tiny_recipe("clip", data=table, training={"steps": 2, "batch_size": 8})
    model = tmp_path / "model"
    assert start(STAGES["clip"], recipe, Folders(model, tmp_path / "run"), "cpu") == 0
    assert "24 of 24 images usable" in capsys.readouterr().out
    words = ["evaluate", "clip", "--model", str(model), "--data", name, "-n", "8"]
    assert main(words) == 0
    assert "among 8" in capsys.readouterr().out
    pipe = Pipeline.from_pretrained(tiny_model, device="cpu")
    assert embeddings_of(pipe, name, 5).shape == (5, pipe.clip.width)
    with pytest.raises(ValueError, match=f"{kind} data holds out nothing"):
        tiny_recipe("clip", data={**table, "held_out": 0.1})
