"""Images of the paper's tables: made once, each in its own way; what is counted."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.paper.conftest import make_lab
from tests.tiny import with_autoregressive_prior
from unclip.evaluation.judge.network import Judge
from unclip.evaluation.paper.lab import Ask, Lab
from unclip.evaluation.paper.models import BUNDLED, GLIDE, TEXT_EMBEDDING, Models
from unclip.files import read_safetensors
from unclip.pipeline.settings import Settings
from unclip.storage.folder import ModelFolder


def ask(lab: Lab, **values: object) -> Ask:
    settings = lab.settings(decoder_guidance_scale=2.0, decoder_num_inference_steps=2,
                            prior_num_inference_steps=2)  # fmt: skip
    return replace(Ask(lab.captions(count=3), settings=settings), **values)  # type: ignore[arg-type]


def images(lab: Lab, one: Ask, z_i: torch.Tensor | None = None) -> torch.Tensor:
    return torch.cat(list(lab.images(one, z_i)))


def test_every_condition_makes_other_images_of_the_same_noise(lab: Lab) -> None:
    real = lab.truth.features["clip"][:3]
    made = [
        images(lab, ask(lab)),
        images(lab, ask(lab, given="nothing")),
        images(lab, ask(lab, given="z_t")),
        images(lab, ask(lab, given="z_i"), real),
        images(lab, ask(lab, model=GLIDE)),
        images(lab, ask(lab, model=TEXT_EMBEDDING, given="z_t")),
    ]
    for k, one in enumerate(made):
        assert one.shape == (3, 3, 16, 16)
        assert not any(torch.equal(one, other) for other in made[:k])
    assert torch.equal(images(lab, ask(lab)), made[0])
    glide, bundled = (lab.models.of(name) for name in (GLIDE, BUNDLED))
    assert glide.sampling("decoder", Settings()) == bundled.sampling("decoder", Settings())


def test_without_z_i_the_decoder_sees_the_caption_alone(lab: Lab) -> None:
    """Whatever stands in z_i's place is not read."""
    blind = ask(lab, given="nothing")
    z_i = torch.randn(3, lab.models.bundled.clip.width)
    assert torch.equal(images(lab, blind, z_i), images(lab, blind))
    other = replace(blind, captions=("a red circle",) * 3)
    assert not torch.equal(images(lab, other), images(lab, blind))


def test_the_prior_draws_once_for_all_settings_of_the_decoder(lab: Lab) -> None:
    one, other = ask(lab), ask(lab)
    other = replace(other, settings=replace(other.settings, decoder_guidance_scale=1.0))
    assert lab.embeddings(one) is lab.embeddings(other)
    guided = replace(one, settings=replace(one.settings, prior_guidance_scale=3.0))
    assert not torch.equal(lab.embeddings(guided), lab.embeddings(one))
    assert not torch.equal(lab.embeddings(replace(one, stream=1)), lab.embeddings(one))


def test_what_was_drawn_is_known(lab: Lab) -> None:
    seen = lab.draw(ask(lab))
    assert lab.draw(ask(lab)) is seen
    assert len(seen.found) == 3
    assert seen.features["clip"].shape == (3, lab.models.bundled.clip.width)


def test_evaluations_are_counted_once(lab: Lab) -> None:
    one = ask(lab)
    blind = replace(one, given="nothing")
    # Two guided steps of the decoder; of the prior as many for each of two candidates.
    assert lab.cost([one, one]) == (3, 3 * (4 + 4 * 2))
    assert lab.cost([one, blind]) == (6, 3 * (4 + 4 * 2) + 3 * 4)
    lab.draw(blind)
    assert lab.cost([blind]) == (0, 0)


def test_scenes_are_the_same_from_several_processes(models: Models, judge: Judge) -> None:
    with (
        make_lab(models, judge, processes=2) as two,
        make_lab(models, judge) as one,
    ):
        ours, theirs = (lab.paint(lab.config, range(130)) for lab in (one, two))
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])


def test_an_autoregressive_prior_comes_from_its_own_folder(
    models: Models, models_folder: Path, tmp_path: Path
) -> None:
    for name in ("bundled", "ar-prior"):
        shutil.copytree(models_folder / "bundled", tmp_path / name)
    with_autoregressive_prior(tmp_path / "ar-prior", seed=1)
    says = {"autoregressive_prior_guidance_scale": 2.5, "decoder_guidance_scale": 7.0}
    ModelFolder(tmp_path / "ar-prior").update_index({"_defaults": says})
    found = Models(tmp_path, "cpu", "fp32")
    assert found.fingerprints["ar-prior"]
    assert list(found.bundled.priors) == list(models.bundled.priors)
    assert found.bundled.defaults["autoregressive_prior_guidance_scale"] == 2.5
    ours, theirs = (
        next(one.bundled.priors["autoregressive"].network.parameters()) for one in (found, models)
    )
    assert not torch.equal(ours, theirs)
    other = ModelFolder(tmp_path / "ar-prior")
    weights = read_safetensors(tmp_path / "ar-prior" / "text_encoder" / "model.safetensors")
    entry = ("transformers", "CLIPTextModelWithProjection")
    config = {"config.json": other.config("text_encoder")}
    other.save("text_encoder", entry, config, {k: v + 1 for k, v in weights.items()})
    with pytest.raises(ValueError, match="trained with another CLIP"):
        Models(tmp_path, "cpu", "fp32")


def test_what_makes_no_sense_is_refused(
    models: Models, models_folder: Path, tmp_path: Path, judge: Judge
) -> None:
    with pytest.raises(ValueError, match="take 16 images or more"):
        make_lab(models, judge, n=4)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        Models(tmp_path / "nowhere", "cpu")
    (tmp_path / "glide").symlink_to(models_folder / "bundled", target_is_directory=True)
    (tmp_path / "bundled").symlink_to(models_folder / "bundled", target_is_directory=True)
    with pytest.raises(ValueError, match="condition is image, not caption"):
        Models(tmp_path, "cpu")
