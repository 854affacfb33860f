"""8-bit layers: errors are those of rounding, neighbours do not matter, and images stay close."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.machines import PLAIN, WITH_BF16
from tests.tiny import _awaken
from unclip import Pipeline
from unclip.acceleration import int8
from unclip.acceleration.int8 import Int8Conv2d, Int8Linear, Int8Pointwise, is_int8, to_int8
from unclip.device import precision
from unclip.device.precision import check_int8, dtype_named, name_of
from unclip.interfaces.cli import main
from unclip.networks.decoder import DECODERS
from unclip.networks.diffusion_prior import PRIORS, DiffusionPrior
from unclip.networks.unet import UNet
from unclip.networks.upsampler import UPSAMPLERS
from unclip.storage.folder import bundled

CPU = torch.device("cpu")


def refused() -> bool:
    try:
        check_int8(CPU)
    except ValueError:
        return True
    return False


needs_int8 = pytest.mark.skipif(refused(), reason="this CPU or torch has no fast int8")


def layer_and_input(kind: str) -> tuple[nn.Linear | nn.Conv2d, Tensor, int]:
    """A layer, an input (2, …) as it sees them, and z."""
    torch.manual_seed(0)
    if kind == "linear":
        return nn.Linear(96, 40), torch.randn(2, 7, 96), 128
    x = torch.randn(2, 48, 10, 6)
    if kind == "1x1":
        return nn.Conv2d(48, 24, 1), x, 128
    return nn.Conv2d(48, 24, 3, padding=1), F.silu(2 * x), 32


REPLACED = {"linear": Int8Linear, "1x1": Int8Pointwise, "3x3": Int8Conv2d}


@needs_int8
@pytest.mark.parametrize("kind", REPLACED)
def test_errors_are_those_of_rounding(kind: str) -> None:
    layer, x, zero = layer_and_input(kind)
    quantised = REPLACED[kind](layer)
    error = (quantised(x) - layer(x)).detach()
    # Half a step of either factor, with the other one: |Δ| ≤ Σ |δx| |w| + |x + δx| |δw|. Each
    # rounding is uniform over a step, so that the mean square is K / 12 of the squared steps.
    dims = {"linear": (2,), "1x1": (1,), "3x3": (1, 2, 3)}[kind]
    step = (x.amax(dims, True) / (255 - zero)).maximum(x.amin(dims, True) / -zero).expand_as(x)
    weight = layer.weight.detach()
    sides = (-1, *[1] * (weight.ndim - 1))
    steps = (weight.flatten(1).abs().amax(1) / 127).view(sides).expand_as(weight)

    def products(inputs: Tensor, weights: Tensor) -> Tensor:
        if isinstance(layer, nn.Linear):
            return F.linear(inputs, weights)
        return F.conv2d(inputs, weights, padding=layer.padding)

    rounded = x.abs() + step / 2
    bound = products(step / 2, weight.abs()) + products(rounded, steps / 2)
    assert (error.abs() <= bound + 1e-5).all()
    expected = products(step**2, weight**2) + products(x**2, steps**2)
    assert error.square().mean() == pytest.approx(expected.mean().item() / 12, rel=0.15)


@needs_int8
@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_in_the_batch_do_not_matter(kind: str, dtype: torch.dtype) -> None:
    layer, x, _ = layer_and_input(kind)
    quantised, x = REPLACED[kind](layer.to(dtype)), x.to(dtype)
    x[1] *= 100
    both = quantised(x)
    assert both.dtype == dtype
    assert torch.equal(both[:1], quantised(x[:1]))
    assert torch.equal(both[1:], quantised(x[1:]))


@needs_int8
@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constant_inputs(kind: str, value: float) -> None:
    layer, x, _ = layer_and_input(kind)
    x = torch.full_like(x, value)
    expected = layer(x).detach()
    assert (REPLACED[kind](layer)(x) - expected).abs().max() < 0.05 * expected.abs().max()


@needs_int8
def test_the_format_does_not_matter() -> None:
    layer, x, _ = layer_and_input("3x3")
    quantised = Int8Conv2d(layer)
    expected = quantised(x)
    assert torch.equal(quantised(x.contiguous(memory_format=torch.channels_last)), expected)
    assert expected.is_contiguous(memory_format=torch.channels_last)


@needs_int8
def test_a_network_keeps_its_first_and_last_layers() -> None:
    unet = UNet(DECODERS["tiny"])
    assert not is_int8(unet)
    to_int8(unet)
    assert is_int8(unet)
    kept = {name for name, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    kept = {name.rsplit(".", 1)[-1] for name in kept}
    assert kept == {"conv_in", "conv_out", "linear_1", "linear_2", *int8._KEPT}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="int8", device="cpu")


def make(pipe: Pipeline, *arguments: Any, steps: int = 2, **more: Any) -> Tensor:
    stages = ("prior", "decoder", "super_res")
    counts = {f"{stage}_num_inference_steps": steps for stage in stages}
    images: Tensor = pipe("a red circle", *arguments, output_type="tensor", **counts, **more).images
    return images


@needs_int8
@pytest.mark.parametrize("config", [DECODERS["tiny"], UPSAMPLERS["tiny"], PRIORS["tiny"]])
def test_networks_stay_close(config: Any) -> None:
    torch.manual_seed(0)
    network = DiffusionPrior(config) if config is PRIORS["tiny"] else UNet(config)
    _awaken(network)
    given: dict[str, Tensor] = {}
    if isinstance(network, DiffusionPrior):
        x = torch.randn(2, config.embedding_dim)
        hidden = torch.randn(2, 9, config.embedding_dim)
        given = {"text_embeddings": x.flip(0), "text_hidden_states": hidden}
    else:
        x = torch.randn(2, config.in_channels, 16, 16)
    if config is DECODERS["tiny"]:
        given = {"time_condition": torch.randn(2, config.time_embed_dim)}
        given["context"] = torch.randn(2, 9, config.cross_attention_dim)
    with torch.no_grad():
        exact = network(x, torch.tensor(500), **given)
        to_int8(network)
        close = network(x, torch.tensor(500), **given)
    error = ((close - exact).square().mean() / exact.square().mean()).sqrt()
    assert 0 < error < 0.05


@needs_int8
def test_a_seed_is_the_same_image_alone_and_in_a_batch(pipe: Pipeline, tiny_model: Path) -> None:
    assert name_of(pipe.dtype) == "int8"
    three = make(pipe, 3, seed=10)
    assert torch.equal(make(pipe, seed=12), three[2:])
    # Beside fp32, last bits that a batch changes can tip an integer over: no more than rounding to
    # integers does anyway.
    one = {"seed": 10, "steps": 1}
    alone, together = make(pipe, 3, **one), make(pipe, 3, batch_size=3, **one)
    exact = make(Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu"), 3, **one)
    assert (together - alone).abs().mean() < (alone - exact).abs().mean()


@needs_int8
@pytest.mark.skipif(not bundled("model").is_dir(), reason="no model is bundled")
def test_the_bundled_model() -> None:
    images = []
    for dtype in ("fp32", "int8"):
        pipe = Pipeline.from_pretrained(dtype=dtype, device="cpu")
        images.append(make(pipe, size=32, sampler="ddim", eta=0.0))
    # Scenes are as right (92 and 91 % of 80 exact); edges and shades move a little.
    assert (images[0] - images[1]).abs().mean() < 0.1


@needs_int8
def test_what_int8_cannot_do(pipe: Pipeline, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="cannot be saved"):
        pipe.save_pretrained(tiny_model.parent / "never")
    assert not (tiny_model.parent / "never").exists()
    with pytest.raises(ValueError, match="without offload"):
        Pipeline.from_pretrained(tiny_model, dtype="int8", device="cpu", offload=True)


def test_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="int8 is for CPUs; on the device cuda take bf16"):
        dtype_named("int8", torch.device("cuda"))
    for cpu, advice in ((PLAIN, "take fp32$"), (replace(WITH_BF16, int8=False), "bf16 or fp32$")):
        monkeypatch.setattr(precision, "instructions", lambda cpu=cpu: cpu)
        with pytest.raises(ValueError, match=f"this CPU has no fast products .*: .*{advice}"):
            dtype_named("int8", CPU)


@needs_int8
def test_the_flag_and_the_notes(tiny_model: Path, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "image.png"
    words = ["a red circle", "--model", str(tiny_model), "--precision", "int8", "-o", str(file)]
    assert main(["generate", *words, "--device", "cpu", "--steps", "fast"]) == 0
    with Image.open(file) as image:
        assert '"precision": "int8"' in "".join(map(str, image.info.values()))
