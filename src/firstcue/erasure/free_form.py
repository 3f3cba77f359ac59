"""Free-form LEACE: erase what a classifier of your choice says about the concept, so that class means come out equal.

LEACE subtracts an affine guess of the label. A better guess, by any classifier, needs to move rows less, down to what an
eraser that sees the label would do; a worse one moves them more, which is said.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._checks import encode_labels, require_classes, require_rows
from firstcue._progress import Progress, silent
from firstcue.erasure._apply import as_rows, in_blocks, like, result_type
from firstcue.erasure._classifier import Answers, cross_fitted, folds_of
from firstcue.erasure._points import flat_rows
from firstcue.erasure.leace import TOLERANCE, leace_from_rows

RESIDUAL = 1e-6
"""Class differences left over, relative to those there were, above which the classifier cannot tell some classes apart."""


@dataclass(frozen=True, eq=False)
class FreeFormEraser:
    """The map x -> x - matrix (f(x) - centre), f the mean answer of fitted classifiers; no label is needed.

    Example:
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> eraser = free_form_leace(x, [0, 0, 1, 1], DecisionTreeClassifier(), cross_fit=False)
        >>> eraser(x)[:, 0]
        tensor([2., 3., 2., 3.])
    """

    matrix: Float64[Tensor, "d m"]
    """What each unit of an answer takes from x."""

    centre: Float64[Tensor, " m"]
    """Mean answer on the rows fitted, whose mean stays where it is."""

    predictors: tuple[Answers, ...]
    """One per fold, or one fitted on all rows."""

    classes: tuple[str, ...]
    """Names of the concept's classes."""

    fitted_answers: Float64[Tensor, "n m"]
    """Answers for the rows fitted: with cross-fitting, by the predictor that had not seen the row."""

    distortion: float
    """Mean squared movement of the rows fitted, in units of x squared."""

    leace_distortion: float
    """The same for `leace`, the best affine edit."""

    gap_before: float
    """Largest distance of a class mean from the mean, over the root mean variance of a feature, on the rows fitted."""

    in_sample_gap: float
    """The same after `eraser(x)` of the rows fitted: zero without cross-fitting."""

    held_out_gap: float | None
    """The same when each fold is edited by what was fitted on the others; None without cross-fitting."""

    def __call__(self, x: Any, group: Any = None) -> Any:
        """Erase the concept from `x`, shape `(n, d)` or as fitted; `group` is accepted and ignored.

        Returns:
            As `x`: shape, type and library; integers become float32.

        Raises:
            ValueError: If `x` has another number of features than the rows fitted.
        """
        rows = as_rows(flat_rows(x), len(self.matrix))
        return like(_subtract(rows, self.answers(rows), self.matrix, self.centre), x)

    def erase_fitted(self, x: Any) -> Any:
        """Erase the concept from the very rows of the fit, in their order: class means come out exactly equal.

        With cross-fitting each row is edited by the classifier that had not seen it, so that no row is treated as if
        its label were known.

        Raises:
            ValueError: If the number of rows is another than at the fit.
        """
        rows = as_rows(flat_rows(x), len(self.matrix))
        if len(rows) != len(self.fitted_answers):
            raise ValueError(
                f"the eraser was fitted on {len(self.fitted_answers)} rows, `x` has {len(rows)}; for other rows call "
                f"eraser(x)."
            )
        return like(_subtract(rows, self.fitted_answers, self.matrix, self.centre), x)

    def answers(self, rows: Tensor) -> Float64[Tensor, "n m"]:
        """What the classifiers say about each row, on average."""
        return _mean_answers(self.predictors, rows)

    @property
    def rank(self) -> int:
        """Number of directions along which rows may move."""
        return int(torch.linalg.matrix_rank(self.matrix))

    def report(self, x: Any, z: Any) -> dict[str, float | None]:
        """What the eraser does to rows `x` with labels `z`; `optimum` is None, as the best classifier is not known.

        See `firstcue.erasure.report.edit_report` for the keys. Rows that were not fitted tell whether the concept is
        gone there too.
        """
        from firstcue.erasure.report import edit_report

        rows = flat_rows(x)
        return edit_report(rows, self(rows), z, rank=self.rank, optimum=lambda _: None)


