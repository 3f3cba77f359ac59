"""Inconsistency in the quadratic model of the losses, in the few directions in which they bend most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue.agreement._landscape import Landscape
from firstcue.agreement._rays import Reach


@dataclass(frozen=True)
class Bowl:
    """Slopes and curvatures of all environments in a subspace, in float64."""

    basis: Float[Tensor, "p k"]
    slopes: Float[Tensor, "e k"]
    hessians: Float[Tensor, "e k k"]
    """Positive semi-definite: negative curvature is cut off, and the damping added."""

    damping: float
    negative: float
    """The most negative curvature that was cut off, as a share of the largest."""

    whole: bool
    """The subspace is the whole space."""


def bowl(land: Landscape, slopes: Float[Tensor, "e p"], rank: int, damping: float, generator: torch.Generator) -> Bowl:
    """The quadratic model in the span of the environments' gradients and `rank` most bent directions of each.

    With no more parameters than that, in all directions.
    """
    count, p = slopes.shape
    whole = p <= count * (rank + 1)
    if whole:
        basis = torch.eye(p, dtype=torch.float64)
    else:
        bent = [leading(land.curvature(e), land.origin, rank, generator) for e in range(count)]
        basis = torch.linalg.qr(torch.cat([slopes.double().mT, *bent], dim=1)).Q
    hessians = torch.stack([_projected(land.curvature(e), basis, land.origin) for e in range(count)])
    values, vectors = torch.linalg.eigh(hessians)
    largest = float(values.abs().max())
    mu = damping * float(values[:, -1].clamp(min=0).mean())
    mended = (vectors * (values.clamp(min=0) + mu)[:, None, :]) @ vectors.mT
    negative = max(0.0, -float(values.min()) / largest) if largest else 0.0
    return Bowl(basis, slopes.double() @ basis, mended, mu, negative, whole)


def leading(
    product: Callable[[Tensor], Tensor], like: Tensor, count: int, generator: torch.Generator
) -> Float[Tensor, "p k"]:
    """Directions of the largest curvature, by Lanczos steps with full orthogonalisation."""
    steps = min(2 * count + 2, like.numel())
    vector = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    krylov, images = [vector / vector.norm()], []
    for _ in range(steps):
        images.append(product(krylov[-1].to(like)).double())
        basis = torch.stack(krylov, dim=1)
        rest = images[-1] - basis @ (basis.mT @ images[-1])
        rest -= basis @ (basis.mT @ rest)
        if float(rest.norm()) <= 1e-6 * float(images[-1].norm()) or len(krylov) == steps:
            break
        krylov.append(rest / rest.norm())
    basis = torch.stack(krylov[: len(images)], dim=1)
    small = basis.mT @ torch.stack(images, dim=1)
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    order = values.abs().argsort(descending=True)[:count]
    return basis @ vectors[:, order]


def reach(land: Landscape, model: Bowl, levels: Sequence[float]) -> list[Reach]:
    """The largest change of every environment's quadratic model in the region `L_e <= minimum + eps` of every other's."""
    found = [Reach.at_origin(land, eps) for eps in levels]
    count = len(land.base)
    pairs = [(e, other) for e in range(count) for other in range(count)]
    for e, other in pairs if model.damping > 0 else []:
        gap = land.base[other] - land.base[e]
        for at_level in found:
            up = _rise(model, e, other, 1.0, at_level.eps)
            down = _rise(model, e, other, -1.0, at_level.eps)
            at_level.centred[e, other] = max(up, down)
            at_level.raw[e, other] = max(abs(gap + up), abs(gap - down))
    return found


def steepest_ratios(model: Bowl, count: int) -> list[Tensor]:
    """For the `count` pairs that differ most, the direction in which the other environment bends most against this one."""
    found = []
    for h in model.hessians if model.damping > 0 else []:
        values, vectors = torch.linalg.eigh(h)
        half = vectors / values.sqrt()
        for its in model.hessians:
            if its is not h:
                ratios, directions = torch.linalg.eigh(half.mT @ its @ half)
                found.append((float(ratios[-1]), model.basis @ (half @ directions[:, -1])))
    return [direction for _, direction in sorted(found, key=lambda pair: -pair[0])[:count]]


def _projected(product: Callable[[Tensor], Tensor], basis: Tensor, like: Tensor) -> Tensor:
    small = basis.mT @ torch.stack([product(column.to(like)).double() for column in basis.mT], dim=1)
    return (small + small.mT) / 2


def _rise(model: Bowl, e: int, other: int, sign: float, eps: float) -> float:
    """Largest `sign (g' z + z H' z / 2)` where `g z + z H z / 2 <= eps`: in the coordinates of H a ball."""
    values, vectors = torch.linalg.eigh(model.hessians[e])
    half = (vectors / values.sqrt()) @ vectors.mT
    centre = half @ model.slopes[e]
    a = sign * (half @ model.hessians[other] @ half)
    slope = sign * (half @ model.slopes[other])
    constant = float(centre @ a @ centre / 2 - slope @ centre)
    return constant + largest_on_ball(a, slope - a @ centre, 2 * eps + float(centre @ centre))


def largest_on_ball(a: Float[Tensor, "k k"], b: Float[Tensor, " k"], square: float) -> float:
    """The maximum of `w a w / 2 + b w` over `|w|^2 <= square`, by its dual: convex in one number, and without a gap.

    Example:
        >>> round(largest_on_ball(torch.eye(2), torch.tensor([1.0, 0.0]), 4.0), 6)
        4.0
    """
    values, vectors = torch.linalg.eigh(a.double())
    weight = (vectors.mT @ b.double()).square()
    low = max(float(values[-1]), 0.0)
    high = low + float(weight.sum().sqrt()) / square**0.5 + 1e-30
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if float((weight / (middle - values).square()).sum()) > square:
            low = middle
        else:
            high = middle
    gap = high - values
    return 0.5 * high * square + 0.5 * float(torch.where(weight > 0, weight / gap, 0.0).sum())
