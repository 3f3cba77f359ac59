"""Two charts of what describes the model: the spectrum of its features with class and cue marked, and how gradients agree."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from firstcue.report.figures import Scale, scale_of
from firstcue.report.panels import BOTTOM, LEFT, RIGHT, Bar, Curve, Panel, across, line, powers, spread, upward
from firstcue.report.words import percent, shorten

MOST_TARGETS = 4
CLASS = "core"
"""Style of the class, as in the timeline."""


def spectrum_panels(spectra: Any) -> list[Panel]:
    """How wide the directions of the features are, and in how many of the widest class, cue and head are found.

    Args:
        spectra: `{"directions": [1, 2, ...], "size": [...], "targets": {"class": [...], ...}, "head": [...]}`: the width of
            those directions, and what the first so many hold, all fractions; None where not measured.
    """
    if not isinstance(spectra, Mapping) or not spectra.get("directions"):
        return []
    at = [int(k) for k in spectra["directions"]]
    held = {str(name): _numbers(values) for name, values in spectra.get("targets", {}).items()}
    held = dict(list(held.items())[:MOST_TARGETS])
    styles = {name: CLASS if name == "class" else f"cue{i - 1}" for i, name in enumerate(held)}
    half = {name: reached(at, values) for name, values in held.items()}
    return [
        _held_panel(at, held, _numbers(spectra.get("head", ())), styles),
        _size_panel(at, _numbers(spectra.get("size", ())), half, styles),
    ]


def _held_panel(at: Sequence[int], held: dict[str, list[float]], head: list[float], styles: dict[str, str]) -> Panel:
    axis, curves = Scale(), {**held, **({"head reads": head} if head else {})}
    ends = spread([upward(v[-1], axis) for v in curves.values()])
    said = "; ".join(
        f"{shorten(name, 40)}: {percent(v[0])} in the widest, {percent(v[-1])} in all" for name, v in curves.items()
    )
    return Panel(
        title="Held by the widest directions",
        description=f"Share of each that a linear map reads from the widest directions of the features. {said}.",
        x_title="widest directions of the features",
        x_ticks=tuple((across(k, at[-1], 1), f"{k:,}") for k in powers(at[-1], 1)),
        y_ticks=tuple((upward(v, axis), percent(v)) for v, _ in axis.ticks),
        curves=tuple(
            _curve(name, at, values, styles.get(name, "overall"), axis, end)
            for (name, values), end in zip(curves.items(), ends, strict=True)
        ),
        note="What rises at the left sits in the widest directions of the features.",
        name="spectrum/held",
    )


def _size_panel(at: Sequence[int], size: list[float], half: dict[str, int | None], styles: dict[str, str]) -> Panel:
    """The spectrum itself, in powers of ten, with where half of class and cue is reached."""
    logs = [math.log10(max(v, 1e-6)) for v in size]
    axis = scale_of(logs, low=-1.0, high=0.0, step=1.0)
    marks = {name: k for name, k in half.items() if k is not None}
    ends = spread([BOTTOM - 24 + 14 * i for i in range(len(marks))])
    said = "; ".join(f"half of {shorten(name, 40)} within the {k} widest" for name, k in marks.items())
    spectrum = _curve("", at, logs, "overall", axis, upward(logs[-1], axis)) if logs else None
    upright = [
        Curve(name, styles[name], "", "", (), (0.0, 0.0), end, (across(k, at[-1], 1), f"{k:,}"))
        for (name, k), end in zip(marks.items(), ends, strict=True)
    ]
    return Panel(
        title="Width of each direction",
        description=f"Variance of each direction of the features over that of the widest; {said}.",
        x_title="direction, the widest first",
        x_ticks=tuple((across(k, at[-1], 1), f"{k:,}") for k in powers(at[-1], 1)),
        y_ticks=tuple((upward(v, axis), _power(v)) for v, _ in axis.ticks if v == round(v)),
        curves=tuple(c for c in [spectrum, *upright] if c is not None),
        note="Upright lines: so many of the widest directions hold half of it.",
        name="spectrum/size",
    )


def _power(exponent: float) -> str:
    """
    Example:
        >>> _power(-3.0), _power(0.0)
        ('10⁻³', '1')
    """
    digits = str(abs(round(exponent))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if exponent == 0 else f"10⁻{digits}"


def reached(at: Sequence[int], values: list[float], share: float = 0.5) -> int | None:
    """How many of the widest directions hold that share of what all of them hold."""
    return next((k for k, v in zip(at, values, strict=False) if values[-1] > 0 and v >= share * values[-1]), None)


def _curve(name: str, at: Sequence[int], values: list[float], style: str, axis: Scale, label_y: float) -> Curve:
    dots = tuple((across(k, at[-1], 1), upward(v, axis)) for k, v in zip(at, values, strict=False))
    return Curve(name, style, line(dots), "", dots if len(dots) < 30 else (), dots[-1], label_y)


def agreement_histogram(counts: Any) -> list[Panel]:
    """How many weights the groups agree on, from split evenly to all the same way, beside groups drawn at random.

    Args:
        counts: `{"groups": [...], "random_groups": [...], "random_signs": [...]}`, shares of the weights by how many more groups pull
            one way than the other, from 0 on; None where not measured.
    """
    if not isinstance(counts, Mapping) or not counts.get("groups"):
        return []
    seen, drawn, signs = (_numbers(counts.get(k, ())) for k in ("groups", "random_groups", "random_signs"))
    axis = scale_of([*seen, *drawn, *signs], high=0.1, step=0.1)
    width = (RIGHT + 60 - LEFT) / len(seen)
    bars = tuple(
        Bar(
            x=round(LEFT + i * width + 0.12 * width, 1),
            width=round(0.76 * width, 1),
            y=upward(value, axis),
            chance_y=upward(drawn[i], axis) if i < len(drawn) else None,
            label=f"{i}: {percent(value)}"
            + (f", groups drawn at random {percent(drawn[i])}" if i < len(drawn) else ""),
        )
        for i, value in enumerate(seen)
    )
    signed = f" Random signs: {', '.join(percent(v) for v in signs)}." if signs else ""
    return [
        Panel(
            title="Agreement, weight by weight",
            description=f"Share of the weights by how many more groups pull one way than the other. {'; '.join(b.label for b in bars)}.{signed}",
            x_title="groups in the majority beyond the minority",
            x_ticks=tuple((round(b.x + b.width / 2, 1), str(i)) for i, b in enumerate(bars) if _labelled(i, len(bars))),
            y_ticks=tuple((upward(v, axis), percent(v)) for v, _ in axis.ticks),
            bars=bars,
            right=RIGHT + 60,
            note=f"0: the groups pull apart. {len(seen) - 1}: all pull the same way. Outlined: groups of the same sizes drawn at random.{signed}",
            name="agreement/histogram",
        )
    ]


def _labelled(i: int, count: int) -> bool:
    return count < 12 or i in (0, count - 1) or i % (count // 5) == 0


def _numbers(values: Any) -> list[float]:
    return [float(v) if isinstance(v, int | float) and math.isfinite(v) else 0.0 for v in values or ()]
