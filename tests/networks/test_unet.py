"""The U-Net: configuration, shapes, initialisation, precision, bad input."""

import dataclasses
import re

import pytest
import torch

from unclip.networks.decoder import DECODERS
from unclip.networks.layers import GroupNorm, guidance_embedding, sinusoidal_embedding
from unclip.networks.unet import UNet
from unclip.networks.unet_config import DOWN, DOWN_ATTENTION, MID, UNetConfig, adm_config
from unclip.networks.upsampler import UPSAMPLERS

CONFIG = adm_config(8, (8, 12), 1, context_width=10, head_width=4, groups=4, out_channels=6)


def randomise(network: torch.nn.Module) -> torch.nn.Module:
    """Undo the zero initialisation, which would hide everything."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def inputs(config: UNetConfig, count: int = 2, tokens: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = config.sample_size
    return {
        "x": torch.randn(count, config.in_channels, size, size, generator=generator),
        "t": torch.tensor([3, 900])[:count],
        "time_condition": torch.randn(count, config.time_embed_dim, generator=generator),
        "context": torch.randn(count, tokens, config.cross_attention_dim, generator=generator),
    }


def with_keys(config: UNetConfig, **changes: object) -> dict[str, object]:
    return {**config.to_json(), **changes}


def test_published_sizes():
    with torch.device("meta"):
        decoder, upsampler = UNet(DECODERS["karlo"]), UNet(UPSAMPLERS["karlo"])
    assert sum(p.numel() for p in decoder.parameters()) == 885_439_686
    assert sum(p.numel() for p in upsampler.parameters()) == 691_579_523


@pytest.mark.parametrize("name", ["tiny", "mini"])
@pytest.mark.parametrize("presets", [DECODERS, UPSAMPLERS])
def test_json_round_trip(presets, name):
    config = presets[name]
    assert UNetConfig.from_json(config.to_json()) == config


def test_new_network_outputs_zero_and_learns():
    network, batch = UNet(CONFIG), inputs(CONFIG)
    out = network(**batch)
    assert out.shape == (2, 6, 8, 8)
    assert not out.any()
    (out - 1).square().mean().backward()
    assert network.conv_out.weight.grad.any()


def test_every_parameter_gets_a_gradient():
    network = randomise(UNet(CONFIG))
    network(**inputs(CONFIG)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if not p.grad.any()] == []


def test_masked_context_equals_dropped_context():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    mask = torch.tensor([True, False, True, True, False]).expand(2, -1)
    masked = network(**batch, context_mask=mask)
    context = batch.pop("context")
    torch.testing.assert_close(masked, network(**batch, context=context[:, [0, 2, 3]]))
    assert not torch.allclose(masked, network(**batch, context=context))


def test_prepared_conditions_equal_those_given_at_every_step():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    x = batch.pop("x")
    del batch["t"]
    batch["context_mask"] = torch.arange(5) < torch.tensor([[5], [3]])
    conditions = network.conditions([900, 3], **batch)
    for t in (900, 3, 500, 3.25):  # two that were not planned
        whole = network(x, torch.tensor(t), **batch)
        got = network.proceed(x, t, conditions)
        torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)
        first = network.proceed(x[:1], t, conditions[:1])
        torch.testing.assert_close(first, whole[:1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="needs `context`"):
        network.conditions([3], time_condition=batch["time_condition"])


def test_guidance_scales_are_taken_by_networks_that_embed_them():
    config = dataclasses.replace(CONFIG, time_cond_proj_dim=6)
    assert UNetConfig.from_json(config.to_json()) == config
    network, batch = randomise(UNet(config)), inputs(config)
    plain = network(**batch)
    scaled = network(**batch, guidance_scale=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(scaled[0], plain[0])
    assert (scaled[1] - plain[1]).abs().max() > 1e-2
    x, times = batch.pop("x"), batch.pop("t").tolist()
    for row, scale in enumerate([1.0, 3.0]):
        conditions = network.conditions(times[:1], **batch, guidance_scale=scale)
        answer = network.proceed(x, times[row], conditions)[row]  # the second was not planned
        torch.testing.assert_close(answer, scaled[row])
    with pytest.raises(ValueError, match="takes no `guidance_scale`"):
        UNet(CONFIG).conditions(times, **batch, guidance_scale=3.0)
    for width in (0, 3):
        with pytest.raises(ValueError, match=r"time_cond_proj_dim`? is"):
            dataclasses.replace(CONFIG, time_cond_proj_dim=width)


def test_guidance_is_embedded_smoothly_from_zero():
    scales = torch.tensor([1.0, 1.0 + 1e-4, 2.0, 6.0])
    embedded = guidance_embedding(scales, 16)
    assert embedded.shape == (4, 16)
    assert not embedded[0].any()
    assert 0 < embedded[1].abs().max() < 1e-3
    assert torch.pdist(embedded).min() > 0


def test_context_is_projected_once():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    projected = []
    for module in network.modules():
        if hasattr(module, "add_k_proj"):
            module.add_k_proj.register_forward_hook(lambda layer, *_: projected.append(layer))
    x = batch.pop("x")
    del batch["t"]
    conditions = network.conditions([900, 3, 0], **batch)
    for t in (900, 3, 0):
        network.proceed(x, t, conditions)
    assert len(projected) == len(set(projected)) > 1


@pytest.mark.parametrize("widths", [(8,), (8, 12), (8, 12, 12)])
def test_deep_features_are_those_of_the_step_that_computed_them(widths, monkeypatch):
    network = randomise(UNet(adm_config(8, widths, 1, groups=4)))
    x = torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    steps = list(zip(x, (900, 500, 3), strict=True))
    computed, given = [], []
    network.mid_block.register_forward_hook(lambda *_: computed.append(1))
    conditions = network.conditions([900, 500, 3], reuse=2)
    got = [network.proceed(x, t, conditions) for x, t in steps]
    assert len(computed) == 2
    finest = network.up_blocks[-1]
    ascend = finest.ascend
    monkeypatch.setattr(finest, "ascend", lambda h, *rest: ascend(given.append(h) or h, *rest))
    whole = [network(x, torch.tensor(t)) for x, t in steps]
    for i in (0, 2):
        torch.testing.assert_close(got[i], whole[i], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(finest, "ascend", lambda _, *rest: ascend(given[0], *rest))
    expected = network(x[1], torch.tensor(500))
    torch.testing.assert_close(got[1], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got[1], whole[1], atol=1e-3)


def test_features_are_computed_where_none_are_kept_for_a_sample():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    x = batch.pop("x")
    del batch["t"]
    both = network.conditions([900, 500, 3, 0], **batch, reuse=4)
    first = both[:1]
    for t, conditions, rows in ((900, first, 1), (500, both, 2)):  # at 500 one sample is new
        whole = network(x[:rows], torch.tensor(t), **{k: v[:rows] for k, v in batch.items()})
        got = network.proceed(x[:rows], t, conditions)
        torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)
    got = network.proceed(x, 3, both)
    torch.testing.assert_close(network.proceed(x[:1], 3, first), got[:1], atol=1e-5, rtol=1e-5)


def test_features_of_the_step_before_serve_a_timestep_that_was_not_planned():
    network = randomise(UNet(adm_config(8, (8, 12), 1, groups=4)))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    computed = []
    network.mid_block.register_forward_hook(lambda *_: computed.append(1))
    conditions = network.conditions([900, 500, 3], reuse=2)
    for t, expected in ((900, 1), (700.5, 1), (500, 1), (250.5, 1), (3, 2)):
        network.proceed(x, t, conditions)
        assert len(computed) == expected


def test_one_timestep_for_all_samples():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    batch["t"] = torch.tensor(7)
    expected = network(**{**batch, "t": torch.tensor([7.0, 7.0])})
    torch.testing.assert_close(network(**batch), expected)


def test_channels_last_weights_suffice():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    expected = network(**batch)
    network = network.to(memory_format=torch.channels_last)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        batch["x"] = batch["x"].contiguous(memory_format=memory_format)
        out = network(**batch)
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-5)
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_weights_take_and_give_float32():
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    expected = network(**batch)
    out = network.to(torch.bfloat16)(**batch)
    assert out.dtype == torch.float32
    assert (out - expected).std() < 0.05 * expected.std()


def test_autocast_trains():
    network = randomise(UNet(CONFIG))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(**inputs(CONFIG), context_mask=torch.ones(2, 5, dtype=torch.bool))
    assert out.dtype == torch.float32
    out.square().mean().backward()


def test_other_image_sizes():
    config = adm_config(8, (8, 8, 8), 1, in_channels=6, groups=4)
    network = randomise(UNet(config))
    assert network(torch.zeros(1, 6, 12, 20), torch.tensor(0)).shape == (1, 3, 12, 20)
    with pytest.raises(ValueError, match=r"multiples of 4, but the image is 20×10 pixels"):
        network(torch.zeros(1, 6, 10, 20), torch.tensor(0))


def test_dropout_is_active_in_training_only():
    network = randomise(UNet(dataclasses.replace(CONFIG, dropout=0.5)))
    batch = inputs(CONFIG)
    assert torch.equal(network(**batch), network(**batch))
    network.train()
    assert not torch.equal(network(**batch), network(**batch))


def test_sinusoidal_embedding_is_float32_whatever_the_timestep():
    embedding = sinusoidal_embedding(torch.tensor([998, 999], dtype=torch.float16), 9)
    assert embedding.dtype == torch.float32
    assert embedding.shape == (2, 9)
    assert not torch.equal(embedding[0], embedding[1])


@pytest.mark.parametrize(
    ("missing", "message"),
    [("context", "needs `context`"), ("time_condition", "needs `time_condition`")],
)
def test_missing_conditioning(missing, message):
    batch = inputs(CONFIG)
    del batch[missing]
    with pytest.raises(ValueError, match=message):
        UNet(CONFIG)(**batch)


def test_conditioning_that_cannot_be_used():
    network = UNet(adm_config(8, (8,), 1, groups=4))
    with pytest.raises(ValueError, match="takes no `context`"):
        network(torch.zeros(1, 3, 8, 8), torch.tensor(0), context=torch.zeros(1, 2, 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu'; only 'silu' is supported"),
        ({"surprise": 1}, "unknown key 'surprise' for a UNet2DConditionModel"),
        ({"layers_per_block": "3"}, "layers_per_block is '3'; it must be a whole number"),
        ({"layers_per_block": True}, "layers_per_block is True; it must be a whole number"),
        ({"block_out_channels": [8, 0.5]}, "block_out_channels is 0.5; it must be a whole number"),
        ({"class_embed_type": "timestep"}, "it must be one of 'identity'"),
        ({"resnet_time_scale_shift": "spatial"}, "it must be one of 'default', 'scale_shift'"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "`mid_block_type` is"),
        ({"down_block_types": ["DownBlock2D", "DownBlock2D"]}, "`down_block_types` is"),
        ({"up_block_types": []}, "for each of the 2 levels"),
        ({"norm_num_groups": 5}, "`norm_num_groups` 5 does not divide the 8 channels"),
        ({"attention_head_dim": 5}, "`attention_head_dim` 5 does not divide the 12 channels"),
        ({"attention_head_dim": None}, "`attention_head_dim` None does not divide"),
        ({"cross_attention_dim": None}, "`cross_attention_dim` .* is None"),
        ({"sample_size": 0}, "sample_size is 0; it must be between 1 and"),
        ({"dropout": 1.0}, "dropout is .*; it must be between 0 and 0.99"),
        ({"_class_name": "UNet3DConditionModel"}, "`_class_name` is 'UNet3DConditionModel'"),
        ({"mid_block_type": MID, "down_block_types": [DOWN, DOWN_ATTENTION]}, "need the"),
    ],
)
def test_unsupported_config(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        UNetConfig.from_json(with_keys(CONFIG, **changes), where="decoder/config.json")
    assert re.match(r"decoder/config.json: ", str(error.value))


def test_incomplete_config():
    keys = CONFIG.to_json()
    del keys["layers_per_block"]
    with pytest.raises(ValueError, match=r"the key 'layers_per_block' is missing"):
        UNetConfig.from_json(keys)
    with pytest.raises(ValueError, match="`_class_name` is None"):
        UNetConfig.from_json({})


def test_unconditional_keys():
    keys = adm_config(8, (8,), 1, groups=4).to_json()
    assert keys["_class_name"] == "UNet2DModel"
    with pytest.raises(ValueError, match="unknown key 'cross_attention_dim' for a UNet2DModel"):
        UNetConfig.from_json({**keys, "cross_attention_dim": None})
    del keys["add_attention"]  # where it is absent, the layout means attention
    with pytest.raises(ValueError, match="add_attention is True; only False is supported"):
        UNetConfig.from_json(keys)


def test_notes_are_ignored():
    keys = with_keys(CONFIG, _diffusers_version="0.12.0", _name_or_path="./here")
    assert UNetConfig.from_json(keys) == CONFIG


@pytest.mark.parametrize(("channels", "size"), [(128, 16), (64, 32), (512, 8)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_group_norm_in_bf16(channels, size, channels_last):
    """Small groups of few pixels, which are computed in fp32, and others: the plain formula."""
    torch.manual_seed(0)
    norm = GroupNorm(16, channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, channels, size, size).bfloat16()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    rounded = [p.detach().bfloat16().double()[None, :, None, None] for p in norm.parameters()]
    norm = norm.bfloat16()
    with torch.no_grad():
        out = norm(x)
    groups = x.double().reshape(2, 16, -1)
    scale = (groups.var(dim=-1, correction=0) + norm.eps).rsqrt()[..., None]
    plain = ((groups - groups.mean(dim=-1, keepdim=True)) * scale).reshape(x.shape)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last) or not channels_last
    torch.testing.assert_close(out.double(), plain * rounded[0] + rounded[1], atol=0.02, rtol=0.01)
