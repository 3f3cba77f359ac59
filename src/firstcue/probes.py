"""Can it be read? Linear and quadratic probes in closed form from class moments, and strong ones from scikit-learn.

What a probe reads is encoded. Whether a model uses it is another question, which no probe answers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows
from firstcue.linalg import eigh_psd, factor_psd
from firstcue.moments import Moments
from firstcue.shrinkage import oas

Kind = Literal["linear", "quadratic", "strong"]

MAX_DIRECTIONS = 64
"""Whitened principal directions that quadratic and strong probes see of a wider input."""
MAX_ROWS = 5000
"""Rows that a strong probe sees."""
SHUFFLED_ROWS = 2000
"""Rows of the shuffled-label baseline."""
MIN_ROWS = 4
"""Rows below which a class is left out of a held-out measurement."""
_CHUNK = 4096


@dataclass(frozen=True)
class Probe:
    """Logits that are a quadratic function of x: -|half_c^T (x - mean_c)|^2 / 2 + offset_c, or linear where halves agree."""

    weight: Tensor | None
    """`(k, d)` of a linear probe."""
    offset: Tensor
    """`(k,)`."""
    means: Tensor
    """`(k, d)`; for a linear probe the one centre, repeated."""
    halves: Tensor | None = None
    """`(k, d, d)` inverse square roots of the class covariances of a quadratic probe."""
    ridge: float = 0.0
    """Share of the pooled covariance mixed into each class's, 0 where all classes have full rank."""

    def __call__(self, x: Any) -> Any:
        """Logits `(n, k)` of `x` `(n, d)`, in its dtype and type."""
        vectors = as_tensor(x)
        dtype = vectors.dtype if vectors.is_floating_point() else torch.float64
        out = (
            torch.cat([self._part(part) for part in vectors.split(_CHUNK)])
            if len(vectors)
            else vectors.new_zeros(0, len(self.offset))
        )
        return out.to(dtype).numpy() if isinstance(x, np.ndarray) else out.to(dtype)

    def _part(self, x: Tensor) -> Tensor:
        wide = x.double()
        if self.weight is not None:
            return (wide - self.means[0]) @ self.weight.mT + self.offset
        assert self.halves is not None
        return torch.stack(
            [
                self.offset[c] - 0.5 * ((wide - self.means[c]) @ self.halves[c]).square().sum(dim=1)
                for c in range(len(self.means))
            ],
            dim=1,
        )


def linear_probe(by_class: Moments, *, balanced: bool = False, shrink: bool = False) -> Probe:
    """Fisher's linear discriminant from class moments: the Bayes rule for Gaussians with one covariance.

    Args:
        by_class: Moments per class, `(k, d)`.
        balanced: Give all classes the same prior instead of their share.
        shrink: Shrink the pooled covariance (OAS), for fewer than about 5 d rows.

    Returns:
        The probe; a class without rows gets logit -inf.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        R. A. Fisher, The use of multiple measurements in taxonomic problems (1936).

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> linear_probe(Moments.of_groups(x, [0, 0, 1, 1]))(x).argmax(dim=1).tolist()
        [0, 0, 1, 1]
    """
    within = _pooled_within(by_class)
    covariance = oas(within) if shrink else within.covariance
    centre = by_class.pool().mean
    offsets = by_class.mean - centre
    weight = factor_psd(covariance, rows=int(within.rows)).solve(offsets.mT).mT
    prior = _log_prior(by_class, balanced)
    offset = prior - 0.5 * (weight * offsets).sum(dim=1)
    return Probe(weight, offset, centre[None])


def quadratic_probe(by_class: Moments, *, balanced: bool = False) -> Probe:
    """The quadratic discriminant from class moments: the Bayes rule for Gaussians.

    A class covariance without full rank (at most d rows, constant features) has no inverse; the share
    d / (smallest class + d) of the pooled one is then mixed into every class's, and said in `ridge`.

    Args:
        by_class: Moments per class, `(k, d)`.
        balanced: Give all classes the same prior.

    Returns:
        The probe, with `ridge` 0 where no regularisation was needed.

    Raises:
        ValueError: If fewer than two classes have rows.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0], [-3.0], [3.0]])  # same mean, other spread
        >>> quadratic_probe(Moments.of_groups(x, [0, 0, 1, 1]))(x).argmax(dim=1).tolist()
        [0, 0, 1, 1]
    """
    within = _pooled_within(by_class)
    present, d = by_class.count > 0, by_class.mean.shape[1]
    covariances = torch.where(
        present[:, None, None], by_class.scatter / by_class.count.clamp(min=1)[:, None, None], within.covariance
    )
    value, _, used = eigh_psd(covariances, rows=int(within.rows))
    # directions that are constant in every class carry nothing and are dropped, not regularised
    _, common, kept = eigh_psd(within.covariance, rows=int(within.rows))
    basis = common[:, kept]
    covariances = basis.mT @ covariances @ basis
    deficient = bool((used.sum(dim=1) < kept.sum())[present].any())
    ridge = d / (float(by_class.rows[present].min()) + d) if deficient else 0.0
    mixed = (1 - ridge) * covariances + ridge * (basis.mT @ within.covariance @ basis)
    value, vector = torch.linalg.eigh(mixed)
    value = value.clamp(min=torch.finfo(torch.float64).tiny)
    halves = basis @ (vector / value.sqrt()[:, None, :])
    offset = _log_prior(by_class, balanced) - 0.5 * value.log().sum(dim=1)
    return Probe(None, offset, by_class.mean, halves, ridge)


