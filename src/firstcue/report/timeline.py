"""Curves over training, one small panel per question: what the decisions use, what the features hold, how well it serves."""

from collections.abc import Mapping, Sequence

from firstcue.finding import Moment, Order, Report
from firstcue.report.figures import Scale, scale_of
from firstcue.report.panels import Curve, Panel, across, line, powers, runs, spread, upward
from firstcue.report.words import percent, shorten

MOST_CURVES = 6
SLACK = 0.05
"""Values this little below 0 do not lengthen the axis; they are drawn on it."""
PLAIN = ("core", "worst", "overall")
"""Curves with a colour of their own; every other one is a cue."""
LENSES = {
    "used": "Used by the decisions",
    "decodable": "Readable from the features",
    "capacity": "Readable before training",
    "accuracy": "Accuracy",
}


def timeline(
    moments: Sequence[Moment], order: Sequence[Order] = (), capacity: Mapping[str, float] | None = None
) -> list[Panel]:
    """One panel per lens (used, decodable, capacity, accuracy); steps on a logarithmic axis that begins at 0.

    Args:
        moments: Points of the curves.
        order: At which steps the thresholds were passed.
        capacity: What can be read of each subject from the untrained network; stands as a dotted line beside what is readable.
    """
    by_curve: dict[tuple[str, str], list[Moment]] = {}
    for moment in sorted(moments, key=lambda m: m.step):
        lens, _, subject = moment.curve.partition("/")
        by_curve.setdefault((lens, subject or lens), []).append(moment)
    known = {key: points for key, points in by_curve.items() if any(m.value is not None for m in points)}
    styles = styles_of([s for _, s in known])
    lenses = sorted({lens for lens, _ in known}, key=lambda x: (list(LENSES).index(x) if x in LENSES else 9, x))
    last = max((m.step for m in moments), default=1)
    return [
        _panel(
            lens,
            {s: p for (q, s), p in known.items() if q == lens},
            styles,
            order,
            last,
            (capacity or {}) if lens == "decodable" else {},
        )
        for lens in lenses
    ]


def styles_of(subjects: Sequence[str]) -> dict[str, str]:
    """The style of each subject, the same in all panels, in the order in which they are drawn."""
    ordered = sorted(set(subjects), key=lambda s: (s not in PLAIN, s))
    cues = [s for s in ordered if s not in PLAIN]
    return {s: s if s in PLAIN else f"cue{cues.index(s) % 4}" for s in ordered}


def capacity(report: Report) -> dict[str, float]:
    """What a linear probe reads of class and cue from the untrained network, on the timeline's scale from chance to always."""
    found = {}
    for finding in report.findings:
        if finding.kind == "decodability" and finding.id.endswith("/penultimate/linear"):
            start, chance = (finding.details.get(key) for key in ("untrained_linear", "chance"))
            if isinstance(start, float) and isinstance(chance, float) and chance < 1:
                found["core" if finding.cue == "class" else finding.cue] = (start - chance) / (1 - chance)
    return found


def _panel(
    lens: str,
    curves: dict[str, list[Moment]],
    styles: dict[str, str],
    order: Sequence[Order],
    last: int,
    levels: Mapping[str, float],
) -> Panel:
    shown = sorted(curves, key=lambda s: list(styles).index(s))[:MOST_CURVES]
    values = [v for s in shown for m in curves[s] for v in (m.value, m.ci_low, m.ci_high) if v is not None]
    values = [v for v in values if not -SLACK < v < 0]
    axis = scale_of(values, high=1.0, step=0.25)
    ends = spread([upward(_last_value(curves[s]), axis) for s in shown])
    drawn = [
        _curve(s, curves[s], styles[s], axis, last, end, _passed(lens, s, order), levels.get(s))
        for s, end in zip(shown, ends, strict=True)
    ]
    title = LENSES.get(lens, shorten(lens, 40))
    beside = {s: levels[s] for s in shown if s in levels}
    said = [_said(s, curves[s]) for s in shown] + [
        f"{shorten(s, 40)} before training: {percent(v)}" for s, v in beside.items()
    ]
    return Panel(
        title=title,
        description=f"{title} over training steps. {'; '.join(said)}.",
        x_title="training step",
        x_ticks=tuple((across(t, last), f"{t:,}") for t in powers(last)),
        y_ticks=tuple((upward(v, axis), percent(v) if axis.high <= 1.5 else f"{v:g}") for v, _ in axis.ticks),
        curves=tuple(drawn),
        hidden=len(curves) - len(shown),
        note=_note(lens, beside, drawn),
        name=f"timeline/{lens}",
    )


def _note(lens: str, beside: Mapping[str, float], drawn: Sequence[Curve]) -> str:
    """What the thin lines mean."""
    passed = "Upright line: from here on it is " + ("used." if lens == "used" else "readable.")
    dotted = "Dotted: capacity, what the same network lets a probe read before training."
    return " ".join(([passed] if any(c.mark for c in drawn) else []) + ([dotted] if beside else []))


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


def _curve(
    subject: str,
    points: list[Moment],
    style: str,
    axis: Scale,
    last: int,
    label_y: float,
    passed: int | None,
    level: float | None,
) -> Curve:
    drawn = runs([(across(m.step, last), upward(m.value, axis)) if m.value is not None else None for m in points])
    dots = tuple(p for run in drawn for p in run)
    bands = [m for m in points if m.ci_low is not None and m.ci_high is not None]
    edge = [(across(m.step, last), upward(m.ci_high or 0.0, axis)) for m in bands]
    edge += [(across(m.step, last), upward(m.ci_low or 0.0, axis)) for m in reversed(bands)]
    return Curve(
        name=subject,
        style=style,
        path=" ".join(line(run) for run in drawn),
        band=line(edge) + "Z" if len(bands) > 1 else "",
        dots=dots,
        end=dots[-1],
        label_y=label_y,
        mark=None if passed is None else (across(passed, last), f"{passed:,}"),
        level=None if level is None else upward(level, axis),
    )
