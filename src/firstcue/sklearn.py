"""The erasers as scikit-learn transformers, whose `y` is the concept to erase.

`Leace` and `AlfQleace` need labels only to be fitted, and fit into pipelines. `OracleLeace` and `Qleace` look at the class of
every row: call `fit_transform(X, y)` and `transform(X, y)`.
"""

import os
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from firstcue._sklearn_files import read_estimator, write_estimator
from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.alf_qleace import alf_qleace
from firstcue.erasure.leace import leace
from firstcue.erasure.oracle import oracle_leace
from firstcue.erasure.qleace import qleace
from firstcue.erasure.row_space import fit_in_row_space
from firstcue.moments import Moments
from firstcue.shrinkage import ledoit_wolf, oas, random_matrix_shrinkage

__all__ = ["AlfQleace", "Leace", "OracleLeace", "Qleace", "expected_failed_checks"]

SHRINKAGE = {"ledoit_wolf": ledoit_wolf, "oas": oas, "random_matrix": random_matrix_shrinkage}
FLOATS = (np.float64, np.float32, np.float16)

WITHOUT_LABELS = (
    "check_dict_unchanged",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_sample_weight_equivalence_on_dense_data",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
)
"""Checks that call `transform(X)`."""


Own = TypeVar("Own", bound="_Eraser")


