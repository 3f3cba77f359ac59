"""Lenses that describe the model beside the verdict: each adds findings and a part of the report, and none can lose it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from firstcue._progress import Progress, within
from firstcue.auditing.agreed import agreement_findings, agreement_summary, measure_groups
from firstcue.auditing.attempt import attempt
from firstcue.auditing.effort import DEFAULT, Effort
from firstcue.auditing.ladder import climb
from firstcue.auditing.rich import measure_richness, richness_findings, richness_summary
from firstcue.auditing.running import Run
from firstcue.auditing.simple import (
    measure_simplicity,
    simplicity_findings,
    simplicity_pictures,
    simplicity_summary,
)
from firstcue.auditing.splits import some_rows
from firstcue.auditing.subject import Subject
from firstcue.auditing.untrained import Untrained
from firstcue.batch import Batch
from firstcue.finding import Finding, Picture

SHARE = 8
"""Training rows among which those are chosen whose gradients are compared, for each row of a group."""


@dataclass(frozen=True)
class Described:
    """What a lens found."""

    findings: tuple[Finding, ...] = ()
    summary: Mapping[str, Any] | None = None
    note: str = ""
    """Why there is nothing, if something went wrong, or what was changed to measure."""

    pictures: tuple[Picture, ...] = ()


def look(lens: str, measure: Callable[[], Described]) -> Described:
    """What the lens found; an audit whose verdict stands is not given up because one description fails.

    Example:
        >>> look("richness", lambda: Described(note=str(1 // 0))).note
        'The richness lens failed (ZeroDivisionError: integer division or modulo by zero); the rest of the report stands.'
    """
    found, note = attempt(f"the {lens} lens", measure, Described())
    return replace(found, note=note) if note else found


def orders(subject: Subject, held: Batch, layer: str, seed: int, progress: Progress) -> Described:
    """Of what order the statistics are that carry the class and the cue in front of the head."""
    features = subject.features
    return Described() if features is None else Described(tuple(climb(features, held, layer, seed, progress)))


def richness(run: Run, subject: Subject, fresh: Untrained | None, train: Batch, held: Batch, layer: str) -> Described:
    """How far training transformed the features, and where class and cue are among them."""
    rows = run.described(held)
    found = measure_richness(fresh, subject, train, held, layer, rows, seed=run.seed, batch_size=run.batch_size)
    return Described() if found is None else Described(tuple(richness_findings(found)), richness_summary(found))


def agreement(run: Run, subject: Subject, train: Batch, progress: Progress) -> Described:
    """Whether the values of the cue want the same of the model."""
    if train.attribute is None or next(run.model.parameters(), None) is None:
        return Described()  # without a cue, or of a model that has no gradients, such as a forest of trees
    some = some_rows(len(train), SHARE * run.effort.gradient_rows, run.seed)
    features = None if subject.head is None else run.trained_on(train, some, subject.head)
    found = measure_groups(
        run.model,
        train.rows(some),
        features,
        subject.head,
        run.seed,
        progress,
        most=run.effort.gradient_rows,
        draws=run.effort.gradient_draws,
    )
    return Described() if found is None else Described(tuple(agreement_findings(found)), agreement_summary(found))


def simplicity(model: nn.Module, held: Batch, seed: int, progress: Progress, effort: Effort = DEFAULT) -> Described:
    """How many bits inputs take, and what of them a few decisions need."""
    found = measure_simplicity(model, held, seed, progress, effort)
    if found is None:
        return Described()
    pictures, note = attempt("drawing simplified inputs", lambda: simplicity_pictures(found), ())
    notes = " ".join(text for text in (found.note, note) if text)
    return Described(tuple(simplicity_findings(found)), simplicity_summary(found), notes, pictures)


def of_model(
    run: Run,
    subject: Subject,
    fresh: Untrained | None,
    train: Batch,
    held: Batch,
    layer: str,
    progress: Progress,
) -> dict[str, Described]:
    """The lenses that the run's effort asks for, by name.

    Args:
        run: Of the audit.
        subject: The model's answers on held-out rows.
        fresh: The network with fresh weights.
        train: Training rows.
        held: Held-out rows.
        layer: Where the features are, in words.
        progress: Told the fraction done.
    """
    measures: dict[str, tuple[float, Callable[[Progress], Described]]] = {
        "order of statistics": (0.4, lambda tell: orders(subject, held, layer, run.seed, tell)),
        "richness": (0.6, lambda tell: richness(run, subject, fresh, train, held, layer)),
        "agreement": (0.8, lambda tell: agreement(run, subject, train, tell)),
        "simplicity": (1.0, lambda tell: simplicity(run.model, held, run.seed, tell, run.effort)),
    }
    found, began = {}, 0.0
    for name, (end, measure) in measures.items():
        if name in run.effort.lenses:
            progress(f"measuring {name}", began)
            tell = within(progress, began, end)
            found[name] = look(name, lambda measure=measure, tell=tell: measure(tell))  # type: ignore[misc]
        began = end
    return found


def of_embeddings(
    subject: Subject, held: Batch, layer: str, effort: Effort, seed: int, progress: Progress
) -> dict[str, Described]:
    """The lenses that arrays alone allow, of those that the effort asks for."""
    rows = some_rows(len(held), effort.described_rows, seed)

    def rich() -> Described:
        found = measure_richness(None, subject, None, held, layer, rows, seed=seed, batch_size=512)
        return Described() if found is None else Described(tuple(richness_findings(found)), richness_summary(found))

    measures: dict[str, Callable[[], Described]] = {
        "order of statistics": lambda: orders(subject, held, layer, seed, progress),
        "richness": rich,
    }
    return {name: look(name, measure) for name, measure in measures.items() if name in effort.lenses}
