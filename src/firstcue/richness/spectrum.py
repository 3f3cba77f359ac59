"""Where in the spectrum of the features the class, the cue and the learned outputs sit, from the widest direction on.

Three curves over the number k of widest directions: how wide the k-th is (size), how well the first k express the
targets (quality), and how much of what the head reads lies in them (use). With an attribute as a further target one
sees at which rank a spurious feature sits, beside the core one, and which of them the head reads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._blas import eigh, product
from firstcue._checks import as_tensor, encode_labels, require_rows
from firstcue._rows import feature_rows
from firstcue.moments import Moments
from firstcue.richness.alignment import SMALLEST_OUTPUT
from firstcue.richness.joint import cross_scatter, output_rows
from firstcue.richness.low_rank import not_finite

MODES = ("subspace", "energy")
SMALLEST_DIRECTION = 1e-10
"""Share of the largest variance below which a direction of the features is rounding."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Curves over the number of widest directions of the features; entry k - 1 belongs to the first k.

    High quality and low use at small k: good features that the head does not read. High use and low quality: read, but
    not the target. A steep fall of size behind k = C: collapsed, rich features.
    """

    size: Tensor | np.ndarray
    """`(K,)` variance of the k-th direction over that of the first."""

    quality: Tensor | np.ndarray
    """`(K,)` share of the targets that the first k directions express, in [0, 1] and not decreasing."""

    use: Tensor | np.ndarray
    """`(K,)` share of what the outputs are that lies in the first k directions; ends at 1 for outputs linear in them."""

    eigenvalues: Tensor | np.ndarray
    """`(K,)` variances, descending, of the rows that the directions were found on."""

    attributes: Mapping[str, Tensor | np.ndarray] = field(default_factory=dict)
    """Quality with an attribute as the target, by name."""

    rank: int = 0
    """Dimension of the outputs' span."""

    mode: str = "subspace"
    n: int = 0
    """Rows behind quality and use."""

    reason: str = ""
    """Why there are no curves."""

    notes: tuple[str, ...] = ()
    """What to keep in mind when reading them."""

    def curve(self, name: str) -> Tensor | np.ndarray:
        """ "size", "quality", "use", or an attribute by name.

        Raises:
            ValueError: If there is no such curve.
        """
        own = {"size": self.size, "quality": self.quality, "use": self.use, **self.attributes}
        if name not in own:
            raise ValueError(f"there is no curve {name!r}; curves: {', '.join(own)}.")
        return own[name]

    def reached(self, name: str, share: float = 0.9) -> int | None:
        """How many of the widest directions a curve needs for that share of its last value; None without curves."""
        values = np.asarray(self.curve(name))
        enough = np.flatnonzero(values >= share * values[-1] - 1e-12)
        return int(enough[0]) + 1 if len(enough) else None


@dataclass(frozen=True, eq=False)
class _Directions:
    """Principal directions of some rows."""

    origin: Float64[Tensor, " p"]
    variances: Float64[Tensor, " K"]
    scaled: Float64[Tensor, "p K"]
    """Each direction over its standard deviation: (x - origin) @ scaled are functions of unit variance."""


def feature_spectrum(
    features: Any,
    outputs: Any,
    targets: Any,
    mode: str = "subspace",
    *,
    attributes: Mapping[str, Any] | None = None,
    held_out: tuple[Any, ...] | None = None,
    center: bool = True,
) -> Spectrum:
    """Quality, use and size of the principal directions of the features.

    Args:
        features: `(n, p)` what goes into the last linear layer.
        outputs: `(n, C)` what comes out of it, or the layer itself (`Head`, `nn.Linear`).
        targets: `(n,)` class labels of any kind, or a matrix `(n, c)` of one-hot rows or real targets.
        mode: "subspace" counts every direction of the targets alike, "energy" by its variance (the explained share).
        attributes: Further targets by name, for example a cue.
        held_out: `(features, outputs, targets)` or also a mapping of attributes, of other rows: directions are found on
            the first rows, quality and use measured on these.
        center: Leave out the mean of the features, which is otherwise most of the first direction.

    Raises:
        ValueError: If shapes do not fit, or `mode` is unknown.

    Source:
        Nam, Fonseca, Lee, Mingard, Goring, El Harzli, Erturk, Hayou and Louis, Decoupling Dynamical Richness from
        Representation Learning, https://arxiv.org/abs/2410.04264

    Example:
        >>> y = torch.arange(90) % 3
        >>> noise = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
        >>> features = torch.cat([4 * torch.eye(3)[y], noise], dim=1)
        >>> found = feature_spectrum(features, features[:, :3], y)
        >>> found.reached("quality")
        2
    """
    if mode not in MODES:
        raise ValueError(f"`mode` is one of {', '.join(MODES)}; got {mode!r}.")
    as_numpy = isinstance(features, np.ndarray)
    rows = feature_rows(features, "features")
    answers, _ = output_rows(outputs, rows)
    wanted = {"quality": targets, **(attributes or {})}
    families = {name: _columns(values, rows, name) for name, values in wanted.items()}
    reason = not_finite(rows, answers)
    found = None if reason else _directions(rows, center)
    if found is None:
        return _told(None, {}, len(rows), 0, mode, as_numpy, reason or "the features are constant.", tuple(families))
    if held_out is not None:
        rows, answers, families = _other_rows(held_out, rows, outputs, tuple(families))
        reason = not_finite(rows, answers)
        if reason:
            return _told(None, {}, len(rows), 0, mode, as_numpy, f"held out: {reason}", tuple(families))
    functions = _functions(found, rows) if held_out is not None else None
    curves, rank = {}, 0
    for name, family in {"use": answers, **families}.items():
        cut = SMALLEST_OUTPUT if name == "use" else SMALLEST_DIRECTION
        curves[name], dimension = _curve(found, functions, rows, family, mode, cut, center)
        rank = dimension if name == "use" else rank
    return _told(found, curves, len(rows), rank, mode, as_numpy, "", tuple(families))


