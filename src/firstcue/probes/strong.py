"""Strong probes: logistic regression and boosted trees of scikit-learn, whichever reads better."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue.probes.reduce import reduced
from firstcue.probes.split import Split, said

MAX_ROWS = 5000
MAX_DIRECTIONS = 64
ENOUGH = 1000
"""Rows read in one fold beyond which the other folds are spared."""
NAMES = ("logistic regression", "boosted trees")


def strong_answers(x: Tensor, split: Split, seed: int, directions: int) -> tuple[Tensor, str]:
    """`(n,)` class read from each row, -1 where none was, and a note on how."""
    used = (split.fold >= 0).nonzero()[:, 0]
    coordinates, note = reduced(x, used, directions, seed)
    table, ids, fold = coordinates.numpy(), split.ids.numpy(), split.fold.numpy()
    answers, chosen = np.full(len(ids), -1), []
    from threadpoolctl import threadpool_limits

    # a second thread gains nothing on a few thousand rows, and waits in a loop where cores are shared
    with threadpool_limits(1):
        for f in range(split.folds if len(used) <= split.folds * ENOUGH else 1):
            learn, read = (fold >= 0) & (fold != f), fold == f
            name, answers[read] = _read(table[learn], ids[learn], table[read], seed)
            chosen.append(name)
    return torch.from_numpy(answers), said(note, *chosen)


def _read(x: np.ndarray, z: np.ndarray, new: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """Classes of `new` rows by the candidate that reads a held-back quarter of the others better."""
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(z, return_counts=True)
    if len(classes) == 1:
        return "a constant", np.repeat(classes, len(new))
    models = _candidates(x.shape[1], len(classes), seed)
    best = 0
    if counts.min() > 1 and len(z) >= 8 * len(classes):
        inner, outer, z_inner, z_outer = train_test_split(x, z, test_size=0.25, random_state=seed, stratify=z)
        scores = [_balanced(z_outer, _answers(model.fit(inner, z_inner), z_inner, outer)) for model in models]
        best = int(np.argmax(scores))
    return NAMES[best], _answers(models[best].fit(x, z), z, new)


def _balanced(z: np.ndarray, answers: np.ndarray) -> float:
    """Mean over the classes in `z` of the share of their rows answered rightly."""
    return float(np.mean([(answers[z == c] == c).mean() for c in np.unique(z)]))


def _answers(model: Any, z: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The class whose probability exceeds its share among the rows fitted the most: the Bayes rule for balanced classes.

    The same as weighting classes in the fit, without what weights cost the binning of trees.
    """
    classes, counts = np.unique(z, return_counts=True)
    return classes[(model.predict_proba(new) / counts).argmax(axis=1)]


def _candidates(d: int, k: int, seed: int) -> Sequence[Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    trees = HistGradientBoostingClassifier(
        max_iter=max(10, 80 // max(2, k)),  # every round grows a tree per class
        learning_rate=0.2,
        max_leaf_nodes=15,
        max_bins=int(np.clip(2048 // d, 31, 255)),  # fine lattices matter where there are few features to look at
        early_stopping=False,
        random_state=seed,
    )
    return LogisticRegression(max_iter=500), trees
