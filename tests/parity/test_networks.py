"""Our networks against diffusers', on the same random weights: equal outputs, both directions."""

import json
from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from safetensors.torch import save_file
from torch import nn

from unclip.networks.decoder import TextProjection, TextProjectionConfig
from unclip.networks.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from unclip.networks.layers import guidance_embedding
from unclip.networks.unet import UNet
from unclip.networks.unet_config import UNetConfig, adm_config

CLASSES = {
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "UNet2DModel": diffusers.UNet2DModel,
    "PriorTransformer": diffusers.PriorTransformer,
    "UnCLIPTextProjModel": UnCLIPTextProjModel,
}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def decoder(widths, layers, context_width, head_width, groups, **options) -> UNetConfig:
    return adm_config(
        16, widths, layers, context_width=context_width, head_width=head_width, groups=groups,
        out_channels=6, **options,
    )  # fmt: skip


DECODERS = [
    (decoder((8,), 1, 6, 4, 4), 3),
    (decoder((12, 20), 2, 10, 5, 4), 1),
    (decoder((10, 15, 25), 1, 7, 5, 5, attend_from=2), 11),
    (decoder((8, 16, 24, 32), 3, 12, 8, 8), 6),  # the published shape, 40 times narrower
    (decoder((16, 8, 24), 2, 5, 2, 2, attend_from=0), 5),
    (decoder((9, 6), 1, 3, 6, 3), 81),  # a timestep embedding of odd width
    (decoder((7, 21), 4, 9, 21, 7), 2),
]
UPSAMPLERS = [
    adm_config(16, (8,), 1, in_channels=6, groups=2),
    adm_config(16, (10, 15, 20), 2, in_channels=6, groups=5),
    adm_config(16, (8, 16, 24, 32), 3, in_channels=6, groups=8),
    adm_config(16, (9, 18), 1, in_channels=2, out_channels=2, groups=3),
]
PRIORS = [
    DiffusionPriorConfig(2, 8, 1, embedding_dim=12, num_embeddings=5),
    DiffusionPriorConfig(3, 10, 3, embedding_dim=24, num_embeddings=13),
    DiffusionPriorConfig(1, 7, 2, embedding_dim=9, num_embeddings=77),
    DiffusionPriorConfig(4, 5, 4, embedding_dim=32, num_embeddings=1),
]
PROJECTIONS = [
    TextProjectionConfig(12, 9, 8, 4),
    TextProjectionConfig(5, 7, 11, 1),
    TextProjectionConfig(64, 16, 24, 6),
]


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        value = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
        parameter.data = value / fan_in**0.5
    return network.eval()


