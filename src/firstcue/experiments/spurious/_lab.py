"""What the experiments on Boolean data share: functions by name, times to learn, claims that state a number of seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, Scale
from firstcue.spurious.batched import BooleanRun, Dynamics
from firstcue.spurious.boolean import boolean_data
from firstcue.spurious.curves import convergence_time
from firstcue.spurious.functions import BooleanFunction, parity, staircase

THRESHOLD = 0.95
"""Correlation from which a function counts as learned, if it stays there for three measurements."""


def function_of(name: str) -> BooleanFunction:
    """ "parity 4" or "staircase 5"; ties of even staircases count as +1.

    Example:
        >>> function_of("parity 4").name
        'parity of 4'
    """
    kind, degree = name.split()
    return parity(int(degree)) if kind == "parity" else staircase(int(degree), ties="plus")


Cell = tuple[str, str, float, int]
"""Core, shortcut, strength and number of noise columns."""

CLAIMED = ["parity 4", "parity 2", 0.9, 4]
HARDER = ["parity 5", "parity 3", 0.9, 4]
SMALL = [CLAIMED, HARDER, ["parity 5", "parity 3", 0.95, 4], ["parity 5", "parity 3", 0.9, 10]]

TRAINING = {"rate": 0.1, "batch_size": 64, "width": 128}
TO_THE_END = {
    "small": Scale(minutes=3, settings=TRAINING | {"cells": SMALL, "steps": 30_000, "rows": 4000}),
    "paper": Scale(minutes=60, settings=TRAINING | {"cells": SMALL, "steps": 100_000, "rows": 10_000, "width": 512}),
}
"""Scales of the experiments that look at networks in which the core has been learned."""


def run_of(cell: Sequence[Any], seed: int) -> BooleanRun:
    """The run of one cell of a table.

    Example:
        >>> run_of(["parity 4", "parity 1", 0.9, 4], seed=0).columns
        9
    """
    core, cue, strength, noise = cell
    return BooleanRun(function_of(core), function_of(cue), strength, noise, seed)


def named(cell: Sequence[Any]) -> dict[str, Any]:
    """The cell as columns of a row."""
    return dict(zip(("core", "cue", "strength", "noise"), cell, strict=True))


def cells_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells that occur, in their order."""
    return [named(cell) for cell in dict.fromkeys(tuple(row[key] for key in named([0] * 4)) for row in rows)]


def where(cell: Mapping[str, Any]) -> str:
    """The cell in words.

    Example:
        >>> where({"core": "parity 5", "cue": "parity 3", "strength": 0.9, "noise": 4})
        'parity 3 over a core of parity 5, strength 0.9'
    """
    more = "" if cell["noise"] == 4 else f", {cell['noise']} noise columns"
    return f"{cell['cue']} over a core of {cell['core']}, strength {cell['strength']}{more}"


def in_lines(cell: Mapping[str, Any]) -> str:
    """The cell in words, over lines, as the title of a small panel.

    Example:
        >>> in_lines({"core": "parity 5", "cue": "parity 3", "strength": 0.9, "noise": 4})
        'parity 3\\nover a core of parity 5,\\nstrength 0.9'
    """
    return where(cell).replace(" over", "\nover").replace(", strength", ",\nstrength")


def times(dynamics: Dynamics, run: int) -> dict[str, Any]:
    """When core and cue were learned: steps, None where the run ended first."""
    steps, cue = dynamics.curve(run, "spurious_correlation")
    largest = max(cue)
    return {
        "core_step": convergence_time(*dynamics.curve(run, "core_correlation"), THRESHOLD),
        "decoded_step": convergence_time(*dynamics.curve(run, "decoded_core"), THRESHOLD),
        "peak": largest,
        "peak_step": next(s for s, v in zip(steps, cue, strict=True) if v >= largest - 0.01),
        "last_step": steps[-1],
    }


def independent_rows(run: BooleanRun, n: int) -> Batch:
    """Rows of the run's functions in which the cue says nothing of the label, seen by no training or measurement."""
    return boolean_data(run.core, run.spurious, 0.5, n, noise=run.noise, seed=run.seed + (1 << 33))


def hidden_layer(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Activations of the hidden layer."""
    with torch.no_grad():
        return torch.relu(model[0](x))


def signs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Classes 0 and 1 as a network with one output decides."""
    with torch.no_grad():
        return (model(x)[:, 0] >= 0).long()


def in_most_seeds(text: str, values: Sequence[bool], *, published: str, share: float = 2 / 3, note: str = "") -> Claim:
    """A claim that holds if it is true in at least `share` of the seeds; its interval is Wilson's."""
    from firstcue.spurious.intervals import wilson

    n, true = len(values), sum(values)
    low, high = wilson(true, n) if n else (math.nan, math.nan)
    return Claim(
        text=text,
        published=published,
        value=true / n if n else math.nan,
        ci_low=low,
        ci_high=high,
        n=n,
        unit="share of seeds",
        verdict="inconclusive" if n < 2 else "holds" if true >= share * n - 1e-9 else "does not hold",
        note=note,
    )


def matching(rows: Sequence[Mapping[str, Any]], **fixed: Any) -> list[Mapping[str, Any]]:
    """The rows in which the columns named have these values, in the order of seeds."""
    return sorted((r for r in rows if all(r.get(k) == v for k, v in fixed.items())), key=lambda r: r["seed"])


def values_of(rows: Sequence[Mapping[str, Any]], name: str, **fixed: Any) -> list[float]:
    """One number of the rows that match, in the order of seeds; NaN for None."""
    return [math.nan if row[name] is None else float(row[name]) for row in matching(rows, **fixed)]


def mean(values: Sequence[float]) -> float:
    """NaN if there is none."""
    return sum(values) / len(values) if values else math.nan


def median(values: Sequence[float]) -> float:
    """NaN if there is none or one is."""
    from statistics import median

    return median(values) if values and not any(math.isnan(v) for v in values) else math.nan
