"""Shrinkage of correlations: as measured on few images they are too sharp to be divided by."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def shrunk(
    correlation: Float[Tensor, "rows fingerprints fingerprints"],
    kept: Int[Tensor, " rows"],
    count: Float[Tensor, " rows"],
) -> Float[Tensor, "rows fingerprints fingerprints"]:
    """Correlations shrunk towards none, by nearly as much as the oracle would that knows the true ones.

    The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010, equation 23, without its
    term 2/p, as in scikit-learn). Unlike Ledoit and Wolf's it needs no fourth moments: one pass will do.

    Args:
        correlation: as measured; 1 on the diagonal.
        kept: of each row's fingerprints so many are real, the first ones; the rest correlate with none.
        count: values that each was measured on.
    """
    real = torch.arange(correlation.shape[1], device=kept.device) < kept[:, None]
    alone = torch.eye(correlation.shape[1], dtype=correlation.dtype, device=correlation.device)
    measured = torch.where(real[:, :, None] & real[:, None, :], correlation, 0.0)
    size = kept.clamp_min(1).to(correlation.dtype)
    squares = (measured**2).sum(dim=(1, 2)) / size**2
    gap = (count + 1) * (squares - 1 / size)
    share = torch.where(gap > 0, (squares + 1) / gap, 1.0).clamp_max(1)[:, None, None]
    mixed = (1 - share) * measured + share * alone
    return torch.where(real[:, :, None], mixed, alone)
