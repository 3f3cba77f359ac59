"""Walk away from the minimum along straight lines, and see how far the others get while one environment stays in its band."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from firstcue.agreement._landscape import Landscape

_FIRST, _LAST, _GROWTH, _HALVINGS = 1e-6, 1e2, 1.3, 2


@dataclass
class Reach:
    """What was found inside the band of each environment, at one level: for each pair (band of e, loss of the other)."""

    eps: float
    raw: np.ndarray
    """`(e, e)` largest `|L_other(theta) - L_e(minimum)|`."""

    centred: np.ndarray
    """`(e, e)` largest `|L_other(theta) - L_other(minimum)|`."""

    where: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """The point of the largest centred change of each pair."""

    endless: bool = False
    """A walk ended in the band: farther away lies more."""

    @classmethod
    def at_origin(cls, land: Landscape, eps: float) -> "Reach":
        """Before any step."""
        base = np.array(land.base)
        return cls(eps, np.abs(base[None, :] - base[:, None]), np.zeros((len(base),) * 2))

    def note(self, e: int, values: Sequence[float], base: Sequence[float], point: Tensor) -> None:
        """Take in the losses of all environments at a point of the band of `e`."""
        for other, value in enumerate(values):
            if not np.isfinite(value):
                continue
            self.raw[e, other] = max(self.raw[e, other], abs(value - base[e]))
            if abs(value - base[other]) > self.centred[e, other]:
                self.centred[e, other] = abs(value - base[other])
                self.where[e, other] = point


def probe(land: Landscape, directions: Iterable[Tensor], levels: Sequence[float]) -> list[Reach]:
    """Walk both ways along every direction, outward by a constant factor, until every environment left its widest band."""
    found = [Reach.at_origin(land, eps) for eps in levels]
    for direction in directions:
        length = float(direction.norm())
        if not np.isfinite(length) or length == 0:
            continue
        for sign in (1.0, -1.0):
            _walk(land, direction * (sign * land.scale / length), found)
    return found


def _walk(land: Landscape, direction: Tensor, found: list[Reach]) -> None:
    count = len(land.base)
    open_bands = {(i, e) for i in range(len(found)) for e in range(count)}
    before, t = 0.0, _FIRST
    while open_bands and t <= _LAST:
        point = land.origin + t * direction
        values = land.values(point)
        for i, e in sorted(open_bands):
            if inside(values[e], land.base[e], found[i].eps):
                found[i].note(e, values, land.base, point)
            else:
                open_bands.discard((i, e))
                _refine(land, direction, before, t, e, found[i])
        before, t = t, t * _GROWTH
    for i, _ in open_bands:
        found[i].endless = True


def _refine(land: Landscape, direction: Tensor, low: float, high: float, e: int, found: Reach) -> None:
    """Halve the step in which the band was left."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        point = land.origin + middle * direction
        values = land.values(point)
        if inside(values[e], land.base[e], found.eps):
            found.note(e, values, land.base, point)
            low = middle
        else:
            high = middle


def inside(value: float, base: float, eps: float) -> bool:
    """Whether a loss is in the band around its value at the minimum; NaN is outside."""
    return abs(value - base) <= eps
