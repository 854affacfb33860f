"""Which images are made and what they are held against, and what is said where there are few."""

from pathlib import Path

import pytest
import torch

from tests.conftest import captioned_folder
from unclip.data.registry import open_source
from unclip.data.sources import Source, Stream
from unclip.evaluation.sets import Sets


@pytest.fixture
def ten(tmp_path: Path) -> Source | Stream:
    return open_source(str(captioned_folder(tmp_path / "ten", 10)), size=16, split="all")


def test_others_share_no_caption_with_what_is_made(ten: Source) -> None:
    sets = Sets.choose(ten, None, 1000, "others")  # 1,000 are a default, not a condition
    assert (sets.count, sets.reference) == (5, range(5, 10))
    assert sets.captions == [ten.caption(k) for k in range(5)]
    images = torch.cat(list(sets.images(sets.reference, 2)))
    assert images.shape == (5, 3, 16, 16)
    assert torch.equal(images[0], ten[5]["image"] / 127.5 - 1)


def test_all_may_be_made_for_where_the_same_captions_count(ten: Source) -> None:
    assert Sets.choose(ten, None, 1000, "same").reference == range(10)
    assert Sets.choose(ten, 3, 1000, "same").reference == range(3)
    assert Sets.choose(ten, 3, 1000, "all").reference == range(10)


def test_few_images_are_called_few(ten: Source) -> None:
    assert (
        "5 images are all that the split allows"
        in Sets.choose(ten, None, 1000, "others").notes()[0]
    )
    assert "3 images are few" in Sets.choose(ten, 3, 1000, "others").notes()[0]
    world = open_source("emoji:shapes", size=32, split="held-out")
    assert not Sets.choose(world, 1000, 1000, "others").notes()


def test_what_cannot_be_is_said(ten: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, against, says in (
        (6, "others", "the data has only 10: ask for 5 or fewer"),
        (11, "same", "the data has only 10: ask for 10 or fewer"),
        (1, "same", "n is 1"),
    ):
        with pytest.raises(ValueError, match=says):
            Sets.choose(ten, asked, 1000, against)  # type: ignore[arg-type]
    world = open_source("emoji:shapes", size=32, split="held-out")
    with pytest.raises(ValueError, match="has no end"):
        Sets.choose(world, 3, 1000, "all")
    monkeypatch.setattr(type(ten), "caption", lambda *_: " ")
    with pytest.raises(ValueError, match="no captions"):
        Sets.choose(ten, 3, 1000, "same")
