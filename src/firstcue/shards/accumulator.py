"""Add up the moments of many parts in place: two sums and the part that arrives, however many parts there are."""

from dataclasses import replace

import torch
from torch import Tensor

from firstcue._scatter import TILE, symmetrise
from firstcue.moments import Moments, _aligned

FAN_IN = 32
"""Parts whose sum is formed before it joins the rest: rounding errors then grow with n / 32 + 32 instead of n."""


class Accumulator:
    """Moments of all parts added so far, as a tree of two levels in the memory of two of them.

    `Moments.merge` makes a new object each time; this adds into one. Parts without group names have to have the same number
    of groups; parts with names are matched by name, and a name that is new makes room once.

    Example:
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> total = Accumulator()
        >>> for row in x:
        ...     total.add(Moments.of(row[None]))
        >>> total.moments().mean
        tensor([5., 6.], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._all, self._recent = _Sum(), _Sum()

    def add(self, part: Moments) -> None:
        """Count one more part, which is left as it is.

        Raises:
            ValueError: If features or groups do not match those before, or the part keeps fourth-order sums.
        """
        if part.cubic is not None:
            raise ValueError("parts with fourth-order sums are not added in place; use Moments.merge for them.")
        self._recent.add(part)
        if self._recent.parts == FAN_IN:
            self._flush()

    def moments(self) -> Moments:
        """Moments of all parts together; a copy, so that more parts can be added.

        Raises:
            ValueError: If there was none.
        """
        self._flush()
        return self._all.moments()

    def _flush(self) -> None:
        if self._recent.parts:
            self._all.add(self._recent.closed())
            self._recent.clear()


class _Sum:
    """Counts, means and the lower triangles of scatters; what lies between the means of parts is added when asked for."""

    def __init__(self) -> None:
        self._held: Moments | None = None
        self._counts: list[Tensor] = []
        self._means: list[Tensor] = []
        self.parts = 0
        """Number of parts since it was cleared."""

    def add(self, part: Moments) -> None:
        """Add a part; only its lower triangle is read."""
        held = self._held
        if held is None or held.classes != part.classes or held.mean.shape != part.mean.shape:
            held, part = self._with_room(part)
        assert held is not None
        for total, more in zip(_matrices(held.scatter), _matrices(part.scatter), strict=True):
            _add_lower(total, more, write=self.parts == 0)
        held.rows.copy_(part.rows if self.parts == 0 else held.rows + part.rows)
        self.parts += 1
        self._counts.append(part.count.clone())
        self._means.append(part.mean.clone())
        if len(self._counts) == FAN_IN:
            self._close()

    def closed(self) -> Moments:
        """The sum itself, of which the lower triangle counts."""
        self._close()
        assert self._held is not None
        return self._held

    def moments(self) -> Moments:
        """A copy of the sum, whole."""
        if self._held is None:
            raise ValueError("there are no parts to sum up; add moments first.")
        found = self.closed()
        scatter = found.scatter.clone()
        for matrix in _matrices(scatter):
            symmetrise(matrix)
        return Moments(found.count.clone(), found.mean.clone(), scatter, found.rows.clone(), found.classes)

    def clear(self) -> None:
        """Start again from nothing, in the same memory."""
        self._counts, self._means, self.parts = [], [], 0

    def _with_room(self, part: Moments) -> tuple[Moments, Moments]:
        """The sum and the part with the same groups; memory is taken here and nowhere else."""
        if self._held is None or self.parts == 0:
            self._held = part._map(torch.empty_like, part.classes)
            return self._held, part
        self._close()
        held, part = _aligned(self._held, part)
        self._held = replace(held, rows=held.rows.clone())
        self._counts, self._means = [held.count.clone()], [held.mean.clone()]
        return self._held, part

    def _close(self) -> None:
        """Carry the scatter of all parts to their common mean (Chan, Golub and LeVeque), one product for many parts."""
        held = self._held
        if held is None or not self._counts:
            return
        counts, means = torch.stack(self._counts), torch.stack(self._means)
        total = counts.sum(dim=0)
        mean = (torch.where(total > 0, counts / total, 0.0)[..., None] * means).sum(dim=0)
        if len(counts) > 1:
            drift = (counts.sqrt()[..., None] * (means - mean)).reshape(len(counts), -1, means.shape[-1])
            for g, matrix in enumerate(_matrices(held.scatter)):
                _add_product(matrix, drift[:, g])
        held.count.copy_(total)
        held.mean.copy_(mean)
        self._counts, self._means = [total], [mean]


def _matrices(scatter: Tensor) -> Tensor:
    """`(g, d, d)`, sharing memory."""
    return scatter.view(-1, *scatter.shape[-2:])


def _add_lower(total: Tensor, more: Tensor, *, write: bool) -> None:
    """Half the memory traffic of adding everything."""
    for start in range(0, len(total), TILE):
        stop = min(start + TILE, len(total))
        block, new = total[start:stop, :stop], more[start:stop, :stop]
        block.copy_(new) if write else block.add_(new)


def _add_product(total: Tensor, drift: Tensor) -> None:
    """`total += drift.T @ drift`, in tiles of the lower triangle."""
    for start in range(0, len(total), TILE):
        stop = min(start + TILE, len(total))
        total[start:stop, :stop].addmm_(drift[:, start:stop].mT, drift[:, :stop])
