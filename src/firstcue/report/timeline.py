"""Curves over training, one small panel per question: what the decisions use, what the features hold, at what cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from firstcue.finding import Moment, Order
from firstcue.report.figures import Scale, scale_of
from firstcue.report.words import percent, shorten

MOST_CURVES = 6
SLACK = 0.05
"""Values this little below 0 do not lengthen the axis; they are drawn on it."""
PLAIN = ("core", "worst", "overall")
"""Curves with a colour of their own; every other one is a cue."""
LENSES = {
    "used": "Used by the decisions",
    "decodable": "Readable from the features",
    "capacity": "Capacity it takes",
    "accuracy": "Accuracy",
}


@dataclass(frozen=True)
class Curve:
    """One line of a panel, ready to draw."""

    name: str
    style: str
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]
    end: tuple[float, float]
    label_y: float
    mark: tuple[float, str] | None
    """Where the threshold was passed: position and step."""


@dataclass(frozen=True)
class Panel:
    """One small chart over training steps."""

    title: str
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...]
    hidden: int
    description: str


WIDTH, HEIGHT = 300, 214
LEFT, RIGHT, TOP, BOTTOM = 44.0, 218.0, 10.0, 176.0


def timeline(moments: Sequence[Moment], order: Sequence[Order] = ()) -> list[Panel]:
    """One panel per lens (used, decodable, capacity, accuracy); steps on a logarithmic axis that begins at 0."""
    by_curve: dict[tuple[str, str], list[Moment]] = {}
    for moment in sorted(moments, key=lambda m: m.step):
        lens, _, subject = moment.curve.partition("/")
        by_curve.setdefault((lens, subject or lens), []).append(moment)
    known = {key: points for key, points in by_curve.items() if any(m.value is not None for m in points)}
    subjects = sorted({s for _, s in known}, key=lambda s: (s not in PLAIN, s))
    cues = [s for s in subjects if s not in PLAIN]
    styles = {s: s if s in PLAIN else f"cue{cues.index(s) % 4}" for s in subjects}
    lenses = sorted({lens for lens, _ in known}, key=lambda x: (list(LENSES).index(x) if x in LENSES else 9, x))
    last = max((m.step for m in moments), default=1)
    return [_panel(lens, {s: p for (q, s), p in known.items() if q == lens}, styles, order, last) for lens in lenses]


def _panel(
    lens: str, curves: dict[str, list[Moment]], styles: dict[str, str], order: Sequence[Order], last: int
) -> Panel:
    shown = sorted(curves, key=lambda s: list(styles).index(s))[:MOST_CURVES]
    values = [v for s in shown for m in curves[s] for v in (m.value, m.ci_low, m.ci_high) if v is not None]
    values = [v for v in values if not -SLACK < v < 0]
    axis = scale_of(values, high=1.0, step=0.25)
    ends = _spread([_y(_last_value(curves[s]), axis) for s in shown])
    drawn = [
        _curve(s, curves[s], styles[s], axis, last, end, _passed(lens, s, order))
        for s, end in zip(shown, ends, strict=True)
    ]
    title = LENSES.get(lens, shorten(lens, 40))
    said = "; ".join(_said(s, curves[s]) for s in shown)
    return Panel(
        title, WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM,
        tuple((_x(t, last), f"{t:,}") for t in _step_ticks(last)),
        tuple((_y(v, axis), percent(v) if axis.high <= 1.5 else f"{v:g}") for v, _ in axis.ticks),
        tuple(drawn), len(curves) - len(shown), f"{title} over training steps. {said}.",
    )  # fmt: skip


def _said(subject: str, points: list[Moment]) -> str:
    first = next(m for m in points if m.value is not None)
    return f"{shorten(subject, 40)}: {percent(first.value)} at step {first.step}, {percent(_last_value(points))} last"


def _last_value(points: list[Moment]) -> float:
    return next(m.value for m in reversed(points) if m.value is not None)


def _passed(lens: str, subject: str, order: Sequence[Order]) -> int | None:
    entry = next((o for o in order if o.cue == subject), None)
    if entry is None or lens not in ("used", "decodable"):
        return None
    return entry.step_used if lens == "used" else entry.step_decodable


def _x(step: int, last: int) -> float:
    return round(LEFT + (RIGHT - LEFT) * math.log1p(step) / math.log1p(max(last, 1)), 1)


def _y(value: float, axis: Scale) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * (axis(value) or 0.0) / 100, 1)


def _step_ticks(last: int) -> list[int]:
    powers = [0] + [10**i for i in range(12) if 10**i <= last]
    # the last step is named unless it would touch the power before it
    return powers if last < 2 * powers[-1] and last != powers[-1] else sorted({*powers, last})


def _curve(
    subject: str, points: list[Moment], style: str, axis: Scale, last: int, label_y: float, passed: int | None
) -> Curve:
    runs = _runs([(_x(m.step, last), _y(m.value, axis)) if m.value is not None else None for m in points])
    dots = tuple(p for run in runs for p in run)
    bands = [m for m in points if m.ci_low is not None and m.ci_high is not None]
    edge = [(_x(m.step, last), _y(m.ci_high or 0.0, axis)) for m in bands]
    edge += [(_x(m.step, last), _y(m.ci_low or 0.0, axis)) for m in reversed(bands)]
    mark = None if passed is None else (_x(passed, last), f"{passed:,}")
    path = " ".join(_line(run) for run in runs)
    return Curve(subject, style, path, _line(edge) + "Z" if len(bands) > 1 else "", dots, dots[-1], label_y, mark)


def _runs(points: list[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Stretches without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _spread(wanted: list[float], apart: float = 14.0) -> list[float]:
    """Heights near the wanted ones, no two closer than `apart`, all inside the panel where they fit."""
    places = sorted(range(len(wanted)), key=lambda i: wanted[i])
    heights: list[float] = []
    for i in places:
        heights.append(max(wanted[i], heights[-1] + apart) if heights else max(wanted[i], TOP))
    over = max(0.0, heights[-1] - BOTTOM) if heights else 0.0
    for at in range(len(heights) - 1, -1, -1):
        ceiling = heights[at + 1] - apart if at + 1 < len(heights) else BOTTOM
        heights[at] = min(heights[at], ceiling) if over else heights[at]
    return [round(h, 1) for _, h in sorted(zip(places, heights, strict=True))]
