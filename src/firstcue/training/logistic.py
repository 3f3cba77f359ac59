"""Logistic read-outs of features, fitted by scikit-learn on standardised features and folded back to the raw ones."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int

Penalty = Literal["l1", "l2"]

_INTERCEPT_SCALE = 100.0
"""liblinear penalises the intercept as the weight of a constant feature; at this size the penalty is 1/100 of a weight's."""


@dataclass(frozen=True)
class Space:
    """Where a read-out is fitted: features standardised, then on principal directions if there are too many."""

    mean: Float64[np.ndarray, " d"]
    scale: Float64[np.ndarray, " d"]
    directions: Float64[np.ndarray, "d r"] | None = None

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"], most: int | None = None) -> "Space":
        """The space of the rows of `x`, with at most `most` directions; constant features keep their scale."""
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(x)
        space = cls(scaler.mean_.astype(np.float64), scaler.scale_.astype(np.float64))
        if most is None or x.shape[1] <= most:
            return space
        pca = PCA(min(most, len(x)), svd_solver="covariance_eigh").fit(space(x))
        return replace(space, directions=np.ascontiguousarray(pca.components_.T))

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n r"]:
        """Coordinates of the rows of `x`."""
        standard = (x - self.mean) / self.scale
        return standard if self.directions is None else standard @ self.directions

    def fold(self, readout: "Readout") -> "Readout":
        """The same logits from raw features: W' = W V^T / scale, b' = b - W' mean."""
        weight = readout.weight if self.directions is None else readout.weight @ self.directions.T
        raw = weight / self.scale
        return Readout(raw, readout.bias - raw @ self.mean, readout.converged)


@dataclass(frozen=True)
class Readout:
    """An affine map to logits."""

    weight: Float64[np.ndarray, "k d"]
    bias: Float64[np.ndarray, " k"]
    converged: bool = True

    def predict(self, x: Float64[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """The class of each row."""
        return (x @ self.weight.T + self.bias).argmax(axis=1)


def fit_readout(
    x: Float64[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    num_classes: int,
    *,
    penalty: Penalty = "l1",
    inverse_strength: float = 1.0,
    seed: int = 0,
    max_iter: int | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
    start: Readout | None = None,
) -> Readout:
    """Logistic regression on standardised rows that hold every class.

    Two classes: l1 by liblinear, on centred features and with an intercept that is all but free of the penalty (which would
    else pull it to zero). More: l1 by saga. l2 by lbfgs, any number of classes. For two classes the logits are -f/2, f/2.

    Args:
        x: `(n, d)` standardised features.
        y: `(n,)` class ids, all of them present.
        num_classes: K.
        penalty: "l1" or "l2".
        inverse_strength: scikit-learn's C.
        seed: Of the order in which solvers visit rows or features.
        max_iter: Of the solver.
        weights: `(n,)`, of mean one.
        start: Solution of a similar problem, where saga and lbfgs begin; it saves iterations.
    """
    from sklearn.linear_model import LogisticRegression

    centre = x.mean(axis=0)
    share: dict[str, Any] = {"C": inverse_strength, "l1_ratio": 1.0 if penalty == "l1" else 0.0, "random_state": seed}
    if penalty == "l2":
        model = LogisticRegression(solver="lbfgs", max_iter=max_iter or 1000, warm_start=True, **share)
    elif num_classes == 2:
        model = LogisticRegression(
            solver="liblinear", intercept_scaling=_INTERCEPT_SCALE, max_iter=max_iter or 1000, **share
        )
    else:
        model = LogisticRegression(solver="saga", tol=1e-3, max_iter=max_iter or 1000, warm_start=True, **share)
    if start is not None and model.warm_start:
        _begin_at(model, start, centre, num_classes)
    converged = _fit_quietly(model, x - centre, y, weights)
    weight, bias = model.coef_, model.intercept_
    if num_classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Readout(weight, bias - weight @ centre, converged)


def average(readouts: list[Readout]) -> Readout:
    """The mean read-out: a mean of affine maps is their mean decision."""
    weight = np.mean([r.weight for r in readouts], axis=0)
    return Readout(weight, np.mean([r.bias for r in readouts], axis=0), all(r.converged for r in readouts))


def _begin_at(model: Any, start: Readout, centre: np.ndarray, num_classes: int) -> None:
    weight, bias = start.weight, start.bias + start.weight @ centre
    if num_classes == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    model.coef_, model.intercept_, model.classes_ = weight.copy(), bias.copy(), np.arange(num_classes)


def _fit_quietly(model: Any, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> bool:
    """Fit; whether the solver converged, in place of its warning. Other warnings are passed on."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True, action="always") as caught:
        model.fit(x, y, sample_weight=weights)
    failed = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    for warning in caught:
        if warning not in failed:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return not failed
