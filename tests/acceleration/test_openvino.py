"""U-Nets computed by OpenVINO: torch's images but for rounding, converted once."""

import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.tiny import _awaken
from unclip import Pipeline
from unclip.acceleration import openvino
from unclip.acceleration.engines import step_seconds
from unclip.acceleration.openvino import accelerate, cache_folder, check_openvino, is_accelerated
from unclip.device import precision
from unclip.device.instructions import instructions
from unclip.interfaces.cli import main
from unclip.networks.decoder import DECODERS
from unclip.networks.unet import UNet
from unclip.networks.upsampler import UPSAMPLERS
from unclip.outputs.images import read_info

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
CPU = torch.device("cpu")
# Few: rounding grows five times with every doubling of the decoder's steps, the tiny model's
# weights being random ones; it grows as much in torch where weights are nudged by 2e-7.
STEPS: dict[str, Any] = {
    "prior_num_inference_steps": 1,
    "decoder_num_inference_steps": 1,
    "super_res_num_inference_steps": 2,
    "output_type": "tensor",
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's cache of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pipes(tiny_model: Path) -> list[Pipeline]:
    """The tiny model in torch and in OpenVINO."""
    opened = [
        Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu", engine=engine)
        for engine in ("torch", "openvino")
    ]
    assert [pipe.engine for pipe in opened] == ["torch", "openvino"]
    return opened


@pytest.mark.parametrize(
    ("prompt", "count", "more"),
    [
        ("a star", 1, {}),
        ("a large red circle above a small blue square", 2, {"decoder_guidance_scale": 1.0}),
        ("a star", 1, {"reuse": 2, "decoder_num_inference_steps": 2}),
    ],
    ids=["guided", "two images without guidance", "features reused"],
)
def test_images_are_torchs(
    prompt: str, count: int, more: dict[str, Any], pipes: list[Pipeline]
) -> None:
    torchs, ours = (pipe(prompt, count, batch_size=count, **{**STEPS, **more}) for pipe in pipes)
    most = 1e-4 if "reuse" not in more else 5e-4
    assert (torchs.images - ours.images).abs().max() < most
    assert torchs.images.std() > 0.1


def test_inversion_and_inpainting(pipes: list[Pipeline]) -> None:
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    hole = Image.new("L", (32, 32), 0)
    hole.paste(255, (8, 8, 24, 24))
    torchs, ours = (pipe.invert(picture, 2) for pipe in pipes)
    assert (torchs.x_T - ours.x_T).abs().max() < 1e-3
    torchs, ours = (pipe.inpaint(picture, "a star", hole, **STEPS).images for pipe in pipes)
    assert (torchs - ours).abs().max() < 1e-4


def networks(config: Any) -> tuple[UNet, UNet]:
    """One network twice; the second one is OpenVINO's."""
    torch.manual_seed(0)
    first = UNet(config)
    _awaken(first)
    second = UNet(config)
    second.load_state_dict(first.state_dict())
    for network in (first, second):
        network.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    accelerate(second)
    assert (is_accelerated(first), is_accelerated(second)) == (False, True)
    return first, second


def inputs(config: Any, count: int, length: int) -> dict[str, Tensor]:
    width = config.cross_attention_dim
    return {
        "time_condition": torch.randn(count, config.time_embed_dim),
        "context": torch.randn(count, length, width),
    }


@torch.no_grad()
def test_steps_of_any_shape() -> None:
    config = DECODERS["tiny"]
    pair = networks(config)
    for count, length, masked, t in ((2, 5, True, 7.0), (3, 9, False, 900.0), (1, 5, True, 0.0)):
        x = torch.randn(count, config.in_channels, 16, 8)
        given: dict[str, Any] = inputs(config, count, length)
        if masked:
            given["context_mask"] = torch.arange(length).expand(count, -1) < 3
        made = [unet.proceed(x, t, unet.conditions([t], **given)) for unet in pair]
        assert made[0].std() > 0.1
        torch.testing.assert_close(made[1], made[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_channels_beside_the_own_ones() -> None:
    config = DECODERS["tiny"]
    pair = networks(config)
    masks = torch.nn.Conv2d(4, config.block_out_channels[0], 3, padding=1, bias=False)
    x = torch.randn(2, config.in_channels + 4, 16, 16)
    given = inputs(config, 2, 5)
    made = []
    for unet in pair:
        unet.beside = masks.forward
        shared = unet.conditions([3.0, 2.0], reuse=2, **given)
        made.append([unet.proceed(x, t, shared) for t in (3.0, 2.0)])
    for torchs, ours in zip(*made, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-4, rtol=1e-4)
    narrow = pair[0].proceed(x[:, : config.in_channels], 3.0, pair[0].conditions([3.0], **given))
    assert (narrow - made[0][0]).abs().max() > 0.01


def test_a_size_that_does_not_divide_and_gradients_are_torchs() -> None:
    config = UPSAMPLERS["tiny"]
    first, second = networks(config)
    with torch.no_grad(), pytest.raises(ValueError, match="multiples of"):
        second(torch.randn(1, config.in_channels, 17, 16), torch.tensor([3]))
    x = torch.randn(1, config.in_channels, 16, 16, requires_grad=True)
    made, gradients = zip(
        *((y := unet(x, torch.tensor([3])), torch.autograd.grad(y.sum(), x)[0])
          for unet in (first, second)), strict=True,
    )  # fmt: skip
    assert torch.equal(*made)
    assert torch.equal(*gradients)


@torch.no_grad()
def test_bf16_errors_are_those_of_bf16() -> None:
    if torch.bfloat16 not in instructions().multiplied:
        with pytest.raises(ValueError, match="in bf16 where a CPU multiplies it"):
            check_openvino(torch.device("cpu"), torch.bfloat16)
        return
    config = UPSAMPLERS["tiny"]
    first, second = networks(config)
    halves = UNet(config).bfloat16()
    halves.load_state_dict(first.state_dict())
    accelerate(halves)
    x, t = torch.randn(1, config.in_channels, 16, 16), torch.tensor([400])
    exact, made = first(x, t), halves(x, t)
    assert made.dtype == x.dtype
    assert (made - exact).abs().max() < 0.1 * exact.std()
    assert (second(x, t) - exact).abs().max() < 1e-4


@torch.no_grad()
def test_converted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = UPSAMPLERS["tiny"]
    converted, convert = [], openvino._converted
    monkeypatch.setattr(openvino, "_converted", lambda *a: converted.append(a) or convert(*a))
    x, t = torch.randn(1, config.in_channels, 16, 16), torch.tensor([400])
    pair = networks(config)
    right = pair[0](x, t)

    def compute() -> int:
        _, again = networks(config)
        torch.testing.assert_close(again(x, t), right, atol=1e-4, rtol=1e-4)
        return len(converted)

    assert [compute(), compute()] == [1, 1]
    (folder,) = cache_folder().iterdir()
    (folder / "network.xml").write_text("damaged")
    assert compute() == 2
    pair[1].conv_in.bias.add_(1)  # another network
    pair[1](x, t)
    assert len(converted) == 3
    assert len([*cache_folder().iterdir()]) == 2
    monkeypatch.setattr(openvino, "_CACHE", 1)
    os.utime(folder, (0, 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")  # where no folder can be
    assert compute() == 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    openvino._prune(folder)
    assert [*cache_folder().iterdir()] == [folder]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"offload": True}, "offload and engine openvino do not go together"),
        ({"compile": True}, "engine openvino and compile do not go together"),
        ({"dtype": "int8"}, "int8 and engine openvino do not go together"),
        ({"dtype": "fp16"}, "engine openvino computes in fp32 and bf16, not in float16"),
        ({"engine": "onnx"}, "unknown engine 'onnx'"),
    ],
)
def test_what_does_not_go_together(
    asked: dict[str, Any], says: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "check_int8", lambda device: None)  # on any CPU
    with pytest.raises(ValueError, match=says):
        Pipeline.from_pretrained(tiny_model, **{"device": "cpu", "engine": "openvino", **asked})


def test_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="engine openvino is for CPUs; on the device cuda"):
        check_openvino(torch.device("cuda"), torch.float32)


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # type: ignore[arg-type]
    openvino.library.cache_clear()
    try:
        with pytest.raises(ValueError, match=re.escape("pip install 'unclip[openvino]'")):
            Pipeline.from_pretrained(tiny_model, device="cpu", engine="openvino")
    finally:
        openvino.library.cache_clear()


