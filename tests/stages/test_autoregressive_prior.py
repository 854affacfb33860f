"""The autoregressive prior's stage: likelihood on known Gaussians, sampling, saving."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import noise, scenes, tiny_recipe
from unclip.batch import Batch
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.samplers import noise_from
from unclip.diffusion.sampling import Sampling
from unclip.files import read_safetensors
from unclip.networks.autoregressive_prior import CodePrefix
from unclip.networks.clip_config import CLIPTextConfig
from unclip.stages.autoregressive_prior import (
    AutoregressivePriorSettings,
    AutoregressivePriorStage,
    draw,
    lowest_bucket,
    nucleus,
)
from unclip.stages.catalogue import STAGES
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.storage.folder import ModelFolder
from unclip.training import checkpoint
from unclip.training.job import Folders
from unclip.training.start import start

CAPTIONS = ["a red circle", "a small blue square to the left of a large green star"]
PLAIN = Sampling()


class Toy:
    """A CLIP whose captions are labels, "0" to "2", and whose images are their own embeddings.

    z_i is Gaussian with a known covariance around a mean of its label's, in the first three of six
    dimensions. z_t says the label in the others, and has the dot product `along` · z_i beside it.
    """

    width, device, tokenizer = 6, torch.device("cpu"), SimpleNamespace(context_length=1)
    text_sizes = CLIPTextConfig(hidden_size=6, projection_dim=6, num_attention_heads=1,
                                max_position_embeddings=1)  # fmt: skip
    root = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [-0.3, 0.5, 0.4]])  # of the covariance

    def __init__(self, along: float) -> None:
        self.along = along

    def text(self, captions: list[str]) -> TextCondition:
        z_t = torch.zeros(len(captions), 6)
        for row, caption in enumerate(captions):
            if caption:
                z_t[row, 0], z_t[row, 3 + int(caption)] = self.along, 1.0
        ids = torch.zeros(len(captions), 1, dtype=torch.long)
        return TextCondition(z_t, z_t[:, None], torch.ones_like(ids, dtype=torch.bool), ids)

    def image(self, images: Tensor) -> Tensor:
        return images

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        labels = torch.randint(3, (count,), generator=generator)
        means = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [1, 0, 1]])[labels]
        z_i = means + torch.randn(count, 3, generator=generator) @ self.root.T
        z_i = torch.nn.functional.pad(z_i, (0, 3))
        return {"images": z_i, "captions": [str(int(label)) for label in labels]}

    def prior(self, steps: int) -> AutoregressivePriorStage:
        torch.manual_seed(0)
        data = torch.Generator().manual_seed(0)
        settings = AutoregressivePriorSettings(
            2, 2, 24, reconstruction_error=1e-6, buckets=24, statistics=4000, drop_text=0.05
        )
        clip: Any = self
        stage = AutoregressivePriorStage.build(settings, clip, [self.batch(4000, data)])
        optimiser = torch.optim.AdamW(stage.network.parameters(), lr=3e-3)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * min(1.0, 2 * (1 - step / steps))
            optimiser.zero_grad()
            stage.loss(self.batch(256, data), data)["loss"].backward()
            optimiser.step()
        stage.network.eval()
        return stage


def test_its_likelihood_approaches_the_entropy_of_the_codes() -> None:
    """On Gaussians whose entropy is known, within 0.06 bits of each code's 3 or so."""
    toy = Toy(along=0.0)  # so the dot product is constant, and says nothing
    stage = toy.prior(250)
    assert stage.network.config.num_codes == 3
    stage.settings = AutoregressivePriorSettings(drop_text=0.0)
    with torch.no_grad():
        fresh = torch.Generator().manual_seed(1)
        bits = float(stage.loss(toy.batch(8000, fresh), fresh)["bits_per_code"])
    entropy = 0.5 * 3 * math.log2(2 * math.pi * math.e) + math.log2(float(toy.root.det()))
    widths = stage.network.codec.boundaries.diff(dim=1).mean(dim=1)  # all of a code's are equal
    expected = (entropy - float(widths.log2().sum())) / 3
    assert expected < 4
    assert -0.02 < bits - expected < 0.06


