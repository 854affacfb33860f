"""Models by name: only needed files are asked for, and one sentence says what went wrong."""

import fnmatch
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from unclip import CLIP, Pipeline
from unclip.files import write_json, write_safetensors
from unclip.networks.clip_config import CLIPConfig
from unclip.pipeline.loading import CLASSES
from unclip.storage import hub

NAME = "somebody/unclip-1.0"
HF = f"hf:{NAME}"
HUB = [
    "README.md", "LICENSE.txt", "model_index.json", "big.ckpt", "assets/teaser.png",
    "decoder/config.json", "decoder/diffusion_pytorch_model.bin",
    "decoder/diffusion_pytorch_model.safetensors",
    "decoder/diffusion_pytorch_model.fp16.safetensors",
    "decoder/diffusion_pytorch_model.non_ema.safetensors",
    "prior/config.json", "prior/diffusion_pytorch_model-00001-of-00002.safetensors",
    "prior/diffusion_pytorch_model-00002-of-00002.safetensors",
    "prior/diffusion_pytorch_model.safetensors.index.json",
    "text_encoder/model.safetensors", "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "text_encoder/model.safetensors.index.fp16.json",
    "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/words.txt",
    "prior_scheduler/scheduler_config.json",
    "safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json",
]  # fmt: skip


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A Hub with the files of `HUB`: those that are asked for come, empty, to `tmp_path`."""
    calls: list[Any] = []

    def snapshot_download(name: str, **more: Any) -> str:
        wanted = [f for f in HUB if any(fnmatch.fnmatch(f, p) for p in more["allow_patterns"])]
        for file in wanted:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        calls.append((name, more["revision"], more["local_files_only"], set(wanted)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_only_needed_files(fetched: list[Any], tmp_path: Path) -> None:
    assert hub.resolve_model(HF, "v2", None, CLASSES) == tmp_path
    ((name, revision, local, files),) = fetched
    assert (name, revision, local) == (NAME, "v2", False)
    unwanted = {
        "big.ckpt", "assets/teaser.png", "decoder/diffusion_pytorch_model.bin",
        "decoder/diffusion_pytorch_model.fp16.safetensors", "text_encoder/flax_model.msgpack",
        "decoder/diffusion_pytorch_model.non_ema.safetensors", "safety_checker/model.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
    }  # fmt: skip
    assert files == set(HUB) - unwanted | {"text_encoder/model.safetensors.index.fp16.json"}


def test_a_variant_and_plain_weights_where_it_is_not(fetched: list[Any], tmp_path: Path) -> None:
    hub.resolve_model(HF, None, "fp16", CLASSES)
    weights = {file for *_, files in fetched for file in files if file.endswith(".safetensors")}
    assert weights == {
        "decoder/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "prior/diffusion_pytorch_model-00001-of-00002.safetensors",
        "prior/diffusion_pytorch_model-00002-of-00002.safetensors",
    }


@pytest.mark.parametrize(
    "name",
    [
        NAME, "models/mine", "out/none.png", "model", "./some/model", "/some/model", "~/model",
        "a/b/c", "some\\model", "../m", "a/", "https://huggingface.co/somebody/model",
    ],
)  # fmt: skip
def test_a_path_with_a_slip_is_no_request(name: str, fetched: list[Any]) -> None:
    for call in (Pipeline.from_pretrained, CLIP.from_pretrained):
        for path in (name, Path(name)):
            with pytest.raises(ValueError, match="there is no model folder") as caught:
                call(path)
    assert not fetched
    is_like_one = name in (NAME, "models/mine")
    assert (f"is hf:{name}" in str(caught.value)) == is_like_one


@pytest.mark.parametrize(
    "name", ["hf:", "hf:model", "hf:a/b/c", "hf:../m", "hf:a/b?x=1", "hf:a /b"]
)
def test_what_is_no_name(name: str, fetched: list[Any]) -> None:
    with pytest.raises(ValueError, match="write hf:owner/model"):
        Pipeline.from_pretrained(name)
    assert not fetched


def test_a_folder_of_that_name(
    fetched: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert hub.resolve_model(NAME, None, None, CLASSES) == Path(NAME)
    assert not fetched


def raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


class Response:
    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 404
    request = None


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.RepositoryNotFoundError, "is no model on the Hugging Face Hub"),
        (errors.GatedRepoError, "asks for a login and for consent"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
        (errors.LocalEntryNotFoundError, r"not whole in the cache at .*'v9'.*is out of reach"),
        (OSError, "could not be fetched from the Hub: first line$"),
    ],
)
def test_one_sentence(kind: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    http = issubclass(kind, errors.HfHubHTTPError)
    text = "first line\nsecond line"
    raising(monkeypatch, kind(text, response=Response()) if http else kind(text))
    with pytest.raises(ValueError, match=says) as caught:
        Pipeline.from_pretrained(HF, revision="v9")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(HF)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """HF_HUB_OFFLINE=1 and HF_HOME, as the library has read them."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_offline(offline: Path) -> None:
    for call in (Pipeline.from_pretrained, CLIP.from_pretrained):
        with pytest.raises(ValueError, match=r"is not whole in the cache, .* is out of reach"):
            call(HF)


def test_offline_from_the_cache(offline: Path, tiny_model: Path) -> None:
    """A snapshot as the library leaves it, with links to its blobs."""
    commit = "0123456789" * 4
    place = offline / "models--somebody--unclip-1.0"
    snapshot = place / "snapshots" / commit
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "blobs").mkdir()
    for number, file in enumerate(filter(Path.is_file, tiny_model.rglob("*"))):
        blob = shutil.copy(file, place / "blobs" / str(number))
        link = snapshot / file.relative_to(tiny_model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    pipe = Pipeline.from_pretrained(HF, dtype="fp32", device="cpu")
    assert (pipe.name, pipe.revision) == (HF, commit)
    assert pipe("a star", steps="fast", size=16).images[0].size == (16, 16)


def test_a_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = CLIPConfig.preset("tiny", 600, 8)
    towers = {"text_config": config.text.to_json(), "vision_config": config.vision.to_json()}
    write_json(tmp_path / "config.json", {**towers, "projection_dim": 64})
    torch.manual_seed(0)
    clip = CLIP(config).initialise()
    state = clip.state_dict()
    write_safetensors(tmp_path / "model.safetensors", state)
    write_safetensors(tmp_path / "open_clip_model.safetensors", {"other": torch.zeros(1)})
    asked: list[str] = []

    def snapshot_download(name: str, **more: Any) -> str:
        asked.extend(more["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = CLIP.from_pretrained("hf:somebody/clip", revision="main")
    assert torch.equal(loaded.text_projection.weight, clip.text_projection.weight)
    files = ["model.safetensors", "config.json", "pytorch_model.bin", "open_clip_model.safetensors"]
    found = [file for file in files if any(fnmatch.fnmatch(file, p) for p in asked)]
    assert found == files[:2]
