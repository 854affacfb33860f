"""The prior's stage: statistics, dropping, two candidates, guidance."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import learns, noise, scenes
from unclip.diffusion.guidance import Guidance, guide
from unclip.diffusion.sampling import Sampling
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.stages.diffusion_prior import (
    PriorSettings,
    PriorStage,
    best_candidates,
    embedding_statistics,
)
from unclip.storage.folder import ModelFolder

SETTINGS = PriorSettings(1, 2, 16, statistics=32)
CAPTIONS = ["a red circle", "a small blue square to the left of a large green star"]


@pytest.fixture(scope="module")
def trained(clip: FrozenCLIP) -> tuple[PriorStage, float, float]:
    torch.manual_seed(0)
    stage = PriorStage.build(SETTINGS, clip, [scenes(32)])
    return stage, *learns(stage, scenes(32), rate=3e-3)


def test_it_learns(trained: tuple[PriorStage, float, float]) -> None:
    _, before, after = trained
    assert before == pytest.approx(1.0, abs=0.1)  # the output starts at zero, the data have σ = 1
    assert after < 0.9 * before


def test_statistics_are_those_of_the_embeddings(clip: FrozenCLIP) -> None:
    parts = [scenes(8, 32, first) for first in (0, 8, 16, 24)]
    mean, std = embedding_statistics(clip, parts, 20)
    z_i = torch.cat([clip.image(part["images"]) for part in parts[:3]])  # 24 are at least 20
    torch.testing.assert_close(mean, z_i.mean(0, keepdim=True), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std, z_i.std(0, keepdim=True), atol=1e-5, rtol=1e-4)
    stage = PriorStage.build(SETTINGS, clip, parts)
    normal = stage.network.normalise(torch.cat([clip.image(part["images"]) for part in parts]))
    torch.testing.assert_close(normal.mean(0), torch.zeros(clip.width), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(clip.width), atol=1e-4, rtol=0)


def test_statistics_are_not_trained(trained: tuple[PriorStage, float, float]) -> None:
    network = trained[0].network
    assert not network.clip_mean.requires_grad
    assert not network.clip_std.requires_grad


def test_saved_is_sampled_alike(
    trained: tuple[PriorStage, float, float], clip: FrozenCLIP, tmp_path: Path
) -> None:
    stage = trained[0]
    stage.save(ModelFolder(tmp_path))
    again = PriorStage.load(ModelFolder(tmp_path), clip)
    assert again.settings.candidates == 2
    assert again.process.config == stage.process.config
    text, sampling = clip.text(CAPTIONS), Sampling(4, guidance=Guidance(2.0))
    a, b = (one.sample(text, sampling, noise(1, 2, rows=2)) for one in (stage, again))
    torch.testing.assert_close(a, b)
    assert a.shape == (2, clip.width)


def test_an_image_is_the_same_alone_and_in_a_batch(
    trained: tuple[PriorStage, float, float], clip: FrozenCLIP
) -> None:
    stage, sampling = trained[0], Sampling(5, guidance=Guidance(3.0))
    both = stage.sample(clip.text(CAPTIONS), sampling, noise(7, 8, rows=2))
    for row, caption in enumerate(CAPTIONS):
        alone = stage.sample(clip.text([caption]), sampling, noise(7 + row, rows=2))
        torch.testing.assert_close(alone[0], both[row], atol=1e-5, rtol=1e-4)


def test_dropped_padding_changes_nothing(
    trained: tuple[PriorStage, float, float], clip: FrozenCLIP
) -> None:
    text = clip.text(CAPTIONS)
    padded = TextCondition(*text.padded(24).parts)
    padded.hidden[~padded.mask] = 9.0
    sampling = Sampling(3, guidance=Guidance(2.0))
    a, b = (trained[0].sample(t, sampling, noise(1, 2, rows=2)) for t in (text, padded))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_scale_of_one_is_no_guidance_and_others_are(
    trained: tuple[PriorStage, float, float], clip: FrozenCLIP
) -> None:
    text = clip.text(CAPTIONS)

    def sampled(guidance: Guidance) -> torch.Tensor:
        return trained[0].sample(text, Sampling(4, guidance=guidance), noise(1, 2, rows=2))

    plain = sampled(Guidance())
    almost = sampled(Guidance(1.0 + 1e-6))  # both branches are computed
    torch.testing.assert_close(plain, almost, atol=1e-4, rtol=1e-4)
    assert (sampled(Guidance(4.0)) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(3.0), Guidance(3.0, interval=(0, 1.5))])
def test_prefixes_change_nothing(
    guidance: Guidance, candidates: int, trained: tuple[PriorStage, float, float], clip: FrozenCLIP
) -> None:
    """Against a loop that gives the network everything at every step."""
    stage, text, sampling = trained[0], clip.text(CAPTIONS), Sampling(4, guidance=guidance)
    many = text.repeat(candidates)
    both = many + clip.text([""]).expand(len(many))

    def plain(x: Tensor, t: float, guided: bool) -> Tensor:
        y = both if guided else many
        time = torch.tensor(t)
        return stage.network(
            x, time, text_embeddings=y.z_t, text_hidden_states=y.hidden, text_mask=y.mask
        )

    process = stage.process
    denoiser = process.denoiser(guide(plain, guidance, process.plan(sampling).guided, clip.width))
    with torch.no_grad():
        draws = noise(1, 2, rows=candidates)
        x0 = process.sample(denoiser, torch.empty(len(many), clip.width), sampling, draws)
        expected = best_candidates(stage.network.denormalise(x0), text.z_t)
    made = stage.sample(text, sampling, noise(1, 2, rows=candidates), candidates=candidates)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    null = clip.text([""])
    again = stage.sample(text, sampling, noise(1, 2, rows=candidates), null, candidates=candidates)
    assert torch.equal(again, made)


def test_the_candidate_with_the_higher_dot_product_is_kept() -> None:
    z_t = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    z_i = torch.tensor([[1.0, 9.0], [2.0, 0.0], [0.0, 3.0], [9.0, 1.0]])
    assert best_candidates(z_i, z_t).tolist() == [[2.0, 0.0], [0.0, 3.0]]
    torch.manual_seed(0)
    z_i, z_t = torch.randn(12, 5), torch.randn(4, 5)
    best = best_candidates(z_i, z_t)
    for row in range(4):
        dots = z_i[3 * row : 3 * row + 3] @ z_t[row]
        assert torch.equal(best[row], z_i[3 * row + int(dots.argmax())])


def test_captions_are_dropped_at_the_stated_rate(clip: FrozenCLIP) -> None:
    seen: list[str] = []

    class Spy(FrozenCLIP):
        def text(self, captions: list[str]) -> TextCondition:  # type: ignore[override]
            seen.extend(captions)
            return super().text(captions[:1])[torch.zeros(len(captions), dtype=torch.long)]

    spy = Spy(clip.text_encoder, clip.tokenizer, clip.image_encoder, clip.processor)
    stage = PriorStage.build(SETTINGS, spy, [scenes(32)])
    batch = {
        "images": scenes(1)["images"].expand(400, -1, -1, -1),
        "captions": ["x"] * 400,
    }
    for seed in range(4):
        stage.loss(batch, torch.Generator().manual_seed(seed))
    assert seen.count("") / len(seen) == pytest.approx(0.1, abs=0.025)


def test_a_prior_of_another_clip_is_refused(
    trained: tuple[PriorStage, float, float], clip: FrozenCLIP, tmp_path: Path
) -> None:
    trained[0].save(ModelFolder(tmp_path))
    other = FrozenCLIP(clip.text_encoder, clip.tokenizer, None, None)
    from dataclasses import replace

    old = other.text_encoder.config
    other.text_encoder.config = replace(old, projection_dim=8)
    try:
        with pytest.raises(ValueError, match=r"width 64, but .* width 8: they are not of one"):
            PriorStage.load(ModelFolder(tmp_path), other)
    finally:
        other.text_encoder.config = old
