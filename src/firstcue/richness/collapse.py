"""Neural collapse: how far classes have shrunk to points, at equal angles, that the head reads as they lie.

All four measures are functions of the moments of each class; they need labels and assume balanced classes, which D_LR
does not.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._checks import encode_labels, require_finite, require_rows
from firstcue._rows import feature_rows
from firstcue.linalg import EPS
from firstcue.moments import Moments
from firstcue.richness.joint import head_weights

SMALLEST_BETWEEN = 1e-8
"""Share of the largest variance between classes below which a direction between them is rounding."""


@dataclass(frozen=True)
class Collapse:
    """Measures of neural collapse, each 0 where collapse is complete and NaN where it is not defined."""

    nc1: float
    """tr(Sigma_W Sigma_B^+) / K: variance within classes in units of that between them, along it. Unbounded."""

    nc1_trace: float
    """tr Sigma_W / tr Sigma_B: the same in all directions at once; stable where class means nearly coincide."""

    cdnv: float
    """Mean over pairs of classes of (v + v') / (2 |m - m'|^2), the class-distance normalised variance."""

    nc2: float
    """Distance of the class means' normalised products from those of a simplex: unequal lengths and angles at once."""

    nc2_lengths: float
    """Spread of the lengths of the class means about the global mean, relative to their mean."""

    nc2_angles: float
    """Mean over pairs of |cos + 1 / (K - 1)|."""

    nc3: float | None
    """Squared distance between the head's weights and the class means, both of norm 1; None without a head."""

    nc4: float | None
    """Share of rows that the head gives to another class than the nearest class mean; None without rows and head."""

    centre_accuracy: float | None
    """Accuracy of the nearest class mean; None without rows and labels."""

    num_classes: int
    """Classes with rows."""

    reason: str = ""
    """Why there are no numbers."""

    notes: tuple[str, ...] = ()


def neural_collapse(by_class: Moments, head: Any = None, features: Any = None, labels: Any = None) -> Collapse:
    """NC1 to NC4 of features whose moments are known for each class.

    Args:
        by_class: `Moments.of_groups(features, y)`; classes without rows are left out.
        head: The layer that reads the features (`Head`, `nn.Linear`), whose k-th row belongs to the k-th class; for NC3
            and NC4.
        features: `(n, p)` rows, for NC4.
        labels: `(n,)` their classes, for the accuracy of the nearest class mean.

    Raises:
        ValueError: If there is no class axis, or shapes do not fit.

    Source:
        Papyan, Han and Donoho (2020), https://arxiv.org/abs/2008.08186; the stable forms of NC1 after Galanti, György and
        Hutter (2022), https://arxiv.org/abs/2112.15121; NC2 as one number after Zhu et al. (2021),
        https://arxiv.org/abs/2105.02375

    Example:
        >>> corners = torch.eye(3).repeat(4, 1)
        >>> found = neural_collapse(Moments.of_groups(corners, torch.arange(12) % 3))
        >>> round(found.nc1, 9), round(found.nc2, 9)
        (0.0, 0.0)
    """
    if by_class.count.ndim != 1:
        raise ValueError("neural collapse compares classes; give `Moments.of_groups(features, y)`.")
    kept = (by_class.count > 0).nonzero()[:, 0]
    if len(kept) < 2:
        return _undefined(len(kept), f"{len(kept)} class has rows; collapse compares at least two.")
    means = by_class.mean[kept]
    centred = means - means.mean(dim=0)
    total = float(by_class.count.sum())
    within = by_class.scatter[kept].sum(dim=0) / total
    size = float(means.square().sum())
    if float(centred.square().sum()) <= 1e-20 * size:
        return _undefined(len(kept), "all classes have the same mean: there is nothing between them.")
    nearest = _nearest(means, features)
    weight = None if head is None else head_weights(head, means.shape[1])
    if weight is not None and len(weight[0]) != len(by_class.count):
        raise ValueError(f"the head has {len(weight[0])} outputs but the moments {len(by_class.count)} classes.")
    return Collapse(
        nc1=_nc1(within, centred, size),
        nc1_trace=float(within.diagonal().sum() / centred.square().sum(dim=1).mean()),
        cdnv=_cdnv(by_class, kept),
        nc2=_simplex_distance(centred),
        nc2_lengths=float(centred.norm(dim=1).std(correction=0) / centred.norm(dim=1).mean()),
        nc2_angles=_angles(centred),
        nc3=None if weight is None else _duality(weight[0][kept], centred),
        nc4=None if weight is None or nearest is None else _disagreement(weight, kept, features, nearest),
        centre_accuracy=None if nearest is None or labels is None else _accuracy(by_class, kept[nearest], labels),
        num_classes=len(kept),
        notes=_notes(by_class, kept),
    )


