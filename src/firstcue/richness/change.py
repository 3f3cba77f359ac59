"""One table of every measure of change: what each says, what it needs, and where it is known to mislead.

No single number tells rich from lazy training. Side by side, with their sense and their needs, they do.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_rows
from firstcue.forward import unwrap
from firstcue.heads import Head, features_and_outputs, find_head
from firstcue.moments import Moments
from firstcue.richness.collapse import neural_collapse
from firstcue.richness.low_rank import low_rank_measure
from firstcue.richness.movement import RECTIFIERS, activation_change, spectral_complexity, weight_movement
from firstcue.richness.ranks import effective_ranks
from firstcue.richness.recipes import class_ids
from firstcue.richness.result import Debias
from firstcue.richness.similarity import cka, label_alignment
from firstcue.richness.tangent import linearisation_error, tangent_change


@dataclass(frozen=True)
class Measurement:
    """One measure of one network."""

    name: str
    value: float

    lazy: str
    """Its value in the lazy limit; "" where there is none."""

    needs: str
    """What it needs besides inputs: "", "start" (the initial network), "labels"."""

    misleads: str = ""
    """When not to trust it."""


@dataclass(frozen=True)
class ChangeTable:
    """All measures of one network, in reading order."""

    rows: tuple[Measurement, ...]

    n: int
    """Inputs behind them."""

    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> float:
        """The value of one measure."""
        for row in self.rows:
            if row.name == name:
                return row.value
        raise KeyError(f"{name!r} was not measured; measured: {', '.join(row.name for row in self.rows)}")

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary per measure."""
        return [{**vars(row), "n": self.n} for row in self.rows]

    def __str__(self) -> str:
        lines = [f"{row.name:<24}{row.value:>12.4g}   {_remark(row)}".rstrip() for row in self.rows]
        return "\n".join([*lines, *self.notes])


def measure_change(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Any = None,
    *,
    initial: nn.Module | None = None,
    tangent_rows: int = 64,
    reference: str = "raw",
    debias: Debias = "auto",
    batch_size: int = 512,
) -> ChangeTable:
    """Every measure of richness and change that the given things allow, on the same inputs.

    Args:
        model: After training, with a linear head; left as found.
        x: `(n, ...)` inputs, best several thousand.
        y: `(n,)` labels, for alignment and collapse.
        initial: The model before training, for everything that compares.
        tangent_rows: How many of the inputs the tangent kernels use, which cost a gradient per input and output; 0
            leaves them out.
        reference: As in `low_rank_measure`.
        debias: As in `low_rank_measure`.
        batch_size: Rows per call.

    Raises:
        ValueError: If the model has no linear head, or `initial` is another architecture.

    Source:
        The comparison follows Nam et al., https://arxiv.org/abs/2410.04264; each measure names its own.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> measure_change(model, torch.randn(50, 4), initial=model)["feature change"] < 1e-9
        True
    """
    inputs = as_tensor(x)
    if y is not None:
        require_rows(inputs, y)
    head = find_head(model, inputs)
    features, outputs = features_and_outputs(model, inputs, batch_size=batch_size, head=head)
    rows = list(_of_features(features, outputs, reference, debias))
    if y is not None:
        rows += _of_labels(features, y, head)
    if initial is not None:
        start, first = features_and_outputs(initial, inputs, batch_size=batch_size)
        rows += _of_start(model, initial, features, start, first, reference, debias)
        rows += _of_function(model, initial, inputs, tangent_rows, batch_size)
    return ChangeTable(tuple(rows), len(inputs), low_rank_measure(features, outputs, reference, debias).notes)


def _of_features(features: Tensor, outputs: Tensor, reference: str, debias: Debias) -> Iterator[Measurement]:
    found = low_rank_measure(features, outputs, reference, debias)
    ranks = effective_ranks(features)
    anisotropic = "large also where a few learned functions dominate: read it with the two below"
    yield Measurement("D_LR", found.dlr, "near its start", "", anisotropic)
    yield Measurement("used variance", found.used, "small", "")
    yield Measurement("participation ratio", found.participation_ratio, "large", "")
    yield Measurement("rank of outputs", found.rank, "", "")
    yield Measurement("entropy rank", ranks.entropy_rank, "large", "", "depends on width")
    yield Measurement("RankMe", ranks.rankme, "large", "", "features are not centred")
    yield Measurement("stable rank", ranks.stable_rank, "", "", "sees the largest direction only")
    slope = "" if ranks.alpha_fit > 0.9 else f"no power law (R^2 {ranks.alpha_fit:.2f})"
    yield Measurement("alpha-ReQ", ranks.alpha, "", "", slope)


def _of_labels(features: Tensor, y: Any, head: Head) -> Iterator[Measurement]:
    ids = class_ids(y, len(head.weight))
    found = neural_collapse(Moments.of_groups(features, ids, len(head.weight)), head, features)
    near_zero = "grows without bound where class means nearly coincide"
    yield Measurement(
        "label alignment", label_alignment(features, y), "near its start", "labels", "grows with accuracy"
    )
    yield Measurement("NC1", found.nc1, "large", "labels", near_zero)
    yield Measurement("NC1, traces", found.nc1_trace, "large", "labels")
    yield Measurement("CDNV", found.cdnv, "large", "labels")
    yield Measurement("NC2, lengths", found.nc2_lengths, "", "labels", "not 0 for unequal classes")
    yield Measurement("NC2, angles", found.nc2_angles, "", "labels", "not 0 for unequal classes")
    yield Measurement("NC3", math.nan if found.nc3 is None else found.nc3, "", "labels")
    yield Measurement("NC4", math.nan if found.nc4 is None else found.nc4, "", "labels")


def _of_start(
    model: nn.Module,
    initial: nn.Module,
    features: Tensor,
    start: Tensor,
    first: Tensor,
    reference: str,
    debias: Debias,
) -> Iterator[Measurement]:
    begun = low_rank_measure(start, first, reference, debias)
    moved = weight_movement(model, initial)
    decay = "weight decay alone moves it"
    yield Measurement("D_LR at start", begun.dlr, "", "start")
    yield Measurement(
        "feature change", 1 - cka(features, start), "0", "start", "weight decay and noise change features too"
    )
    yield Measurement("weight movement", moved.relative, "0", "start", decay)
    yield Measurement("norm ratio", moved.norm_ratio, "1", "start", decay)
    yield Measurement(
        "log spectral complexity", spectral_complexity(model, initial, log=True), "", "start", "one architecture only"
    )


def _of_function(
    model: nn.Module, initial: nn.Module, inputs: Tensor, tangent_rows: int, batch_size: int
) -> Iterator[Measurement]:
    if any(isinstance(module, RECTIFIERS) for module in unwrap(model).modules()):
        share = activation_change(model, initial, inputs, batch_size=batch_size)["mean"]
        yield Measurement("activation change", share, "0", "start")
    if tangent_rows:
        probe = inputs[:tangent_rows]
        few = f"on {len(probe)} inputs"
        yield Measurement("tangent change", tangent_change(model, initial, probe), "0", "start", few)
        yield Measurement("linearisation error", linearisation_error(model, initial, probe), "0", "start", few)


def _remark(row: Measurement) -> str:
    parts = [f"lazy: {row.lazy}" if row.lazy else "", f"needs {row.needs}" if row.needs else "", row.misleads]
    value = "not defined" if math.isnan(row.value) else ""
    return "; ".join(part for part in [value, *parts] if part)