def test_the_dot_product_token_raises_the_dot_product() -> None:
    toy = Toy(along=2.0)
    stage = toy.prior(120)
    truth = toy.batch(4000, torch.Generator().manual_seed(1))
    data = (truth["images"] * toy.text(truth["captions"]).z_t).sum(dim=1)
    text = toy.text(truth["captions"][:600])
    made = stage.sample(text, PLAIN, noise_from(torch.Generator().manual_seed(2)))
    dots = (made * text.z_t).sum(dim=1)
    # The top half of a normal distribution has its mean 0.8 σ above the whole's.
    assert float((dots.mean() - data.mean()) / data.std()) == pytest.approx(0.8, abs=0.2)


@pytest.fixture(scope="module")
def clip(tiny_priors: Path) -> FrozenCLIP:
    return FrozenCLIP.load(ModelFolder(tiny_priors))


@pytest.fixture(scope="module")
def stage(tiny_priors: Path, clip: FrozenCLIP) -> AutoregressivePriorStage:
    return AutoregressivePriorStage.load(ModelFolder(tiny_priors), clip)


def test_saved_twice_it_is_the_same_file(
    stage: AutoregressivePriorStage, clip: FrozenCLIP, tiny_priors: Path, tmp_path: Path
) -> None:
    stage.save(ModelFolder(tmp_path))
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        one, other = (path / "autoregressive_prior" / name for path in (tiny_priors, tmp_path))
        assert one.read_bytes() == other.read_bytes()
    again = AutoregressivePriorStage.load(ModelFolder(tmp_path), clip)
    a, b = (s.sample(clip.text(CAPTIONS), PLAIN, noise(1, 2)) for s in (stage, again))
    assert torch.equal(a, b)
    assert a.shape == (2, clip.width)


def test_half_precision_keeps_the_tables(tiny_priors: Path, clip: FrozenCLIP) -> None:
    half = AutoregressivePriorStage.load(ModelFolder(tiny_priors), clip, torch.bfloat16)
    file = tiny_priors / "autoregressive_prior" / "diffusion_pytorch_model.safetensors"
    written = read_safetensors(file)
    for name, tensor in half.network.state_dict().items():
        if name.startswith("codec."):
            assert torch.equal(tensor, written[name])
        else:
            assert tensor.dtype == torch.bfloat16
    assert half.sample(clip.text(CAPTIONS), PLAIN, noise(1, 2)).isfinite().all()


def test_an_image_is_the_same_alone_and_in_a_batch(
    stage: AutoregressivePriorStage, clip: FrozenCLIP
) -> None:
    sampling = Sampling(guidance=Guidance(2.0))
    both = stage.sample(clip.text(CAPTIONS), sampling, noise(7, 8, rows=2), candidates=2)
    for row, caption in enumerate(CAPTIONS):
        alone = stage.sample(clip.text([caption]), sampling, noise(7 + row, rows=2), candidates=2)
        torch.testing.assert_close(alone[0], both[row], atol=1e-5, rtol=1e-5)


def test_temperature_zero_takes_the_likeliest_code_each_time(
    stage: AutoregressivePriorStage, clip: FrozenCLIP
) -> None:
    text, network = clip.text(CAPTIONS), stage.network
    draws = noise(1, 2)(torch.empty(2, 1 + stage.steps))  # the first decides the dot product
    half = network.config.num_dot_buckets // 2
    dots = half + (torch.special.ndtr(draws[:, 0]) * half).long()
    codes = torch.empty(2, 0, dtype=torch.long)
    for _ in range(stage.steps):  # without a cache
        logits = network(codes, CodePrefix(text.z_t, text.hidden, text.mask, dots))
        codes = torch.cat([codes, logits[:, -1].argmax(dim=1, keepdim=True)], dim=1)
    made = stage.sample(text, replace(PLAIN, temperature=0.0), noise(1, 2))
    torch.testing.assert_close(made, network.codec.decode(codes))
    warm = stage.sample(text, replace(PLAIN, temperature=1e-4), noise(1, 2))
    torch.testing.assert_close(warm, made)


def test_a_scale_of_one_is_no_guidance_and_others_are(
    stage: AutoregressivePriorStage, clip: FrozenCLIP
) -> None:
    def sampled(scale: float) -> Tensor:
        sampling = Sampling(guidance=Guidance(scale))
        return stage.sample(clip.text(CAPTIONS), sampling, noise(1, 2))

    torch.testing.assert_close(sampled(1 + 1e-6), sampled(1.0), atol=1e-5, rtol=1e-5)
    assert (sampled(8.0) - sampled(1.0)).abs().max() > 1e-2


