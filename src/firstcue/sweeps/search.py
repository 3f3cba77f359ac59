"""A search chooses the next settings by what it has seen: Optuna, in rounds, so that the same seed gives the same search."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from firstcue._extras import require_extra
from firstcue.sweeps.plan import Plan, Range, Search, trials_with
from firstcue.sweeps.store import Result, Store
from firstcue.sweeps.trial import Trial


@dataclass(frozen=True)
class Point:
    """One choice of settings and what came of it."""

    settings: dict[str, Any]
    """The values that were searched for."""

    trials: tuple[Trial, ...]
    """One for each seed."""

    value: float | None = None
    """Mean of the measure over rows and seeds; None where a trial failed or the mean is not finite."""


Rounds = Generator[list[Point], Mapping[str, Result], list[Point]]
"""Yields the points of a round, is sent results by key, and returns all points with their values."""


def rounds(plan: Plan, known: Mapping[str, Any], version: int = 1) -> Rounds:
    """The search of a plan, a round at a time.

    What a round asks for depends on the seed and the results of the rounds before, never on the order in which these
    arrived: told the same results again, from a store, it asks for the same points.

    Args:
        plan: With a `[search]`.
        known: The experiment's settings with their usual values.
        version: Of the experiment.

    Raises:
        MissingExtra: If Optuna is not installed.
        ValueError: For settings that the experiment does not have, or when a result lacks the measure.
    """
    search = plan.search
    assert search is not None
    optuna = require_extra("optuna", "tune", "a search")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction=f"{search.goal.removesuffix('ise')}ize", sampler=optuna.samplers.TPESampler(seed=search.seed)
    )
    found: list[Point] = []
    while len(found) < search.count:
        asked = [study.ask() for _ in range(min(search.batch, search.count - len(found)))]
        points = [_point(plan, _suggested(trial, search), known, version) for trial in asked]
        results = yield points
        for trial, point in zip(asked, points, strict=True):
            value = measured([results[t.key] for t in point.trials], search.measure)
            found.append(Point(point.settings, point.trials, value))
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
    return found


def run_search(searching: Rounds, run_round: Callable[[list[Trial], list[Trial]], Mapping[str, Result]]) -> list[Point]:
    """Drive a search to its end.

    Args:
        searching: From `rounds`.
        run_round: Given all trials so far and those of this round, runs the latter and returns their results by key.
    """
    so_far: list[Trial] = []
    try:
        points = next(searching)
        while True:
            trials = list(dict.fromkeys(t for point in points for t in point.trials))
            so_far = list(dict.fromkeys([*so_far, *trials]))
            points = searching.send(run_round(so_far, trials))
    except StopIteration as end:
        found: list[Point] = end.value
        return found


def chosen_so_far(searching: Rounds, store: Store) -> tuple[list[Trial], list[Trial], int]:
    """The trials that a store has results of, those of the next round that it lacks, and the number of points chosen.

    Nothing is run.
    """
    done: list[Trial] = []
    chosen = 0
    try:
        points = next(searching)
        while True:
            chosen += len(points)
            trials = list(dict.fromkeys(t for point in points for t in point.trials))
            results = {t.key: r for t in trials if (r := store.read(t) or store.read(t, failed=True)) is not None}
            done += [t for t in trials if t.key in results and t not in done]
            if len(results) < len(trials):
                return done, [t for t in trials if t.key not in results], chosen
            points = searching.send(results)
    except StopIteration:
        return done, [], chosen


def best(points: Sequence[Point], search: Search) -> Point | None:
    """The point with the best value, the earliest of equal ones; None if all failed."""
    valued = [point for point in points if point.value is not None]
    sign = 1 if search.goal == "maximise" else -1
    return max(valued, key=lambda point: sign * (point.value or 0.0), default=None)


def measured(results: Sequence[Result], measure: str) -> float | None:
    """Mean of a column over the rows of each result, then over results; None if one failed or nothing is finite.

    Raises:
        ValueError: If no row has that column.
    """
    if any(result.error is not None for result in results):
        return None
    columns = {name for result in results for row in result.rows for name in row}
    if measure not in columns:
        raise ValueError(f"[search] measures {measure!r}, which no row has; rows have {', '.join(sorted(columns))}.")
    means = []
    for result in results:
        values = [row[measure] for row in result.rows if row.get(measure) is not None]
        wrong = [value for value in values if isinstance(value, str)]
        if wrong:
            raise ValueError(f"[search] measures {measure!r}, which holds text such as {wrong[0]!r}; name a number.")
        if not values:
            return None
        means.append(fmean(values))
    value = fmean(means)
    return value if isfinite(value) else None


def _point(plan: Plan, settings: dict[str, Any], known: Mapping[str, Any], version: int) -> Point:
    return Point(settings, tuple(trials_with(plan, settings, known, version)))


def _suggested(trial: Any, search: Search) -> dict[str, Any]:
    return {name: _value(trial, name, spread) for name, spread in search.ranges.items()}


def _value(trial: Any, name: str, spread: Range | list[Any]) -> Any:
    if isinstance(spread, list):  # by place, since choices may be lists
        return spread[trial.suggest_categorical(name, list(range(len(spread))))]
    if isinstance(spread.low, int) and isinstance(spread.high, int):
        return trial.suggest_int(name, spread.low, spread.high, log=spread.log)
    return trial.suggest_float(name, spread.low, spread.high, log=spread.log)
