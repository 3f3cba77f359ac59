"""Turn rows of one class into rows of another, as far as mean and covariance go, by the smallest movement that does it.

What a network says of such rows tells whether it goes by these statistics or by something finer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from firstcue._blas import eigh, product
from firstcue._checks import encode_labels, require_classes
from firstcue.bures import shortest_map
from firstcue.erasure._apply import as_rows, like, result_type, working_type
from firstcue.linalg import EPS, range_basis, sqrt_psd
from firstcue.moments import Moments

EXACT = 1e-8
"""Relative error up to which a root may be taken from eigenvalues; beyond, singular values are needed."""

BLOCK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class ClassEditor:
    """The map (x, s, t) -> mean_t + A_st (x - mean_s), with A_st the shortest map from covariance s to covariance t.

    It keeps one root per class, k d^2 numbers; a map is made when rows ask for it.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
        >>> editor = class_editor(Moments.of_groups(x, ["near", "near", "far", "far"]))
        >>> editor(x[:2], ["near", "near"], "far")[:, 0]
        tensor([10., 14.])
    """

    means: Float64[Tensor, "k d"]
    """Class means; zero for a class without rows."""

    factors: Float64[Tensor, "k d d"]
    """F_c with F_c F_c^T the covariance of class c, its features in `order`; triangular, or with columns of zeros at the end."""

    order: Int64[Tensor, " d"]
    """Features from the largest variance to the least: only so are directions of little variance as exact as others."""

    ranks: tuple[int, ...]
    """Number of directions in which each class varies."""

    classes: tuple[str, ...] = ()
    """Name of each class."""

    present: tuple[bool, ...] = ()
    """Which classes had rows."""

    def __call__(self, x: Any, source: Any, target: Any) -> Any:
        """Edit rows `x`, shape `(n, ..., d)`, of the classes `source` towards the classes `target`.

        Args:
            x: Tensor or array.
            source: `(n,)` labels of these rows, of the kind the moments were built from, or one for all.
            target: The same; a row whose target is its source stays as it is.

        Returns:
            As `x`: shape, type and library; integers become float32.

        Raises:
            ValueError: If labels have another length or a class without rows at the fit, or no linear map exists because the
                target varies in more directions than the source.
        """
        rows = as_rows(x, self.means.shape[1])
        num_labels = np.shape(x)[0] if np.ndim(x) > 1 else 1
        each = len(rows) // max(num_labels, 1)
        k = len(self.means)
        ids = [self._ids(g, n, num_labels).to(rows.device) for g, n in ((source, "source"), (target, "target"))]
        pairs = (ids[0] * k + ids[1]).repeat_interleave(each)
        edited = torch.empty(rows.shape, dtype=result_type(rows), device=rows.device)
        order = torch.argsort(pairs, stable=True)
        for pair, mine in enumerate(order.split(torch.bincount(pairs, minlength=k * k).tolist())):
            if len(mine):
                self._move(rows, mine, edited, *divmod(pair, k))
        return like(edited, x)

    def map(self, source: Any, target: Any) -> Float64[Tensor, "d d"]:
        """A_st for two labels, with `A_st @ S_s @ A_st.T = S_t`; where they are the same, the identity.

        Raises:
            ValueError: As when called.
        """
        return self._map(int(self._ids(source, "source", 1)), int(self._ids(target, "target", 1)))

    def _ids(self, labels: Any, name: str, num_rows: int) -> Tensor:
        """`(n,)` places among the classes."""
        labels = [labels] * num_rows if np.ndim(labels) == 0 else labels
        if len(labels) != num_rows:
            raise ValueError(
                f"`x` has {num_rows} rows but `{name}` has {len(labels)}; one label per row, or one for all, is needed."
            )
        ids, names = encode_labels(labels, name)
        one_hot = np.ndim(labels) == 2 and np.shape(labels)[1] == len(self.classes) > 1
        place_of = {known: i for i, known in enumerate(self.classes)}
        numbered = {"False": "0", "True": "1"}
        places = [
            i if one_hot else place_of.get(given, place_of.get(numbered.get(given, given), -1))
            for i, given in enumerate(names)
        ]
        unknown = [names[i] for i in ids.unique().tolist() if places[i] < 0 or not self.present[places[i]]]
        if unknown:
            known = [given for given, fitted in zip(self.classes, self.present, strict=True) if fitted]
            raise ValueError(
                f"`{name}` holds {unknown}, of which the editor has seen no rows; classes it was fitted on: {known}."
            )
        return torch.tensor(places, dtype=torch.int64, device=ids.device)[ids]

    def _move(self, rows: Tensor, mine: Tensor, edited: Tensor, s: int, t: int) -> None:
        """Write the rows `mine`, all of class `s`, as rows of class `t`."""
        if s == t:
            edited[mine] = rows[mine].to(edited.dtype)
            return
        kind, matrix = working_type(rows), self._map(s, t)
        centre, goal = self.means[s].to(kind), self.means[t].to(kind)
        # what rounding to `kind` took from both means is put back while numbers are still small
        rest = (self.means[t] - goal) + matrix @ (centre - self.means[s])
        matrix, centre, goal, rest = (m.to(device=rows.device, dtype=kind) for m in (matrix, centre, goal, rest))
        for some in mine.split(BLOCK_ROWS):
            moved = product(rows[some].to(kind) - centre, matrix.mT)
            edited[some] = moved.add_(rest).add_(goal).to(edited.dtype)

    def _map(self, s: int, t: int) -> Tensor:
        if s == t:
            return torch.eye(len(self.order), dtype=self.factors.dtype, device=self.factors.device)
        if self.ranks[t] > self.ranks[s]:
            self._refuse(s, t)
        start, end = (self.factors[c, :, : self.ranks[c]] for c in (s, t))
        if self.ranks[s] == len(start):
            mapped = _full_rank_map(start, end)
        else:
            basis, root = torch.linalg.qr(start)
            mapped = shortest_map(basis, root, end)
        back = self.order.argsort()
        return mapped[back[:, None], back]

    def _refuse(self, s: int, t: int) -> None:
        raise ValueError(
            f"no linear map turns class {self.classes[s]!r} (it varies in {self.ranks[s]} of {self.means.shape[1]} directions) "
            f"into class {self.classes[t]!r}, which varies in {self.ranks[t]}. Reduce `x` first (a "
            f"principal subspace), or regularise all classes alike: class_editor(by_class, shrinkage=oas)."
        )


def class_editor(by_class: Moments, *, shrinkage: Callable[[Moments], Tensor] | None = None) -> ClassEditor:
    """Fit the edits that carry rows of any class to the mean and covariance of any other.

    On the rows fitted the edited class has exactly the mean and covariance of its target. Edited rows depend on their label
    by construction: a strong reader can tell them from real rows, and `firstcue.injection` measures that.

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.
        shrinkage: Covariance estimator applied to all classes alike, such as `oas`; what is matched are then its estimates.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        Belrose et al. (2024), Neural Networks Learn Statistics of Increasing Complexity, https://arxiv.org/abs/2402.04362;
        the map between Gaussians from Gelbrich (1990), Mathematische Nachrichten 147.
    """
    if by_class.count.ndim != 1:
        raise ValueError(
            f"`by_class` needs one group axis, the classes; found {by_class.count.ndim}. "
            f"Build it with Moments.of_groups(x, z)."
        )
    names = by_class.classes or tuple(str(i) for i in range(len(by_class.count)))
    require_classes(by_class.count, names, "z")
    present = tuple((by_class.count > 0).tolist())
    factors, ranks = torch.zeros_like(by_class.scatter), []
    order = by_class.scatter.diagonal(dim1=1, dim2=2).sum(dim=0).argsort(descending=True)
    for c, here in enumerate(present):
        root = _root(by_class.group(c), order, shrinkage) if here else factors[c, :, :0]
        factors[c, :, : root.shape[1]] = root
        ranks.append(root.shape[1])
    return ClassEditor(by_class.mean, factors, order, tuple(ranks), names, present)


def _root(moments: Moments, order: Tensor, shrinkage: Callable[[Moments], Tensor] | None) -> Tensor:
    """`(d, r)` of full column rank, for features in `order`."""
    covariance = moments.covariance.clone() if shrinkage is None else shrinkage(moments).clone()
    constant = covariance.diagonal() <= (64 * EPS * moments.mean).square()
    covariance[constant] = 0.0
    covariance[:, constant] = 0.0
    covariance = covariance[order[:, None], order]
    basis, most = range_basis(covariance, rows=int(moments.rows)), int(moments.rows) - 1
    if shrinkage is None and most < basis.shape[1]:  # what n rows vary in beyond n - 1 directions is rounding
        values, vectors = torch.linalg.eigh(covariance)
        return vectors[:, len(values) - most :] * values[len(values) - most :].clamp(min=0).sqrt()
    if basis.shape[1] == len(basis):
        return torch.linalg.cholesky(covariance)
    return basis @ sqrt_psd(basis.mT @ covariance @ basis)


def _full_rank_map(start: Tensor, end: Tensor) -> Tensor:
    """For a triangular `start`: F^-T (F^T S_t F)^1/2 F^-1, or, where that is ill-conditioned, by singular vectors."""
    overlap = product(end.mT, start)
    values, vectors = eigh(product(overlap.mT, overlap))
    values = values.clamp(min=0.0)
    if float(values[0]) * EXACT > EPS * float(values[-1]):
        half = vectors * values.sqrt().sqrt()
        half = torch.linalg.solve_triangular(start.mT, half, upper=True)
        return product(half, half.mT)
    return shortest_map(torch.eye(len(start), dtype=start.dtype, device=start.device), start, end)
