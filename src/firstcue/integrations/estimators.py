"""Fitted scikit-learn classifiers as networks: linear ones with a true linear head, all others by their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import encode_labels
from firstcue.integrations.frames import Column, decode

_TRIED = 64
_LEAST = 1e-12


@dataclass(frozen=True)
class Table:
    """What the columns of the inputs are called and hold, for estimators that were fitted on names."""

    columns: tuple[Column, ...]
    library: str = ""
    """Whose tables the estimator gets."""


class Estimated(nn.Module):
    """A fitted classifier as a module from rows `(n, d)` to logits `(n, K)`, in the order of its classes."""

    def __init__(self, estimator: Any):
        super().__init__()
        self.estimator = estimator
        self.classes = encode_labels(estimator.classes_, "classes_")[1]
        names = getattr(estimator, "feature_names_in_", None)
        self.names: tuple[str, ...] | None = None if names is None else tuple(str(name) for name in names)
        self.table: Table | None = None

    @property
    def way_out(self) -> str:
        """What to do where a linear head is needed."""
        return (
            f"A {_name(self.estimator)} is judged by setting the cue in its inputs: audit a table with a column that "
            f"it reads as the attribute, or give edit=. It cannot be repaired here: fit it again on rows balanced over groups."
        )

    def given(self, x: Tensor) -> Any:
        """Rows as the estimator was fitted on them: an array, or a table with its names."""
        rows = x.detach().cpu().numpy()
        wanted = getattr(self.estimator, "n_features_in_", None)
        if rows.ndim != 2 or (wanted is not None and rows.shape[1] != wanted):
            raise ValueError(
                f"the {_name(self.estimator)} was fitted on {wanted} columns; the data has rows of shape {rows.shape[1:]}"
                f"{_named_hint(self.names)}"
            )
        if self.names is None:
            return rows
        table = self.table or Table(tuple(Column(name, rows.dtype) for name in self.names))
        return decode(rows, table.columns, table.library)


class LinearEstimated(Estimated):
    """A classifier whose scores are linear in its features, or in what a pipeline makes of them."""

    def __init__(self, estimator: Any, before: Sequence[Any], weight: np.ndarray, bias: np.ndarray):
        super().__init__(estimator)
        self.before = list(before)
        self.head = nn.utils.skip_init(nn.Linear, weight.shape[1], len(weight), dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(bias))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, K)`; of two classes, zero and the score."""
        if not self.before and self.names is None:
            return self.head(x.to(self.head.weight))
        rows = self.given(x)
        for step in self.before:
            rows = step.transform(rows)
        return self.head(torch.from_numpy(_dense(rows)).to(self.head.weight))


class ScoredEstimated(Estimated):
    """Any other classifier: its decision function, its log-probabilities, or its bare decisions."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, K)` float32, whose largest is always the class that `predict` names."""
        rows = self.given(x)
        decided = np.searchsorted(self.estimator.classes_, self.estimator.predict(rows))
        scores = _scores(self.estimator, rows, decided, len(self.classes))
        wrong = scores.argmax(axis=1) != decided
        scores[wrong, decided[wrong]] = np.nextafter(scores[wrong].max(axis=1), np.float32(np.inf))
        return torch.from_numpy(scores).to(x.device)


def _name(estimator: Any) -> str:
    """The class that decides; of a pipeline, that of its last step."""
    while hasattr(estimator, "named_steps"):
        estimator = estimator.steps[-1][1]
    return type(estimator).__name__


def is_estimator(value: Any) -> bool:
    """Whether a value looks like an estimator of scikit-learn, fitted or not."""
    return hasattr(value, "get_params") and hasattr(value, "fit")


def estimator_module(estimator: Any) -> Estimated:
    """A fitted classifier as a module that answers exactly as it does.

    Where the decision function is an affine map of the inputs (verified, not known by name), or of what the earlier steps
    of a `Pipeline` make of them, that map becomes an `nn.Linear` named `head`: cues can be erased in front of it and it
    can be retrained. Every other classifier can be audited where the cue is edited in the input.

    Args:
        estimator: A fitted classifier, a `Pipeline` or a search (`GridSearchCV`) around one.

    Raises:
        ValueError: If it is not fitted, or no classifier of one label per row.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> fitted = LogisticRegression().fit([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"])
        >>> model = estimator_module(fitted)
        >>> model.classes, model.head.weight.shape
        (('cat', 'dog'), torch.Size([2, 2]))
    """
    found = getattr(estimator, "best_estimator_", estimator)
    _require_classifier(found)
    before: list[Any] = []
    last = found
    while hasattr(last, "steps") and hasattr(last, "named_steps"):
        before += [step for _, step in last.steps[:-1] if step is not None and not isinstance(step, str)]
        last = last.steps[-1][1]
    linear = _affine(last) if all(hasattr(step, "transform") for step in before) else None
    return ScoredEstimated(found) if linear is None else LinearEstimated(found, before, *linear)


def _require_classifier(estimator: Any) -> None:
    name = type(estimator).__name__
    classes = getattr(estimator, "classes_", None)
    if not hasattr(estimator, "predict") or (classes is None and _is_fitted(estimator)):
        raise ValueError(
            f"a {name} is no classifier: it has no `classes_`. Models that decide between classes are audited."
        )
    if classes is None:
        raise ValueError(f"the {name} is not fitted; call its fit(X, y) first.")
    if isinstance(classes, list):
        raise ValueError(f"the {name} gives {len(classes)} labels per row; fit one estimator per label and audit each.")


def _is_fitted(estimator: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        return False
    return True


def _affine(estimator: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight `(K, d)` and bias `(K,)` of the decision function, if it is an affine map whose largest score decides."""
    coefficients = getattr(estimator, "coef_", None)
    if coefficients is None or not hasattr(estimator, "decision_function"):
        return None
    weight = np.atleast_2d(np.asarray(_dense(coefficients), dtype=np.float64))
    bias = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1), (len(weight),)).copy()
    if len(weight) == 1:
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    if len(weight) != len(estimator.classes_):
        return None
    rows = np.random.default_rng(0).normal(size=(_TRIED, weight.shape[1]))
    names = getattr(estimator, "feature_names_in_", None)
    given = rows if names is None else decode(rows, [Column(str(name), rows.dtype) for name in names])
    expected = rows @ weight.T + bias
    scores = np.asarray(estimator.decision_function(given))
    scores = scores if scores.ndim == 2 else np.stack([np.zeros_like(scores), scores], axis=1)
    if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=1e-6, atol=1e-9):
        return None
    decided = np.searchsorted(estimator.classes_, estimator.predict(given))
    return (weight, bias) if (decided == expected.argmax(axis=1)).all() else None


def _scores(estimator: Any, rows: Any, decided: np.ndarray, classes: int) -> np.ndarray:
    """`(n, K)` float32."""
    in_pairs = classes > 2 and getattr(estimator, "decision_function_shape", None) == "ovo"
    if hasattr(estimator, "decision_function") and not in_pairs:
        scores = np.asarray(estimator.decision_function(rows), dtype=np.float32)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        if scores.shape[1] == classes:
            return scores.copy()
    if hasattr(estimator, "predict_proba"):
        return np.log(np.clip(estimator.predict_proba(rows), _LEAST, None)).astype(np.float32)
    return np.eye(classes, dtype=np.float32)[decided]


def _dense(values: Any) -> np.ndarray:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def _named_hint(names: tuple[str, ...] | None) -> str:
    return (
        "." if names is None else f"; it reads the columns {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
    )
