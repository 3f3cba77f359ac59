"""Covariance estimates for few rows: pull the sample covariance towards a multiple of the identity, by how much it errs.

Each takes moments (any group axes) and returns `(..., d, d)`. Erasure uses them, if asked, only to decide which
directions are cheap to move; what is erased is always the covariance of the data itself.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue.moments import Moments


def ledoit_wolf(moments: Moments) -> Float64[Tensor, "*groups d d"]:
    """The linear combination of sample covariance and identity of least expected squared error.

    Args:
        moments: Built with `fourth=True`: the estimate needs the fourth-order sums.

    Raises:
        ValueError: If the moments lack the fourth-order sums.

    Source:
        Ledoit and Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices, Journal of
        Multivariate Analysis 88.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, -0.1]])
        >>> ledoit_wolf(Moments.of(x, fourth=True))[0, 0] < Moments.of(x).covariance[0, 0]
        tensor(True)
    """
    if moments.quartic is None:
        raise ValueError(
            "Ledoit-Wolf needs fourth-order sums, which these moments do not hold; build them with "
            "`Moments.of(x, fourth=True)` or `Moments.of_groups(x, group, fourth=True)`, or use `oas`, which needs none."
        )
    covariance = moments.covariance
    level, spread = _level(covariance), _spread(covariance)
    error = (moments.quartic / moments.count - covariance.square().sum(dim=(-2, -1))) / moments.rows
    return _towards_identity(covariance, level, torch.where(spread > 0, error / spread, 0.0))


def oas(moments: Moments) -> Float64[Tensor, "*groups d d"]:
    """Oracle-approximating shrinkage: like Ledoit-Wolf, for rows that are close to Gaussian; second moments suffice.

    Source:
        Chen, Wiesel, Eldar and Hero (2010), Shrinkage algorithms for MMSE covariance estimation,
        https://arxiv.org/abs/0907.4698; in the form of scikit-learn.

    Example:
        >>> oas(Moments.of(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1]]))).diagonal().min() > 0.01
        tensor(True)
    """
    covariance = moments.covariance
    d, level = covariance.shape[-1], _level(covariance)
    mean_square = covariance.square().mean(dim=(-2, -1))
    excess = (moments.rows + 1) * (mean_square - level.square() / d)
    return _towards_identity(covariance, level, torch.where(excess > 0, (mean_square + level.square()) / excess, 1.0))


def random_matrix_shrinkage(moments: Moments) -> Float64[Tensor, "*groups d d"]:
    """Asymptotically optimal linear shrinkage when features grow in number with rows.

    The intensity is kept within [0, 1], and a sample covariance that is a multiple of the identity is returned as it is.

    Source:
        Bodnar, Gupta and Parolya (2014), On the strong convergence of the optimal linear shrinkage estimator for large
        dimensional covariance matrix, https://arxiv.org/abs/1308.2608.

    Example:
        >>> random_matrix_shrinkage(Moments.of(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1]]))).diagonal().min() > 0.01
        tensor(True)
    """
    covariance = moments.covariance
    level, spread = _level(covariance), _spread(covariance)
    trace = level * covariance.shape[-1]
    return _towards_identity(covariance, level, torch.where(spread > 0, trace.square() / moments.rows / spread, 1.0))


def _level(covariance: Tensor) -> Tensor:
    """Mean variance of a feature."""
    return covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)


def _spread(covariance: Tensor) -> Tensor:
    """Squared Frobenius distance to the nearest multiple of the identity; zero where only rounding is left of it."""
    level = _level(covariance)
    size = covariance.square().sum(dim=(-2, -1))
    deviation = covariance.clone()
    deviation.diagonal(dim1=-2, dim2=-1).sub_(level[..., None])
    spread = deviation.square().sum(dim=(-2, -1))
    return torch.where(spread > torch.finfo(spread.dtype).eps ** 2 * size, spread, 0.0)


def _towards_identity(covariance: Tensor, level: Tensor, intensity: Tensor) -> Tensor:
    share = intensity.clamp(0.0, 1.0)
    shrunk = covariance * (1 - share)[..., None, None]
    shrunk.diagonal(dim1=-2, dim2=-1).add_((share * level)[..., None])
    return shrunk
