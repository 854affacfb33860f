"""Principal components from a stream, and buckets: exact, and measured on known Gaussians."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unclip.networks.pca import (
    Components,
    EmbeddingCodec,
    Moments,
    Spacing,
    bucket_boundaries,
    bucket_means,
)

WIDTH = 12


def gaussian(count: int, seed: int = 0) -> Tensor:
    """Correlated rows, far from zero, whose eigenvalues fall by a factor of two each."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(9)))
    spread = 2.0 ** -torch.arange(WIDTH).div(2)
    return 50 + (torch.randn(count, WIDTH, generator=generator) * spread) @ turn.T


def normal(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def moments(*parts: Tensor) -> Moments:
    result = Moments(WIDTH)
    for part in parts:
        result.add(part)
    return result


def codec(z_i: Tensor, spacing: Spacing, buckets: int = 64, error: float = 0.01) -> EmbeddingCodec:
    components = Components.of(moments(z_i)).within(error)
    result = EmbeddingCodec(z_i.shape[1], len(components.axes), buckets, 16)
    result.measure(components, z_i, z_i.sum(dim=1), spacing)
    return result


def test_components_are_those_of_the_whole_matrix() -> None:
    z_i = gaussian(500)
    found = Components.of(moments(z_i)).within(1e-9)
    values, vectors = torch.linalg.eigh(torch.cov(z_i.double().T))
    torch.testing.assert_close(found.variances, values.flip(0))
    torch.testing.assert_close(found.axes.abs(), vectors.flip(1).T.abs())
    torch.testing.assert_close(found.mean, z_i.double().mean(0))
    assert (found.variances.diff() < 0).all()
    assert found.explained() == pytest.approx(1)


@pytest.mark.parametrize("cuts", [[500], [1] * 500, [0, 3, 497], [499, 1], [250, 250]])
def test_how_the_stream_is_cut_changes_nothing(cuts: list[int]) -> None:
    z_i = gaussian(500) + 1e4  # where sums of squares in one go would lose half of the digits
    whole, cut = (Components.of(m).within(0.001)
                  for m in (moments(z_i), moments(*z_i.split(cuts))))  # fmt: skip
    torch.testing.assert_close(cut.axes, whole.axes, atol=1e-7, rtol=0)
    torch.testing.assert_close(cut.variances, whole.variances, atol=0, rtol=1e-8)
    assert cut.explained() == pytest.approx(whole.explained(), abs=1e-12)


@pytest.mark.parametrize("error", [0.3, 0.1, 0.01, 0.001])
def test_the_fewest_components_for_the_error_are_kept(error: float) -> None:
    z_i = gaussian(2000).double()
    found = Components.of(moments(z_i)).within(error)
    centred = z_i - z_i.mean(0)
    total = centred.square().sum()
    for kept, within in ((len(found.axes), True), (len(found.axes) - 1, False)):
        axes = found.axes[:kept]
        left = (centred - centred @ axes.T @ axes).square().sum() / total
        assert (left < error) == within
    assert 1 - found.explained() < error


def test_data_without_variance_and_impossible_errors_are_refused() -> None:
    for rows, says in (
        (torch.ones(5, WIDTH), "nothing to quantise"),
        (gaussian(1), "of 1 embedding: take more"),
        (torch.empty(0, WIDTH), "of 0 embeddings: take more"),
    ):
        with pytest.raises(ValueError, match=says):
            Components.of(moments(rows)).within(0.01)
    with pytest.raises(ValueError, match=r"error is 1\.5; it must be between"):
        Components.of(moments(gaussian(9))).within(1.5)
    with pytest.raises(ValueError, match="not finite"):
        Components.of(moments(gaussian(9) * torch.inf)).within(0.01)


def test_components_of_a_known_gaussian() -> None:
    deviations = torch.tensor([1.0, 5.0, 3.0, 0.1])
    z = normal(20_000, 4) * deviations + 7
    basis = Components.of(Moments.of(z))
    assert torch.allclose(
        basis.variances.sqrt().float(), deviations.sort().values.flip(0), rtol=0.03
    )
    assert [int(row.abs().argmax()) for row in basis.axes] == [1, 2, 0, 3]
    assert basis.explained(1) == pytest.approx(25 / 35.01, abs=0.01)
    assert basis.explained(4) == pytest.approx(1)


def test_components_rebuild() -> None:
    z = normal(6, 12)  # fewer than their width of 12
    basis, other = Components.of(Moments.of(z)), normal(1, 12, seed=3)
    assert torch.allclose(basis.rebuilt(other, 12), other, atol=1e-5)
    assert torch.allclose(basis.rebuilt(z, 5), z, atol=1e-5)  # six points span five directions
    assert torch.allclose(basis.rebuilt(other, 0)[0], z.mean(dim=0), atol=1e-6)
    far = [(basis.rebuilt(other, k) - other).norm() for k in range(13)]
    assert all(a >= b - 1e-5 for a, b in pairwise(far))
    for count, says in ((13, "there are 12"), (-1, "there are 12")):
        with pytest.raises(ValueError, match=says):
            basis.rebuilt(other, count)
    with pytest.raises(ValueError, match="width 12 do not fit width 3"):
        basis.rebuilt(normal(1, 3), 2)
    with pytest.raises(ValueError, match="take more"):
        Components.of(Moments.of(z[:1]))


def test_buckets_are_equally_full_or_equally_wide() -> None:
    values = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 5.0]
    )
    for spacing in ("uniform", "quantiles"):
        boundaries = bucket_boundaries(values, 32, spacing)  # type: ignore[arg-type]
        codes = torch.searchsorted(boundaries[:, 1].contiguous(), values[:, 1].double(), right=True)
        counts = codes.bincount(minlength=32).double()
        if spacing == "quantiles":
            assert (counts - 1250).abs().max() <= 1
            normal = torch.distributions.Normal(0.0, 5.0)
            expected = normal.icdf(torch.arange(1, 32) / 32.0)
            torch.testing.assert_close(boundaries[:, 1].float(), expected, atol=0.15, rtol=0)
        else:
            widths = boundaries[:, 1].diff()
            torch.testing.assert_close(widths, widths[:1].expand(30))
            edges = torch.cat([values[:, 1].min()[None], boundaries[:, 1],
                               values[:, 1].max()[None]])  # fmt: skip
            expected = torch.distributions.Normal(0.0, 5.0).cdf(edges.float()).diff() * 40_000
            assert ((counts - expected).abs() < 5 * expected.sqrt() + 5).all()


