"""Edits that know each row's class, and the smallest of them that makes class means equal.

Knowing the class allows a smaller edit than any function of the features alone, and has a price: the edit can write the
class into higher moments, where a flexible probe finds it. `firstcue.injection` measures that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from firstcue._blas import product
from firstcue._checks import encode_labels, require_classes
from firstcue.erasure._apply import as_rows, in_blocks, like, result_type, working_type
from firstcue.moments import Moments


@dataclass(frozen=True, eq=False)
class GroupEraser:
    """The map (x, c) -> target + A_c (x - mean_c), one affine map per class.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])
        >>> eraser = oracle_leace(Moments.of_groups(x, ["in", "in", "out", "out"]))
        >>> eraser(x, ["in", "in", "out", "out"])[:, 0]
        tensor([-1.,  1.,  1., -1.])
    """

    means: Float64[Tensor, "k d"]
    """Class means; zero for a class without rows."""

    target: Float64[Tensor, " d"]
    """The mean every class is moved to: that of all rows."""

    maps: Float64[Tensor, "k d d"] | None = None
    """A_c, or None where every A_c is the identity."""

    classes: tuple[str, ...] = ()
    """Name of each class."""

    present: tuple[bool, ...] = ()
    """Which classes had rows when the eraser was fitted."""

    distortion: float | None = None
    """Mean squared movement of the rows the eraser was fitted on, in units of x squared, by theory."""

    converged: bool = True
    """Whether the maps are the optimum to the tolerance asked for."""

    residual: float = 0.0
    """How far from the optimality condition the iteration ended; 0 for a closed form."""

    iterations: int = 0
    """Steps the iteration took; 0 for a closed form."""

    def __call__(self, x: Any, group: Any = None) -> Any:
        """Erase the concept from `x`, shape `(n, ..., d)`, whose rows belong to the classes `group`, shape `(n,)`.

        Args:
            x: Tensor or array.
            group: The labels of these rows, of the kind the moments were built from.

        Returns:
            As `x`: shape, type and library; integers become float32.

        Raises:
            ValueError: If `group` is left out, has another length, or holds a class without rows at the fit.
        """
        rows = as_rows(x, len(self.target))
        ids = self._ids(group, x, len(rows)).to(rows.device)
        edited = self._shift(rows, ids) if self.maps is None else self._map(rows, ids, self.maps)
        return like(edited, x)

    def report(self, x: Any, z: Any) -> dict[str, Any]:
        """What the eraser does to rows `x` with labels `z`; `optimum` is the distortion promised at the fit.

        A map that looks at labels can write them into the rows: `injection` holds what a strong probe reads before and
        after, and a warning is given when that rose. See `firstcue.erasure.report.edit_report` for the other keys.
        """
        from firstcue.erasure.injection import injection
        from firstcue.erasure.report import edit_report

        erased = self(x, z)
        report: dict[str, Any] = {**edit_report(x, erased, z, rank=self.rank, optimum=lambda _: self.distortion)}
        return report | {"injection": injection(x, erased, z)}

    @property
    def rank(self) -> int:
        """Number of directions along which rows may move."""
        if self.maps is not None:
            return len(self.target)
        present = torch.tensor(self.present or [True] * len(self.means), device=self.means.device)
        return int(torch.linalg.matrix_rank(self.means[present] - self.target))

    def _ids(self, group: Any, x: Any, num_rows: int) -> Tensor:
        if group is None:
            raise ValueError(
                "this eraser needs the class of every row: eraser(x, group). Where labels are not known when it is used, "
                "fit `leace` instead, which needs none."
            )
        labels, names = encode_labels(group, "group")
        found = np.shape(x)[0] if np.ndim(x) > 1 else 1
        if found != len(labels):
            raise ValueError(f"`x` has {found} rows but `group` has {len(labels)}; one label per row is needed.")
        one_hot = np.ndim(group) == 2 and np.shape(group)[1] > 1
        places = list(range(len(names))) if one_hot and len(names) == len(self.classes) else self._places(names)
        self._require_fitted(labels.unique().tolist(), names, places)
        ids = torch.tensor(places, dtype=torch.int64, device=labels.device)[labels]
        return ids.repeat_interleave(num_rows // max(len(ids), 1))

    def _places(self, names: Sequence[str]) -> list[int]:
        """Where each name stands among the classes, -1 where it does not."""
        place_of = {name: i for i, name in enumerate(self.classes)}
        numbered = {"False": "0", "True": "1"}
        return [place_of.get(name, place_of.get(numbered.get(name, name), -1)) for name in names]

    def _require_fitted(self, used: Sequence[int], names: Sequence[str], places: Sequence[int]) -> None:
        unknown = [names[i] for i in used if places[i] < 0]
        empty = [names[i] for i in used if places[i] >= 0 and self.present and not self.present[places[i]]]
        if unknown or empty:
            here = self.present or (True,) * len(self.classes)
            known = [name for name, fitted in zip(self.classes, here, strict=True) if fitted]
            raise ValueError(
                f"`group` holds {unknown or empty}, of which the eraser has seen no rows; classes it was fitted on: "
                f"{known}. Fit it on data that has every class."
            )

    def _shift(self, rows: Tensor, ids: Tensor) -> Tensor:
        kind, out = working_type(rows), result_type(rows)
        shift = (self.target - self.means).to(device=rows.device, dtype=kind)

        def move(some: Tensor, labels: Tensor) -> Tensor:
            return (some.to(kind) + shift[labels]).to(out)

        return move(rows, ids) if rows.requires_grad and torch.is_grad_enabled() else in_blocks(move, rows, ids)

    def _map(self, rows: Tensor, ids: Tensor, maps: Tensor) -> Tensor:
        """Rows sorted by class, one product per class and chunk, written to where they came from."""
        kind = working_type(rows)
        edited = torch.empty(rows.shape, dtype=result_type(rows), device=rows.device)
        order, target = torch.argsort(ids, stable=True), self.target.to(kind)
        for c, mine in enumerate(order.split(torch.bincount(ids, minlength=len(maps)).tolist())):
            centre = self.means[c].to(kind)
            # what rounding to `kind` took from centre and target is put back while numbers are still small
            rest = (self.target - target) + maps[c] @ (centre - self.means[c])
            matrix, centre, goal, rest = (t.to(device=rows.device, dtype=kind) for t in (maps[c], centre, target, rest))
            for some in mine.split(1024):  # what a core's cache holds
                moved = product(rows[some].to(kind) - centre, matrix.mT)
                edited[some] = moved.add_(rest).add_(goal).to(edited.dtype)
        return edited


def oracle_leace(by_class: Moments) -> GroupEraser:
    """Give every class the mean of all rows: x - (mean_c - mean).

    Of all edits that may look at the label, the one of least mean squared movement after which no linear probe beats a
    constant. It is exact for the rows whose moments these are; for other rows it is as good as their class means agree.

    Args:
        by_class: Moments with one group axis, from `Moments.of_groups(x, z)`.

    Raises:
        ValueError: If fewer than two classes have rows.

    Source:
        Belrose et al. (2023), Oracle LEACE, https://blog.eleuther.ai/oracle-leace/; for the affine eraser
        https://arxiv.org/abs/2306.03819.
    """
    if by_class.count.ndim != 1:
        raise ValueError(
            f"`by_class` needs one group axis, the classes of the concept; found {by_class.count.ndim}. "
            f"Build it with Moments.of_groups(x, z)."
        )
    names = by_class.classes or tuple(str(i) for i in range(len(by_class.count)))
    require_classes(by_class.count, names, "z")
    share = by_class.count / by_class.count.sum()
    target = (share[:, None] * by_class.mean).sum(dim=0)
    distortion = float(share @ (by_class.mean - target).square().sum(dim=1))
    return GroupEraser(by_class.mean, target, None, names, tuple((by_class.count > 0).tolist()), distortion)
