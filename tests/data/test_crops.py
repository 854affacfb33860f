"""Every format that holds out a fraction crops training images as the recipe says."""

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from unclip.data.registry import open_source
from unclip.data.sources import Stream, unseen
from unclip.stages.recipe import Data, open_data


@pytest.mark.parametrize("kind", ["folder", "wds"])
def test_oblong_images_are_cropped_as_the_recipe_says(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    image = Image.linear_gradient("L").resize((16, 64)).convert("RGB")
    for number in range(8):
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("grey")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    name = str(folder) if kind == "folder" else f"wds:{tmp_path / '0.tar'}"
    for crop, different in (("random", True), ("centre", False)):
        source = open_data(Data(source=name, size=16, crop=crop, held_out=0.5))  # type: ignore[arg-type]
        assert not isinstance(source, Stream)
        assert (len({source[i]["image"].sum().item() for i in range(20)}) > 1) == different
        other = unseen(source)
        assert other is not None
        assert not isinstance(other, Stream)
        assert len({other[i]["image"].sum().item() for i in range(20)}) == 1
    whole = open_source(name, size=16, split="all")
    assert not isinstance(whole, Stream)
    assert len({whole[i]["image"].sum().item() for i in range(20)}) == 1