def test_draws_follow_the_distribution() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    places = (torch.arange(1000) + 0.5) / 1000
    drawn = draw(p.log().expand(1000, -1), places)
    assert drawn.bincount(minlength=5).tolist() == [500, 0, 300, 150, 50]
    assert draw(p.log()[None], torch.tensor([0.0])).item() == 0
    assert draw(p.log()[None], torch.tensor([1 - 2**-24])).item() == 4
    squared = p**2 / (p**2).sum()
    colder = draw(p.log().expand(1000, -1), places, temperature=0.5).bincount(minlength=5) / 1000
    torch.testing.assert_close(colder, squared, atol=2e-3, rtol=0)


def test_top_p_keeps_the_fewest_that_suffice() -> None:
    p = torch.tensor([[0.05, 0.5, 0.15, 0.3]])
    for top_p, kept in ((0.3, [1]), (0.5, [1]), (0.51, [1, 3]), (0.8, [1, 3]), (0.9, [1, 2, 3])):
        result = nucleus(p, top_p)
        assert result[0].nonzero().flatten().tolist() == kept
        assert torch.equal(result[result > 0], p[result > 0])
    assert torch.equal(nucleus(p, 1.0), p)
    places = (torch.arange(100) + 0.5) / 100
    assert set(draw(p.log().expand(100, -1), places, top_p=0.6).tolist()) == {1, 3}


def test_the_dot_product_is_asked_for_from_a_quantile_on() -> None:
    found = [lowest_bucket(q, 64) for q in (0, 0.5, 0.7, 0.85, 0.95, 1)]
    assert found == [0, 32, 45, 55, 61, 63]
    assert [lowest_bucket(0.5, buckets) for buckets in (2, 3, 5)] == [1, 2, 3]  # the top half


def test_what_makes_no_sense_is_refused(
    stage: AutoregressivePriorStage, clip: FrozenCLIP, tmp_path: Path
) -> None:
    text = clip.text(CAPTIONS)
    with pytest.raises(ValueError, match="0 candidates; ask for at least 1"):
        stage.sample(text, PLAIN, noise(1, 2), candidates=0)
    with pytest.raises(ValueError, match=r"temperature is -1.0; it must be between 0 and 100"):
        replace(PLAIN, temperature=-1)
    with pytest.raises(ValueError, match=r"temperature is -1; it must be 0 or more"):
        draw(torch.zeros(1, 2), torch.zeros(1), temperature=-1)
    with pytest.raises(ValueError, match=r"top_p is 0; it must be above 0"):
        draw(torch.zeros(1, 2), torch.zeros(1), top_p=0)
    stage.save(ModelFolder(tmp_path))
    other: Any = SimpleNamespace(width=8)
    with pytest.raises(ValueError, match=r"width 64, but .* width 8: they are not of one model"):
        AutoregressivePriorStage.load(ModelFolder(tmp_path), other)


def test_dropped_captions_take_their_dot_product_with_them(
    stage: AutoregressivePriorStage,
) -> None:
    seen: list[CodePrefix] = []
    handle = stage.network.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    settings, stage.settings = stage.settings, AutoregressivePriorSettings(drop_text=0.5)
    stage.loss(scenes(24), torch.Generator().manual_seed(0))
    handle.remove()
    stage.settings = settings
    absent = seen[0].dots == stage.network.config.num_dot_buckets
    assert 6 <= absent.sum() <= 18
    null = stage.clip.text([""]).z_t
    assert torch.equal((seen[0].text_embeddings - null).abs().amax(dim=1) < 1e-5, absent)


def test_a_resumed_run_ends_with_the_same_bits(tiny_model: Path, tmp_path: Path) -> None:
    ends = []
    for name, lengths in (("whole", [4]), ("parts", [2, 4])):
        model, run = tmp_path / f"{name}-model", tmp_path / name
        FrozenCLIP.load(ModelFolder(tiny_model)).save(ModelFolder(model))
        for steps in lengths:
            recipe = tiny_recipe("ar-prior", training={"steps": steps})
            where = Folders(model, run, resume=steps != lengths[0])
            assert start(STAGES["ar-prior"], recipe, where, "cpu") == 0
        ends.append(read_safetensors(checkpoint.checkpoints(run / "checkpoints")[-1]))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 5e-324, 1e-30])
def test_next_to_no_temperature_takes_the_likeliest_code(temperature: float) -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0], [1.0, -3.0, 0.5]])
    assert draw(logits, torch.tensor([0.9, 0.9]), temperature).tolist() == [1, 0]
