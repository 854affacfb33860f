"""The model folder: strict on the way in, whole or not at all on the way out."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unclip.files import read_facts, read_json, whole, write_json, write_safetensors
from unclip.storage.folder import ModelFolder
from unclip.storage.weights import load_weights, save_weights, weight_files

ENTRY = ("unclip", "Linear")


def network(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    folder = ModelFolder(tmp_path / "model")
    folder.save("linear", ENTRY, {"config.json": {"a": 1}}, network().state_dict())
    return folder


def test_saved_is_loaded(folder: ModelFolder) -> None:
    loaded = folder.load("linear", lambda _: nn.Linear(3, 2), None)  # type: ignore[arg-type]
    assert torch.equal(loaded.weight, network().weight)
    assert not loaded.training
    assert folder.config("linear") == {"a": 1}
    assert folder.index() == {"_class_name": "UnCLIPPipeline", "linear": list(ENTRY)}
    half = folder.load("linear", lambda _: nn.Linear(3, 2), None, torch.bfloat16)  # type: ignore[arg-type]
    assert half.weight.dtype == torch.bfloat16
    assert oct((folder.path / "linear").stat().st_mode)[-3:] == oct(0o777 & ~_umask())[-3:]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_not_there_is_named(tmp_path: Path, folder: ModelFolder) -> None:
    with pytest.raises(ValueError, match="there is no model folder"):
        ModelFolder(tmp_path / "nowhere").index()
    with pytest.raises(ValueError, match=r"is not a model folder: it has no model_index\.json"):
        ModelFolder(tmp_path).index()
    with pytest.raises(ValueError, match="has no decoder"):
        folder.component("decoder")
    assert not folder.has("decoder")
    assert not ModelFolder(tmp_path).has("decoder")
    folder.update_index({"safety_checker": [None, None]})
    assert not folder.has("safety_checker")
    (folder.path / "linear" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        folder.config("linear")


TENSORS = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({**TENSORS, "extra": torch.zeros(1)}, "a tensor 'extra' that this network does not have"),
        ({"bias": torch.zeros(2)}, "lacks the tensor 'weight'"),
        ({"wight": torch.zeros(2)}, "'wight'"),
        ({**TENSORS, "weight": torch.zeros(3, 2)}, r"'weight' has shape \(3, 2\).*\(2, 3\)"),
        ({**TENSORS, "bias": torch.zeros(2, dtype=torch.int8)}, r"'bias' holds I8"),
        ({}, "lacks the tensor 'bias' and 1 more"),
    ],
)
def test_every_tensor_by_name_and_shape(
    tensors: dict[str, torch.Tensor], reason: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=reason) as caught:
        load_weights(network(), tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("change", ["cut", "empty", "text", "header", "directory"])
def test_damaged_files_are_named(change: str, folder: ModelFolder) -> None:
    file = next((folder.path / "linear").glob("*.safetensors"))
    content = file.read_bytes()
    file.unlink()
    if change == "directory":
        file.mkdir()
    else:
        file.write_bytes(
            {
                "cut": content[:-1],
                "empty": b"",
                "text": b"version https://git-lfs.github.com/spec/v1\n",
                "header": b"\xff" * 8 + content[8:],
            }[change]
        )
    with pytest.raises(ValueError, match=r"is not a whole safetensors file|is a folder") as caught:
        load_weights(network(), file.parent)
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl"])
def test_pickles_are_never_opened(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"pytorch_model{suffix}").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="a pickle, which can run code"):
        load_weights(network(), tmp_path)


def test_no_weights_and_too_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no safetensors weights"):
        weight_files(tmp_path)
    for name in ("a", "b"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="holds 2 weight files and no index"):
        weight_files(tmp_path)


def test_shards(tmp_path: Path) -> None:
    net = nn.Sequential(*(nn.Linear(10, 10) for _ in range(5)))
    save_weights(net.state_dict(), tmp_path, "model", 440)
    assert len(weight_files(tmp_path)) == 5
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == 5 * 110 * 4
    other = nn.Sequential(*(nn.Linear(10, 10) for _ in range(5)))
    load_weights(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    (tmp_path / "model-00003-of-00005.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names 'model-00003-of-00005\.safetensors', which"):
        load_weights(other, tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", 3, []]
)
def test_an_index_cannot_point_outside(name: Any, tmp_path: Path) -> None:
    inside = tmp_path / "component"
    (inside / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.safetensors", inside / "sub" / "x.safetensors"):
        save_file(TENSORS, path)
    write_json(inside / "model.safetensors.index.json", {"weight_map": {"weight": name}})
    with pytest.raises(ValueError, match="which is not in"):
        load_weights(network(), inside)


@pytest.mark.parametrize("what", ["linear", "linear/config.json", "model_index.json"])
def test_links_out_of_the_folder_are_refused(
    what: str, folder: ModelFolder, tmp_path: Path
) -> None:
    outside = tmp_path / f"far{'-' * 90}outside"  # however long: someone has to find it
    (folder.path / what).rename(outside)
    (folder.path / what).symlink_to(outside)
    with pytest.raises(ValueError, match=rf"is a link to '{outside}', outside of the"):
        folder.config("linear")
    with pytest.raises(ValueError, match="outside of the model's folder"):
        folder.load("linear", lambda _: nn.Linear(3, 2), None)  # type: ignore[arg-type]


def test_a_loop_of_links_is_refused_in_a_sentence(folder: ModelFolder) -> None:
    config = folder.path / "linear" / "config.json"
    config.unlink()
    config.symlink_to("config.json")
    with pytest.raises(ValueError, match=r"config\.json"):
        folder.config("linear")


def test_links_within_and_those_of_the_hubs_cache_are_followed(
    folder: ModelFolder, tmp_path: Path
) -> None:
    config = folder.path / "linear" / "config.json"
    config.rename(folder.path / "shared.json")
    config.symlink_to("../shared.json")
    assert folder.config("linear") == {"a": 1}
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.parent.mkdir()
    folder.path.rename(snapshot)
    for place, blob in (("linear/config.json", "x"), ("model_index.json", "y")):
        (snapshot / place).resolve().rename(cache / "blobs" / blob)
        (snapshot / place).unlink(missing_ok=True)
        (snapshot / place).symlink_to(cache / "blobs" / blob)
    assert ModelFolder(snapshot).config("linear") == {"a": 1}
    whole_folder = tmp_path / "link"  # the folder itself may be one
    whole_folder.symlink_to(snapshot)
    assert ModelFolder(whole_folder).config("linear") == {"a": 1}


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", ".x", "", "x" * 10**5, "a\0b", "\x1b"])
def test_names_that_are_no_component(name: str, folder: ModelFolder) -> None:
    write_json(folder.path / "model_index.json", {name: ["unclip", "Linear"]})
    with pytest.raises(ValueError, match="which can be no folder in it") as caught:
        folder.index()
    assert len(str(caught.value)) < 400


def test_a_header_that_promises_more_than_there_can_be(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}
    header = json.dumps({"weight": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_weights(network(), tmp_path)


@pytest.mark.parametrize("content", [{}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map(content: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "model.safetensors.index.json", content)
    with pytest.raises(ValueError, match="has no weight_map"):
        load_weights(network(), tmp_path)


def break_off(path: Path) -> None:
    (path / "config.json").write_text("{}")
    raise KeyboardInterrupt


def test_an_interrupted_save_leaves_the_old_component(folder: ModelFolder) -> None:
    before = snapshot(folder.path)
    with pytest.raises(KeyboardInterrupt), folder.replacing("linear", ENTRY) as path:
        break_off(path)
    assert snapshot(folder.path) == before
    with pytest.raises(KeyboardInterrupt), folder.replacing("new", ENTRY) as path:
        break_off(path)
    assert snapshot(folder.path) == before


def test_a_failed_rename_leaves_the_old_component(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(folder.path)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if str(target).endswith(".publishing"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ValueError, match=r"cannot write the model .*Input/output"):
        folder.save("linear", ENTRY, {}, network(1).state_dict())
    assert snapshot(folder.path) == before


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": "é"})
    assert json.loads(file.read_text()) == {"a": "é"}
    with pytest.raises(RuntimeError), whole(file) as partial:
        _half(partial)
    assert json.loads(file.read_text()) == {"a": "é"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(ValueError, match=r"cannot write .*No such file"):
        write_json(tmp_path / "nowhere" / "x.json", {})
    with pytest.raises(ValueError, match=r"cannot write .*No such file"):
        write_safetensors(tmp_path / "nowhere" / "x", {"a": torch.zeros(1)})


def _half(partial: Path) -> None:
    partial.write_text("half")
    raise RuntimeError


def test_facts_are_kept_in_the_header(tmp_path: Path) -> None:
    strided = torch.arange(6.0).view(2, 3).T
    write_safetensors(tmp_path / "x", {"a": strided}, {"step": "3"})
    assert read_facts(tmp_path / "x") == {"format": "pt", "step": "3"}
    assert torch.equal(load_file(tmp_path / "x")["a"], strided)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "must hold a JSON object, not a list"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_json_that_is_none(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "x.json")


def _enter(path: Path, name: str) -> None:
    for i in range(20):
        ModelFolder(path).update_index({f"{name}{i}": ["unclip", "X"]})


def test_two_processes_that_write_one_index_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_enter, args=(tmp_path / "m", name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(ModelFolder(tmp_path / "m").index()) == 61


def test_small_weights_do_not_lie_askew_in_memory(tmp_path: Path) -> None:
    """As they do in a file: kernels of some CPUs would round sums differently."""
    network = nn.ModuleList(nn.Linear(1, width) for width in (3, 5, 7, 11))
    save_weights(network.state_dict(), tmp_path, "model", 2**30)
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        mapped = [opened.get_tensor(key).data_ptr() for key in network.state_dict()]
        assert any(start % 64 for start in mapped)
    again = nn.ModuleList(nn.Linear(1, width) for width in (3, 5, 7, 11))
    load_weights(again, tmp_path)
    assert not any(tensor.data_ptr() % 64 for tensor in again.state_dict().values())
    for one, two in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
