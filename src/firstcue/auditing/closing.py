"""Put the measurements together as a report and say the verdict in one sentence."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from firstcue import __version__
from firstcue.auditing.lenses import Described
from firstcue.auditing.order import Course
from firstcue.auditing.verdict import overall_verdict
from firstcue.finding import Environment, Finding, Groups, Picture, Remedy, Report, Verdict

LIMITS = (
    "Only the cues named here were judged; one that nobody named and that neither a simple property nor a cluster shows stays unseen.",
    "Reliance below 0.05 of accuracy is not called a shortcut; intervals are 95 % and per statement.",
    "Erasure at the last layer misses weak shortcuts and cannot tell reliance from harder rows on its own; an edit of the input can.",
    "Without an attribute, a shortcut shows only where held-out rows break its pairing with the label often enough.",
    "A remedy's promise holds for rows drawn like the held-out rows; other shifts are not covered.",
)


def close(
    findings: Sequence[Finding],
    *,
    described: Mapping[str, Described],
    given: bool,
    groups: Groups,
    learned: Course | None,
    remedies: tuple[Remedy, ...],
    pictures: tuple[Picture, ...],
    notes: tuple[str, ...],
    seed: int,
    device: str,
    command: str,
    effort: str,
    expected: float,
    seconds: float,
) -> Report:
    """The report; `described` holds what lenses found beside the verdict, `given` says whether an attribute was named."""
    verdict = overall_verdict([f for f in findings if f.judges])
    return Report(
        verdict=verdict,
        summary_line=sentence(verdict, findings, groups, remedies, given),
        findings=(*findings, *(finding for lens in described.values() for finding in lens.findings)),
        groups=groups,
        learning_order=learned.order if learned else (),
        timeline=learned.timeline if learned else (),
        remedies=remedies,
        pictures=(*pictures, *(shown for lens in described.values() for shown in lens.pictures)),
        notes=tuple(note for note in (*notes, *(lens.note for lens in described.values())) if note),
        richness=described["richness"].summary if "richness" in described else None,
        agreement=described["agreement"].summary if "agreement" in described else None,
        simplicity=described["simplicity"].summary if "simplicity" in described else None,
        limits=LIMITS,
        environment=Environment(
            versions=versions(),
            seed=seed,
            device=device,
            command=command,
            effort=effort,
            seconds=seconds,
            seconds_expected=expected,
        ),
    )


def sentence(
    verdict: Verdict, findings: Sequence[Finding], groups: Groups, remedies: Sequence[Remedy], given: bool
) -> str:
    """The verdict as one plain sentence with its most telling numbers."""
    relied = [f for f in findings if f.status == "relies"]
    worst, overall = groups.worst_group, groups.overall.accuracy
    served = (
        f"; the worst group is right {worst.accuracy:.0%} of the time, all rows {overall:.0%}"
        if worst and worst.accuracy is not None and overall is not None
        else ""
    )
    if verdict == "shortcut":
        cues = ", ".join(f.cue for f in relied)
        return f"The model relies on {cues}{served}.{_repair(remedies)}"
    if verdict == "inconclusive":
        open_ones = ", ".join(f.cue for f in findings if f.status in ("inconclusive", "not identifiable"))
        return f"No verdict on {open_ones}{served}."
    suspects = [f for f in findings if f.status == "inferred" and f.severity != "none"]
    leaned = [f.cue for f in suspects if f.kind != "inferred cluster"]
    if leaned:
        return f"No cue was named; the model leans on {', '.join(leaned)}{served}: a shortcut if that does not belong to the class."
    if suspects:
        return f"No shortcut found among named cues, but errors concentrate in one cluster{served}: look at it, and name the attribute behind it."
    clear = f"No shortcut found{'' if given else ' (no attribute was named)'}{served}."
    used = ", ".join(f.cue for f in findings if f.yours_to_judge)
    return f"{clear} Decisions hang on {used}: whether that belongs to the class is yours to judge." if used else clear


def _repair(remedies: Sequence[Remedy]) -> str:
    best = next((r for r in remedies if r.selected and r.name != "as it is"), None)
    if best is None or best.worst_group is None:
        return ""
    return f" After the repair “{best.name}” its worst group reaches {best.worst_group:.0%}{_left(best)}."


def _left(repaired: Remedy) -> str:
    """What still hangs on the cue, in words."""
    if repaired.relies is None or repaired.relies.value is None:
        return ""
    points = round(100 * repaired.relies.value)
    if points > 0:
        return f" and {points} point{'s' * (points > 1)} of accuracy still hang{'s' * (points == 1)} on the cue"
    if points > -5:
        return " and no accuracy hangs on the cue any more"
    return f" and decisions now lean {-points} points of accuracy against the cue"


def versions() -> dict[str, str]:
    """Versions that numbers depend on."""
    found = {"firstcue": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scikit-learn", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
