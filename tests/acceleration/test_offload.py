"""Weights in memory one component at a time: the same images, and one component's weights."""

from pathlib import Path

import pytest
import torch

from unclip import Pipeline
from unclip.acceleration.offload import is_offloaded


@pytest.fixture
def offloaded(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, device="cpu", dtype="fp32", offload=True)


def resident(pipe: Pipeline) -> list[str]:
    networks = {
        "text_encoder": pipe.clip.text_encoder,
        "image_encoder": pipe.clip.image_encoder,
        "prior": pipe.prior.network,
        "text_proj": pipe.decoder.network.text_proj,
        "decoder": pipe.decoder.network.decoder,
        "super_res": pipe.upsamplers[0].network,
    }
    return [name for name, network in networks.items() if not is_offloaded(network)]


def test_nothing_is_in_memory_until_it_computes(offloaded: Pipeline) -> None:
    assert resident(offloaded) == []
    seen = set()
    offloaded(
        "a red circle",
        steps="fast",
        callback_on_step_end=lambda pipe, *_: seen.add(tuple(resident(pipe))),
    )
    assert seen == {("prior",), ("decoder",), ("super_res",)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_images_are_the_same_bit_for_bit(
    tiny_model: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where everything is in memory, the prior's packed weights round otherwise.
    monkeypatch.setattr("unclip.pipeline.loading.pack", lambda network: None)
    options = {"device": "cpu", "dtype": dtype}
    plain = Pipeline.from_pretrained(tiny_model, **options)
    slim = Pipeline.from_pretrained(tiny_model, offload=True, **options)
    assert slim.dtype == plain.dtype
    for seed in (0, 1):  # the second reads again what the first has dropped
        images = [p("a red circle", seed=seed, steps="fast", output_type="tensor").images
                  for p in (plain, slim)]  # fmt: skip
        assert torch.equal(*images)
    image = plain("a blue square", steps="fast").images[0]
    varied = [p.vary(image, steps="fast", output_type="tensor").images for p in (plain, slim)]
    assert torch.equal(*varied)


def test_it_cannot_be_saved(offloaded: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="open it without offload"):
        offloaded.save_pretrained(tmp_path / "model")


def test_what_is_damaged_is_refused_at_once(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "decoder" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Pipeline.from_pretrained(tmp_path / "model", device="cpu", offload=True)
