"""LEACE: the smallest affine edit after which no linear probe of the concept beats a constant."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import one_hot

from firstcue._checks import encode_labels, require_classes, require_finite, require_rows
from firstcue._rows import feature_rows
from firstcue.erasure.affine import AffineEraser
from firstcue.linalg import EPS, PsdFactor, factor_psd, factor_rows
from firstcue.moments import Moments

TOLERANCE = 1e-10
"""Squared correlation of a direction with the concept below which it is taken for rounding."""


def leace(by_class: Moments, *, shrinkage: Callable[[Moments], Tensor] | None = None) -> AffineEraser:
    """The affine map of least mean squared movement whose output has equal class means.

    Equal class means are the same as no linear classifier beating a constant one, for any convex loss. On the rows whose
    moments these are the guarantee is exact, whatever the covariance; with fewer rows than features it may not extend to
    others.

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.
        shrinkage: Covariance estimator that decides which directions are cheap to move, such as `oas`; None takes the
            covariance of the rows. It does not touch the guarantee.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        Belrose et al. (2023), LEACE: perfect linear concept erasure in closed form, https://arxiv.org/abs/2306.03819.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> erased = leace(Moments.of_groups(x, ["in", "in", "out", "out"]))(x)
        >>> bool((erased[:2].mean(dim=0) - erased[2:].mean(dim=0)).abs().max() < 1e-6)
        True
    """
    whole = _whole(by_class)
    eraser = leace_map(class_offsets(by_class), (shrinkage or _covariance)(whole), whole.mean, rows=int(whole.rows))
    return eraser if shrinkage is None else replace(eraser, distortion=_distortion(eraser, whole.covariance))


def leace_continuous(joint: Moments, num_features: int) -> AffineEraser:
    """LEACE for a concept made of real numbers: soft labels, several labels per row, regression targets.

    Args:
        joint: Moments of the columns `[x, z]` side by side: features first, then the concept.
        num_features: How many of the columns are features.

    Returns:
        The eraser of x after which every linear function of x has zero covariance with every column of z.

    Raises:
        ValueError: If no column is left for the concept, or the concept is constant.

    Source:
        Belrose et al. (2023), https://arxiv.org/abs/2306.03819, theorem 4.3.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [3.0, 0.0]])
        >>> target = torch.tensor([[0.1], [1.0], [2.2], [2.9]])
        >>> eraser = leace_continuous(Moments.of(torch.cat([x, target], dim=1)), num_features=2)
        >>> float(eraser(x).mT[0] @ (target - target.mean())) < 1e-5
        True
    """
    if joint.count.ndim != 0 or not 0 < num_features < joint.mean.shape[-1]:
        raise ValueError(
            f"`joint` needs the moments of the columns [x, z] without groups, features first; found group axes "
            f"{tuple(joint.count.shape)} and {joint.mean.shape[-1]} columns for `num_features` = {num_features}. "
            f"Build it with Moments.of(torch.cat([x, z], dim=1))."
        )
    if float(joint.count) == 0:
        raise ValueError("`joint` holds no rows; nothing can be fitted.")
    covariance, mean = joint.covariance, joint.mean
    concept = factor_psd(
        covariance[num_features:, num_features:], rows=int(joint.rows), constant_below=_rounding(mean[num_features:])
    )
    if concept.rank == 0:
        raise ValueError(
            "the concept (the columns after the features) is constant over all rows; there is nothing to erase."
        )
    cross = concept.whiten(covariance[num_features:, :num_features]).mT
    features = covariance[:num_features, :num_features]
    return leace_map(cross, features, mean[:num_features], rows=int(joint.rows))


def orthogonal_eraser(by_class: Moments) -> AffineEraser:
    """Project the differences between class means out along themselves: as safe as `leace`, but moves rows further.

    It never lengthens a vector, and reads nothing but the directions of the class means.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        The case W = I of Belrose et al. (2023), https://arxiv.org/abs/2306.03819.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-1.0, 2.0], [-1.0, 0.0]])
        >>> orthogonal_eraser(Moments.of_groups(x, ["in", "in", "out", "out"])).rank
        1
    """
    whole = _whole(by_class)
    directions, length, _ = torch.linalg.svd(class_offsets(by_class), full_matrices=False)
    variance = (directions * (whole.covariance @ directions)).sum(dim=0)
    kept = directions[:, length.square() > TOLERANCE * variance.clamp(min=torch.finfo(variance.dtype).tiny)]
    _warn_if_everything_goes(kept.shape[1], len(whole.mean))
    eraser = AffineEraser(kept, kept, whole.mean)
    return replace(eraser, distortion=_distortion(eraser, whole.covariance))


def leace_from_rows(x: Any, z: Any) -> AffineEraser:
    """LEACE where rows are fewer than features, without a d x d matrix: memory n d + n^2, work n^2 d.

    With more rows than features it is `leace(Moments.of_groups(x, z))`.

    Args:
        x: `(n, d)`.
        z: `(n,)` labels of any kind.

    Raises:
        ValueError: As for `leace` and `Moments.of_groups`.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 0.0, 5.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 3.0, 1.0]])
        >>> leace_from_rows(x, ["in", "in", "out"]).rank
        1
    """
    rows = feature_rows(x)
    require_rows(rows, z, y_name="z")
    if len(rows) > rows.shape[1]:
        return leace(Moments.of_groups(rows, z))
    require_finite(rows)
    ids, classes = encode_labels(z, "z")
    require_classes(torch.bincount(ids, minlength=len(classes)), classes, "z")
    mean = rows.mean(dim=0, dtype=torch.float64)
    centred = rows.double() - mean
    member = one_hot(ids.to(rows.device), len(classes)).double()
    member = member[:, member.any(dim=0)]
    offsets = centred.mT @ (member / (len(rows) * member.sum(dim=0)).sqrt())
    return leace_map(offsets, factor_rows(centred, constant_below=_rounding(mean)), mean, rows=len(rows))


def class_offsets(by_class: Moments) -> Float64[Tensor, "d k"]:
    """sqrt(p_c) (mean_c - mean) of every class that has rows: their scatter is the covariance that class means explain.

    The root gives a rare class the weight that makes strengths of erasure squared correlations.
    """
    present = by_class.count > 0
    share = by_class.count[present] / by_class.count.sum()
    means = by_class.mean[present]
    centre = (share[:, None] * means).sum(dim=0)
    return ((means - centre) * share.sqrt()[:, None]).mT


def leace_map(
    cross: Float[Tensor, "d k"],
    covariance: Float[Tensor, "d d"] | PsdFactor,
    mean: Float[Tensor, " d"],
    *,
    rows: int = 0,
) -> AffineEraser:
    """The smallest edit, in the metric of `covariance`, that makes every column of `cross` vanish.

    With G = S^+ C and K = C^T G = V diag(w) V^T the map is P = I - C V diag(1/w) (G V)^T; w are squared correlations
    between the features and the concept.

    Args:
        cross: C, covariance of the features with a concept of unit variance; for classes, `class_offsets(by_class)`.
        covariance: S, or its factor where many concepts share it.
        mean: The point to leave where it is.
        rows: Number of rows behind the moments, for the decision which directions hold any variance.

    Example:
        >>> one = torch.ones(2, 1, dtype=torch.float64)
        >>> leace_map(0.1 * one, torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)).projection
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]], dtype=torch.float64)
    """
    factor = (
        covariance
        if isinstance(covariance, PsdFactor)
        else factor_psd(covariance, rows=rows, constant_below=_rounding(mean))
    )
    seen = torch.where(torch.isfinite(factor.scale)[:, None], cross, 0.0)
    white = factor.whiten(seen)
    strength, basis = torch.linalg.eigh(white.mT @ white)
    kept = strength > TOLERANCE
    right, concept = factor.unwhiten(white @ basis[:, kept]), basis[:, kept]
    hidden, hidden_concept = _hidden(factor, seen, basis[:, ~kept], mean)
    reads = torch.cat([right / strength[kept], hidden], dim=1)
    offsets = seen @ torch.cat([concept, hidden_concept], dim=1)
    # reads^T offsets is the identity up to rounding; dividing by what it is makes P offsets vanish to the last digit
    left = torch.linalg.solve(reads.mT @ offsets, offsets, left=False)
    _warn_if_everything_goes(reads.shape[1], factor.rank)
    moved = left.square().sum(dim=0)[: right.shape[1]] / strength[kept]
    return AffineEraser(left, reads, mean, float(moved.sum()))


def _hidden(factor: PsdFactor, seen: Tensor, weak: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Class differences that lie only where the variance drowned in the rounding of the covariance.

    Class means are known better than the covariance. Such a difference is real when it exceeds their rounding, and that of
    the rows, which is no larger than what rounding did to the covariance.
    Returns the directions that read it, `(d, m)`, and the combinations of concepts it belongs to, `(k, m)`.
    """
    rest = factor.outside(seen) @ weak
    directions, length, concept = torch.linalg.svd(rest, full_matrices=False)
    rounding = 1e3 * EPS * (len(mean) ** 0.5 + float((mean / factor.scale).norm()))
    real = length > max(rounding, factor.cut)
    return directions[:, real] / length[real] / factor.scale[:, None], weak @ concept.mT[:, real]


def _whole(by_class: Moments) -> Moments:
    if by_class.count.ndim != 1:
        raise ValueError(
            f"`by_class` needs one group axis, the classes of the concept; found {by_class.count.ndim}. "
            f"Build it with Moments.of_groups(x, z)."
        )
    require_classes(by_class.count, by_class.classes or [str(i) for i in range(len(by_class.count))], "z")
    return by_class.pool()


def _covariance(moments: Moments) -> Tensor:
    return moments.covariance


def _rounding(mean: Tensor) -> Tensor:
    """Variance that a constant feature of this size may show by rounding."""
    return (64 * EPS * mean).square()


def _distortion(eraser: AffineEraser, covariance: Tensor) -> float:
    """Mean squared movement of rows with this covariance."""
    read = eraser.right.mT @ (covariance @ eraser.right)
    return float((eraser.left.mT @ eraser.left * read).sum())


def _warn_if_everything_goes(removed: int, available: int) -> None:
    if 0 < available <= removed:
        warnings.warn(
            f"the concept spans all {available} directions in which x varies, so erasing it leaves a constant: no other "
            f"information survives. Use fewer classes than features, or erase at a wider layer.",
            stacklevel=4,
        )