def theirs_and_ours(config, network: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """diffusers' network with random weights, and ours read from its config and weights."""
    cls = CLASSES[config.class_name]
    theirs = randomise(cls.from_config(config.to_json()))
    written = {**json.loads(theirs.to_json_string()), "_class_name": cls.__name__}
    read = type(config).from_json(written)
    assert read == config
    ours = network(read)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours.eval()


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 0.05  # the test is blind otherwise
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize(("config", "tokens"), DECODERS)
@torch.no_grad()
def test_decoder(config, tokens):
    theirs, ours = theirs_and_ours(config, UNet)
    x, t = noise(2, 3, 16, 16, seed=1), torch.tensor([3, 987])
    condition = noise(2, config.time_embed_dim, seed=2)
    context = noise(2, tokens, config.cross_attention_dim, seed=3)
    mask = torch.arange(tokens) < torch.tensor([[tokens], [tokens // 2]])
    expected = theirs(x, t, context, class_labels=condition, attention_mask=mask).sample
    conditions = {"time_condition": condition, "context": context}
    assert_equal(ours(x, t, **conditions, context_mask=mask), expected)
    channels_last = x.to(memory_format=torch.channels_last)
    assert_equal(ours(channels_last, t, **conditions, context_mask=mask), expected)
    unmasked = theirs(x, t, context, class_labels=condition).sample
    assert_equal(ours(x, t, **conditions), unmasked)
    assert not torch.allclose(unmasked, expected, **TOLERANCE)


@torch.no_grad()
def test_decoder_that_takes_guidance_scales():
    config = replace(DECODERS[1][0], time_cond_proj_dim=6)
    theirs, ours = theirs_and_ours(config, UNet)
    x, t = noise(2, 3, 16, 16, seed=1), torch.tensor([3, 987])
    condition = noise(2, config.time_embed_dim, seed=2)
    context, scale = noise(2, 4, config.cross_attention_dim, seed=3), torch.tensor([2.0, 7.5])
    embedded = guidance_embedding(scale, 6)
    expected = theirs(x, t, context, class_labels=condition, timestep_cond=embedded).sample
    conditions = {"time_condition": condition, "context": context}
    assert_equal(ours(x, t, **conditions, guidance_scale=scale), expected)
    assert_equal(ours(x, t, **conditions), theirs(x, t, context, class_labels=condition).sample)


@pytest.mark.parametrize("config", UPSAMPLERS)
@torch.no_grad()
def test_upsampler(config):
    theirs, ours = theirs_and_ours(config, UNet)
    x, t = noise(2, config.in_channels, 16, 16, seed=1), torch.tensor([0, 999])
    assert_equal(ours(x, t), theirs(x, t).sample)
    assert_equal(ours(x, torch.tensor(5)), theirs(x, 5).sample)


@pytest.mark.parametrize("config", PRIORS)
@torch.no_grad()
def test_prior(config):
    theirs, ours = theirs_and_ours(config, DiffusionPrior)
    x, t = noise(3, config.embedding_dim, seed=1), torch.tensor([0, 500, 999])
    z_t = noise(3, config.embedding_dim, seed=2)
    length = config.num_embeddings
    hidden = noise(3, length, config.embedding_dim, seed=3)
    mask = torch.arange(length) < torch.tensor([[length], [(length + 1) // 2], [1]])
    expected = theirs(x, t, z_t, hidden, mask).predicted_image_embedding
    ours_out = ours(x, t, text_embeddings=z_t, text_hidden_states=hidden, text_mask=mask)
    assert_equal(ours_out, expected)
    assert_equal(ours.denormalise(ours_out), theirs.post_process_latents(expected))
    # a caption alone, its padding dropped
    short = hidden[1:2, : (length + 1) // 2]
    alone = ours(x[1:2], t[1], text_embeddings=z_t[1:2], text_hidden_states=short)
    assert_equal(alone, expected[1:2])


@pytest.mark.parametrize("config", PROJECTIONS)
@torch.no_grad()
def test_text_projection(config):
    theirs, ours = theirs_and_ours(config, TextProjection)
    width = config.clip_embeddings_dim
    z_i, z_t, hidden = noise(2, width, seed=1), noise(4, width, seed=2), noise(4, 5, width, seed=3)
    context, time_condition = theirs(
        image_embeddings=z_i,
        prompt_embeds=z_t,
        text_encoder_hidden_states=hidden,
        do_classifier_free_guidance=True,  # puts two null embeddings first
    )
    null = torch.tensor([True, True, False, False])
    got = ours(z_i.repeat(2, 1), z_t, hidden, null)
    assert_equal(got[0], time_condition)
    assert_equal(got[1], context)


@pytest.mark.parametrize(
    ("config", "network"),
    [
        (DECODERS[2][0], UNet),
        (UPSAMPLERS[1], UNet),
        (PRIORS[1], DiffusionPrior),
        (PROJECTIONS[0], TextProjection),
    ],
    ids=["decoder", "upsampler", "prior", "text_projection"],
)
def test_diffusers_opens_ours(config, network, tmp_path):
    ours = randomise(network(config), seed=5)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    save_file(ours.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    theirs, info = CLASSES[config.class_name].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key
    defaults = {k for k in theirs.config if not k.startswith("_")} - config.to_json().keys()
    assert not defaults  # what we write is complete


# The published values under the keys that diffusers 0.11 wrote.
PUBLISHED_DECODER = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.11.0.dev0", "act_fn": "silu",
    "attention_head_dim": 64, "block_out_channels": [320, 640, 960, 1280],
    "center_input_sample": False, "class_embed_type": "identity", "cross_attention_dim": 1536,
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
    "downsample_padding": 1, "dual_cross_attention": False, "flip_sin_to_cos": True,
    "freq_shift": 0, "in_channels": 3, "layers_per_block": 3, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32,
    "num_class_embeds": None, "only_cross_attention": False, "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift", "sample_size": 64,
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
    "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip
PUBLISHED_UPSAMPLER = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.11.0.dev0", "act_fn": "silu",
    "add_attention": False, "attention_head_dim": 8, "block_out_channels": [320, 640, 960, 1280],
    "center_input_sample": False, "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 6,
    "layers_per_block": 3, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
    "out_channels": 3, "resnet_time_scale_shift": "default", "sample_size": 256,
    "time_embedding_type": "positional", "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
}  # fmt: skip
PUBLISHED_PRIOR = {
    "_class_name": "PriorTransformer", "_diffusers_version": "0.11.0.dev0",
    "additional_embeddings": 4, "attention_head_dim": 64, "dropout": 0.0, "embedding_dim": 768,
    "num_attention_heads": 32, "num_embeddings": 77, "num_layers": 20,
}  # fmt: skip
PUBLISHED_PROJECTION = {
    "_class_name": "UnCLIPTextProjModel", "_diffusers_version": "0.11.0.dev0",
    "clip_embeddings_dim": 768, "clip_extra_context_tokens": 4, "cross_attention_dim": 1536,
    "time_embed_dim": 1280,
}  # fmt: skip


@pytest.mark.parametrize(
    ("published", "config", "network"),
    [
        (PUBLISHED_DECODER, UNetConfig, UNet),
        (PUBLISHED_UPSAMPLER, UNetConfig, UNet),
        (PUBLISHED_PRIOR, DiffusionPriorConfig, DiffusionPrior),
        (PUBLISHED_PROJECTION, TextProjectionConfig, TextProjection),
    ],
    ids=["decoder", "upsampler", "prior", "text_projection"],
)
def test_published_configs(published, config, network):
    """The published sizes give the published networks: every key and shape, without memory."""
    read = config.from_json(published)
    with torch.device("meta"):
        ours = network(read).state_dict()
        theirs = CLASSES[read.class_name].from_config(published).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