def _pooled_within(by_class: Moments) -> Moments:
    """Moments about each class's own mean, as one distribution."""
    if int((by_class.count > 0).sum()) < 2:
        raise ValueError(f"a probe needs rows of at least two classes; rows per class found: {by_class.rows.tolist()}.")
    mean = torch.zeros_like(by_class.mean[0])
    return Moments(by_class.count.sum(), mean, by_class.scatter.sum(dim=0), by_class.rows.sum())


def _log_prior(by_class: Moments, balanced: bool) -> Tensor:
    share = by_class.count / by_class.count.sum()
    return torch.where(share > 0, torch.zeros_like(share) if balanced else share.log(), -torch.inf)


@dataclass(frozen=True)
class ProbeResult:
    """How well a probe reads a label on rows that it was not fitted on."""

    kind: str
    accuracy: float
    """Balanced: the mean over classes of the accuracy within each. NaN where fewer than two classes can be measured."""
    ci_low: float
    ci_high: float
    n: int
    """Rows it was measured on."""
    baseline: float
    """The same with shuffled labels."""
    baseline_kind: str = "shuffled labels"
    note: str = ""
    """What was regularised, reduced or left out."""


def strong_probe(
    x: Any, z: Any, *, seed: int = 0, max_rows: int = MAX_ROWS, max_directions: int = MAX_DIRECTIONS
) -> ProbeResult:
    """The better of logistic regression and boosted trees, chosen inside the fitting half, measured on the other.

    Args:
        x: `(n, d)` vectors.
        z: `(n,)` labels of any kind.
        seed: Of the rows drawn, the split and the trees.
        max_rows: Rows used at the most.
        max_directions: Whitened principal directions used at the most.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> strong_probe(x, x[:, 0] * x[:, 1] > 0).accuracy > 0.8  # exclusive or: no linear probe reads it
        True
    """
    vectors, ids, k = _checked(x, z)
    rows = _drawn(ids, max_rows, seed)
    return _measured("strong", vectors[rows], ids[rows], k, seed, max_directions)


def held_out_accuracy(kind: Kind, x: Any, z: Any, *, seed: int = 0) -> ProbeResult:
    """Balanced accuracy of a probe, each row read by a fit on the half that does not hold it.

    The interval adds a success and a failure to every class, so that few rows never claim certainty. The baseline repeats
    the measurement with shuffled labels on at most 2,000 rows. Quadratic and strong probes see at most 64 whitened
    principal directions; the strong one at most 5,000 rows, half of which it is measured on.

    Args:
        kind: "linear", "quadratic" or "strong".
        x: `(n, d)` vectors.
        z: `(n,)` labels of any kind.
        seed: Of the split and the shuffle.

    Raises:
        ValueError: If shapes do not fit, or x is not finite.

    Example:
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> held_out_accuracy("linear", x, x[:, 0] > 0).accuracy > 0.9
        True
    """
    if kind == "strong":
        return strong_probe(x, z, seed=seed)
    if kind not in ("linear", "quadratic"):
        raise ValueError(f"`kind` is 'linear', 'quadratic' or 'strong'; got {kind!r}.")
    vectors, ids, k = _checked(x, z)
    return _measured(kind, vectors, ids, k, seed, MAX_DIRECTIONS)


def _checked(x: Any, z: Any) -> tuple[Tensor, Tensor, int]:
    vectors = as_tensor(x)
    if vectors.ndim != 2:
        raise ValueError(f"`x` has shape {tuple(vectors.shape)}; probes read vectors (n, d). Flatten or pool first.")
    require_finite(vectors)
    ids, names = encode_labels(z, "z")
    require_rows(vectors, ids, y_name="z")
    return vectors, ids.cpu(), len(names)


def _drawn(ids: Tensor, most: int, seed: int) -> Tensor:
    if len(ids) <= most:
        return torch.arange(len(ids))
    return torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:most].sort().values


def _measured(kind: str, x: Tensor, ids: Tensor, k: int, seed: int, directions: int) -> ProbeResult:
    counts = torch.bincount(ids, minlength=k)
    rare = int(((counts > 0) & (counts < MIN_ROWS)).sum())
    note = f"{rare} classes with fewer than {MIN_ROWS} rows left out" if rare else ""
    if int((counts >= MIN_ROWS).sum()) < 2:
        return ProbeResult(
            kind, float("nan"), 0.0, 1.0, 0, float("nan"), note="fewer than two classes with rows to measure"
        )
    usable = counts[ids] >= MIN_ROWS
    answers, said = _answers(kind, x, ids, k, usable, seed, directions)
    accuracy, low, high, n = _balanced(answers, ids, k)
    some = _drawn(ids, SHUFFLED_ROWS, seed + 1)
    shuffled = ids[some][torch.randperm(len(some), generator=torch.Generator().manual_seed(seed + 2))]
    null, _ = _answers(
        kind, x[some], shuffled, k, torch.bincount(shuffled, minlength=k)[shuffled] >= MIN_ROWS, seed, directions
    )
    return ProbeResult(
        kind, accuracy, low, high, n, _balanced(null, shuffled, k)[0], note="; ".join(s for s in (said, note) if s)
    )


