"""How core and shortcut are learned over time, in many small networks at once: seeds, strengths and complexities together.

Every network gets its own rows; at chosen steps all are measured on rows in which the shortcut says nothing of the label.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue.spurious.batched_metrics import MEASURES, Measure, Snapshot
from firstcue.spurious.batched_rows import Finite, Fresh, Source, held
from firstcue.spurious.functions import BooleanFunction
from firstcue.spurious.sampling import Recipe, Sampling
from firstcue.spurious.two_layer import TwoLayers

_UNSEEN = 1 << 32
"""Added to a seed for rows to measure on."""

Stop = Callable[[Sequence[Mapping[str, Any]]], bool]
"""From the rows recorded of one network so far: whether its training may end."""


@dataclass(frozen=True)
class BooleanRun:
    """One network and its data: what is varied in a table of runs.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> BooleanRun(parity(4), parity(1), strength=0.9, noise=4, seed=1).columns
        9
    """

    core: BooleanFunction
    spurious: BooleanFunction
    strength: float
    noise: int = 0
    seed: int = 0
    sampling: Sampling | str = "core-uniform"

    @property
    def columns(self) -> int:
        """Input columns."""
        return self.core.size + self.spurious.size + self.noise

    def recipe(self) -> Recipe:
        """How its rows are drawn."""
        return Recipe(self.core, self.spurious, self.strength, self.noise, self.sampling, self.seed)


@dataclass(frozen=True)
class Dynamics:
    """What was recorded, and the networks at the end."""

    runs: tuple[BooleanRun, ...]
    rows: list[dict[str, Any]]
    """One per network and step: `run` (its place in `runs`), `step`, and what was measured."""
    networks: TwoLayers

    def curve(self, run: int, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one measure of one network.

        Raises:
            ValueError: If it was not recorded.
        """
        own = [row for row in self.rows if row["run"] == run]
        if not own or name not in own[0]:
            known = ", ".join(own[0]) if own else "nothing"
            raise ValueError(f"{name!r} was not recorded for run {run}; recorded: {known}.")
        return [row["step"] for row in own], [row[name] for row in own]

    def module(self, run: int) -> nn.Sequential:
        """The trained network of one run, as `Sequential(Linear, ReLU, Linear)` with one output."""
        return self.networks.module(run)


def train_boolean(
    runs: Sequence[BooleanRun],
    steps: int,
    *,
    width: int = 128,
    rate: float = 0.1,
    batch_size: int = 64,
    rows: int | None = None,
    at: Collection[int] | None = None,
    held_out: int = 3000,
    measures: Sequence[Measure] = MEASURES,
    stop: Stop | None = None,
) -> Dynamics:
    """Train one two-layer ReLU network per run, all at once, by plain gradient descent on the logistic loss.

    Args:
        runs: Data and seed of each network. Runs of one seed with equal columns start from the same weights, and see the
            same core columns at every strength.
        steps: Updates of each network.
        width: Hidden neurons.
        rate: Learning rate.
        batch_size: Rows per update and network.
        rows: Size of a finite training set, gone through in a new order each time; fresh rows without end by default.
        at: Steps at which to measure; 40 from 0 to `steps`, denser at the start, by default.
        held_out: Rows to measure on, drawn at strength .5.
        measures: Each maps a `Snapshot` of all networks to one number per network by name.
        stop: Ends a network's training early, as from `reached`.

    Raises:
        ValueError: If there are no runs, a number is out of range, or a network's outputs are not finite.

    Source:
        Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> runs = [BooleanRun(parity(2), parity(1), strength, noise=2) for strength in (0.5, 0.9)]
        >>> found = train_boolean(runs, 200, width=32, at=[0, 50, 200])
        >>> [row["step"] for row in found.rows if row["run"] == 1]
        [0, 50, 200]
    """
    if not runs or min(steps, width, batch_size, held_out) < 1 or (rows is not None and rows < 1):
        raise ValueError("there has to be a run, and steps, width and rows have to be at least 1.")
    recipes, size = [run.recipe() for run in runs], max(run.columns for run in runs)
    source: Source = Fresh(recipes, size) if rows is None else Finite(recipes, size, rows)
    networks = TwoLayers.untrained([run.columns for run in runs], [run.seed for run in runs], width)
    watched = _Watched(tuple(runs), held(_unseen(recipes), size, held_out), measures, networks)
    due, active = _due(at, steps), torch.arange(len(runs))
    now = networks.chosen(active)
    for step in range(steps + 1):
        if step in due:
            watched.record(step, now, active)
            left = active if stop is None else watched.unfinished(active, stop)
            if len(left) < len(active) or step == steps:
                networks.put(active, now)
            if len(left) < len(active):
                source.keep(torch.isin(active, left).nonzero()[:, 0])
                active, now = left, networks.chosen(left)
        if not len(active) or step == steps:
            break
        part = source.take(batch_size)
        now.descend(part.x, part.core, rate)
    return Dynamics(tuple(runs), watched.rows, networks)


