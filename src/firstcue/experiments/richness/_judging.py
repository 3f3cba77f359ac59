"""Claims that two settings differ, or that they do not, judged over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from firstcue.experiments.claims import Claim, judged, paired, t_interval

Rows = Sequence[Mapping[str, Any]]


def differs(
    rows: Rows, text: str, key: str, a: Any, b: Any, value: str, *, published: str, unit: str, note: str = ""
) -> Claim:
    """That `value` is larger under `a` than under `b`, seed by seed."""
    return judged(text, paired(rows, key, value, a, b), published=published, unit=unit, note=note)


def alike(
    rows: Rows,
    text: str,
    key: str,
    a: Any,
    b: Any,
    value: str,
    *,
    within: float,
    published: str,
    unit: str,
    note: str = "",
) -> Claim:
    """That `value` differs by less than `within` between `a` and `b`: the whole interval inside, or the whole outside."""
    gaps = paired(rows, key, value, a, b)
    mean, low, high = t_interval(gaps)
    verdict = "inconclusive"
    if math.isfinite(low):
        inside, outside = -within < low and high < within, low > within or high < -within
        verdict = "holds" if inside else "does not hold" if outside else "inconclusive"
    return Claim(
        text=text,
        published=published,
        value=mean,
        ci_low=low,
        ci_high=high,
        n=len(gaps),
        unit=unit,
        verdict=verdict,  # type: ignore[arg-type]
        note=" ".join(filter(None, [note, f"Alike: within {within:g}."])),
    )