# parameters of a constructor have no types: scikit-learn wants them looked at in `fit` and no earlier
class _Eraser(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """What the four have in common: moments that add up, and an eraser made from them when it is needed."""

    strict: bool
    _fitted: Any
    moments_: Moments | None
    """Of the rows seen, by class; None after `fit` on no more rows than features, which goes without d x d matrices."""

    _any_units = False
    """Whether the units of features make no difference to the edit."""

    def fit(self: Own, X: Any, y: Any, sample_weight: Any = None) -> Own:
        """Fit on rows `X` `(n, d)` with the concept's labels `y` `(n,)`; a row of weight 2 counts as two rows."""
        rows, labels, weights = self._read(X, y, sample_weight, reset=True, at_least=2)
        self.moments_ = self._fitted = None
        if self._has_few_rows(rows):
            self._fitted = fit_in_row_space(
                lambda found: self._method(_counted(found, weights)), rows, labels, weights, equilibrate=self._any_units
            )
            self._judge(len(np.unique(labels)), len(rows))
        else:
            self.moments_ = self._moments(rows, labels, weights)
            self._complete()
        return self

    def partial_fit(self: Own, X: Any, y: Any, sample_weight: Any = None) -> Own:
        """Add rows. A class absent from one part is fine; the eraser is made from all parts when it is first used."""
        new = not hasattr(self, "moments_")
        rows, labels, weights = self._read(X, y, sample_weight, reset=new)
        part = self._moments(rows, labels, weights)
        self.moments_ = part if new else self._kept("partial_fit").merge(part)
        self._fitted = None
        return self

    def merge(self: Own, other: Own) -> Own:
        """Add what another estimator of the same kind has seen, for example in another process."""
        if type(other) is not type(self):
            raise ValueError(f"a {type(self).__name__} merges with its like; got a {type(other).__name__}.")
        check_is_fitted(self)
        check_is_fitted(other)
        self.moments_ = self._kept("merge").merge(other._kept("merge"))
        self._fitted = None
        return self

    @property
    def eraser_(self) -> Any:
        """The eraser itself, as the functions of `firstcue` return it."""
        check_is_fitted(self)
        if self._fitted is None:
            self._complete()
        return self._fitted

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, moments and eraser to one safetensors file: no pickle."""
        write_estimator(self, self.eraser_, path)

    @classmethod
    def load(cls: type[Own], path: str | os.PathLike[str]) -> Own:
        """Read what `save` of the same class wrote."""
        return read_estimator(cls, path)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _read(self, X: Any, y: Any, sample_weight: Any, *, reset: bool, at_least: int = 1) -> tuple[Tensor, Any, Any]:
        values, labels = validate_data(
            self, _as_array(X), _as_array(y), dtype=FLOATS, reset=reset, ensure_min_samples=at_least
        )
        if sample_weight is None:
            return torch.as_tensor(values), labels, None
        weights = _check_sample_weight(_as_array(sample_weight), values, dtype=np.float64, ensure_non_negative=True)
        kept = weights > 0
        return torch.as_tensor(values[kept]), labels[kept], weights[kept]

    def _moments(self, rows: Tensor, labels: Any, weights: Any) -> Moments:
        fourth = getattr(self, "shrinkage", None) == "ledoit_wolf"
        return _counted(Moments.of_groups(rows, labels, weights=weights, fourth=fourth), weights)

    def _kept(self, use: str) -> Moments:
        if self.moments_ is None:
            raise ValueError(
                f"`fit` on no more rows than features keeps no moments, so `{use}` has nothing to add to; begin with "
                f"`partial_fit`, which keeps them (d x d numbers per class)."
            )
        return self.moments_

    def _complete(self) -> None:
        moments = self._kept("transform")
        self._fitted = self._method(moments)
        self._judge(int((moments.count > 0).sum()), int(moments.rows.sum()))

    def _judge(self, classes: int, rows: int) -> None:
        """Refuse, if asked to be strict, what leaves nothing but a constant."""
        d = self.n_features_in_
        removed = self._fitted.rank if isinstance(self._fitted, AffineEraser) else 0
        if not self.strict or max(classes - 1, removed) < min(d, rows - 1):
            return
        self._fitted = None
        raise ValueError(
            f"erasing {classes} classes from {d} features of {rows} rows leaves a constant: no other information survives. Use "
            f"fewer classes than features and more rows, or strict=False to have it all the same."
        )

    def _transform(self, X: Any, y: Any = None) -> Any:
        eraser = self.eraser_
        given = validate_data(
            self, _as_array(X), "no_validation" if y is None else _as_array(y), dtype=FLOATS, reset=False
        )
        edited = eraser(given) if y is None else eraser(*given)
        return torch.from_numpy(edited).to(X.device, X.dtype) if isinstance(X, Tensor) else edited

    def _has_few_rows(self, rows: Tensor) -> bool:
        return len(rows) <= rows.shape[1] and getattr(self, "shrinkage", None) is None

    def _method(self, by_class: Moments) -> Any:
        raise NotImplementedError


class Leace(_Eraser):
    """Erase what a linear classifier could read of the concept: `firstcue.leace` as a transformer.

    Args:
        shrinkage: None, "oas", "ledoit_wolf" or "random_matrix": the estimate that says which directions are cheap to move.
        strict: Raise, rather than warn, when classes are so many that a constant is left.

    Example:
        >>> X, y = np.array([[1.0, 2.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]]), ["in", "in", "out", "out"]
        >>> erased = Leace().fit_transform(X, y)
        >>> bool(np.allclose(erased[:2].mean(axis=0), erased[2:].mean(axis=0)))
        True
    """

    _any_units = True

    def __init__(self, shrinkage: Any = None, strict: Any = False) -> None:
        self.shrinkage = shrinkage
        self.strict = strict

    def transform(self, X: Any) -> Any:
        """Rows without the concept, in the type of `X`."""
        return self._transform(X)

    def _method(self, by_class: Moments) -> Any:
        return leace(by_class, shrinkage=_estimator(self.shrinkage))


class AlfQleace(_Eraser):
    """Erase nearly all that a quadratic classifier could read of the concept: `firstcue.alf_qleace` as a transformer.

    Args:
        target: Fraction of the largest difference of class covariances that has to go.
        max_rank: Most directions to remove beyond those of the class means.
        strict: As for `Leace`.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 5))
        >>> y = np.arange(200) % 2
        >>> X[y == 1, 0] *= 4
        >>> erased = AlfQleace().fit_transform(X, y)
        >>> bool(erased[:, 0].std() < 0.2 * X[:, 0].std())
        True
    """

    def __init__(self, target: Any = 0.9, max_rank: Any = None, strict: Any = False) -> None:
        self.target = target
        self.max_rank = max_rank
        self.strict = strict

    def transform(self, X: Any) -> Any:
        """Rows without the concept, in the type of `X`."""
        return self._transform(X)

    def _method(self, by_class: Moments) -> Any:
        return alf_qleace(by_class, self.target, self.max_rank)


class _NeedsLabels(_Eraser):
    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None, **_: Any) -> Any:
        """Fit, and erase the same rows."""
        return self.fit(X, y, sample_weight=sample_weight).transform(X, y)

    def transform(self, X: Any, y: Any = None) -> Any:
        """Rows whose class no longer shows in the moments that are erased, in the type of `X`.

        Raises:
            ValueError: If `y`, the class of every row, is left out or holds a class without rows at the fit.
        """
        return self._transform(X, y)


class OracleLeace(_NeedsLabels):
    """Move every class to the mean of all rows: `firstcue.oracle_leace` as a transformer that needs `y` to transform.

    Args:
        strict: As for `Leace`.

    Example:
        >>> OracleLeace().fit_transform([[1.0], [3.0], [-1.0], [-3.0]], ["in", "in", "out", "out"])[:, 0]
        array([-1.,  1.,  1., -1.])
    """

    def __init__(self, strict: Any = False) -> None:
        self.strict = strict

    def _method(self, by_class: Moments) -> Any:
        return oracle_leace(by_class)


class Qleace(_NeedsLabels):
    """Give every class the same mean and covariance: `firstcue.qleace` as a transformer that needs `y` to transform.

    Args:
        shrinkage: As for `Leace`; needed where a class has no more rows than there are features.
        tolerance: As in `firstcue.qleace`.
        max_iterations: As in `firstcue.qleace`.
        strict: As for `Leace`.

    Example:
        >>> Qleace().fit_transform([[1.0], [3.0], [0.0], [-8.0]], ["near", "near", "far", "far"])[:, 0]
        array([-3.5,  1.5,  1.5, -3.5])
    """

    def __init__(
        self, shrinkage: Any = None, tolerance: Any = 1e-8, max_iterations: Any = 100, strict: Any = False
    ) -> None:
        self.shrinkage = shrinkage
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.strict = strict

    def _has_few_rows(self, rows: Tensor) -> bool:
        return False

    def _method(self, by_class: Moments) -> Any:
        shrinkage = _estimator(self.shrinkage)
        return qleace(by_class, shrinkage=shrinkage, tolerance=self.tolerance, max_iterations=self.max_iterations)


def expected_failed_checks(estimator: BaseEstimator) -> dict[str, str]:
    """The checks of scikit-learn that an estimator cannot pass, and why; the others it does pass.

    Those of `check_estimator` that call `transform(X)` without labels, for the two that need them; none for the others.

    Example:
        >>> expected_failed_checks(Leace())
        {}
    """
    if not isinstance(estimator, _NeedsLabels):
        return {}
    reason = "transform needs the class of every row, and the check gives none"
    return dict.fromkeys(WITHOUT_LABELS, reason)


def _estimator(name: str | None) -> Any:
    if name is not None and name not in SHRINKAGE:
        raise ValueError(f"`shrinkage` is None or one of {sorted(SHRINKAGE)}; got {name!r}.")
    return None if name is None else SHRINKAGE[name]


def _counted(moments: Moments, weights: Any) -> Moments:
    """The same moments, where whole weights count as so many rows."""
    if weights is None or not (weights == np.round(weights)).all():
        return moments
    return replace(moments, rows=moments.count.round().long())


def _as_array(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    host = values.detach().cpu()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()
