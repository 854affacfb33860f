"""How z_i and the caption enter the decoder."""

import pytest
import torch

from unclip.networks.decoder import (
    DECODERS,
    TextProjection,
    TextProjectionConfig,
    text_projection_config,
)
from unclip.networks.unet import UNet
from unclip.networks.upsampler import UPSAMPLERS

CONFIG = TextProjectionConfig(
    time_embed_dim=12, cross_attention_dim=9, clip_embeddings_dim=8, clip_extra_context_tokens=4
)


def projection() -> TextProjection:
    generator = torch.Generator().manual_seed(0)
    network = TextProjection(CONFIG)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z_i, z_t = torch.randn(2, 3, 8, generator=generator)
    return z_i, z_t, torch.randn(3, 5, 8, generator=generator)


def test_published_size():
    with torch.device("meta"):
        network = TextProjection(text_projection_config(DECODERS["karlo"], 768))
    assert sum(p.numel() for p in network.parameters()) == 7_878_400


def test_the_papers_size():
    """Table 3 counts 3.5 B with the caption's Transformer, which has 1.2 B."""
    with torch.device("meta"):
        network = UNet(DECODERS["paper"])
    assert round(sum(p.numel() for p in network.parameters()), -8) == 2_200_000_000


def test_extra_tokens_precede_the_caption():
    network, (z_i, z_t, hidden) = projection(), inputs()
    time_condition, context = network(z_i, z_t, hidden)
    assert time_condition.shape == (3, 12)
    assert context.shape == (3, 9, 9)
    _, other_image = network(z_i + 1, z_t, hidden)
    _, other_caption = network(z_i, z_t, hidden + torch.arange(8))
    assert (context != other_image).any(-1).tolist() == [[True] * 4 + [False] * 5] * 3
    assert (context != other_caption).any(-1).tolist() == [[False] * 4 + [True] * 5] * 3


def test_extra_tokens_are_strided_in_the_projection():
    network, (z_i, z_t, hidden) = projection(), inputs()
    _, context = network(z_i, z_t, hidden)
    flat = network.clip_extra_context_tokens_proj(z_i)
    for token in range(4):
        torch.testing.assert_close(context[:, token], flat[:, token::4])


def test_null_replaces_the_image_embedding_only():
    network, (z_i, z_t, hidden) = projection(), inputs()
    learned = network.learned_classifier_free_guidance_embeddings
    null = torch.tensor([True, False, True])
    got = network(z_i, z_t, hidden, null)
    expected = network(torch.stack([learned, z_i[1], learned]), z_t, hidden)
    torch.testing.assert_close(got, expected)
    got[1].sum().backward()
    assert learned.grad is not None


def test_null_hides_what_is_not_finite():
    network, (z_i, z_t, hidden) = projection(), inputs()
    null = torch.ones(3, dtype=torch.bool)
    time_condition, context = network(z_i * float("nan"), z_t, hidden, null)
    assert time_condition.isfinite().all()
    assert context.isfinite().all()


def test_context_mask_keeps_the_extra_tokens():
    mask = projection().context_mask(torch.tensor([[True, False]]))
    assert mask.tolist() == [[True] * 5 + [False]]


def test_fits_the_decoder():
    decoder = DECODERS["tiny"]
    network = TextProjection(text_projection_config(decoder, 8))
    time_condition, context = network(*inputs())
    out = UNet(decoder)(
        torch.zeros(3, 3, 16, 16),
        torch.tensor(5),
        time_condition=time_condition,
        context=context,
        context_mask=network.context_mask(torch.ones(3, 5, dtype=torch.bool)),
    )
    assert out.shape == (3, 6, 16, 16)


def test_json_round_trip():
    assert TextProjectionConfig.from_json(CONFIG.to_json()) == CONFIG


def test_bad_config():
    with pytest.raises(ValueError, match=r"the key 'time_embed_dim' is missing"):
        TextProjectionConfig.from_json({"_class_name": "UnCLIPTextProjModel"})
    with pytest.raises(ValueError, match="must be between 1 and"):
        TextProjectionConfig(time_embed_dim=0, cross_attention_dim=1)
    with pytest.raises(ValueError, match="cannot be a decoder"):
        text_projection_config(UPSAMPLERS["tiny"], 8)
