"""Climb the loss of one environment inside the band of another: every point on the way is in the band, so it is a path."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from firstcue.agreement._landscape import Landscape
from firstcue.agreement._rays import inside

_MOMENTUM = 0.7
"""Share of the last step's direction in the next, until a step fails."""

_MARGIN = 0.98
"""Nearer to the edge of the band than this share, steps go along it."""


@dataclass(frozen=True)
class Climb:
    """The end of one path: the loss of the other environment is extreme there among all points visited."""

    point: Tensor
    value: float
    growing: bool
    """The last tenth of the steps, up to the last one allowed, still gained more than a hundredth of the whole rise."""


def climb(land: Landscape, e: int, other: int, sign: float, eps: float, start: Tensor, steps: int) -> Climb:
    """From a point connected with the minimum, raise (or with sign -1 lower) the loss of `other` inside the band of `e`.

    Every step is checked at its end and its middle; a step that leaves the band or loses height is halved.
    """
    point, size = start, 1e-3 * land.scale
    within, slope_within = land.slope(point, e)
    height, slope = land.slope(point, other)
    gains = [sign * height]
    momentum = torch.zeros_like(point)
    for _ in range(steps):
        gains.append(sign * height)
        uphill = sign * slope
        pace = float(uphill.norm()) / max(float(momentum.norm()), 1e-30)
        direction = _along(uphill + _MOMENTUM * pace * momentum, slope_within, within - land.base[e], eps)
        length = float(direction.norm())
        if not math.isfinite(length) or length == 0 or size < 1e-12 * land.scale:
            break
        trial = _corrected(land, e, point + (size / length) * direction, slope_within, eps)
        if trial is None or not inside(land.value((point + trial) / 2, e), land.base[e], eps):
            size, momentum = size / 2, torch.zeros_like(point)
            continue
        new_height, new_slope = land.slope(trial, other)
        if not sign * (new_height - height) > 0 or not bool(torch.isfinite(new_slope).all()):
            size, momentum = size / 2, torch.zeros_like(point)
            continue
        momentum = trial - point
        point, height, slope, size = trial, new_height, new_slope, 1.5 * size
        within, slope_within = land.slope(point, e)
    late = sign * height - gains[max(0, len(gains) - 1 - steps // 10)]
    whole = sign * (height - land.base[other])
    return Climb(point, height, len(gains) > steps and late > 0.01 * whole)


def _along(uphill: Tensor, slope: Tensor, drift: float, eps: float) -> Tensor:
    """Uphill, without the part that would leave the band."""
    square = float(slope @ slope)
    outward = float(uphill @ slope)
    if square == 0 or abs(drift) < _MARGIN * eps or outward * drift <= 0:
        return uphill
    return uphill - (outward / square) * slope


def _corrected(land: Landscape, e: int, trial: Tensor, slope: Tensor, eps: float) -> Tensor | None:
    """The point, pulled back into the band if it is outside; None if that fails."""
    square = float(slope @ slope)
    for _ in range(3):
        drift = land.value(trial, e) - land.base[e]
        if abs(drift) <= eps:
            return trial
        if square == 0 or not math.isfinite(drift):
            return None
        trial = trial - ((drift - math.copysign(_MARGIN * eps, drift)) / square) * slope
    return trial if inside(land.value(trial, e), land.base[e], eps) else None


def nearby(land: Landscape, e: int, eps: float, generator: torch.Generator) -> Tensor:
    """A point close to the minimum, in the band of `e` as is the way to it; the minimum itself if there is none."""
    noise = torch.randn(land.origin.shape, generator=generator, dtype=torch.float64).to(land.origin)
    noise *= 1e-3 * land.scale / float(noise.norm())
    for _ in range(20):
        values = (land.value(land.origin + share * noise, e) for share in (0.5, 1.0))
        if all(inside(value, land.base[e], eps) for value in values):
            return land.origin + noise
        noise /= 4
    return land.origin