def _balanced(answers: Tensor, ids: Tensor, k: int) -> tuple[float, float, float, int]:
    """Balanced accuracy of answers (-1 where none was given), with its interval and the rows answered."""
    given = answers >= 0
    rows = torch.bincount(ids[given], minlength=k).double()
    right = torch.bincount(ids[given & (answers == ids)], minlength=k).double()
    rows, right = rows[rows > 0], right[rows > 0]
    accuracy, smooth = float((right / rows).mean()), (right + 1) / (rows + 2)
    half = 1.96 * float((smooth * (1 - smooth) / (rows + 2)).sum().sqrt()) / len(rows)
    centre = float(smooth.mean())
    return accuracy, max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half)), int(given.sum())


def _halves(ids: Tensor, usable: Tensor, seed: int) -> Tensor:
    """0 or 1 for each row, every class split evenly; -1 for rows left out."""
    half = torch.full_like(ids, -1)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    order = order[ids[order].argsort(stable=True)]
    half[order] = torch.arange(len(ids)) % 2
    return torch.where(usable, half, -1)


def _answers(
    kind: str, x: Tensor, ids: Tensor, k: int, usable: Tensor, seed: int, directions: int
) -> tuple[Tensor, str]:
    """`(n,)` class read from each row by a fit on the other half; -1 where none was made."""
    half, answers, said = _halves(ids, usable, seed), torch.full_like(ids, -1), ""
    for side in (0, 1) if kind != "strong" else (0,):
        test = (half == side).nonzero()[:, 0]
        fit = (half == 1 - side).double()
        if kind == "linear":
            shrink = float(fit.sum()) < 5 * x.shape[1]
            probe = linear_probe(Moments.of_groups(x, ids, k, weights=fit), balanced=True, shrink=shrink)
            said = "covariance shrunk (fewer than 5 rows per dimension)" if shrink else ""
            answers[test] = torch.cat([probe(x[part]).argmax(dim=1) for part in test.split(_CHUNK)])
            continue
        reduced, said = _whitened(x, fit, directions)
        if kind == "quadratic":
            quadratic = quadratic_probe(Moments.of_groups(reduced, ids, k, weights=fit), balanced=True)
            said = "; ".join(
                s
                for s in (said, f"class covariances regularised by {quadratic.ridge:.2f}" if quadratic.ridge else "")
                if s
            )
            answers[test] = quadratic(reduced[test]).argmax(dim=1)
        else:
            train = fit.nonzero()[:, 0]
            answers[test] = _strong(reduced[train].numpy(), ids[train].numpy(), reduced[test].numpy(), seed)
    return answers, said


def _whitened(x: Tensor, fit: Tensor, most: int) -> tuple[Tensor, str]:
    """`(n, at most most)` whitened principal coordinates, fitted on the rows with weight."""
    m = Moments.of(x, weights=fit)
    value, vector, kept = eigh_psd(m.covariance, rows=int(m.rows))
    value, vector = value[kept][-most:], vector[:, kept][:, -most:]
    projection, centre = (vector / value.sqrt()).float(), m.mean.to(x.dtype if x.is_floating_point() else torch.float64)
    reduced = torch.cat([(part - centre).float() @ projection for part in x.split(_CHUNK)])
    return reduced, f"{most} of {x.shape[1]} principal directions" if int(kept.sum()) > most else ""


def _strong(x: np.ndarray, z: np.ndarray, new: np.ndarray, seed: int) -> Tensor:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split
    from threadpoolctl import threadpool_limits

    trees = HistGradientBoostingClassifier(
        class_weight="balanced",
        max_iter=max(8, 40 // max(1, len(np.unique(z)) - 1)),  # one tree per class and round
        learning_rate=0.2,
        max_leaf_nodes=15,
        max_bins=31,  # small histograms stay in the allocator's cache: 8 times faster than 255 bins on 2,500 rows
        early_stopping=False,
        random_state=seed,
    )
    models = (LogisticRegression(class_weight="balanced", max_iter=500), trees)
    several = np.bincount(z)[np.unique(z)].min() > 1
    a, b, za, zb = train_test_split(x, z, test_size=0.3, random_state=seed, stratify=z if several else None)
    # a second thread gains nothing on a few thousand rows, and waits in a loop where cores are shared
    with threadpool_limits(1):
        best = models[0]
        if len(np.unique(za)) > 1:
            best = max(models, key=lambda model: balanced_accuracy_score(zb, model.fit(a, za).predict(b)))
        return torch.from_numpy(best.fit(x, z).predict(new).astype(np.int64))
