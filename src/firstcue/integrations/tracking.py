"""Recorded numbers, sent on to TensorBoard or MLflow while training runs.

A tracker is a recorder like any other: `train(..., recorders=(recorder, tensorboard(recorder, "runs")))`, or in a loop of
your own, after `recorder.step(model, number)`, call it with `Step(number, model)`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from firstcue._extras import require_extra
from firstcue.training.recorder import Step


@runtime_checkable
class HasRows(Protocol):
    """A `Recorder`, a `RichnessMonitor`, or anything with rows."""

    rows: list[dict[str, Any]]


@dataclass
class Tracker:
    """Sends every row that is new since the last call; NaN and what is not a number are left out."""

    recorder: HasRows
    send: Callable[[Mapping[str, float], int], None]
    """Gets the numbers by name, and the step."""
    sent: int = 0

    def __call__(self, step: Step) -> None:
        """Send what was recorded up to this step: what `train` calls."""
        self.flush()

    def flush(self) -> None:
        """Send the rows that were not sent yet."""
        for row in self.recorder.rows[self.sent :]:
            numbers = {name: float(value) for name, value in row.items() if name != "step" and _is_finite(value)}
            self.send(numbers, int(row["step"]))
        self.sent = len(self.recorder.rows)


def tensorboard(recorder: HasRows, target: str | Path | Any) -> Tracker:
    """Rows as TensorBoard scalars.

    Args:
        recorder: Whose rows are sent; it has to stand before the tracker among the recorders.
        target: Folder for event files, or a `SummaryWriter` of your own.

    Raises:
        MissingExtra: Without tensorboard (extra `track`).

    Example:
        >>> from firstcue import Recorder
        >>> recorder = Recorder([lambda step: {"accuracy": 0.5}])
        >>> tracker = tensorboard(recorder, "runs")  # doctest: +SKIP
    """
    writer: Any = target
    if isinstance(target, str | Path):
        writer = require_extra("torch.utils.tensorboard", "track", "TensorBoard").SummaryWriter(str(target))

    def send(numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, global_step=step)
        writer.flush()

    return Tracker(recorder, send)


def mlflow(recorder: HasRows, run_id: str | None = None) -> Tracker:
    """Rows as MLflow metrics of the active run, or of a run by its id.

    Args:
        recorder: Whose rows are sent; it has to stand before the tracker among the recorders.
        run_id: Of a run that exists; the active one when absent.

    Raises:
        MissingExtra: Without mlflow or mlflow-skinny (extra `track`).
        ValueError: If no run is active and none is named.

    Example:
        >>> from firstcue import Recorder
        >>> recorder = Recorder([lambda step: {"accuracy": 0.5}])
        >>> tracker = mlflow(recorder)  # doctest: +SKIP
    """
    library = require_extra("mlflow", "track", "MLflow")
    if run_id is None and library.active_run() is None:
        raise ValueError("no MLflow run is active; begin one with mlflow.start_run(), or name one by `run_id`.")
    chosen = run_id if run_id is not None else library.active_run().info.run_id

    def send(numbers: Mapping[str, float], step: int) -> None:
        # metrics of MLflow may have slashes and spaces, but no parentheses or other marks
        plain = {"".join(c if c.isalnum() or c in "_-. /" else "_" for c in name): v for name, v in numbers.items()}
        library.log_metrics(plain, step=step, run_id=chosen)

    return Tracker(recorder, send)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
