"""Slow, obvious versions of what the package computes fast; tests compare against them."""

import torch
from torch import Tensor


def two_pass(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Total weight, mean and scatter in float64, by definition."""
    rows = x.double()
    weight = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    mean = (weight[:, None] * rows).sum(dim=0) / weight.sum()
    return weight.sum(), mean, torch.einsum("n,ni,nj->ij", weight, rows - mean, rows - mean)


def leace_projection(x: Tensor, z: Tensor) -> Tensor:
    """P* = I - W^+ (W S_xz)(W S_xz)^+ W with W the pseudo-inverse root of the covariance: the theorem as stated."""
    rows = x.double()
    one_hot = torch.nn.functional.one_hot(z).double()
    centred = rows - rows.mean(dim=0)
    covariance = centred.mT @ centred / len(x)
    cross = centred.mT @ (one_hot - one_hot.mean(dim=0)) / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > 1e-12 * values[-1]
    root = vectors[:, kept] * values[kept].sqrt()
    whiten = (vectors[:, kept] / values[kept].sqrt()).mT
    seen = whiten @ cross
    return torch.eye(x.shape[1], dtype=torch.float64) - root @ seen @ torch.linalg.pinv(seen, rtol=1e-10) @ whiten


def mean_gap(x: Tensor, z: Tensor) -> float:
    """Largest distance between a class mean and the overall mean, in standard deviations of a typical feature."""
    rows = x.double()
    spread = rows.var(dim=0, correction=0).mean().sqrt()
    return max(float((rows[z == c].mean(dim=0) - rows.mean(dim=0)).norm() / spread) for c in z.unique())


def standardised_gap(x: Tensor, z: Tensor, direction: Tensor) -> float:
    """Distance between the class means along one direction, in standard deviations along it."""
    along = x.double() @ direction.double()
    means = [along[z == c].mean() for c in z.unique()]
    return float((max(means) - min(means)) / along.std(correction=0))
