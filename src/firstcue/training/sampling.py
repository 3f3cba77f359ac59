"""Which rows a pass over the data draws: by weight, or equally many of every group."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstcue.batch import balanced_rows
from firstcue.training.weighting import by_size

Draw = Callable[[torch.Generator], Tensor]
"""The row ids of one pass, for `minibatches(rows=...)`."""


def drawn(weights: Float[Tensor, " n"], size: int | None = None) -> Draw:
    """Rows drawn with replacement in proportion to their weights.

    Args:
        weights: At least 0, one per row.
        size: Rows of a pass; as many as there are when absent.

    Raises:
        ValueError: If weights are negative, not finite, or all 0.

    Example:
        >>> drawn(torch.tensor([0.0, 1.0]))(torch.Generator()).tolist()
        [1, 1]
    """
    exact = weights.detach().cpu().double()
    if exact.ndim != 1 or not bool(((exact >= 0) & exact.isfinite()).all()) or float(exact.sum()) == 0:
        raise ValueError("`weights` are finite numbers of at least 0, one per row, and not all 0.")
    edges = exact.cumsum(0)
    count = len(exact) if size is None else size

    def draw(generator: torch.Generator) -> Tensor:
        spots = torch.rand(count, dtype=torch.float64, generator=generator) * edges[-1]
        return torch.searchsorted(edges, spots, right=True).clamp(max=len(exact) - 1)

    return draw


def balanced(ids: Int[Tensor, " n"], power: float = 1.0) -> Draw:
    """Rows drawn with replacement, each with a probability in proportion to 1 / n_g^power: with 1, groups are equally frequent.

    Args:
        ids: `(n,)` group or class ids.
        power: 0.5 goes halfway.

    Example:
        >>> rows = balanced(torch.tensor([0] * 99 + [1]))(torch.Generator().manual_seed(0))
        >>> 30 < int((rows == 99).sum()) < 70
        True
    """
    return drawn(by_size(ids.cpu().bincount(), power)[ids.cpu()])


def cut(ids: Int[Tensor, " n"], seed: int = 0) -> Int[Tensor, " m"]:
    """Row ids, in order, of a subset with as many rows of every group as the smallest has.

    Example:
        >>> len(cut(torch.tensor([0, 0, 0, 1])))
        2
    """
    return balanced_rows(ids.cpu(), torch.Generator().manual_seed(seed)).sort().values
