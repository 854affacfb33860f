"""The paper's two comparisons and the decoder's own text Transformer: each sees what it should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.interfaces.cli.test_cli import Capture
from tests.tiny import _awaken, learns, noise, scenes
from unclip import Pipeline
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.sampling import Sampling
from unclip.interfaces.cli import main
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.storage.folder import ModelFolder

UNCLIP = DecoderSettings(
    (16, 32), layers=1, head_width=16, groups=8, context_width=32, text_layers=1
)
OWN = replace(UNCLIP, caption_tokens="own")
GLIDE = replace(OWN, condition="caption")
TEXT_EMBEDDING = replace(UNCLIP, condition="text_embedding")
CAPTIONS = ["a red circle", "a small blue square to the left of a large green star"]


def built(settings: DecoderSettings, clip: FrozenCLIP) -> DecoderStage:
    torch.manual_seed(0)
    stage = DecoderStage.build(settings, clip, 16)
    _awaken(stage.network)
    stage.network.eval()
    return stage


def predicted(stage: DecoderStage, z_i: Tensor, text: TextCondition) -> Tensor:
    """The U-Net's output, both with guidance's condition and without."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([500, 500])
    outputs = []
    for absent in (False, True):
        null = torch.full((2,), absent)
        with torch.no_grad():
            outputs.append(stage.network.decoder(x, t, **stage._condition(z_i, text, null)))
    return torch.stack(outputs)


@pytest.mark.parametrize("settings", [GLIDE, TEXT_EMBEDDING], ids=["glide", "text-embedding"])
def test_it_learns(settings: DecoderSettings, clip: FrozenCLIP) -> None:
    torch.manual_seed(0)
    stage = DecoderStage.build(settings, clip, 16)
    images = torch.nn.functional.interpolate(scenes(8)["images"], 16, mode="area")
    before, after = learns(stage, {**scenes(8), "images": images}, steps=20)
    assert after < 0.8 * before


def test_glide_sees_the_caption_and_no_image(clip: FrozenCLIP) -> None:
    text, z_i = clip.text(CAPTIONS), torch.randn(2, clip.width)
    glide, unclip = built(GLIDE, clip), built(OWN, clip)
    a = predicted(glide, z_i, text)
    assert torch.equal(a, predicted(glide, z_i * torch.nan, text))  # nothing of it is read
    assert torch.equal(a[0], a[1])
    assert (predicted(unclip, z_i, text)[0] - predicted(unclip, -z_i, text)[0]).abs().max() > 1e-3
    assert (a - predicted(glide, z_i, clip.text(CAPTIONS[::-1]))).abs().max() > 1e-3
    images = scenes(2)["images"][:, :, ::2, ::2]
    losses = []
    for tower in (clip.image_encoder, None):  # training does without CLIP's image tower
        blind = FrozenCLIP(clip.text_encoder, clip.tokenizer, tower, clip.processor)
        stage = built(GLIDE, blind)
        generator = torch.Generator().manual_seed(0)
        losses.append(stage.loss({"images": images, "captions": CAPTIONS}, generator)["loss"])
    assert torch.equal(losses[0], losses[1])


def test_its_own_text_transformer_reads_the_tokens_and_is_trained(clip: FrozenCLIP) -> None:
    stage, z_i = built(OWN, clip), torch.randn(2, clip.width)
    text = clip.text(CAPTIONS)
    blank = replace(text, z_t=text.z_t * 0, hidden=text.hidden * 0)
    a = predicted(stage, z_i, text)
    assert torch.equal(a, predicted(stage, z_i, blank))  # CLIP's are not read
    torch.testing.assert_close(a, predicted(stage, z_i, text.padded(24)), atol=1e-5, rtol=1e-4)
    images = scenes(2)["images"][:, :, ::2, ::2]
    batch = {"images": images, "captions": CAPTIONS}
    stage.settings = replace(OWN, drop_text=0.0)
    stage.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    assert stage.network.text_encoder is not None
    for name, parameter in stage.network.text_encoder.named_parameters():
        assert parameter.grad is not None, name
        # Softmax does not see what is added to all keys: a gradient of rounding errors.
        assert name.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in clip.text_encoder.parameters())


