"""Many sparse logistic read-outs at once: fits to subsets of the same rows share every product with them.

Exact l1 fits to thousands of rows of thousands of features take seconds each, most of them for coefficients that change no
prediction. Accelerated proximal steps on all fits together read the features once a step, and stop when little moves.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue._blas import product
from firstcue.forward import NotFinite

STILL = 1e-3
"""Relative change of the coefficients in a step below which fits are left."""

LEAST_STEPS = 20
"""First steps are small ones."""


@dataclass(frozen=True)
class SparseFits:
    """One column per fit."""

    weight: Float[Tensor, "d m"]
    bias: Float[Tensor, " m"]
    steps: int
    change: float
    """Largest relative change of a fit's coefficients in the last step."""


def fit_sparse(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    rows: Float[Tensor, "n m"],
    inverse_strengths: Float[Tensor, " m"],
    *,
    start: SparseFits | None = None,
    steps: int = 200,
) -> SparseFits:
    """Minimise C sum_i r_i log(1 + exp(-s_i f_i)) + |w|_1 over f = x w + b for every column r of `rows`, s = 2 y - 1.

    The objective is scikit-learn's, with an intercept that is not penalised. It is approached, not reached: where features
    are strongly correlated, predictions settle long before coefficients do.

    Args:
        x: Standardised features, float32 or float64.
        y: 0 or 1.
        rows: How often each row counts in each fit.
        inverse_strengths: C of each fit.
        start: Where to begin: as many fits, or one for all.
        steps: At most.

    Raises:
        NotFinite: If a coefficient is NaN or infinite.

    Source:
        Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm, SIAM Journal on Imaging Sciences 2;
        restarts of O'Donoghue and Candès (2012), https://arxiv.org/abs/1204.3982.

    Example:
        >>> x = torch.tensor([[2.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-2.0, -0.1]])
        >>> fits = fit_sparse(x, torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.ones(4, 1), torch.ones(1))
        >>> bool(fits.weight[0] > 0.5), float(fits.weight[1])
        (True, 0.0)
    """
    share = rows / rows.sum(dim=0)
    rate = 1 / (0.25 * 1.1 * _largest(x, share))  # a logistic loss bends by a quarter at most
    threshold = rate / (inverse_strengths * rows.sum(dim=0))
    shape = (x.shape[1], rows.shape[1])
    w = x.new_zeros(shape) if start is None else start.weight.to(x).expand(shape)
    b = x.new_zeros(shape[1]) if start is None else start.bias.to(x).expand(shape[1])
    ahead, ahead_b, inertia, change, step = w, b, x.new_ones(shape[1]), torch.inf, 0
    while step < steps and (change > STILL or step < LEAST_STEPS):
        off = share * (torch.sigmoid(product(x, ahead) + ahead_b) - y[:, None])
        moved = ahead - rate * product(x.mT, off)
        moved = moved - torch.clamp(moved, -threshold, threshold)
        moved_b = ahead_b - rate * off.sum(dim=0)
        backwards = ((ahead - moved) * (moved - w)).sum(dim=0) + (ahead_b - moved_b) * (moved_b - b) > 0
        following = (1 + (1 + 4 * inertia.square()).sqrt()) / 2
        carry = torch.where(backwards, 0.0, (inertia - 1) / following)
        inertia = torch.where(backwards, 1.0, following)
        size = (moved.norm(dim=0) + moved_b.abs()).clamp(min=1e-6)
        change = float((((moved - w).norm(dim=0) + (moved_b - b).abs()) / size).max())
        ahead, ahead_b = moved + carry * (moved - w), moved_b + carry * (moved_b - b)
        w, b, step = moved, moved_b, step + 1
    if not bool(torch.isfinite(w).all()):
        raise NotFinite("a sparse read-out became NaN or infinite; check that the features are standardised.")
    return SparseFits(w, b, step, change)


def _largest(x: Tensor, share: Tensor) -> Tensor:
    """`(m,)` largest eigenvalue of `[x, 1]^T diag(share) [x, 1]` by power iteration."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape[1], share.shape[1], generator=generator, dtype=x.dtype)
    c = torch.zeros(share.shape[1], dtype=x.dtype)
    for _ in range(8):
        length = (v.square().sum(dim=0) + c.square()).sqrt()
        seen = share * (product(x, v / length) + c / length)
        v, c = product(x.mT, seen), seen.sum(dim=0)
    return (v.square().sum(dim=0) + c.square()).sqrt()
