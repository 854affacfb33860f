"""Sizes by name: what a row decides, what is said beside it, and what a loaded stage says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_recipe
from unclip.config import from_mapping, to_mapping
from unclip.networks.clip_config import CLIPConfig
from unclip.stages.catalogue import STAGES
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.stages.diffusion_prior import PriorSettings, PriorStage
from unclip.stages.sizes import Sized
from unclip.stages.spec import load_recipe, parse_recipe
from unclip.stages.upsampler import FIRST, UpsamplerStage
from unclip.storage.folder import ModelFolder

SIZED = {name: spec for name, spec in STAGES.items() if isinstance(spec.recipe.network, Sized)}
# What was trained before sizes had names.
BEFORE: dict[str, dict[str, Any]] = {
    "prior": {"num_layers": 6, "num_attention_heads": 6, "attention_head_dim": 64, "dropout": 0.0},
    "ar-prior": {"num_layers": 6, "num_attention_heads": 6, "attention_head_dim": 64},
    "decoder": {
        "widths": (64, 128, 192), "layers": 2, "head_width": 32, "groups": 16,
        "context_width": 192, "dropout": 0.0, "caption_tokens": "clip", "text_layers": 4,
    },
    "upsampler": {"factor": 4, "widths": (32, 64, 128, 192), "layers": 1, "groups": 16},
    "upsampler-1024": {
        "factor": 4, "widths": (32, 32, 64, 64, 128, 128), "layers": 2, "groups": 16,
        "beta_schedule": "linear", "degradation": "bsr",
    },
}  # fmt: skip


def test_no_size_needs_everything_that_a_size_says() -> None:
    with pytest.raises(ValueError, match=r"unknown size ''; known: .*paper.*tiny"):
        PriorSettings(size="")
    assert PriorSettings(2, 3, 16, size="").num_layers == 2


@pytest.mark.parametrize("name", SIZED)
def test_the_defaults_are_what_they_were(name: str) -> None:
    network = STAGES[name].recipe.network
    assert network.size == "small"
    assert {key: getattr(network, key) for key in BEFORE[name]} == BEFORE[name]
    # A resolved recipe of a run of that time says all of them, and no size.
    old = {key: value for key, value in to_mapping(network).items() if key != "size"}
    assert parse_recipe(STAGES[name], {"network": old}, "old").network == network


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_a_size_decides_what_is_not_said(name: str, size: str) -> None:
    spec, kind = STAGES[name], type(STAGES[name].recipe.network)
    network = parse_recipe(spec, {"network": {"size": size}}, "test").network
    assert network == kind(size=size) == from_mapping(kind, to_mapping(network), "again")
    assert {key: getattr(network, key) for key in kind.SIZES[size]} == kind.SIZES[size]
    assert network.given().keys().isdisjoint(kind.SIZES[size])


def test_fields_given_themselves_override_it(tmp_path: Path) -> None:
    spec = STAGES["decoder"]
    table = {"network": {"size": "karlo", "layers": 1, "caption_tokens": "own"}}
    network: DecoderSettings = parse_recipe(spec, table, "test").network
    assert network.widths == (320, 640, 960, 1280)
    assert (network.layers, network.caption_tokens, network.dropout) == (1, "own", 0.0)
    assert network.given() | {"size": "karlo"} == network.given()
    assert network.given()["layers"] == 1
    # A size that a flag names decides anew what the recipe has said.
    recipe = tmp_path / "r.toml"
    recipe.write_text("[network]\nlayers = 1\ninpainting = true\n")
    flagged: DecoderSettings = load_recipe(spec, recipe, "tiny").network
    assert (flagged.layers, flagged.widths, flagged.inpainting) == (1, (16, 32), True)
    assert load_recipe(spec, recipe).network.widths == (64, 128, 192)


def test_unknown_sizes() -> None:
    with pytest.raises(ValueError, match="unknown size 'papr'; did you mean 'paper'"):
        PriorSettings(size="papr")
    with pytest.raises(ValueError, match="unknown size 'karl"):  # there is no such autoregressive
        parse_recipe(STAGES["ar-prior"], {"network": {"size": "karlo"}}, "test")
    with pytest.raises(ValueError, match="test: network: unknown size ''"):
        parse_recipe(STAGES["prior"], {"network": {"size": ""}}, "test")
    assert CLIPConfig.preset("paper") == CLIPConfig.preset("ViT-H/16")


@pytest.mark.parametrize(
    ("name", "size", "billions"),
    [
        ("clip", "paper", 0.937),
        ("prior", "paper", 1.226),
        ("prior", "karlo", 1.022),
        ("ar-prior", "paper", 0.808),
        ("decoder", "paper", 3.567),
        ("decoder", "karlo", 0.893),
        ("upsampler", "paper", 0.692),
        ("upsampler", "karlo", 0.692),
        ("upsampler-1024", "paper", 0.267),
    ],
)
def test_parameters_of_published_sizes(name: str, size: str, billions: float) -> None:
    """Table 3 of the paper: 1 B, 1 B, 3.5 B, 700 M and 300 M, rounded."""
    spec = STAGES[name]
    assert spec.network is not None
    network = parse_recipe(spec, {"network": {"size": size}}, "test").network
    text = CLIPConfig.preset(size).text
    with torch.device("meta"):
        built = spec.network(network, text, spec.recipe.data.size)
    assert sum(p.numel() for p in built.parameters()) / 1e9 == pytest.approx(billions, abs=6e-4)


def test_a_text_transformer_of_another_width(clip: FrozenCLIP, tmp_path: Path) -> None:
    network = tiny_recipe("decoder").network
    settings = from_mapping(
        DecoderSettings,
        to_mapping(network) | {"caption_tokens": "own", "text_width": 48, "text_heads": 3},
        "test",
    )
    torch.manual_seed(0)
    stage = DecoderStage.build(settings, clip, 16)
    assert stage.network.text_encoder is not None
    text = clip.text(["a red circle"])
    z_t, hidden = stage.network.text_encoder(text.ids, text.mask)
    assert (z_t.shape, hidden.shape) == (text.z_t.shape, text.hidden.shape)
    folder = ModelFolder(tmp_path / "model")
    clip.save(folder)
    stage.save(folder)
    again = DecoderStage.load(folder, clip)
    assert again.network.text_encoder is not None
    assert torch.equal(again.network.text_encoder(text.ids, text.mask)[1], hidden)
    assert (again.settings.text_width, again.settings.text_heads) == (48, 3)


def test_what_is_loaded_tells_its_own_sizes(tiny_model: Path, clip: FrozenCLIP) -> None:
    folder = ModelFolder(tiny_model)
    upsampler = UpsamplerStage.load(folder, FIRST)
    assert (upsampler.settings.factor, upsampler.settings.widths) == (2, (16, 32))
    assert (upsampler.settings.groups, upsampler.settings.prediction_type) == (8, "sample")
    assert upsampler.settings.size == ""
    decoder = DecoderStage.load(folder, clip).settings
    assert (decoder.widths, decoder.layers, decoder.head_width) == ((16, 32), 1, 16)
    assert (decoder.groups, decoder.context_width, decoder.attend_from) == (8, 32, 1)
    assert (decoder.prediction_type, decoder.size) == ("sample", "")
    prior = PriorStage.load(folder, clip).settings
    assert (prior.num_layers, prior.num_attention_heads, prior.size) == (1, 2, "")


def test_how_much_an_upsampler_enlarges_is_not_made_up(tiny_model: Path, tmp_path: Path) -> None:
    alone = ModelFolder(tmp_path)
    UpsamplerStage.load(ModelFolder(tiny_model), FIRST).save(alone)
    stage = UpsamplerStage.load(alone, FIRST)
    assert stage.settings.factor is None
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="not known how much this upsampler enlarges"):
        stage.loss({"images": images}, torch.Generator())
