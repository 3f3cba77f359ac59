"""Richness over training: a measure for the recorder, and a monitor for the user's own loop, both of bounded cost.

The same few thousand rows are measured every time, in evaluation mode, and the model, its statistics and the random
state are afterwards what they were.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._checks import require_finite
from firstcue._values import plain
from firstcue._whole import written_whole
from firstcue.forward import as_logits, left_as_found, parts, require_finite_outputs, unwrap
from firstcue.richness.low_rank import low_rank_measure
from firstcue.richness.movement import weight_movement
from firstcue.richness.probe_rows import FEWEST_ROWS, collected
from firstcue.richness.readout import PROBE_ROWS, find_readout
from firstcue.richness.result import Debias
from firstcue.richness.similarity import centred_rows, ratio, shared, targets
from firstcue.training.recorder import Measure, Step, When, is_due, require_when

ROWS_PER_FEATURE = 5


def richness_measure(
    data: Any,
    y: Any = None,
    *,
    initial: nn.Module | None = None,
    reference: str = "raw",
    debias: Debias = "auto",
    max_rows: int | None = None,
    name: str = "richness",
    batch_size: int = 512,
) -> Measure:
    """A measure for the `Recorder`: D_LR and what to read beside it, and the change since the start.

    The start is `initial`, or else the model at the first step recorded, of which features and parameters are copied. Use
    one measure for one model.

    Args:
        data: Probe rows: a `Batch`, `(n, ...)` inputs, `(x, y)`, or an iterable of `(x, y)` such as a DataLoader.
        y: `(n,)` labels, where `data` holds inputs only; with labels, accuracy and alignment are reported.
        initial: The model before training.
        reference: As in `low_rank_measure`.
        debias: As in `low_rank_measure`.
        max_rows: Rows used, drawn once; by default five for each feature, but at least 2,000.
        name: Prefix of the numbers.
        batch_size: Rows per call.

    Returns:
        `{name}/dlr`, `/used`, `/participation_ratio`, `/rank`, `/unused`, `/feature_change`, `/weight_movement`, and with
        labels `/accuracy` and `/alignment`. NaN where not defined (constant features, diverged training).

    Example:
        >>> from firstcue.training.recorder import Recorder
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> recorder = Recorder([richness_measure(torch.randn(100, 4))], every=10)
        >>> recorder.step(model, 0)
        >>> recorder.rows[0]["richness/feature_change"] < 1e-6
        True
    """
    return _Probe(data, y, initial, reference, debias, max_rows, name, batch_size)


@dataclass
class RichnessMonitor:
    """Richness of a model during the user's own training loop.

    Args:
        model: Trained outside; its linear head is found by watching one call.
        data: Probe rows, as in `richness_measure`; not the whole training set.
        y: Labels, where `data` holds inputs only.
        every: Steps between rows, or the steps themselves, as from `log_spaced`.
        max_rows: As in `richness_measure`.
        max_share: Fraction of the time since the first record that measuring may take; what is due beyond it is
            skipped, and listed in `skipped`. Without it every row that is due is measured.
        reference: As in `low_rank_measure`.
        debias: As in `low_rank_measure`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> monitor = RichnessMonitor(model, torch.randn(100, 4), every=10)
        >>> for step in range(21):
        ...     _ = monitor.record(step)
        >>> [row["step"] for row in monitor.rows]
        [0, 10, 20]
    """

    model: nn.Module
    data: Any
    y: Any = None
    every: When = 1
    max_rows: int | None = None
    max_share: float | None = None
    reference: str = "raw"
    debias: Debias = "auto"
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_when(self.every)
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise ValueError(f"`max_share` is a fraction of the time, in (0, 1]; got {self.max_share}.")
        self._measure = richness_measure(
            self.data, self.y, reference=self.reference, debias=self.debias, max_rows=self.max_rows, name="richness"
        )
        self._began: float | None = None
        self._spent = 0.0

    def record(self, step: int, loss: float | None = None) -> dict[str, Any] | None:
        """Measure the model after `step` updates if that is due; the row, or None.

        Args:
            step: Updates so far; begin with 0, before training.
            loss: Training loss, to be shown beside: a diverging run looks rich.
        """
        if not is_due(self.every, step):
            return None
        now = time.perf_counter()
        if (
            self._began is not None
            and self.max_share is not None
            and self._spent > self.max_share * (now - self._began)
        ):
            self.skipped.append(step)
            return None
        row = {"step": step, "loss": loss, **self._measure(Step(step, self.model, loss))}
        self._began = now if self._began is None else self._began
        self._spent += time.perf_counter() - now
        self.rows.append(row)
        return row

    def table(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return [dict(row) for row in self.rows]

    def to_json(self, path: str | Path) -> Path:
        """Write the rows; NaN becomes null."""
        target = Path(path)
        with written_whole(target) as file:
            file.write_text(json.dumps(plain(self.rows), indent=2) + "\n", encoding="utf-8")
        return target

    def plot(self, path: str | Path) -> Path:
        """Draw D_LR, used variance and participation ratio over the steps; the ending of `path` says in which format."""
        from firstcue.richness.figures import over_training

        target = Path(path)
        with written_whole(target) as file:
            over_training(self.rows).savefig(file, format=target.suffix.lstrip(".") or "png")
        return target

    def sentence(self) -> str:
        """The last row against the first, in words that judge nothing."""
        if not self.rows:
            return "nothing was recorded yet."
        first, last = self.rows[0], self.rows[-1]
        now, begun = last["richness/dlr"], first["richness/dlr"]
        if math.isnan(now) or math.isnan(begun):
            return f"D_LR is not defined at step {last['step'] if math.isnan(now) else first['step']}: constant or diverged."
        rank, ratio = last["richness/rank"], last["richness/participation_ratio"]
        return (
            f"D_LR {now:.3f} at step {last['step']}, {abs(now - begun):.3f} {'below' if now <= begun else 'above'} step "
            f"{first['step']}; {last['richness/unused']:.0%} of the features' variance is not used by the head; participation "
            f"ratio {ratio:.1f} for {rank:.1f} learned functions."
        )


@dataclass
class _Probe:
    """The measure behind both: probe rows, chosen once, and the start, kept at the first call."""

    data: Any
    y: Any
    initial: nn.Module | None
    reference: str
    debias: Debias
    max_rows: int | None
    name: str
    batch_size: int
    rows: tuple[Tensor, Tensor | None] | None = None
    start: tuple[Tensor, float, dict[str, Tensor]] | None = None
    goal: tuple[Tensor, float] | None = None

    def __post_init__(self) -> None:
        if self.max_rows is not None and self.max_rows < 2:
            raise ValueError(f"`max_rows` is at least 2, best thousands; got {self.max_rows}.")

    def __call__(self, step: Step) -> Mapping[str, float]:
        with left_as_found(step.model):
            x, y = self._chosen(step.model)
            features, outputs = _rows_of(step.model, x, self.batch_size)
            before, own_before, weights = self._begun(step.model, x, features)
        now = centred_rows(features)
        own = shared(now, now)
        found = low_rank_measure(features, outputs, self.reference, self.debias)
        values = {
            "dlr": found.dlr,
            "used": found.used,
            "unused": found.unused,
            "participation_ratio": found.participation_ratio,
            "rank": found.rank,
            "feature_change": 1 - ratio(shared(now, before), own, own_before),
            "weight_movement": weight_movement(step.model, weights).relative,
        }
        if y is not None and len(y) == len(outputs):
            values["accuracy"] = float((as_logits(outputs).argmax(dim=1) == y).double().mean())
            if self.goal is None:
                goal = centred_rows(targets(y).float()) if len(y.unique()) > 1 else torch.zeros(len(y), 1)
                self.goal = goal, shared(goal, goal)
            values["alignment"] = ratio(shared(now, self.goal[0]), own, self.goal[1])
        return {f"{self.name}/{key}": float(value) for key, value in values.items()}

    def _chosen(self, model: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The probe rows, drawn at the first call."""
        if self.rows is None:
            x, y = collected(self.data, self.y, self.max_rows)
            few = x[:PROBE_ROWS]
            features, _ = _rows_of(model, few, PROBE_ROWS)
            wanted = max(FEWEST_ROWS, ROWS_PER_FEATURE * features.shape[1]) if self.max_rows is None else self.max_rows
            inputs = -(-wanted * len(few) // len(features))  # an input may hold many positions
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:inputs].sort().values
            self.rows = x[order.to(x.device)], None if y is None else y[order]
            self.data = self.y = None  # the probe rows are enough
        return self.rows

    def _begun(self, model: nn.Module, x: Tensor, features: Tensor) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Centred features, their square norm, and parameters at the start."""
        if self.start is None:
            first = model if self.initial is None else self.initial
            own = features
            if self.initial is not None:
                with left_as_found(first):
                    own, _ = _rows_of(first, x, self.batch_size)
            weights = {name: p.detach().to("cpu", copy=True) for name, p in unwrap(first).named_parameters()}
            centred = centred_rows(own)
            self.start = centred, shared(centred, centred), weights
        return self.start


def _rows_of(model: nn.Module, x: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Features `(n, p)` and outputs `(n, C)` of all rows, and of all positions of sequences and maps."""
    inner = unwrap(model)
    require_finite(x)
    readout = find_readout(inner, x[:PROBE_ROWS])
    features, outputs = [], []
    for start, part in parts(x, batch_size):
        inside, outside = readout(inner, part)
        features.append(inside.reshape(-1, inside.shape[-1]).to("cpu", torch.float32))
        outputs.append(outside.reshape(-1, outside.shape[-1]).to("cpu", torch.float32))
        require_finite_outputs(outputs[-1], start)
    return torch.cat(features), torch.cat(outputs)
