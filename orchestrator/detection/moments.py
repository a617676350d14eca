"""Moments: counts, means and variances of fingerprints by class, in one pass, stable and mergeable."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """What is known of values that were seen, by row of a bank; in float64.

    Merged by Chan, Golub and LeVeque (1979): as exact as two passes over all values, whatever the split.
    """

    count: Float[Tensor, " rows"]
    mean: Float[Tensor, "rows fingerprints"]
    squares: Float[Tensor, "rows fingerprints"]
    """Sums of squared distances from the mean."""
    products: Float[Tensor, "rows fingerprints fingerprints"] | None = None
    """Sums of products of distances from the means, where asked for."""

    @classmethod
    def of(
        cls,
        values: Float[Tensor, "images fingerprints"],
        rows: Int[Tensor, " images"],
        of_rows: int,
        *,
        products: bool = False,
    ) -> "Moments":
        """The moments of values, each of which belongs to a row."""
        values = values.double()
        shape = (of_rows, values.shape[1])
        count = torch.zeros(of_rows, dtype=torch.float64, device=values.device)
        count.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))
        mean = values.new_zeros(shape).index_add_(0, rows, values) / count.clamp_min(1)[:, None]
        apart = values - mean[rows]
        squares = values.new_zeros(shape).index_add_(0, rows, apart**2)
        if not products:
            return cls(count, mean, squares)
        together = values.new_zeros(*shape, shape[1])
        for row in set(rows.tolist()):
            own = apart[rows == row]
            together[row] = own.T @ own
        return cls(count, mean, squares, together)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of values together."""
        count = self.count + other.count
        share = (other.count / count.clamp_min(1))[:, None]
        step = other.mean - self.mean
        mean = self.mean + step * share
        between = self.count[:, None] * share
        squares = self.squares + other.squares + step**2 * between
        products = None
        if self.products is not None and other.products is not None:
            outer = step[:, :, None] * step[:, None, :] * between[:, :, None]
            products = self.products + other.products + outer
        return Moments(count, mean, squares, products)

    def to(self, device: torch.device | str) -> "Moments":
        """The same on another device."""
        products = None if self.products is None else self.products.to(device)
        return Moments(self.count.to(device), self.mean.to(device), self.squares.to(device), products)

    @property
    def std(self) -> Float[Tensor, "rows fingerprints"]:
        """Standard deviations with n - 1; of fewer than two values, 0."""
        return (self.squares / (self.count[:, None] - 1).clamp_min(1)).sqrt()

    @property
    def correlation(self) -> Float[Tensor, "rows fingerprints fingerprints"]:
        """Correlations; a fingerprint that does not vary has none but with itself.

        Raises:
            ValueError: products were not gathered.
        """
        if self.products is None:
            raise ValueError("products were not gathered")
        scale = self.squares.sqrt()
        scale = torch.where(scale > 0, scale, torch.inf)
        found = self.products / (scale[:, :, None] * scale[:, None, :])
        return found.diagonal_scatter(torch.ones_like(scale), dim1=1, dim2=2)


def merge(parts: Iterable[Moments]) -> Moments:
    """All parts in the order given: the same parts in the same order give the same bytes."""
    return reduce(Moments.merged, parts)
