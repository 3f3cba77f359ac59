"""Moments of features and outputs side by side, with everything about the outputs exact to float64.

Which output directions count as learned is decided on their smallest variances, where the rounding of float32 products
would pass for a learned function. The block of the features, which is nearly all of the work, keeps the fast products.
"""

from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._blas import product
from firstcue._checks import as_tensor, require_rows
from firstcue._rows import feature_rows
from firstcue.moments import Moments

CHUNK_ROWS = 4096


MOST_OUTPUTS = 16_384
"""Outputs up to which a matrix of them is formed (2 GB in float64)."""


def output_rows(outputs: Any, features: Tensor) -> tuple[Tensor, int]:
    """Outputs as columns `(n, k)`, and how many outputs they stand for.

    Args:
        outputs: Arrays `(n, C)` or `(n,)`, or a head: anything with a `weight` `(C, p)` and perhaps a `bias`. A head with
            more outputs than features gives p + 2 columns, as `compact` makes them.
        features: `(n, p)`.

    Raises:
        ValueError: If shapes do not fit, or arrays have too many columns.
    """
    if isinstance(getattr(outputs, "weight", None), Tensor):
        weight, bias = head_weights(outputs, features.shape[1])
        return through(features, *compact(weight, bias)), len(weight)
    found = as_tensor(outputs, "outputs").detach()
    found = feature_rows(found[:, None] if found.ndim == 1 else found, "outputs")
    require_rows(features, found, "features", "outputs")
    if found.shape[1] > MOST_OUTPUTS:
        raise ValueError(f"{found.shape[1]:,} outputs are too many to compare; give the head itself in their place.")
    return found.to(features.device), found.shape[1]


def compact(weight: Float64[Tensor, "C p"], bias: Float64[Tensor, " C"]) -> tuple[Tensor, Tensor]:
    """A head of p + 2 outputs which are those of a larger head in an orthonormal basis, the first their scaled mean.

    Spans, variances and the mean over outputs are then those of all C; nothing is lost, since C > p outputs are a linear
    map of p features and a constant. Heads that are no larger come back as they are.

    Example:
        >>> weight, bias = torch.randn(50, 3, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
        >>> small, _ = compact(weight, bias)
        >>> small.shape, torch.allclose(small.T @ small, weight.T @ weight)
        (torch.Size([5, 3]), True)
    """
    c, p = weight.shape
    if c <= p + 2:
        return weight, bias
    mean = torch.full((c, 1), c**-0.5, dtype=torch.float64, device=weight.device)
    basis = torch.linalg.qr(torch.cat([mean, weight, bias[:, None]], dim=1)).Q
    return product(basis.mT, weight), basis.mT @ bias


def head_weights(head: Any, num_features: int) -> tuple[Tensor, Tensor]:
    """`(C, p)` weight and `(C,)` bias of a head in float64."""
    weight = head.weight.detach().flatten(1).double()
    bias = getattr(head, "bias", None)
    if weight.shape[1] != num_features:
        raise ValueError(
            f"the head reads {weight.shape[1]} features but there are {num_features}; give the features that go into it."
        )
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().double()


def through(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`(n, C)` outputs of a head in float64."""
    columns = weight.to(features.device).mT
    return torch.cat([product(part.double(), columns) for part in features.split(CHUNK_ROWS)]) + bias.to(
        features.device
    )


def joint_moments(features: Tensor, outputs: Tensor, weights: Tensor | None = None) -> Moments:
    """Moments of `[features, outputs]`, the outputs' rows and columns from float64 products.

    Args:
        features: `(n, p)`, finite.
        outputs: `(n, C)`, finite.
        weights: `(n,)` float64, not negative.
    """
    inner, outer = Moments.of(features, weights), Moments.of(outputs, weights, precision="float64")
    return _assembled(
        inner, outer.mean, cross_scatter(features, outputs, inner.mean, outer.mean, weights), outer.scatter
    )


def moments_through(of_features: Moments, head: Any) -> tuple[Moments, int]:
    """Moments of `[features, head(features)]` from those of the features alone, and of how many outputs (see `compact`)."""
    weight, bias = head_weights(head, len(of_features.mean))
    small, shift = compact(weight, bias)
    cross = of_features.scatter @ small.mT
    return _assembled(of_features, small @ of_features.mean + shift, cross, small @ cross), len(weight)


def cross_scatter(
    features: Tensor, outputs: Tensor, centre: Tensor, outputs_centre: Tensor, weights: Tensor | None
) -> Float64[Tensor, "p C"]:
    """Sum over rows of w (phi - centre)(f - outputs_centre)^T."""
    total = torch.zeros(features.shape[1], outputs.shape[1], dtype=torch.float64, device=features.device)
    for start in range(0, len(features), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        right = outputs[rows].double() - outputs_centre
        right = right if weights is None else right * weights[rows, None]
        left = features[rows].to(torch.float64, copy=True).sub_(centre)
        total += product(left.mT, right)
    return total


def _assembled(of_features: Moments, mean: Tensor, cross: Tensor, scatter: Tensor) -> Moments:
    p, size = len(of_features.mean), len(of_features.mean) + len(mean)
    whole = of_features.scatter.new_empty(size, size)
    whole[:p, :p], whole[:p, p:], whole[p:, :p], whole[p:, p:] = of_features.scatter, cross, cross.mT, scatter
    return Moments(of_features.count, torch.cat([of_features.mean, mean]), whole, of_features.rows)