def _columns(values: Any, rows: Tensor, name: str) -> Tensor:
    """`(n, c)` float64 targets: labels one-hot, matrices and real targets as they are."""
    require_rows(rows, values, "features", "targets" if name == "quality" else name)
    array = as_tensor(values, name) if isinstance(values, Tensor) or np.asarray(values).dtype.kind in "biuf" else None
    if array is not None and array.ndim == 2:
        return array.detach().to(rows.device, torch.float64)
    if array is not None and array.is_floating_point() and not bool((array == array.round()).all()):
        return array.detach().to(rows.device, torch.float64)[:, None]
    ids, names = encode_labels(values, name)
    return torch.nn.functional.one_hot(ids, len(names)).to(rows.device, torch.float64)


def _directions(rows: Tensor, center: bool) -> _Directions | None:
    """Through the covariance, or through the products of rows where these are fewer; None for constant features."""
    n, p = rows.shape
    origin = rows.double().mean(dim=0) if center else torch.zeros(p, dtype=torch.float64, device=rows.device)
    if n <= p:
        shifted = (rows.double() - origin) / n**0.5
        values, left = eigh(product(shifted, shifted.mT))
        kept = values > SMALLEST_DIRECTION * values[-1]
        vectors = product(shifted.mT, left[:, kept] / values[kept].sqrt())
    else:
        moments = Moments.of(rows, precision="float64")
        second = moments.covariance if center else moments.covariance + moments.mean[:, None] * moments.mean
        values, vectors = eigh(second)
        kept = values > SMALLEST_DIRECTION * values[-1]
        vectors = vectors[:, kept]
    if float(values[-1]) <= 1e-20 * float(rows.double().square().mean(dim=0).sum()):
        return None
    variances = values[kept].flip(0)
    return _Directions(origin, variances, vectors.flip(1) / variances.sqrt())


def _other_rows(
    held_out: tuple[Any, ...], rows: Tensor, outputs: Any, names: tuple[str, ...]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    if len(held_out) not in (3, 4):
        raise ValueError(f"`held_out` is (features, outputs, targets) or also attributes; got {len(held_out)} things.")
    other = feature_rows(held_out[0], "held_out features")
    if other.shape[1] != rows.shape[1]:
        raise ValueError(f"`held_out` has {other.shape[1]} features, the other rows {rows.shape[1]}.")
    wanted = {"quality": held_out[2], **(held_out[3] if len(held_out) == 4 else {})}
    if set(wanted) != set(names):
        known = ", ".join(names[1:]) or "none"
        raise ValueError(f"`held_out` needs the same attributes as the other rows, which are: {known}.")
    return other, output_rows(held_out[1], other)[0], {name: _columns(wanted[name], other, name) for name in names}


def _functions(found: _Directions, rows: Tensor) -> Tensor:
    """The directions as functions of other rows, made orthonormal there from the widest on; `(n, K)`."""
    values = product(rows.double() - found.origin, found.scaled)
    values = values - values.mean(dim=0)
    q, r = torch.linalg.qr(values[:, : len(rows) - 1])
    empty = r.diagonal().abs() <= 1e-7 * values[:, : len(rows) - 1].norm(dim=0)
    return torch.where(empty, 0.0, q)


def _curve(
    found: _Directions,
    functions: Tensor | None,
    rows: Tensor,
    family: Tensor,
    mode: str,
    cut: float,
    center: bool,
) -> tuple[Tensor, int]:
    """Cumulated overlap of the directions with the span of a family of functions, and the span's dimension."""
    n = len(rows)
    centred = family.double() - family.double().mean(dim=0) if center or functions is not None else family.double()
    gram = product(centred.mT, centred) / n
    values, vectors = eigh(gram)
    kept = values > cut * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
    if float(values[-1]) <= 1e-20 * float(family.double().square().sum()) / n or not bool(kept.any()):
        return torch.full_like(found.variances, math.nan), 0
    if functions is None:
        zero = torch.zeros_like(centred[0])
        seen = product(found.scaled.mT, cross_scatter(rows, centred, found.origin, zero, None)) / n
    else:
        seen = product(functions.mT, centred) / n**0.5
    if mode == "subspace":
        share = product(seen, vectors[:, kept] / values[kept].sqrt()).square().sum(dim=1) / int(kept.sum())
    else:
        share = seen.square().sum(dim=1) / gram.diagonal().sum()
    return share.cumsum(dim=0).clamp(max=1.0), int(kept.sum())


def _told(
    found: _Directions | None,
    curves: Mapping[str, Tensor],
    n: int,
    rank: int,
    mode: str,
    as_numpy: bool,
    reason: str,
    names: tuple[str, ...],
) -> Spectrum:
    nan = torch.full((1,), math.nan, dtype=torch.float64)
    variances = nan if found is None else found.variances
    length = min((len(c) for c in curves.values()), default=1)

    def out(values: Tensor) -> Tensor | np.ndarray:
        return values[:length].cpu().numpy() if as_numpy else values[:length]

    shown = {name: out(curves.get(name, nan)) for name in ("use", *names)}
    notes = []
    if found is not None and length > n / 5:
        notes.append(f"{length} directions on {n} rows: the ends of the curves fit by chance; use five rows for each.")
    return Spectrum(
        size=out(variances / variances[0]),
        quality=shown["quality"],
        use=shown["use"],
        eigenvalues=out(variances),
        attributes={name: shown[name] for name in names[1:]},
        rank=rank,
        mode=mode,
        n=n,
        reason=reason,
        notes=tuple(notes),
    )