def test_no_telemetry() -> None:
    openvino.library()
    used = sys.modules["openvino.tools.ovc.telemetry_utils"].tm  # type: ignore[attr-defined]
    assert used.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_it_stays_what_it_was_opened_as(pipes: list[Pipeline], tmp_path: Path) -> None:
    _, ours = pipes
    with pytest.raises(ValueError, match="engine openvino has its own copy of the weights"):
        ours.to(torch.bfloat16)
    ours.save_pretrained(tmp_path / "model")
    again = Pipeline.from_pretrained(tmp_path / "model", dtype="fp32", device="cpu")
    images = [pipe("a star", **STEPS).images for pipe in (again, ours)]
    assert (images[0] - images[1]).abs().max() < 1e-4


def test_notes_say_the_engine(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    words = [
        "--model",
        str(tiny_model),
        "--steps",
        "fast",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    file = tmp_path / "x.png"
    assert main(["generate", "a star", *words, "-o", str(file), "--engine", "openvino"]) == 0
    assert f"OpenVINO {openvino.version()}" in read_info(file)["machine"]
    capsys.readouterr()
    assert main(["info", str(file)]) == 0
    assert "--engine openvino" in capsys.readouterr().out


def test_engines_are_measured() -> None:
    network, _ = networks(UPSAMPLERS["tiny"])
    took = step_seconds(network, rounds=1)
    assert sorted(took) == ["openvino", "torch"]
    assert min(took.values()) > 0
