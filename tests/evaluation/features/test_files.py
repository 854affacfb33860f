"""Features of files: of any size, the same on one process and on two."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from unclip.data.transforms import to_bytes
from unclip.evaluation.features import files as module
from unclip.evaluation.features.extractor import open_extractor
from unclip.evaluation.features.files import features_of_files, read_images
from unclip.pixels import to_signed


def pictures(folder: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    files = []
    for number, (width, height) in enumerate(sizes):
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
        files.append(folder / f"{number:03}.png")
        Image.fromarray(pixels.numpy()).save(files[-1])
    return files


def test_files_of_one_size_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pictures(tmp_path, [(8, 6)] * 3 + [(5, 5)] + [(8, 6)])
    assert [tuple(x.shape) for x in read_images(files, batch=2)] == [
        (2, 3, 6, 8), (1, 3, 6, 8), (1, 3, 5, 5), (1, 3, 6, 8),
    ]  # fmt: skip
    monkeypatch.setattr(module, "_PIXELS", 40)  # less than one picture has
    assert [len(x) for x in read_images(files)] == [1] * 5


def test_two_processes_give_the_same_as_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TASK", 3)
    files = pictures(tmp_path, [(20, 16)] * 4 + [(40, 40)] * 3)
    told: list[int] = []
    one = features_of_files(tiny_model, files, device="cpu")
    two = features_of_files(tiny_model, files, 2, progress=told.append)
    assert torch.equal(one, two)
    assert told == [3, 3, 1]
    extractor = open_extractor(tiny_model, device="cpu")
    expected = extractor(to_signed(to_bytes(Image.open(files[-1]))[None]))
    torch.testing.assert_close(one[-1:], expected)


def test_bad_files_and_numbers(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no images"):
        features_of_files(tiny_model, [], device="cpu")
    with pytest.raises(ValueError, match="processes is 0"):
        features_of_files(tiny_model, [], 0, "cpu")
    files = pictures(tmp_path, [(4, 4)] * 2)
    files[1].write_text("no picture")
    with pytest.raises(ValueError, match=r"001\.png"):
        features_of_files(tiny_model, files, device="cpu")
