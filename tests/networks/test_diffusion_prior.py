"""The prior's network: causality, padding, statistics, initialisation, bad input."""

import dataclasses

import pytest
import torch

from unclip.networks.diffusion_prior import (
    PRIORS,
    DiffusionPrior,
    DiffusionPriorConfig,
    attention_mask,
)

CONFIG = DiffusionPriorConfig(2, 6, 2, embedding_dim=10, num_embeddings=7)


def prior(config: DiffusionPriorConfig = CONFIG) -> DiffusionPrior:
    """A prior with random weights throughout: the zero initialisation would hide everything."""
    generator = torch.Generator().manual_seed(0)
    network = DiffusionPrior(config)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def inputs(length: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(2, 10, generator=generator),
        "t": torch.tensor([3, 900]),
        "text_embeddings": torch.randn(2, 10, generator=generator),
        "text_hidden_states": torch.randn(2, length, 10, generator=generator),
    }


MASK = torch.arange(7) < torch.tensor([[3], [5]])


def test_published_size():
    with torch.device("meta"):
        network = DiffusionPrior(PRIORS["karlo"])
    assert sum(p.numel() for p in network.parameters()) == 1_022_030_080


def test_the_papers_size():
    """Table 3 says 1 B, 2048 wide, 24 blocks, 32 heads."""
    config = PRIORS["paper"]
    assert (config.width, config.num_layers, config.num_attention_heads) == (2048, 24, 32)
    with torch.device("meta"):
        network = DiffusionPrior(config)
    assert round(sum(p.numel() for p in network.parameters()), -8) == 1_200_000_000


def test_json_round_trip():
    config = dataclasses.replace(CONFIG, dropout=0.1)
    assert DiffusionPriorConfig.from_json(config.to_json()) == config


def test_masking_padding_equals_dropping_it():
    network, batch = prior(), inputs()
    full = network(**batch, text_mask=MASK)
    batch["text_hidden_states"] = batch["text_hidden_states"][:, :5]
    torch.testing.assert_close(network(**batch, text_mask=MASK[:, :5]), full)
    longest = {key: value[1:] for key, value in batch.items()}
    torch.testing.assert_close(network(**longest), full[1:])  # nothing to mask


def test_padding_is_never_read():
    network, batch = prior(), inputs()
    expected = network(**batch, text_mask=MASK)
    batch["text_hidden_states"] = batch["text_hidden_states"].where(MASK[..., None], 1e4)
    torch.testing.assert_close(network(**batch, text_mask=MASK), expected)


@pytest.mark.parametrize("key", ["x", "t", "text_embeddings", "text_hidden_states"])
def test_every_input_is_read(key):
    network, batch = prior(), inputs()
    expected = network(**batch, text_mask=MASK)
    batch[key] = batch[key] + 1
    assert not torch.allclose(network(**batch, text_mask=MASK), expected)


def test_attention_is_causal():
    mask = attention_mask(MASK)
    assert mask.shape == (2, 1, 11, 11)
    assert not mask.triu(1).any()
    assert mask[0, 0, -1].tolist() == [True] * 3 + [False] * 4 + [True] * 4
    assert mask.any(-1).all()


def test_caption_without_tokens_is_finite():
    none = torch.zeros(2, 7, dtype=torch.bool)
    assert prior()(**inputs(), text_mask=none).isfinite().all()


def test_no_caption_tokens_at_all():
    assert prior()(**inputs(0)).shape == (2, 10)


@pytest.mark.parametrize("candidates", [1, 2])
def test_continuing_a_prefix_equals_the_whole(candidates):
    """Captions of 3 and 5 tokens and an empty one beside them, each with its candidates."""
    network, batch = prior(), inputs()
    z_t, hidden = batch["text_embeddings"], batch["text_hidden_states"]
    texts = [
        {"text_embeddings": z_t, "text_hidden_states": hidden, "text_mask": MASK},
        {"text_embeddings": z_t[:1] - 1, "text_hidden_states": hidden[:1, :2] - 1},
    ]
    captions, null = (network.prefix(**text) for text in texts)
    state = network.continuation([captions, null.expand(2)], candidates, [900, 3])
    x = torch.randn(4 * candidates, 10, generator=torch.Generator().manual_seed(2))
    for t in (900, 3, 250.5, 900):  # the room is written anew; one was not planned
        whole = []
        for row in range(4 * candidates):
            text, caption = (texts[0], row // candidates) if row < len(x) // 2 else (texts[1], 0)
            one = {key: value[caption : caption + 1] for key, value in text.items()}
            whole.append(network(x[row : row + 1], torch.tensor(t), **one))
        expected = torch.cat(whole)
        torch.testing.assert_close(network.proceed(x, t, state), expected, atol=1e-5, rtol=1e-5)
        half = len(x) // 2
        conditional = network.proceed(x[:half], t, state[:2])
        torch.testing.assert_close(conditional, expected[:half], atol=1e-5, rtol=1e-5)


def test_a_prefix_of_too_many_tokens():
    batch = inputs(8)
    del batch["x"], batch["t"]
    with pytest.raises(ValueError, match="at most 7 caption tokens, not 8"):
        prior().prefix(**batch)


def test_too_many_caption_tokens():
    with pytest.raises(ValueError, match="at most 7 caption tokens, not 8"):
        prior()(**inputs(8))


def test_one_timestep_for_all_samples():
    network, batch = prior(), inputs()
    batch["t"] = torch.tensor(7)
    expected = network(**{**batch, "t": torch.tensor([7, 7])})
    torch.testing.assert_close(network(**batch), expected)


def test_new_network_outputs_zero_and_statistics_are_not_trained():
    network = DiffusionPrior(CONFIG)
    out = network(**inputs())
    assert not out.any()
    (out - 1).square().mean().backward()
    assert network.proj_to_clip_embeddings.weight.grad.any()
    assert network.clip_mean.grad is None
    assert network.clip_std.grad is None


def test_statistics():
    network = DiffusionPrior(CONFIG)
    with torch.no_grad():
        network.clip_mean.fill_(2.0)
        network.clip_std.fill_(0.5)
    z_i = torch.randn(3, 10)
    torch.testing.assert_close(network.normalise(z_i), (z_i - 2) / 0.5)
    torch.testing.assert_close(network.denormalise(network.normalise(z_i)), z_i)


def test_half_precision_weights_take_and_give_float32():
    batch = inputs()
    expected = prior()(**batch, text_mask=MASK)
    out = prior().to(torch.bfloat16)(**batch, text_mask=MASK)
    assert out.dtype == torch.float32
    assert (out - expected).std() < 0.05 * expected.std()


def test_dropout_is_active_in_training_only():
    network, batch = prior(dataclasses.replace(CONFIG, dropout=0.5)), inputs()
    assert torch.equal(network(**batch), network(**batch))
    network.train()
    assert not torch.equal(network(**batch), network(**batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"added_emb_type": None}, "added_emb_type is None; only 'prd' is supported"),
        ({"additional_embeddings": 5}, "additional_embeddings is 5; only 4 is supported"),
        ({"surprise": 1}, "unknown key 'surprise' for a PriorTransformer"),
        ({"num_layers": 0}, "num_layers is 0; it must be between 1 and 256"),
        ({"dropout": -0.1}, "dropout is .*; it must be between 0 and 0.99"),
        ({"num_embeddings": "77"}, "num_embeddings is '77'; it must be a whole number"),
    ],
)
def test_unsupported_config(changes, message):
    with pytest.raises(ValueError, match=message):
        DiffusionPriorConfig.from_json({**CONFIG.to_json(), **changes})
