"""Embeddings as short sequences of codes: principal components, quantised (paper, section 2.2).

z_i is projected onto its principal components in order of decreasing eigenvalue, and each is
replaced by the number of the bucket that it falls into. The paper keeps 319 of 1024 components
(below 1 % of average reconstruction error) and takes 1024 buckets, whose boundaries it does not
state; here they are equally wide between the data's extremes ("uniform") or equally full
("quantiles"). Uniform ones are the default: on Gaussian components their round trip errs less
than a tenth as much, and costs fewer bits (tests/networks/test_pca.py measures both).

Shapes: N embeddings, D their width, K components kept, B buckets, Q buckets of dot products.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from torch import Tensor, nn

from unclip.checks import many
from unclip.config import Between
from unclip.device.precision import full_precision

Spacing = Literal["uniform", "quantiles"]
Buckets = Annotated[int, Between(2, 2**16)]


class Moments:
    """Mean (D,) and covariance (D, D) of any number of rows, streamed, in fp64 on the CPU.

    Parts are joined by their centred sums (Chan, Golub & LeVeque 1979), which loses no digits where
    the mean is large, so how the stream is cut changes the result by rounding only.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Those of `rows` (N, D) that are all at hand."""
        moments = cls(rows.shape[1])
        moments.add(rows)
        return moments

    def add(self, rows: Tensor) -> None:
        """Take in `rows` (N, D)."""
        if not len(rows):
            return
        rows = rows.detach().cpu().double()
        mean = rows.mean(dim=0)
        centred, shift = rows - mean, mean - self.mean
        total = self.count + len(rows)
        between = torch.outer(shift, shift) * (self.count * len(rows) / total)
        self._scatter += centred.T @ centred + between
        self.mean += shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """The unbiased estimate; of two rows at least."""
        return self._scatter / (self.count - 1)


@dataclass(frozen=True)
class Components:
    """Principal components of embeddings, all in fp64.

    Attributes:
        mean: (D,).
        axes: (K, D) orthonormal rows, the largest entry of each positive.
        variances: (K,) eigenvalues, descending.
        total: the variance of the data, which all D components hold.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    total: float

    @classmethod
    def of(cls, moments: Moments) -> Self:
        """All D of them, also where fewer embeddings span fewer: they give back any z_i.

        Raises:
            ValueError: there are fewer than two embeddings, or they are not finite.
        """
        if moments.count < 2:
            raise ValueError(
                f"principal components of {many(moments.count, 'embeddings')}: take more"
            )
        if not moments.covariance.isfinite().all():
            raise ValueError("the embeddings hold values that are not finite")
        variances, vectors = torch.linalg.eigh(moments.covariance)  # ascending
        variances, axes = variances.flip(0).clamp(min=0), vectors.flip(1).T
        largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        return cls(moments.mean, axes * largest.sign(), variances, float(variances.sum()))

    def within(self, error: float) -> "Components":
        """The fewest of them without which less than `error` of the variance is left out.

        That fraction is the mean squared error of the reconstruction, in units of the variance.

        Raises:
            ValueError: `error` is not between 0 and 1; the embeddings are all the same.
        """
        if not 0 < error < 1:
            raise ValueError(f"the reconstruction error is {error}; it must be between 0 and 1")
        if not self.total > 0:
            raise ValueError("the embeddings are all the same: there is nothing to quantise")
        left = 1 - self.variances.cumsum(0) / self.total
        kept = min(int((left >= error).sum()) + 1, len(left))
        return replace(self, axes=self.axes[:kept], variances=self.variances[:kept])

    def explained(self, count: int | None = None) -> float:
        """The part of the variance that the first `count` components hold, 0 to 1; all that are
        kept if left out."""
        return float(self.variances[:count].sum()) / self.total if self.total else 1.0

    def rebuilt(self, z_i: Tensor, count: int) -> Tensor:
        """z_i (N, D) from its first `count` components, the others being the mean's.

        Raises:
            ValueError: another width; count outside 0 … K.
        """
        kept, width = self.axes.shape
        if z_i.shape[1] != width:
            raise ValueError(f"components of width {width} do not fit width {z_i.shape[1]}")
        if not 0 <= count <= kept:
            raise ValueError(f"{many(count, 'components were')} asked for; there are {kept}")
        axes, mean = self.axes[:count].to(z_i.device), self.mean.to(z_i.device)
        return (mean + (z_i.double() - mean) @ axes.T @ axes).to(z_i.dtype)


