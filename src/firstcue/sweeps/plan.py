"""A sweep as a file: an experiment, fixed settings, lists to go through, ranges to draw from."""

import itertools
import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from firstcue._values import Record, condensed, read_text
from firstcue.sweeps.trial import Trial


class Range(Record):
    """Values to draw: between `low` and `high`, evenly or on a logarithmic scale, whole if both ends are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range needs low < high, and low > 0 when log; got {self.low} and {self.high}")
        return self

    def draw(self, source: random.Random) -> int | float:
        """One value."""
        from math import exp, log

        value = exp(source.uniform(log(self.low), log(self.high))) if self.log else source.uniform(self.low, self.high)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return min(max(round(value), self.low), self.high) if whole else value


class RandomSearch(Record):
    """Settings drawn `count` times: from a range, or from a list of choices."""

    count: Annotated[int, Field(ge=1)]
    seed: int = 0
    ranges: dict[str, Range | list[Any]]


class Search(Record):
    """Settings chosen one round after the other, each by what the rounds before have shown (Optuna, extra `tune`)."""

    measure: str
    """The number in the rows that is to be large or small; its mean over rows, then over seeds."""

    goal: Literal["maximise", "minimise"] = "maximise"
    count: Annotated[int, Field(ge=1)]
    """Points to try, each with every seed."""

    batch: Annotated[int, Field(ge=1)] = 4
    """Points of a round, which are chosen together and run side by side."""

    seed: int = 0
    ranges: Annotated[dict[str, Range | Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]


class Plan(Record):
    """What a sweep file says."""

    experiment: str
    scale: str = "tiny"
    seeds: Annotated[int, Field(ge=1)] | list[int] = 3
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    random: RandomSearch | None = None
    search: Search | None = None
    backend: Literal["loky", "dask", "ray", "serial"] = "loky"
    time_limit: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _named_once(self) -> "Plan":
        if self.search and (self.grid or self.random):
            raise ValueError("a [search] chooses settings by itself; leave out [grid] and [random], or [search]")
        parts = [
            set(self.settings),
            set(self.grid),
            set(self.random.ranges if self.random else ()),
            set(self.search.ranges if self.search else ()),
        ]
        twice = [name for a, b in itertools.combinations(parts, 2) for name in a & b]
        if twice:
            raise ValueError(f"{min(twice)!r} is given in two of [settings], [grid], [random.ranges], [search.ranges]")
        return self


def read_plan(path: str | Path) -> Plan:
    """The plan in a TOML file.

    Raises:
        ValueError: If it cannot be read, is no TOML, or says something that a plan cannot.
    """
    target = Path(path)
    try:
        return Plan(**tomllib.loads(read_text(target, "sweep file", "write one with `experiment`, `seeds` and [grid]")))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{target} is no TOML: {error}.") from None
    except ValidationError as error:
        raise ValueError(f"{target}: {condensed(error)}.") from None


def trials_of_plan(plan: Plan, known: Mapping[str, Any], version: int = 1) -> list[Trial]:
    """Every combination of the grid, with every draw, for every seed.

    Args:
        plan: From `read_plan`.
        known: The experiment's settings with their usual values: what the plan does not name keeps these, and a setting
            that is not among them, or is of another type, is refused.
        version: Of the experiment.

    Raises:
        ValueError: For a setting the experiment does not have, or a value of another type than its own.

    Example:
        >>> plan = Plan(experiment="mine", seeds=2, grid={"rate": [0.1, 0.2]})
        >>> [(t.settings["rate"], t.seed) for t in trials_of_plan(plan, {"rate": 0.5, "rows": 10})]
        [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    """
    return [
        trial
        for values in itertools.product(*plan.grid.values())
        for drawn in _draws(plan.random)
        for trial in trials_with(plan, {**dict(zip(plan.grid, values, strict=True)), **drawn}, known, version)
    ]


def trials_with(plan: Plan, chosen: Mapping[str, Any], known: Mapping[str, Any], version: int = 1) -> list[Trial]:
    """One trial for each seed, with the plan's fixed settings and the chosen ones; see `trials_of_plan`."""
    settings = {**known, **plan.settings, **chosen}
    _require_known(settings, known, plan.experiment)
    seeds = plan.seeds if isinstance(plan.seeds, list) else range(plan.seeds)
    return [Trial(plan.experiment, settings, seed, version) for seed in seeds]


def _draws(search: RandomSearch | None) -> Sequence[dict[str, Any]]:
    if search is None:
        return [{}]
    source = random.Random(search.seed)
    return [
        {
            name: spread.draw(source) if isinstance(spread, Range) else source.choice(spread)
            for name, spread in search.ranges.items()
        }
        for _ in range(search.count)
    ]


def _require_known(settings: Mapping[str, Any], known: Mapping[str, Any], experiment: str) -> None:
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{experiment} has no setting {name!r}; it has {', '.join(known)}.")
        usual = known[name]
        if usual is None or value is None:
            continue
        numbers = isinstance(usual, float) and isinstance(value, int | float) and not isinstance(value, bool)
        if not numbers and type(value) is not type(usual):
            raise ValueError(
                f"the setting {name!r} of {experiment} is a {type(usual).__name__}, as in {usual!r}; got {value!r}."
            )
