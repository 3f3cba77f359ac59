"""How many directions the features really use: five effective ranks of one spectrum, and the intrinsic dimension.

All are read from the eigenvalues of the covariance, so they need one pass of moments and no labels. They differ in how
much weight they give to small directions; where they disagree, the spectrum is steep, and that is the finding.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from firstcue._checks import require_finite
from firstcue._extras import require_extra
from firstcue._rows import feature_rows
from firstcue.moments import Moments

RANKME_OFFSET = 1e-7
"""Added to every share of a singular value, as its authors do."""

SMALLEST_WINDOW = 5
"""Fewest eigenvalues through which a slope is fitted."""


@dataclass(frozen=True)
class EffectiveRanks:
    """Effective ranks of one set of features; NaN where features are constant or a spectrum is too short."""

    participation_ratio: float
    """(sum of eigenvalues)^2 / sum of squares: from 1 (one direction) to d (white)."""

    entropy_rank: float
    """exp of the entropy of the eigenvalues' shares."""

    rankme: float
    """exp of the entropy of the singular values' shares, of features as they are (not centred)."""

    stable_rank: float
    """Sum of eigenvalues / largest, of centred features: at most the participation ratio."""

    alpha: float
    """Slope of -log eigenvalue over log index (alpha-ReQ): below 1 flat, above 1 steep."""

    alpha_fit: float
    """R^2 of that straight line; far below 1, the spectrum is no power law and alpha says little."""

    alpha_window: tuple[int, int]
    """First and last index, from 1, of the eigenvalues in the fit."""

    rank: int
    """Eigenvalues above rounding."""

    n: int
    """Rows."""

    d: int
    """Features."""


def effective_ranks(features: Any, *, window: tuple[int, int] | None = None) -> EffectiveRanks:
    """All effective ranks of features, in one go.

    Every one of them is bounded by the number of rows minus one: take several times more rows than features.

    Args:
        features: `(n, d)` array or tensor, or `Moments` without group axis.
        window: First and last index, from 1, of the eigenvalues through which alpha is fitted; by default from 10 to
            min(rank, 1000), or from 1 where there are too few.

    Raises:
        ValueError: If features are not finite rows, or there is but one.

    Source:
        Garrido et al. (2023), RankMe, https://arxiv.org/abs/2210.02885; Agrawal et al. (2022), alpha-ReQ,
        https://openreview.net/forum?id=ii9X4vtZGTZ; Roy and Vetterli (2007), The effective rank, EUSIPCO.

    Example:
        >>> found = effective_ranks(torch.eye(8))
        >>> round(found.participation_ratio, 6), round(found.entropy_rank, 6), found.rank
        (7.0, 7.0, 7)
    """
    centred, raw, n, d = _spectra(features)
    rank = int((centred > _cut(centred, n)).sum())
    kept = centred[:rank]
    alpha, fit, used = alpha_req(kept, window=window)
    return EffectiveRanks(
        participation_ratio(kept), entropy_rank(kept), _rankme(raw, min(n, d)), stable_rank(kept), alpha, fit, used, rank, n, d
    )  # fmt: skip


def participation_ratio(eigenvalues: Any) -> float:
    """(sum)^2 / sum of squares of a spectrum; NaN if all are zero.

    Example:
        >>> participation_ratio([2.0, 2.0, 0.0])
        2.0
    """
    spectrum = _spectrum(eigenvalues)
    return float(spectrum.sum() ** 2 / (spectrum**2).sum()) if len(spectrum) and float(spectrum.max()) > 0 else math.nan


def stable_rank(eigenvalues: Any) -> float:
    """Sum over largest of a spectrum of squared singular values; NaN if all are zero.

    Example:
        >>> stable_rank([4.0, 2.0, 2.0])
        2.0
    """
    spectrum = _spectrum(eigenvalues)
    return float(spectrum.sum() / spectrum.max()) if len(spectrum) and float(spectrum.max()) > 0 else math.nan


def entropy_rank(eigenvalues: Any) -> float:
    """exp of the Shannon entropy (nats) of the shares of a spectrum; NaN if all are zero.

    Example:
        >>> round(entropy_rank([1.0, 1.0, 1.0]), 9)
        3.0
    """
    spectrum = _spectrum(eigenvalues)
    total = spectrum.sum()
    if not len(spectrum) or float(total) <= 0:
        return math.nan
    share = spectrum / total
    return float(torch.special.entr(share).sum().exp())


