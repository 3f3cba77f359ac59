"""One page over experiments that were run: each claim with the published value, ours, its interval and the verdict."""

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from firstcue.experiments import Outcome
from firstcue.experiments.claims import Claim

NAME = "claims.html"
LIGHTS = {"holds": "green", "does not hold": "red", "inconclusive": "amber"}


def write_claims(folder: str | Path) -> Path:
    """Write `claims.html` over every outcome in `folder`; returns its path.

    Raises:
        ValueError: If there is no outcome.
    """
    root = Path(folder)
    outcomes = read_outcomes(root)
    if not outcomes:
        raise ValueError(f"no experiment was run in {root}; `firstcue reproduce NAME --out {root}` runs one.")
    target = root / NAME
    target.write_text(page(outcomes, root), encoding="utf-8")
    return target


def read_outcomes(folder: Path) -> list[Outcome]:
    """Every outcome below `folder`, by name."""
    return [Outcome.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-*.json"))]


def page(outcomes: Sequence[Outcome], folder: Path) -> str:
    """The page, with the figures inside it."""
    from firstcue.report.html import render

    figures = {name: (folder / name).read_text(encoding="utf-8") for o in outcomes for name in o.figures.values()}
    verdicts = Counter[str](claim.verdict for o in outcomes for claim in o.claims)
    return render(
        "claims.html",
        outcomes=outcomes,
        total=verdicts.total(),
        counted=_counted(verdicts),
        figures={name: _only_svg(text) for name, text in figures.items()},
        lights=LIGHTS,
        hardware=hardware(),
        told=told,
    )


def _counted(verdicts: Counter[str]) -> str:
    """How many claims came to each verdict, in words."""
    hold, refuted = verdicts["holds"], verdicts["does not hold"]
    one = f"{hold} {'holds' if hold == 1 else 'hold'}"
    return f"{one}, {refuted} {'does' if refuted == 1 else 'do'} not, {verdicts['inconclusive']} inconclusive"


def told(claim: Claim) -> str:
    """Our value with its interval, in the claim's unit."""
    if claim.value is None:
        return "not measured"
    between = (
        f" ({claim.ci_low:.3g} to {claim.ci_high:.3g})"
        if claim.ci_low is not None and claim.ci_high is not None
        else ""
    )
    return f"{claim.value:.3g}{between} {claim.unit}".rstrip()


def as_text(outcome: Outcome) -> str:
    """What a terminal shows of one experiment."""
    lines = [f"{outcome.experiment} at scale {outcome.scale}: {outcome.title} ({outcome.source})"]
    for claim in outcome.claims:
        lines.append(f"  {claim.verdict:<13}  {claim.text}")
        lines.append(f"  {'':<13}  here {told(claim)}, {claim.n} seeds; published: {claim.published}")
        if claim.note:
            lines.append(f"  {'':<13}  {claim.note}")
    failed = f", {outcome.failed} trials failed" if outcome.failed else ""
    return "\n".join([*lines, f"  {outcome.minutes:.1f} minutes of trials, one core each{failed}"])


def hardware() -> str:
    """Processor, cores and versions, in a line."""
    from importlib.metadata import version

    from joblib import cpu_count

    return (
        f"{cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {version('torch')}, "
        f"firstcue {version('firstcue')}"
    )


def _only_svg(text: str) -> str:
    """A figure without the XML prologue, whose addresses do not belong into a page that asks for nothing."""
    return text[text.index("<svg") :]