def test_its_own_text_transformer_attends_both_ways_and_not_to_padding(clip: FrozenCLIP) -> None:
    """As GLIDE's does: what is said first can depend on what follows, as it cannot in CLIP."""
    one, other = (clip.text([f"a red star above a {shape}"]) for shape in ("ring", "heart"))
    own = built(OWN, clip).network.text_encoder
    assert own is not None
    first = [own(text.ids, text.mask)[1][:, 2] for text in (one, other)]
    assert (first[0] - first[1]).abs().max() > 1e-4
    causal = [clip.text_encoder(text.ids)[1][:, 2] for text in (one, other)]
    torch.testing.assert_close(*causal, atol=1e-5, rtol=1e-5)
    padded = one.padded(24)
    for alone, beside in zip(own(one.ids, one.mask), own(padded.ids, padded.mask), strict=True):
        if alone.ndim == 3:
            beside = beside[:, : alone.shape[1]]
        torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-4)


def test_a_text_transformer_of_one_direction_is_refused(clip: FrozenCLIP, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    clip.save(folder)
    built(OWN, clip).save(folder)
    DecoderStage.load(folder, clip)
    older = ["transformers", "CLIPTextModelWithProjection"]
    folder.update_index({"decoder_text_encoder": older})
    with pytest.raises(ValueError, match="one direction only; train the decoder anew"):
        DecoderStage.load(folder, clip)


def test_the_text_embedding_is_in_the_place_of_the_images(clip: FrozenCLIP) -> None:
    stage = built(replace(TEXT_EMBEDDING, drop_text=1.0, drop_image=0.0), clip)
    seen: list[Tensor] = []
    forward = stage.network.text_proj.forward

    def spy(z_i: Tensor, z_t: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.extend([z_i, z_t])
        return forward(z_i, z_t, *rest)

    stage.network.text_proj.forward = spy  # type: ignore[method-assign]
    images = scenes(2)["images"][:, :, ::2, ::2]
    stage.loss({"images": images, "captions": CAPTIONS}, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0], clip.text(CAPTIONS).z_t)  # although captions are dropped
    torch.testing.assert_close(seen[1], clip.text(["", ""]).z_t)


def test_a_folder_notes_what_its_decoder_sees(clip: FrozenCLIP, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    clip.save(folder)
    z_i = torch.randn(2, clip.width)
    for settings in (UNCLIP, GLIDE, TEXT_EMBEDDING, UNCLIP):
        stage = built(settings, clip)
        stage.save(folder)
        again = DecoderStage.load(folder, clip)
        assert again.settings.note == settings.note
        assert (again.network.text_encoder is None) == (settings.caption_tokens == "clip")
        sampling = Sampling(2, guidance=Guidance(2.0))
        a, b = (s.sample(z_i, clip.text(CAPTIONS), sampling, noise(1, 2)) for s in (stage, again))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    folder.update_index({"_decoder": {"condition": "smell"}})
    with pytest.raises(ValueError, match="condition"):
        DecoderStage.load(folder, clip)
    folder.update_index({"_decoder": 3})
    with pytest.raises(ValueError, match="must be a table of keys"):
        DecoderStage.load(folder, clip)


@pytest.mark.parametrize("settings", [GLIDE, TEXT_EMBEDDING], ids=["glide", "text-embedding"])
def test_captions_become_images_without_a_prior(
    settings: DecoderSettings, clip: FrozenCLIP, tmp_path: Path, capsys: Capture
) -> None:
    folder = ModelFolder(tmp_path / "model")
    clip.save(folder)
    built(settings, clip).save(folder)
    pipe = Pipeline.from_pretrained(folder.path, dtype="fp32", device="cpu")
    assert pipe.prior is None
    few: dict[str, Any] = {"decoder_num_inference_steps": 2, "output_type": "tensor"}
    a, b = pipe(CAPTIONS, **few).images
    assert (a - b).abs().mean() > 1e-3
    assert pipe.evaluations(replace(pipe_settings(), decoder_num_inference_steps=2)) == 2
    pipe.save_pretrained(tmp_path / "again")
    again = Pipeline.from_pretrained(tmp_path / "again", dtype="fp32", device="cpu")
    assert torch.equal(again(CAPTIONS, **few).images[1], b)
    assert main(["info", str(folder.path)]) == 0
    said = capsys.readouterr().out
    assert "prior" not in said.split("complete")[1].split("\n")[0]
    if settings is GLIDE:
        from PIL import Image

        with pytest.raises(ValueError, match="sees captions only"):
            pipe.vary(Image.new("RGB", (16, 16)))


def pipe_settings() -> Any:
    from unclip import Settings

    return Settings()