class EmbeddingCodec(nn.Module):
    """z_i to K codes and back; measured on data, saved with the network, never trained.

    Its tensors are parameters without gradient, as the diffusion prior's mean and deviation are, so
    that checkpoints hold them and all processes share the first one's.

    Args:
        width: D.
        codes, buckets, dot_buckets: K, B and Q.
    """

    def __init__(self, width: int, codes: int, buckets: int, dot_buckets: int) -> None:
        super().__init__()
        self.mean = _constant(width)
        self.components = _constant(codes, width)
        self.variances = _constant(codes)  # eigenvalues
        self.boundaries = _constant(codes, buckets - 1)
        self.centres = _constant(codes, buckets)  # mean of the data in each bucket
        self.dot_boundaries = _constant(dot_buckets - 1)

    @torch.no_grad()
    def measure(self, components: Components, z_i: Tensor, dots: Tensor, spacing: Spacing) -> None:
        """Take the components, and buckets for the data z_i (N, D) and dot products (N,).

        Dot products have equally full buckets, whatever the codes have: a draw from the top half of
        their distribution is then one from the upper half of the buckets, all equally likely.
        """
        self.mean.copy_(components.mean)
        self.components.copy_(components.axes)
        self.variances.copy_(components.variances)
        values = self.project(z_i)
        count = self.centres.shape[1]
        self.boundaries.copy_(bucket_boundaries(values, count, spacing).T)
        self.centres.copy_(bucket_means(values, self.boundaries))
        self.dot_boundaries.copy_(
            bucket_boundaries(dots[:, None], len(self.dot_boundaries) + 1, "quantiles")[:, 0]
        )

    def project(self, z_i: Tensor) -> Tensor:
        """z_i (N, D) → principal components (N, K), fp32."""
        with full_precision(z_i.device):
            return (z_i.float() - self.mean) @ self.components.T

    def encode(self, z_i: Tensor) -> Tensor:
        """z_i (N, D) → codes (N, K), integers from 0 to B - 1."""
        return _bucket(self.project(z_i), self.boundaries)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, J) of the first J ≤ K components → z_i (N, D); the others are at their mean."""
        values = self.centres.expand(len(codes), -1, -1)[:, : codes.shape[1]]  # (N, J, B)
        values = values.gather(2, codes[..., None]).squeeze(2)
        with full_precision(codes.device):
            return self.mean + values @ self.components[: codes.shape[1]]

    def encode_dots(self, z_i: Tensor, z_t: Tensor) -> Tensor:
        """The bucket, 0 to Q - 1, of z_i · z_t: two tensors (N, D) → (N,)."""
        dots = (z_i.float() * z_t.float()).sum(dim=1)
        return torch.searchsorted(self.dot_boundaries, dots, right=True)


def bucket_boundaries(values: Tensor, buckets: int, spacing: Spacing) -> Tensor:
    """The B - 1 inner boundaries (B - 1, K) of B buckets for each column of `values` (N, K)."""
    inner = torch.arange(1, buckets, dtype=torch.float64, device=values.device) / buckets
    if spacing == "uniform":
        low, high = values.double().aminmax(dim=0)
        return low + (high - low) * inner[:, None]
    ordered = values.double().sort(dim=0).values
    places = inner * (len(values) - 1)  # between two values, as torch.quantile interpolates
    below = places.long()
    after = (below + 1).clamp(max=len(values) - 1)
    return torch.lerp(ordered[below], ordered[after], (places - below)[:, None])


def bucket_means(values: Tensor, boundaries: Tensor) -> Tensor:
    """The mean of the `values` (N, K) in each bucket (K, B); an empty one has its middle."""
    codes = _bucket(values, boundaries).T  # (K, N)
    shape = (boundaries.shape[0], boundaries.shape[1] + 1)
    counts = torch.zeros(shape, dtype=torch.float64, device=values.device)
    sums = counts.clone().scatter_add_(1, codes, values.T.double())
    counts.scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.float64))
    low, high = values.aminmax(dim=0)
    edges = torch.cat([low[:, None], boundaries, high[:, None]], dim=1).double()
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    return torch.where(counts > 0, sums / counts, middles)


def _bucket(values: Tensor, boundaries: Tensor) -> Tensor:
    """Bucket numbers (N, K) of values (N, K); bucket k is from boundary k - 1, included, to k."""
    return torch.searchsorted(boundaries, values.T.contiguous(), right=True).T


def _constant(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape), requires_grad=False)
