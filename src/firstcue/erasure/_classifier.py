"""Any scikit-learn classifier as a function from rows to one number per class, fitted once or in folds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._progress import Progress
from firstcue.erasure._apply import working_type


@dataclass(frozen=True, eq=False)
class Answers:
    """A fitted scikit-learn classifier as a function: rows to one number per class."""

    model: Any
    columns: tuple[int, ...]
    """Which class each of the model's own classes is."""

    num_classes: int

    def __call__(self, rows: Tensor) -> Float64[Tensor, "n m"]:
        """Probabilities where the model has them, else decision values, else the class itself as one-hot."""
        given = _host(rows)
        answers = torch.zeros(len(given), self.num_classes, dtype=torch.float64)
        if hasattr(self.model, "predict_proba"):
            found = np.asarray(self.model.predict_proba(given), dtype=np.float64)
        elif hasattr(self.model, "decision_function"):
            found = np.asarray(self.model.decision_function(given), dtype=np.float64)
        else:
            found = np.eye(self.num_classes)[:, list(self.columns)][np.asarray(self.model.predict(given))]
        if found.ndim == 1:
            found = np.stack([-found, found], axis=1) / 2
        if found.shape[1] != len(self.columns) or not np.isfinite(found).all():
            raise ValueError(
                f"the classifier answers with shape {found.shape} for {len(self.columns)} classes, or with NaN; one finite "
                f"number per class and row is needed."
            )
        answers[:, list(self.columns)] = torch.from_numpy(found)
        return answers.to(rows.device)


def _host(rows: Tensor) -> np.ndarray:
    return rows.detach().to(working_type(rows)).cpu().numpy()


def folds_of(ids: Tensor, cross_fit: int | bool, seed: int) -> Tensor | None:
    """Fold of every row, with every class spread evenly; None for no folds."""
    if cross_fit is False or cross_fit == 0:
        return None
    count = 5 if cross_fit is True else int(cross_fit)
    if not 2 <= count <= len(ids):
        raise ValueError(f"`cross_fit` is a number of folds from 2 to the {len(ids)} rows, or False; got {cross_fit}.")
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(ids[order], stable=True)]
    folds = torch.empty_like(ids)
    folds[order] = torch.arange(len(ids)) % count
    return folds


def cross_fitted(
    estimator: Any, rows: Tensor, ids: Tensor, k: int, folds: Tensor | None, seed: int, progress: Progress
) -> tuple[tuple[Answers, ...], Tensor]:
    """Classifiers, and the answer for every row by one that has not seen it (or, without folds, by the only one)."""
    if folds is None:
        only = _fit_one(estimator, rows, ids, k, seed)
        progress("classifier", 1.0)
        return (only,), only(rows)
    answers = torch.zeros(len(rows), k, dtype=torch.float64, device=rows.device)
    predictors, count = [], int(folds.max()) + 1
    for fold in range(count):
        unseen = (folds == fold).to(rows.device)
        predictors.append(_fit_one(estimator, rows[~unseen], ids[~unseen], k, seed))
        answers[unseen] = predictors[-1](rows[unseen])
        progress("classifier", (fold + 1) / count)
    return tuple(predictors), answers


def _fit_one(estimator: Any, rows: Tensor, ids: Tensor, k: int, seed: int) -> Answers:
    from sklearn.base import clone

    if not hasattr(estimator, "fit") or not hasattr(estimator, "predict") or isinstance(estimator, type):
        raise ValueError(
            f"`estimator` is {estimator!r}; a scikit-learn classifier is needed, such as LogisticRegression()."
        )
    if len(ids.unique()) < 2:
        raise ValueError("a fold leaves one class only to fit on; use fewer folds, or more rows of each class.")
    model = clone(estimator)
    free = {key: seed for key, value in model.get_params().items() if key.endswith("random_state") and value is None}
    model.set_params(**free)
    model.fit(_host(rows), ids.cpu().numpy())
    return Answers(model, tuple(int(c) for c in model.classes_), k)
