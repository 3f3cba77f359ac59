"""A claim and what became of it here: a published statement, our number with its interval, and one of three verdicts."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from firstcue._values import Value

Verdict = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True)
class Scale:
    """The size at which an experiment runs.

    Args:
        minutes: Of the whole experiment with its default number of seeds, on two cores.
        settings: What the trials are told: rows, epochs, patience and the like.
    """

    minutes: int | float
    settings: Mapping[str, Any] = field(default_factory=dict)


class Claim(Value):
    """One statement, judged."""

    text: str
    published: str
    """What the paper reports, in its own unit."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    """Independent seeds behind the value."""

    unit: str
    verdict: Verdict
    note: str = ""


def judged(
    text: str,
    values: Sequence[float],
    *,
    published: str,
    unit: str,
    wants: Literal["positive", "negative"] = "positive",
    note: str = "",
) -> Claim:
    """A claim about a sign, judged by Student's t interval over seeds.

    Args:
        text: The statement.
        values: One number per seed, of which the claim states the sign of the mean.
        published: What the paper reports.
        unit: Of the values.
        wants: The sign that the claim states.
        note: What a reader should know beside the verdict.

    Returns:
        "holds" if the 95 % interval of the mean lies on the wanted side of zero, "does not hold" if on the other side, else
        "inconclusive"; so too with fewer than two seeds or a value that is not finite.

    Example:
        >>> judged("slower", [0.3, 0.2, 0.4], published="always", unit="bits").verdict
        'holds'
        >>> judged("slower", [0.3, -0.2, 0.1], published="always", unit="bits").verdict
        'inconclusive'
    """
    value, low, high = t_interval(values)
    sign = 1 if wants == "positive" else -1
    verdict: Verdict = "inconclusive"
    if math.isfinite(low):
        bounds = sorted((sign * low, sign * high))
        verdict = "holds" if bounds[0] > 0 else "does not hold" if bounds[1] < 0 else "inconclusive"
    elif len(values) > 1:
        note = " ".join(filter(None, [note, "Some seeds gave no finite number."]))
    return Claim(
        text=text,
        published=published,
        value=value,
        ci_low=low,
        ci_high=high,
        n=len(values),
        unit=unit,
        verdict=verdict,
        note=note,
    )


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values and its Student t interval; NaN where there is none.

    Example:
        >>> [round(v, 2) for v in t_interval([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48]
    """
    import numpy as np
    from scipy import stats

    if len(values) == 0:
        return (math.nan,) * 3
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def paired(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    value: str,
    a: Hashable,
    b: Hashable,
    by: Sequence[str] = ("seed",),
) -> list[float]:
    """Differences of `value` between the rows where `key` is `a` and where it is `b`, matched by `by`.

    Pairs of which one side is missing are left out.

    Raises:
        ValueError: If two rows would be the same side of one pair: then `by` leaves out something that varies.

    Example:
        >>> rows = [{"seed": 0, "rule": "mask", "loss": 2.0}, {"seed": 0, "rule": "mean", "loss": 0.5}]
        >>> paired(rows, "rule", "loss", "mask", "mean")
        [1.5]
    """
    sides: dict[Hashable, dict[tuple[Any, ...], float]] = {a: {}, b: {}}
    for row in rows:
        if row.get(key) in sides:
            side, match = sides[row[key]], tuple(row[name] for name in by)
            if match in side:
                raise ValueError(f"two rows have {key} = {row[key]!r} and the same {', '.join(by)}; name more in `by`.")
            side[match] = math.nan if row[value] is None else float(row[value])
    return [sides[a][match] - sides[b][match] for match in sides[a] if match in sides[b]]
