"""The sections that describe the model: a sentence, a scale with what the number stands beside, and curves."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstcue.finding import Report
from firstcue.report import words
from firstcue.report.charts import agreement_histogram, spectrum_panels
from firstcue.report.cues import lens
from firstcue.report.figures import Scale, Strip, scale_of, strip
from firstcue.report.panels import Panel

TITLES = {
    "richness": (
        "Did training transform the features?",
        "D_LR compares the last features with the least that would do for these outputs: near 0 they hold little else (rich), near 1 "
        "training could as well have left them alone (lazy). Neither is better.",
    ),
    "agreement": (
        "Do the groups agree on what to learn?",
        "If each group of rows could pull the weights its own way, on how much would they pull together? What they share is more likely to "
        "hold elsewhere.",
    ),
    "simplicity": (
        "How simple are the inputs, and how simple may they become?",
        "Bits count how much a picture holds under a model of natural pictures. What survives when bits are taken away while the answer "
        "stays is enough for the answer.",
    ),
}
NAMES = {
    "dlr": "D_LR of the last features",
    "dlr_untrained": "D_LR before training",
    "dlr_lazy_twin": "D_LR with the head alone trained",
    "used_variance": "share of the features' variance that the head reads",
    "participation_ratio": "directions that share the variance",
    "rank": "rank of the outputs",
    "n": "rows",
    "kept": "share of the gradient on whose sign all agree",
    "only_one_group": "share of the update that one group alone wants",
    "alignment": "alignment of the gradients, 1 for equal ones",
    "expected_of_random_signs": "share on which random signs agree",
    "inconsistency": "how far one group's loss moves where another's hardly does, in its own band",
    "environments": "groups",
    "kl_budget": "how far an answer may move, in nats",
}
CHARTED = ("spectra", "histogram")
"""Entries that are curves and no single numbers."""


@dataclass(frozen=True)
class Row:
    """One value of a scale: what it is of, its marks, and the number in words."""

    label: str
    marks: Strip | None
    said: str
    interval: str = ""
    mood: str = ""
    subject: str = ""
    """What the row is about, for linking it with other charts."""


@dataclass(frozen=True)
class Ruler:
    """Values side by side on one axis."""

    caption: str
    scale: Scale
    form: Callable[..., str]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Section:
    """Everything the page says of one lens."""

    name: str
    title: str
    hint: str
    sentences: tuple[str, ...]
    rulers: tuple[Ruler, ...]
    panels: tuple[Panel, ...]
    entries: tuple[tuple[str, str], ...]


def section(report: Report, name: str) -> Section | None:
    """What the page says of "richness", "agreement" or "simplicity"; None where nothing was measured."""
    values = getattr(report, name)
    if not values:
        return None
    title, hint = TITLES[name]
    rulers, panels = {"richness": _richness, "agreement": _agreement, "simplicity": _simplicity}[name](values, report)
    return Section(
        name,
        title,
        hint,
        tuple(words.prose(f.meaning) for f in lens(report, name)),
        tuple(r for r in rulers if r is not None),
        tuple(panels),
        tuple((_name(k), entry(v)) for k, v in values.items() if k not in CHARTED and v is not None),
    )


def _name(key: str) -> str:
    return NAMES.get(key) or words.shorten(key.replace("_", " "), 60)


def entry(value: Any) -> str:
    """A number, a number with its interval, or a short text.

    Example:
        >>> entry({"value": 2.1, "ci_low": 1.9, "ci_high": 2.3, "random_groups": 4.0})
        '2.1 (1.9 to 2.3); random groups 4'
    """
    if isinstance(value, Mapping):
        interval = (
            f" ({words.number(value['ci_low'])} to {words.number(value['ci_high'])})" if "ci_low" in value else ""
        )
        rest = [
            f"{_name(str(k))} {words.number(v)}" for k, v in value.items() if k not in ("value", "ci_low", "ci_high")
        ]
        return "; ".join(filter(None, [f"{words.number(value.get('value'))}{interval}", *map(words.shorten, rest)]))
    if isinstance(value, list | tuple):
        return words.shorten(", ".join(words.number(v) for v in value), 200)
    return words.number(value)


def _richness(values: Mapping[str, Any], report: Report) -> tuple[list[Ruler | None], Sequence[Panel]]:
    scale = Scale()
    rows = [
        _row("this network", values.get("dlr"), scale, brief, "chosen"),
        _row("the same network untrained", values.get("dlr_untrained"), scale, brief),
        _row("untrained, its head alone trained", values.get("dlr_lazy_twin"), scale, brief),
    ]
    caption = "D_LR from 0 (rich) to 1 (lazy), beside the same network before training and with its head alone trained."
    return [_ruler(caption, scale, brief, rows)], spectrum_panels(values.get("spectra"))


def _agreement(values: Mapping[str, Any], report: Report) -> tuple[list[Ruler | None], Sequence[Panel]]:
    kept, alone = values.get("kept"), values.get("only_one_group")
    together = [
        _row("groups by the cue", kept, Scale(), words.percent, "chosen"),
        _row("groups drawn at random", _beside(kept), Scale(), words.percent),
        _row("random signs", values.get("expected_of_random_signs"), Scale(), words.percent),
    ]
    apart = [
        _row("groups by the cue", alone, Scale(), words.percent, "chosen"),
        _row("groups drawn at random", _beside(alone), Scale(), words.percent),
    ]
    return [
        _ruler("Share of the gradient on whose sign all groups agree.", Scale(), words.percent, together),
        _ruler("Share of the update that one group alone wants.", Scale(), words.percent, apart),
    ], agreement_histogram(values.get("histogram"))


def _simplicity(values: Mapping[str, Any], report: Report) -> tuple[list[Ruler | None], Sequence[Panel]]:
    stem = "bits_per_value_of_"
    bits = {k.removeprefix(stem): v for k, v in values.items() if k.startswith(stem) and _known(v) is not None}
    scale = scale_of([_known(v) for v in bits.values()], step=1.0)
    groups = [_row(name, value, scale, brief) for name, value in bits.items()]
    cue = [
        _row("of what survives", values.get("surviving_bits_in_the_cue"), Scale(), words.percent, "chosen"),
        _row("of the originals", values.get("original_bits_in_the_cue"), Scale(), words.percent),
    ]
    return [
        _ruler("Bits per value of the inputs, by class and group.", scale, brief, groups),
        _ruler("Share of the bits that lie where editing the cue changes pixels.", Scale(), words.percent, cue),
    ], ()


def brief(value: float | None) -> str:
    """A number of which two decimals are enough to compare.

    Example:
        >>> brief(0.02228), brief(5.912), brief(1.0)
        ('0.02', '5.91', '1.00')
    """
    return words.MISSING if value is None else f"{value:.2f}".replace("-", "−")


def _ruler(caption: str, scale: Scale, form: Callable[..., str], rows: Sequence[Row]) -> Ruler | None:
    known = tuple(row for row in rows if row.marks is not None)
    return Ruler(caption, scale, form, known) if known else None


def _row(label: str, value: Any, scale: Scale, form: Callable[..., str], mood: str = "") -> Row:
    number, low, high = _known(value), None, None
    if isinstance(value, Mapping):
        low, high = _known(value.get("ci_low")), _known(value.get("ci_high"))
    text = (
        words.between(low, high)
        if form is words.percent
        else f"{form(low)} to {form(high)}"
        if low is not None and high is not None
        else ""
    )
    return Row(words.shorten(label, 60), strip(number, low, high, None, scale), form(number), text, mood, label)


def _beside(value: Any) -> Any:
    return value.get("random_groups") if isinstance(value, Mapping) else None


def _known(value: Any) -> float | None:
    """A finite number, of itself or of what it is the value of."""
    if isinstance(value, Mapping):
        value = value.get("value")
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