def alpha_req(eigenvalues: Any, *, window: tuple[int, int] | None = None) -> tuple[float, float, tuple[int, int]]:
    """Power-law exponent of a spectrum: the slope of -log eigenvalue over log index, its R^2, and the window used.

    Args:
        eigenvalues: Positive, in any order.
        window: First and last index from 1; by default 10 to min(length, 1000), or from 1 where that leaves fewer
            than five.

    Returns:
        alpha, R^2 of the fit, and the window; NaN where fewer than five eigenvalues are left.

    Source:
        Agrawal et al. (2022), alpha-ReQ, https://openreview.net/forum?id=ii9X4vtZGTZ.

    Example:
        >>> alpha, fit, _ = alpha_req([k**-1.5 for k in range(1, 101)])
        >>> round(alpha, 6), round(fit, 6)
        (1.5, 1.0)
    """
    spectrum = _spectrum(eigenvalues).sort(descending=True).values
    spectrum = spectrum[spectrum > 0]
    first, last = _window(len(spectrum), window)
    if last - first + 1 < SMALLEST_WINDOW:
        return math.nan, math.nan, (first, last)
    x = torch.arange(first, last + 1, dtype=torch.float64).log()
    y = -spectrum[first - 1 : last].log()
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / (x * x).sum())
    total = float((y * y).sum())
    fit = 1 - float(((y - slope * x) ** 2).sum()) / total if total > 0 else math.nan
    return slope, fit, (first, last)


def intrinsic_dimension(features: Any, *, estimator: Any = None, max_rows: int = 5000, seed: int = 0) -> float:
    """Dimension of the manifold on which features lie, from distances to near neighbours (TwoNN).

    Curved sheets count by their own dimension, so it is at most the linear ranks above. Copies of a row have distance
    zero and are dropped.

    Args:
        features: `(n, d)`.
        estimator: Any object of `skdim.id` with `fit_transform(x)`; `TwoNN()` by default.
        max_rows: More rows than this are thinned at random: cost grows with their square.
        seed: Of the thinning.

    Raises:
        MissingExtra: Without scikit-dimension.
        ValueError: If features are not finite rows, or fewer than ten distinct ones.

    Source:
        Facco et al. (2017), https://doi.org/10.1038/s41598-017-11873-y.

    Example:
        >>> intrinsic_dimension(torch.rand(1000, 2) @ torch.randn(2, 30))  # doctest: +SKIP
        2.0...
    """
    rows = feature_rows(features, "features")
    require_finite(rows, "features")
    estimators = require_extra("skdim.id", "id", "intrinsic dimension")
    distinct = torch.unique(rows.cpu().double(), dim=0)
    if len(distinct) < 10:
        raise ValueError(
            f"`features` has {len(distinct)} distinct rows; neighbours tell a dimension from ten on, and well from hundreds."
        )
    if len(distinct) > max_rows:
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
        distinct = distinct[order[:max_rows]]
    chosen = estimators.TwoNN() if estimator is None else estimator
    return float(chosen.fit_transform(distinct.numpy()))


def _spectra(features: Any) -> tuple[Float64[Tensor, " k"], Float64[Tensor, " k"], int, int]:
    """Eigenvalues, descending, of the centred and of the raw second moment; n and d."""
    if isinstance(features, Moments):
        if features.count.ndim:
            raise ValueError("these moments have a group axis; pool them first: effective_ranks(moments.pool()).")
        _require_two(int(features.rows))
        raw = features.covariance + features.mean[:, None] * features.mean
        return _eigenvalues(features.covariance), _eigenvalues(raw), int(features.rows), len(features.mean)
    rows = feature_rows(features, "features")
    require_finite(rows, "features")
    _require_two(len(rows))
    if len(rows) > rows.shape[1]:
        return _spectra(Moments.of(rows))
    wide = rows.double()
    centred = wide - wide.mean(dim=0)
    n = len(rows)
    return _eigenvalues(centred @ centred.mT / n), _eigenvalues(wide @ wide.mT / n), n, rows.shape[1]


def _require_two(n: int) -> None:
    if n < 2:
        raise ValueError(f"`features` has {n} rows; a spectrum needs at least two, and several times d to be trusted.")


def _eigenvalues(matrix: Float64[Tensor, "k k"]) -> Float64[Tensor, " k"]:
    return torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)


def _cut(spectrum: Tensor, n: int) -> float:
    return max(len(spectrum), n) * torch.finfo(torch.float64).eps * float(spectrum[0])


def _rankme(raw: Tensor, count: int) -> float:
    sigma = raw[:count].sqrt()
    if float(sigma.sum()) <= 0:
        return math.nan
    share = sigma / sigma.sum() + RANKME_OFFSET
    return float(torch.special.entr(share).sum().exp())


def _window(count: int, window: tuple[int, int] | None) -> tuple[int, int]:
    if window is not None:
        if not 1 <= window[0] < window[1]:
            raise ValueError(f"`window` is a first and a last index from 1, in this order; got {window}.")
        return window[0], min(window[1], count)
    last = min(count, 1000)
    return (10 if last - 9 >= SMALLEST_WINDOW else 1), last


def _spectrum(eigenvalues: Any) -> Float[Tensor, " k"]:
    spectrum = torch.as_tensor(eigenvalues).detach().to("cpu", torch.float64)
    if spectrum.ndim != 1 or not bool(torch.isfinite(spectrum).all()) or bool((spectrum < 0).any()):
        raise ValueError(
            f"a spectrum is one row of finite numbers, none negative; got shape {tuple(spectrum.shape)}. Clip rounding "
            f"errors of a covariance first: eigenvalues.clamp(min=0)."
        )
    return spectrum