def reached(name: str, threshold: float, patience: int = 3) -> Stop:
    """Stop once a measure was at `threshold` or above `patience` times in a row.

    Example:
        >>> stop = reached("core_correlation", 0.95, patience=2)
        >>> stop([{"core_correlation": 0.96}]), stop([{"core_correlation": 0.96}, {"core_correlation": 0.97}])
        (False, True)
    """
    return lambda rows: len(rows) >= patience and all(row[name] >= threshold for row in rows[-patience:])


class _Watched:
    """The rows to measure on, and what was measured."""

    def __init__(self, runs: tuple[BooleanRun, ...], parts: Any, measures: Sequence[Measure], start: TwoLayers) -> None:
        self.runs, self.parts, self.measures, self.start = runs, parts, measures, start.chosen(torch.arange(len(runs)))
        self.rows: list[dict[str, Any]] = []

    def record(self, step: int, networks: TwoLayers, active: Tensor) -> None:
        """One row per active network."""
        own = type(self.parts)(*(part[active] for part in self.parts))
        hidden = networks.hidden(own.x)
        snapshot = Snapshot(
            step, [self.runs[i] for i in active.tolist()], networks, own, hidden, networks.read_out(hidden)
        )
        broken = ~torch.isfinite(snapshot.output).all(dim=1)
        if bool(broken.any()):
            run = self.runs[int(active[broken][0])]
            raise ValueError(
                f"at step {step} the outputs of {int(broken.sum())} of {len(active)} networks are not finite (first: "
                f"{run.core.name} with {run.spurious.name} at strength {run.strength}, seed {run.seed}). Lower `rate`."
            )
        found: dict[str, Any] = {}
        for measure in self.measures:
            found |= measure(snapshot)
        for place, run_id in enumerate(active.tolist()):
            numbers = {name: float(values[place]) for name, values in found.items()}
            self.rows.append({"run": run_id, "step": step, **numbers})

    def unfinished(self, active: Tensor, stop: Stop) -> Tensor:
        """Ids of the networks that go on."""
        rows: dict[int, list[dict[str, Any]]] = {int(i): [] for i in active}
        for row in self.rows:
            if row["run"] in rows:
                rows[row["run"]].append(row)
        return torch.tensor([i for i in rows if not stop(rows[i])], dtype=torch.int64)


def _unseen(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Rows of the same functions in which the shortcut agrees half of the time, never trained on."""
    return [replace(recipe, strength=0.5, seed=recipe.seed + _UNSEEN) for recipe in recipes]


def _due(at: Collection[int] | None, steps: int) -> set[int]:
    if at is None:
        return {0, *np.unique(np.geomspace(1, steps, 40).round().astype(int)).tolist()}
    if any(int(step) != step or not 0 <= step <= steps for step in at) or not at:
        raise ValueError(f"`at` names whole steps from 0 to {steps}; got {sorted(at)[:3]}...")
    return {int(step) for step in at} | {steps}
