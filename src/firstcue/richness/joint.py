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


def output_rows(outputs: Any, features: Tensor) -> Tensor:
    """`(n, C)` outputs of arrays `(n, C)` or `(n,)`, or of a head: anything with a `weight` `(C, p)` and perhaps a `bias`.

    Raises:
        ValueError: If shapes do not fit.
    """
    if isinstance(getattr(outputs, "weight", None), Tensor):
        return _through(features, *head_weights(outputs, features.shape[1]))
    found = as_tensor(outputs, "outputs").detach()
    found = feature_rows(found[:, None] if found.ndim == 1 else found, "outputs")
    require_rows(features, found, "features", "outputs")
    return found.to(features.device)


def head_weights(head: Any, num_features: int) -> tuple[Tensor, Tensor]:
    """`(C, p)` weight and `(C,)` bias of a head in float64."""
    weight = head.weight.detach().flatten(1).double()
    bias = getattr(head, "bias", None)
    if weight.shape[1] != num_features:
        raise ValueError(
            f"the head reads {weight.shape[1]} features but there are {num_features}; give the features that go into it."
        )
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().double()


def _through(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
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


def moments_through(of_features: Moments, head: Any) -> Moments:
    """Moments of `[features, head(features)]` from those of the features alone."""
    weight, bias = head_weights(head, len(of_features.mean))
    cross = of_features.scatter @ weight.mT
    return _assembled(of_features, weight @ of_features.mean + bias, cross, weight @ cross)


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
