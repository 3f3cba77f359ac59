"""An audit without an attribute: simple properties that go with the class, and clusters in which errors concentrate.

Clusters are suspects and never convict. A property is accused only if carrying it over between rows moves decisions, its
pairing with the class is broken in held-out rows, *and* decisions go wrong there as they would: what is carried over with a
property, such as a part of the picture, may be the class itself. Else the report says what it saw.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from firstcue.auditing.cue import Measured, measure_cue
from firstcue.auditing.inferred import infer_clusters
from firstcue.auditing.prepare import Prepared
from firstcue.auditing.splits import some_rows
from firstcue.auditing.subject import Subject
from firstcue.auditing.verdict import MATTERS, severity_of
from firstcue.batch import Batch
from firstcue.finding import Finding, Status
from firstcue.spurious.association import association
from firstcue.spurious.discover import Material, discovered
from firstcue.spurious.discovery import Candidate
from firstcue.spurious.properties import Kind

SIGNIFICANT = 0.05
STRONG = 0.3
"""Strength from which a property is looked at: one that tells the class less well explains few decisions."""

BROKEN = 0.5
"""Share of its association with the class in training rows below which a pairing counts as broken in held-out rows."""

MOST_CUES = 3
MOST_COLUMNS = 1000
"""Columns up to which a table is scanned."""

MAX_ROWS = 5000
"""Held-out rows that are clustered."""


def inferred_findings(held: Batch, subject: Subject, early: Tensor | None, seed: int) -> list[Finding]:
    """The one finding about clusters found within classes.

    Args:
        held: Held-out rows.
        subject: The model's answers on them.
        early: `(n, K)` outputs of an early checkpoint, if there is one; penultimate features otherwise.
        seed: Of clustering and permutations.

    Returns:
        One finding with the status "inferred"; its severity is "none" unless errors concentrate beyond chance.
    """
    representation = early if early is not None else subject.features
    if representation is None:
        return []
    where = "the outputs of an early checkpoint" if early is not None else "the penultimate activations"
    rows = some_rows(len(held), MAX_ROWS, seed)
    found = infer_clusters(
        representation[rows],
        (subject.decisions == held.y)[rows],
        held.y[rows],
        outputs=subject.logits[rows],
        features=None if subject.features is None else subject.features[rows],
        seed=seed,
    )
    suspicious = found.p_value < SIGNIFICANT
    excess = found.error_high - found.error_low
    rates = f"{found.error_high:.0%} wrong against {found.error_low:.0%}"
    said = (
        f"Errors follow a split of {where} that hurts one class where it helps another: {rates} (p = {found.p_value:.3f}). "
        f"A cue may be behind it; look at the rows, name the attribute and audit again."
        if suspicious
        else f"Errors follow no split of {where} as they would follow a cue (p = {found.p_value:.2f})."
    )
    return [
        Finding(
            id=f"inferred/cluster/{'early outputs' if early is not None else 'penultimate'}/error excess",
            cue="inferred cluster",
            kind="inferred cluster",
            layer=None if early is not None else "penultimate",
            status="inferred",
            severity=("clear" if excess >= 0.10 else "slight") if suspicious else "none",
            value=excess,
            unit="error rate difference, a fraction",
            n=found.n,
            baseline=0.0,
            meaning=said,
            source="Two-means within classes on early outputs, after SPARE (Yang et al. 2023, arXiv 2305.18761); permutation null",
            details={
                "opposed": found.opposed,
                "readable": found.readable,
                "p_value": found.p_value,
                "error_high": found.error_high,
                "error_low": found.error_low,
                "note": found.note or None,
            },
        )
    ]


NAMELESS = "discovered cue"
"""Kind of the findings about properties that nobody named."""


@dataclass(frozen=True)
class Suspect:
    """A property found in training rows, with what was measured of it on held-out rows."""

    train: Batch
    held: Batch
    measured: Measured
    candidate: Candidate


def suspects(data: Prepared, subject: Subject, seed: int) -> tuple[list[Suspect], list[str]]:
    """Simple properties of the training rows that tell the class, measured as a named cue would be, and notes.

    Args:
        data: Training and held-out rows, without an attribute.
        subject: The model's answers on held-out rows.
        seed: Of every draw.
    """
    kind = _kind(data.train.x, subject.embeds)
    columns = {name: c for name, c in data.train.columns.items() if name in data.held.columns}
    if kind == "none" and not columns:
        return [], []
    train = data.train
    material = Material(train.y, train.classes, train.x, columns, predict=subject.predict, kind=kind)
    found = discovered(material, seed=seed).candidates
    equal = [c.name for c in found if c.standing == "equals the label"]
    notes = [f"{name} is the label under another name, or leaks it; it was not judged." for name in equal]
    strong = [c for c in found if c.strength >= STRONG and c.name not in equal][:MOST_CUES]
    made = []
    for c in strong:
        ours, held = _with_candidate(data, c)
        draws = max(199, 40 * len(strong))
        made.append(Suspect(ours, held, measure_cue(ours, held, subject, seed=seed, draws=draws), c))
    return made, notes


def _kind(x: Tensor, embeds: bool) -> Kind:
    """What inputs are scanned as: integers that are looked up are ids; long vectors have no simple properties of their own."""
    if x.ndim in (3, 4) and x.shape[-1] > 1:
        return "image"
    if x.ndim == 2 and embeds and not x.dtype.is_floating_point and x.dtype != torch.bool:
        return "tokens"
    return "table" if x.ndim == 2 and x.shape[1] <= MOST_COLUMNS else "none"


def _with_candidate(data: Prepared, c: Candidate) -> tuple[Batch, Batch]:
    """Both batches with the property as their attribute, its values coded alike, held-out rows with its editor."""
    if c.assign is None:
        return data.with_cue(c.name)
    source = data.held.columns.get(c.name, data.held.x)
    ids = torch.from_numpy(c.assign(source))
    train = replace(data.train, attribute=c.attribute, values=c.values, cue=c.name, edit=None)
    return train, replace(data.held, attribute=ids, values=c.values, cue=c.name, edit=c.edit)


def as_discovered(finding: Finding, suspect: Suspect) -> Finding:
    """What is said of a property that nobody named; see the module for when it is an accusation."""
    m = suspect.measured
    ours, there = m.association.strength, _strength(suspect.held)
    moves = m.reliance is not None and m.reliance.ci_low > MATTERS
    broken = there <= BROKEN * ours and ours - there > 2 * _error(suspect)
    against = m.gap.conflicting.n > 0 and m.gap.conflicting.ci_high < 1 / suspect.held.num_classes
    # errors follow it, and not because it still goes with the class: then rows that conflict are odd ones of their class
    misleads = not m.gap.undroppable and m.gap.ci_low > MATTERS and (against or there <= 2 * _error(suspect))
    accused = moves and broken and misleads and finding.status == "relies"
    status: Status = "relies" if accused else "inferred"
    serious = status == "relies" or (moves and against)
    pairing = f"it goes with the label with strength {ours:.2f} in training rows and {there:.2f} in held-out rows"
    if status == "relies":
        meaning = f"{finding.meaning} Nobody named it: {pairing}, so it is no part of what the class is."
    elif moves:
        meaning = (
            f"Carrying over {m.cue} from other rows moves accuracy by {finding.value or 0.0:.2f}; {pairing}. If it does not "
            f"belong to the class, this is a shortcut: name it as an attribute and audit again."
        )
    else:
        unmeasured = "could not be measured" if m.reliance is None else "was not shown"
        meaning = f"{m.cue} goes with the label in training rows; that the model relies on it {unmeasured}."
    return finding.model_copy(
        update={
            "id": finding.id.replace("reliance/", "discovered/", 1),
            "kind": NAMELESS,
            "status": status,
            "severity": finding.severity
            if status == "relies"
            else severity_of(finding.value or 0.0)
            if serious
            else "none",
            "meaning": meaning,
            "details": {
                **finding.details,
                "association_in_held_out_rows": there,
                "balanced_accuracy_of_the_property": suspect.candidate.balanced_accuracy,
                "p_value_of_the_scan": suspect.candidate.p_value,
                "properties_that_follow_it": ", ".join(suspect.candidate.follows[:10]) or None,
            },
        }
    )


def _strength(held: Batch) -> float:
    return association(held.y, held.attribute, held.num_classes, held.num_values).strength


def _error(suspect: Suspect) -> float:
    """Standard error of the difference of the two strengths, taken as of shares in the smallest class."""
    rows = [int(part.y.bincount().clamp(min=1).min()) for part in (suspect.train, suspect.held)]
    return float(sum(0.25 / n for n in rows) ** 0.5)
