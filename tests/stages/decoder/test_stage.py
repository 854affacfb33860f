"""The decoder's stage: conditions and their dropping, guidance, saving."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import learns, noise, scenes
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.sampling import Sampling
from unclip.networks.decoder import TextProjection
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.storage.folder import ModelFolder

SETTINGS = DecoderSettings((16, 32), layers=1, head_width=16, groups=8, context_width=32)
CAPTIONS = ["a red circle", "a small blue square to the left of a large green star"]


@pytest.fixture(scope="module")
def trained(clip: FrozenCLIP) -> tuple[DecoderStage, float, float]:
    torch.manual_seed(0)
    stage = DecoderStage.build(SETTINGS, clip, 16)
    images = torch.nn.functional.interpolate(scenes(8)["images"], 16, mode="area")
    return stage, *learns(stage, {**scenes(8), "images": images})


def sampled(
    stage: DecoderStage, captions: list[str], seeds: list[int], **options: object
) -> Tensor:
    text = stage.clip.text(captions)
    z_i = stage.clip.image(scenes(len(captions), 32, 10)["images"])
    sampling = Sampling(**{"steps": 3, **options})  # type: ignore[arg-type]
    return stage.sample(z_i, text, sampling, noise(*seeds))


def test_it_learns(trained: tuple[DecoderStage, float, float]) -> None:
    _, before, after = trained
    assert after < 0.7 * before


def test_saved_is_sampled_alike(
    trained: tuple[DecoderStage, float, float], clip: FrozenCLIP, tmp_path: Path
) -> None:
    stage = trained[0]
    stage.save(ModelFolder(tmp_path))
    again = DecoderStage.load(ModelFolder(tmp_path), clip)
    assert again.size == 16
    assert again.process.config == stage.process.config
    a, b = (sampled(s, CAPTIONS, [1, 2], guidance=Guidance(2.0)) for s in (stage, again))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert a.shape == (2, 3, 16, 16)
    assert a.abs().max() <= 1.0


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_an_image_is_the_same_alone_and_in_a_batch(
    sampler: str, trained: tuple[DecoderStage, float, float]
) -> None:
    options = {"sampler": sampler, "guidance": Guidance(2.0)}
    both = sampled(trained[0], CAPTIONS, [7, 8], **options)
    alone = sampled(trained[0], CAPTIONS[:1], [7], **options)
    torch.testing.assert_close(alone[0], both[0], atol=1e-4, rtol=1e-4)


def test_a_scale_of_one_is_no_guidance_and_others_are(
    trained: tuple[DecoderStage, float, float],
) -> None:
    plain = sampled(trained[0], CAPTIONS, [1, 2])
    almost = sampled(trained[0], CAPTIONS, [1, 2], guidance=Guidance(1.0 + 1e-6))
    assert (plain - almost).abs().mean() < 1e-3  # ε at t = 999 magnifies every rounding
    assert (
        sampled(trained[0], CAPTIONS, [1, 2], guidance=Guidance(6.0)) - plain
    ).abs().max() > 1e-3


def test_outside_the_interval_the_conditional_branch_alone_is_computed(
    trained: tuple[DecoderStage, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, rows = trained[0], []
    proceed = stage.network.decoder.proceed
    monkeypatch.setattr(
        stage.network.decoder, "proceed", lambda x, *rest: rows.append(len(x)) or proceed(x, *rest)
    )

    def made(guidance: Guidance) -> Tensor:
        rows.clear()
        return sampled(stage, CAPTIONS, [1, 2], steps=8, guidance=guidance)

    whole = made(Guidance(3.0))
    assert rows == [4] * 8
    assert torch.equal(made(Guidance(3.0, (0.0, float("inf")))), whole)
    assert rows == [4] * 8
    part = made(Guidance(3.0, (0.3, 5.0)))
    # σ at t = 999, 856, 714, 571, 428, 285, 143, 0 is from 2e4 to 0.006.
    assert rows == [2, 4, 4, 4, 4, 4, 2, 2]
    assert (part - whole).abs().max() > 1e-3
    plain = made(Guidance())
    assert rows == [2] * 8
    assert torch.equal(made(Guidance(1.0, (0.3, 5.0))), plain)
    assert torch.equal(made(Guidance(3.0, (1e6, 1e7))), plain)  # nothing is within


def test_deep_features_are_reused_in_both_branches(
    trained: tuple[DecoderStage, float, float],
) -> None:
    stage, rows = trained[0], []
    hook = stage.network.decoder.mid_block.register_forward_hook(
        lambda _, __, output: rows.append(len(output))
    )

    def made(reuse: int, scale: float, interval: tuple[float, float] | None = None) -> Tensor:
        rows.clear()
        guidance = Guidance(scale, interval)
        return sampled(stage, CAPTIONS, [1, 2], steps=8, guidance=guidance, reuse=reuse)

    whole = made(1, 3.0)
    assert rows == [4] * 8
    assert (made(3, 3.0) - whole).abs().max() > 1e-3
    assert rows == [4] * 3
    # Where guidance begins, its second branch has nothing to reuse yet.
    made(3, 3.0, (0.3, 5.0))
    assert rows == [2, 4, 4, 2]
    alone = made(3, 1.0)
    assert rows == [2] * 3
    assert (made(3, 1.0 + 1e-6) - alone).abs().mean() < 1e-3
    hook.remove()


def test_dropped_padding_changes_nothing(trained: tuple[DecoderStage, float, float]) -> None:
    stage = trained[0]
    text = stage.clip.text(CAPTIONS)
    padded = text.padded(24)
    padded.hidden[~padded.mask] = 9.0
    z_i = torch.randn(2, stage.clip.width)
    a, b = (
        stage.sample(z_i, t, Sampling(2, guidance=Guidance(2.0)), noise(1, 2))
        for t in (text, padded)
    )
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_conditions_are_dropped_at_the_stated_rates(clip: FrozenCLIP) -> None:
    """10 % of the image embeddings and 50 % of the captions, independently (section 2.1)."""
    stage = DecoderStage.build(SETTINGS, clip, 16)
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(TextProjection):
        def forward(
            self, image_embeddings: Tensor, text_embeddings: Tensor, text_hidden_states: Tensor,
            null: Tensor | None = None,
        ) -> tuple[Tensor, Tensor]:  # fmt: skip
            assert null is not None
            empty = (text_embeddings - blank).abs().amax(dim=1) < 1e-4
            seen.append((null, empty))
            return super().forward(image_embeddings, text_embeddings, text_hidden_states, null)

    blank = clip.text([""]).z_t
    stage.network.text_proj = Spy(stage.network.text_proj.config)
    stage.network.decoder.forward = (  # type: ignore[method-assign]
        lambda x, t, **_: torch.cat([x, x], dim=1)  # only the conditions matter here
    )
    images = torch.zeros(1, 3, 16, 16).expand(500, -1, -1, -1)
    for seed in range(4):
        batch = {"images": images, "captions": ["a red circle"] * 500}
        stage.loss(batch, torch.Generator().manual_seed(seed))
    null, empty = (torch.cat(column).float() for column in zip(*seen, strict=True))
    assert null.mean().item() == pytest.approx(0.1, abs=0.03)
    assert empty.mean().item() == pytest.approx(0.5, abs=0.05)
    assert (null * empty).mean().item() == pytest.approx(0.05, abs=0.02)


def test_previews_show_originals_above_what_is_made(
    trained: tuple[DecoderStage, float, float],
) -> None:
    images = torch.nn.functional.interpolate(scenes(2)["images"], 16)
    rows = trained[0].preview({**scenes(2), "images": images}, torch.Generator())
    assert rows is not None
    assert rows.shape == (2, 2, 3, 16, 16)
    assert torch.equal(rows[0], images)
