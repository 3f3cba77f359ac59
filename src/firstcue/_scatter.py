"""Second moments of many rows, a chunk at a time: each chunk about its own mean, summed in float64.

Centring each chunk first is what keeps float32 products right: the rounding error of a product grows with the size
of the numbers, and after centring that size is the spread of the data rather than its distance from zero.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import require_finite

CHUNK_ROWS = 4096
TILE = 256
# types whose every value is a float32
SINGLE = (torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.int8, torch.int16, torch.bool)
# below this a sum of float32 squares may have lost terms to underflow
TINY = 1e-30


class Buffers:
    """Memory kept from chunk to chunk: touching fresh memory costs about as much as the sums."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Uninitialised `(rows, columns)` of the type and device of `like`."""
        held = self._held.get(name)
        if held is None or held.dtype != like.dtype or len(held) < shape[0]:
            held = self._held[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return held[: shape[0]]


def wide_products(x: Tensor, precision: str | None) -> bool:
    """Whether chunk products are taken in float64: for float64 and wide integer input, or when asked for.

    Raises:
        ValueError: If `precision` is not one of the two supported.
    """
    if precision not in (None, "float32", "float64"):
        raise ValueError(f"`precision` is 'float32', 'float64' or None (that of the input); got {precision!r}.")
    return precision == "float64" or (precision is None and x.dtype not in SINGLE)


class Sums:
    """Weight, mean and scatter of rows that arrive in any number of parts."""

    def __init__(self, x: Tensor, weights: Tensor | None, scatter: Tensor, buffers: Buffers, *, wide: bool) -> None:
        """Start from no rows.

        Args:
            x: `(n, d)`, any dtype.
            weights: `(n,)`, positive at the rows that will be added, or None.
            scatter: `(d, d)` float64, of any content; its lower triangle is where the scatter is summed.
            buffers: Shared by sums over rows of the same width.
            wide: Take the products in float64.
        """
        self._x, self._weights, self._scatter, self._buffers, self._wide = x, weights, scatter, buffers, wide
        self._counts: list[float] = []
        self._seen = scatter.new_empty(1, 2, len(scatter))
        """Mean and drift of every chunk, in one piece of memory: many small ones would leave holes between large ones."""

    def add(self, order: Tensor | None) -> None:
        """Count the rows `x[order]`, or all if None."""
        for rows, weight in chunks(self._x, order, self._weights, self._buffers):
            count, mean = _mean(rows, weight)
            lower, drift = _products(rows, weight, mean, self._wide, self._buffers)
            _add_lower(self._scatter, lower, first=not self._counts)
            if len(self._counts) == len(self._seen):
                self._seen = torch.cat([self._seen, torch.empty_like(self._seen)])
            self._seen[len(self._counts), 0], self._seen[len(self._counts), 1] = mean, drift
            self._counts.append(count)

    def finish(self) -> tuple[float, Tensor]:
        """Total weight, and the mean `(d,)` in float64; the scatter is then that about this mean."""
        means, drifts = self._seen[: len(self._counts)].unbind(dim=1)
        count, mean = _join(self._counts, means, drifts, self._scatter, self._buffers)
        if not bool(torch.isfinite(mean).all() and torch.isfinite(self._scatter.diagonal()).all()):
            _refuse(self._x, self._weights)
        return count, mean


def _join(
    counts: list[float], means: Tensor, drifts: Tensor, scatter: Tensor, buffers: Buffers
) -> tuple[float, Tensor]:
    """Carry the scatter of every chunk from the centre its products used to the mean of all rows."""
    if not counts:
        scatter.zero_()
        return 0.0, scatter.new_zeros(len(scatter))
    share = torch.tensor(counts, dtype=torch.float64, device=scatter.device)[:, None]
    drift = share.sqrt() * drifts
    if bool((drift.square().sum(dim=0) > 1e-12 * scatter.diagonal()).any()):
        _add_lower(scatter, -_gram(drift, buffers))
    if len(counts) == 1:
        return counts[0], means[0]
    mean = (share * means).sum(dim=0) / share.sum()
    _add_lower(scatter, _gram(share.sqrt() * (means - mean), buffers))
    return float(share.sum()), mean


def fourth_order(x: Tensor, order: Tensor | None, weights: Tensor | None, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the rows `x[order]` of |y|^2 y, `(d,)`, and of |y|^4, where y is the row minus `mean`."""
    cubic, quartic = torch.zeros_like(mean), mean.new_zeros(())
    for rows, weight in chunks(x, order, weights, Buffers()):
        centred = rows.double() - mean
        square = centred.square().sum(dim=1)
        weighted = square if weight is None else square * weight
        cubic += weighted @ centred
        quartic += weighted @ square
    return cubic, quartic


def symmetrise(lower: Tensor) -> Tensor:
    """Copy the lower triangle of `(..., d, d)` over the upper one, in place and tile by tile."""
    size = lower.shape[-1]
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        lower[..., :start, start:stop] = lower[..., start:stop, :start].mT
        corner = lower[..., start:stop, start:stop]
        corner.copy_(corner.tril() + corner.tril(-1).mT)
    return lower


def chunks(
    x: Tensor, order: Tensor | None, weights: Tensor | None, buffers: Buffers
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows and their weights; memory holds one gathered chunk, overwritten by the next."""
    total, d = len(x) if order is None else len(order), x.shape[1]
    step = min(CHUNK_ROWS, max(256, (1 << 24) // d))
    for start in range(0, total, step):
        if order is None:
            yield x[start : start + step], None if weights is None else weights[start : start + step]
        else:
            pick = order[start : start + step]
            rows = torch.index_select(x, 0, pick, out=buffers.take("rows", (len(pick), d), x))
            yield rows, None if weights is None else weights.index_select(0, pick)


def _mean(rows: Tensor, weight: Tensor | None) -> tuple[float, Tensor]:
    """Total weight and mean in float64, whatever the rows hold."""
    if weight is not None:
        total = float(weight.sum())
        mean = weight @ rows.double() / total
    else:
        total = float(len(rows))
        mean = _column_sums(rows) / total
    return total, mean


def _column_sums(rows: Tensor) -> Tensor:
    if (
        rows.device.type == "cpu" and rows.dtype == torch.float32
    ):  # several times faster than torch's mixed-precision sum
        return torch.from_numpy(rows.numpy().sum(axis=0, dtype=np.float64))
    return rows.sum(dim=0, dtype=torch.float64)


def _products(rows: Tensor, weight: Tensor | None, mean: Tensor, wide: bool, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """`(d, d)` whose lower triangle is the scatter about a centre near the mean, and the mean minus that centre."""
    if not wide:
        base = rows.float() if rows.dtype in SINGLE else rows.double()
        centre = mean.to(base.dtype)
        centred = torch.sub(base, centre, out=buffers.take("centred", (len(rows), len(mean)), base)).float()
        lower = _gram(centred if weight is None else centred * weight.sqrt().float()[:, None], buffers)
        if _reliable(lower, centred):
            return lower, mean - centre.double()
    centred = rows.double() - mean
    lower = _gram(centred if weight is None else centred * weight.sqrt()[:, None], buffers)
    return lower, torch.zeros_like(mean)


def _gram(y: Tensor, buffers: Buffers) -> Tensor:
    """`y.T @ y`, at least its lower triangle; the symmetric BLAS product does half the work of a general one."""
    if y.device.type != "cpu":
        return y.mT @ y
    from scipy.linalg import blas

    update = blas.ssyrk if y.dtype == torch.float32 else blas.dsyrk
    out = buffers.take("product", (y.shape[1], y.shape[1]), y)
    # BLAS is column-major: transposed views cost no copy, and the upper triangle of one is the lower of the other
    update(1.0, y.contiguous().numpy().T, c=out.numpy().T, overwrite_c=1, lower=0)
    return out


def _reliable(lower: Tensor, centred: Tensor) -> bool:
    """Whether float32 neither overflowed nor dropped squares below its range."""
    diagonal = lower.diagonal()
    if not bool(torch.isfinite(diagonal).all()):
        return False
    small = (diagonal < TINY).nonzero()[:, 0]
    return len(small) == 0 or not bool(centred[:, small].any())


def _add_lower(total: Tensor, lower: Tensor, first: bool = False) -> None:
    """Add (or write, at `first`) the lower triangle only, in blocks of rows."""
    size = len(total)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        block = total[start:stop, :stop]
        block.copy_(lower[start:stop, :stop]) if first else block.add_(lower[start:stop, :stop])


def move_fourth(cubic: Tensor, quartic: Tensor, count: Tensor, scatter: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of |y|^2 y and |y|^4 about the mean, carried to the centre mean + step (expand |y - step|^2; sum y = 0).

    Args:
        cubic: `(..., d)`.
        quartic: `(...)`.
        count: `(...)`.
        scatter: `(..., d, d)`, symmetric.
        step: `(..., d)`.
    """
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    length = step.square().sum(dim=-1)
    pushed = (scatter @ step[..., None])[..., 0]
    moved = cubic - 2 * pushed - (trace + count * length)[..., None] * step
    fourth = quartic + 4 * (step * pushed).sum(dim=-1) + count * length**2 - 4 * (step * cubic).sum(dim=-1)
    return moved, fourth + 2 * length * trace


def _refuse(x: Tensor, weights: Tensor | None) -> None:
    """Say which rows are not finite, or that the values are too large to square."""
    counted = x if weights is None else torch.where(weights[:, None] > 0, x, 0)
    require_finite(counted)
    raise ValueError(
        f"`x` has values too large to be squared in float64 (largest magnitude {float(counted.abs().max()):.3g}). "
        f"Divide x by a constant first."
    )
