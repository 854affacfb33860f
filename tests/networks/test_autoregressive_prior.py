"""The autoregressive prior's network: causal, blind to padding, and the same with a cache."""

import pytest
import torch

from unclip.networks.autoregressive_prior import (
    AutoregressivePrior,
    AutoregressivePriorConfig,
    Cache,
    CodePrefix,
)

CONFIG = AutoregressivePriorConfig(
    num_codes=6,
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=2,
    embedding_dim=12,
    num_embeddings=5,
    num_buckets=10,
    num_dot_buckets=4,
)


@pytest.fixture
def network() -> AutoregressivePrior:
    torch.manual_seed(0)
    network = AutoregressivePrior(CONFIG).eval()
    torch.nn.init.normal_(network.head.weight)
    return network


def prefix(length: int = 5) -> CodePrefix:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 5, 12, generator=generator)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    z_t = torch.randn(3, 12, generator=generator)
    return CodePrefix(z_t, hidden[:, :length], mask[:, :length], torch.tensor([0, 3, 4]))


def codes(count: int = 5) -> torch.Tensor:
    return torch.randint(10, (3, count), generator=torch.Generator().manual_seed(2))


def test_the_papers_size() -> None:
    """Table 3: 1664 wide, 24 blocks, 26 heads; of its 1 B, 0.2 B would be the caption encoder."""
    with torch.device("meta"):
        network = AutoregressivePrior(AutoregressivePriorConfig(319))
    assert network.config.width == 1664
    assert round(sum(p.numel() for p in network.parameters()), -8) == 800_000_000


def test_it_starts_with_all_buckets_equally_likely() -> None:
    logits = AutoregressivePrior(CONFIG)(codes(), prefix())
    assert logits.shape == (3, 6, 10)
    assert not logits.any()


def test_a_code_depends_on_what_comes_before_it_and_on_nothing_after(
    network: AutoregressivePrior,
) -> None:
    one, other = codes(), codes()
    other[:, 3] = (other[:, 3] + 1) % 10
    a, b = network(one, prefix()), network(other, prefix())
    assert torch.equal(a[:, :4], b[:, :4])
    assert ((a[:, 4:] - b[:, 4:]).abs().amax(dim=(0, 2)) > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("parts", [[1] * 5, [2, 3], [5]])
def test_a_cache_changes_nothing(network: AutoregressivePrior, parts: list[int]) -> None:
    whole = network(codes(), prefix())
    cache, first = Cache(), prefix()
    logits = [network(codes(0), first, cache)]
    logits += [network(part, cache=cache) for part in codes().split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_padding_is_never_read(network: AutoregressivePrior) -> None:
    one = prefix()
    changed = CodePrefix(
        one.text_embeddings, one.text_hidden_states.clone(), one.text_mask, one.dots
    )
    changed.text_hidden_states[~one.text_mask] = 9.0
    a, b = network(codes(), one), network(codes(), changed)
    torch.testing.assert_close(a, b)
    shorter = network(codes()[1:], CodePrefix(*(part[1:] for part in vars(prefix(3)).values())))
    torch.testing.assert_close(shorter, a[1:])  # padding that all share can be left out


def test_every_part_of_the_prefix_matters(network: AutoregressivePrior) -> None:
    base = network(codes(), prefix())
    for name in ("text_embeddings", "text_hidden_states", "dots"):
        other = prefix()
        changed = CodePrefix(**(vars(other) | {name: getattr(other, name).flip(0)}))
        assert (network(codes(), changed) - base).abs().max() > 1e-3, name


def test_impossible_sizes_are_refused(network: AutoregressivePrior) -> None:
    with pytest.raises(ValueError, match="num_codes is 0; it must be between 1 and"):
        AutoregressivePriorConfig(0)
    with pytest.raises(ValueError, match="num_buckets is 1; it must be between 2 and"):
        AutoregressivePriorConfig(3, num_buckets=1)
    long = torch.zeros(3, 6, 12)
    with pytest.raises(ValueError, match="at most 5 caption tokens, not 6"):
        network(
            codes(), CodePrefix(prefix().text_embeddings, long, long[..., 0] == 0, codes()[:, 0])
        )
    assert AutoregressivePriorConfig.from_json(CONFIG.to_json()) == CONFIG