def _undefined(k: int, reason: str) -> Collapse:
    nan = math.nan
    return Collapse(nan, nan, nan, nan, nan, nan, None, None, None, k, reason)


def _nc1(within: Float64[Tensor, "p p"], centred: Float64[Tensor, "K p"], size: float) -> float:
    """tr(Sigma_W Sigma_B^+) / K through the K x K products of means; no noise eigenvalue is ever inverted."""
    k = len(centred)
    values, vectors = torch.linalg.eigh(centred @ centred.mT)
    values, vectors = values.flip(0)[: k - 1], vectors.flip(1)[:, : k - 1]
    kept = values > max(SMALLEST_BETWEEN * float(values[0]), k * EPS * size)
    directions = centred.mT @ (vectors[:, kept] / values[kept].sqrt())
    # Sigma_B has eigenvalues values / K, so its pseudo-inverse brings a factor K that the division takes away again
    return float(((within @ directions) * directions).sum(dim=0) @ (1 / values[kept]))


def _cdnv(by_class: Moments, kept: Tensor) -> float:
    variance = by_class.scatter.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[kept] / by_class.count[kept]
    gap = (by_class.mean[kept][:, None] - by_class.mean[kept]).square().sum(dim=-1)
    pairs = ~torch.eye(len(kept), dtype=torch.bool, device=gap.device)
    each = (variance[:, None] + variance) / (2 * gap)
    return float(each[pairs].mean())


def _simplex_distance(centred: Tensor) -> float:
    k = len(centred)
    products = centred @ centred.mT
    simplex = (torch.eye(k, dtype=torch.float64, device=centred.device) - 1 / k) / (k - 1) ** 0.5
    return float((products / products.norm() - simplex).norm())


def _angles(centred: Tensor) -> float:
    k = len(centred)
    unit = centred / centred.norm(dim=1, keepdim=True)
    pairs = ~torch.eye(k, dtype=torch.bool, device=centred.device)
    return float(((unit @ unit.mT)[pairs] + 1 / (k - 1)).abs().mean())


def _duality(weight: Tensor, centred: Tensor) -> float:
    """The part of the weights that all classes share is left out: softmax cannot see it."""
    rows = (weight - weight.mean(dim=0)).to(centred.device)
    return float((rows / rows.norm() - centred / centred.norm()).square().sum())


def _nearest(means: Tensor, features: Any) -> Tensor | None:
    """Which mean each row is nearest to."""
    if features is None:
        return None
    rows = feature_rows(features, "features")
    require_finite(rows, "features")
    if rows.shape[1] != means.shape[1]:
        raise ValueError(f"`features` has {rows.shape[1]} columns but the moments {means.shape[1]}.")
    origin = means.mean(dim=0)
    shifted = means - origin
    lengths = shifted.square().sum(dim=1)
    parts = [(lengths - 2 * (part.double() - origin) @ shifted.mT).argmin(dim=1) for part in rows.split(4096)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _disagreement(weight: tuple[Tensor, Tensor], kept: Tensor, features: Any, nearest: Tensor) -> float:
    matrix, bias = (t[kept] for t in weight)
    rows = feature_rows(features, "features")
    answers = [(part.double() @ matrix.mT + bias).argmax(dim=1) for part in rows.split(4096)]
    return float((torch.cat(answers) != nearest).double().mean()) if len(nearest) else math.nan


def _accuracy(by_class: Moments, answers: Tensor, labels: Any) -> float:
    require_rows(answers, labels, "features", "labels")
    ids, names = encode_labels(labels, "labels")
    known = {name: i for i, name in enumerate(by_class.classes or map(str, range(len(by_class.count))))}
    strange = [name for name in names if name not in known]
    if strange:
        raise ValueError(f"`labels` holds the class {strange[0]!r}, which the moments do not know: {', '.join(known)}.")
    place = torch.tensor([known[name] for name in names], device=answers.device)
    return float((answers == place[ids.to(answers.device)]).double().mean())


def _notes(by_class: Moments, kept: Tensor) -> tuple[str, ...]:
    counts, notes = by_class.count[kept], []
    if len(kept) < len(by_class.count):
        notes.append(f"{len(by_class.count) - len(kept)} classes have no rows and were left out.")
    if float(counts.max()) > 2 * float(counts.min()):
        notes.append("classes are of unequal size, for which collapse is not expected to end in a simplex.")
    if int(by_class.rows[kept].min()) < 2:
        notes.append("a class has a single row, whose variance is unknown and counts as 0.")
    return tuple(notes)