def test_centres_are_means_and_empty_buckets_have_their_middle() -> None:
    values = torch.tensor([[0.0], [0.2], [3.9], [4.0]])
    boundaries = bucket_boundaries(values, 4, "uniform").T
    assert boundaries.tolist() == [[1.0, 2.0, 3.0]]
    expected = torch.tensor([[0.1, 1.5, 2.5, 3.95]], dtype=torch.float64)
    torch.testing.assert_close(bucket_means(values, boundaries), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spacing", ["uniform", "quantiles"])
def test_what_is_decoded_is_encoded_alike(spacing: Spacing) -> None:
    known = codec(gaussian(4000), spacing)
    codes = known.encode(gaussian(200, seed=1))
    assert codes.shape == (200, len(known.components))
    assert codes.min() >= 0
    assert codes.max() <= 63
    assert torch.equal(known.encode(known.decode(codes)), codes)


def test_the_first_codes_alone_decode_with_the_others_at_their_mean() -> None:
    known = codec(gaussian(4000), "uniform")
    codes = known.encode(gaussian(3, seed=1))
    some = known.project(known.decode(codes[:, :2]))
    torch.testing.assert_close(some[:, :2], known.project(known.decode(codes))[:, :2])
    torch.testing.assert_close(some[:, 2:], torch.zeros_like(some[:, 2:]), atol=1e-5, rtol=0)
    torch.testing.assert_close(known.decode(codes[:, :0]), known.mean.expand(3, -1))


def test_uniform_buckets_err_less_and_cost_fewer_bits() -> None:
    """Why they are the default: the round trip of unseen Gaussian data with 1024 buckets."""
    data, fresh = gaussian(20_000), gaussian(5000, seed=1)
    errors, bits = {}, {}
    spacings: tuple[Spacing, ...] = ("uniform", "quantiles")
    for spacing in spacings:
        known = codec(data, spacing, buckets=1024)
        truth, codes = known.project(fresh), known.encode(fresh)
        made = known.project(known.decode(codes))
        errors[spacing] = float(((made - truth).square().mean(0) / known.variances).mean())
        shares = known.encode(data)[:, 0].bincount(minlength=1024) / len(data)
        bits[spacing] = -float(torch.special.xlogy(shares, shares).sum()) / math.log(2)
    assert errors["uniform"] < 1e-4
    assert errors["uniform"] < 0.1 * errors["quantiles"]
    assert bits["uniform"] < bits["quantiles"] - 0.5
    # With the components that are left out, below the stated error in all.
    known = codec(data, "uniform", buckets=1024)
    whole = (known.decode(known.encode(fresh)) - fresh).square().sum()
    assert whole / (fresh - fresh.mean(0)).square().sum() < 0.0105


def test_dot_products_have_equally_full_buckets() -> None:
    z_i = gaussian(1600)
    known = codec(z_i, "uniform")
    buckets = known.encode_dots(z_i, torch.ones_like(z_i))
    assert (buckets.bincount(minlength=16) - 100).abs().max() <= 1
    order = z_i.sum(dim=1).argsort()
    assert (buckets[order].diff() >= 0).all()