def free_form_leace(
    x: Any,
    z: Any,
    estimator: Any,
    *,
    cross_fit: int | bool = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> FreeFormEraser:
    """Make class means equal by subtracting what a classifier says of each row: x - S_xz S_fz^+ (f(x) - E f).

    With f(x) the true class probabilities this is, of all functions of x with equal class means, the one that moves rows
    least. With an affine least-squares f it is `leace`; with a classifier that knows its rows by heart it is
    `oracle_leace` on those and worthless on others, which cross-fitting prevents.

    Args:
        x: `(n, d)` rows, or images that are flattened for the classifier.
        z: `(n,)` the concept's labels, of any kind.
        estimator: Any scikit-learn classifier; it is cloned, never changed.
        cross_fit: Number of folds; a row's answer comes from the classifier fitted without its fold, and new rows get the
            mean answer of all. False fits one classifier on all rows: class means of `eraser(x)` are then exactly equal
            on these rows, and may be far apart on others.
        seed: Of the folds, and of every part of the estimator that has a `random_state` of None.
        progress: Called with a stage and the fraction done.

    Returns:
        The eraser, with `in_sample_gap`, `held_out_gap`, `distortion` and `leace_distortion`.

    Warns:
        If it moves rows further than `leace` (by over 1 %), or if the classifier cannot tell some classes apart, whose means then differ.

    Raises:
        ValueError: If there are fewer than two classes, too few rows for the folds, or no classifier.

    Source:
        EleutherAI (2024), Free-form least-squares concept erasure without oracle concept labels,
        https://blog.eleuther.ai/free-form-leace/; Belrose et al. (2023), https://arxiv.org/abs/2306.03819.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> z = x[:, 0] + x[:, 1] > 0
        >>> eraser = free_form_leace(x, z, LogisticRegression())
        >>> eraser.held_out_gap < 0.2 * eraser.gap_before
        True
    """
    rows = flat_rows(x)
    require_rows(rows, z, y_name="z")
    ids, names = encode_labels(z, "z")
    ids = ids.to(rows.device)
    require_classes(torch.bincount(ids, minlength=len(names)), names, "z")
    folds = folds_of(ids.cpu(), cross_fit, seed)
    predictors, answers = cross_fitted(estimator, rows, ids, len(names), folds, seed, progress)
    matrix, centre = _solve(rows, answers, ids, names)
    edited = _subtract(rows.double(), answers, matrix, centre)
    eraser = FreeFormEraser(
        matrix,
        centre,
        predictors,
        names,
        answers,
        distortion=float((edited - rows.double()).square().sum() / len(rows)),
        leace_distortion=_leace_distortion(rows, ids),
        gap_before=_gap(rows, rows, ids),
        in_sample_gap=_gap(_subtract(rows.double(), _mean_answers(predictors, rows), matrix, centre), rows, ids),
        held_out_gap=None if folds is None else _held_out_gap(rows, answers, ids, names, folds),
    )
    _warn_if_worse(eraser)
    return eraser


def _mean_answers(predictors: Sequence[Answers], rows: Tensor) -> Tensor:
    return torch.stack([predictor(rows) for predictor in predictors]).mean(dim=0)


def _solve(rows: Tensor, answers: Tensor, ids: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Matrix M with M Cov(f, z) = Cov(x, z), and the mean answer.

    Answers are taken in units of their spread and classes by their share, so that singular values are correlations and
    a rare class counts as much as others.
    """
    spread = answers.std(dim=0, correction=0)
    scale = torch.where(spread > 1e-12 * (1e-300 + answers.abs().amax(dim=0)), spread, torch.inf)
    wanted, told = _offsets(rows, ids), _offsets(answers, ids) / scale[:, None]
    left, strength, right = torch.linalg.svd(told, full_matrices=False)
    kept = strength.square() > TOLERANCE
    matrix = wanted @ (right[kept].mT / strength[kept]) @ left[:, kept].mT
    residue = wanted - matrix @ told
    if float(residue.norm()) > RESIDUAL * float(wanted.norm()):
        worst = names[int(residue.norm(dim=0).argmax())]
        warnings.warn(
            f"the classifier does not tell class {worst!r} from others on average, so class means still differ (by "
            f"{float(residue.norm() / wanted.norm()):.1%} of what they did). Use a finer classifier, or erase with `leace`.",
            stacklevel=3,
        )
    return matrix / scale, answers.mean(dim=0)


def _offsets(values: Tensor, ids: Tensor) -> Float64[Tensor, "d c"]:
    """sqrt(p_c) (mean_c - mean) for every class that has rows."""
    means, share = _class_means(values, ids)
    return ((means - share @ means) * share.sqrt()[:, None]).mT


def _class_means(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Means `(c, d)` and shares `(c,)` of the classes that have rows."""
    _, places = torch.unique(ids, return_inverse=True)
    counts = torch.bincount(places).double()
    shift = values[:1].double()  # sums of deviations keep digits that sums of large values lose
    sums = torch.zeros(len(counts), values.shape[1], dtype=torch.float64, device=values.device)
    sums.index_add_(0, places, values.double() - shift)
    return sums / counts[:, None] + shift, counts / counts.sum()


def _subtract(rows: Tensor, answers: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
    kind, out = torch.float64, result_type(rows)

    def edit(some: Tensor, said: Tensor) -> Tensor:
        return (some.to(kind) - (said - centre) @ matrix.mT).to(out)

    return in_blocks(edit, rows, answers)


def _gap(edited: Tensor, rows: Tensor, ids: Tensor) -> float:
    means, share = _class_means(edited, ids)
    unit = float(rows.double().var(dim=0, correction=0).mean().sqrt()) or 1.0
    return float((means - share @ means).norm(dim=1).max()) / unit


def _held_out_gap(rows: Tensor, answers: Tensor, ids: Tensor, names: Sequence[str], folds: Tensor) -> float:
    """Class means of all rows when each fold is edited by the matrix and the classifier of the other folds."""
    edited = torch.empty(rows.shape, dtype=torch.float64, device=rows.device)
    for fold in range(int(folds.max()) + 1):
        unseen = (folds == fold).to(rows.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said already for all rows
            matrix, centre = _solve(rows[~unseen], answers[~unseen], ids[~unseen], names)
        edited[unseen] = _subtract(rows[unseen].double(), answers[unseen], matrix, centre)
    return _gap(edited, rows, ids)


def _leace_distortion(rows: Tensor, ids: Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that LEACE would leave a constant is no news of this eraser
        return leace_from_rows(rows, ids).distortion or 0.0


def _warn_if_worse(eraser: FreeFormEraser) -> None:
    if eraser.distortion > eraser.leace_distortion * 1.01:
        warnings.warn(
            f"this classifier makes a worse eraser than a linear one: rows move by {eraser.distortion:.4g} in mean square, by "
            f"{eraser.leace_distortion:.4g} with `leace`. Calibrate it (sklearn's CalibratedClassifierCV), use a better one, or "
            f"use `leace`.",
            stacklevel=3,
        )
