"""Lenses that describe the model beside the verdict: each adds findings and a part of the report, and none can lose it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from firstcue._progress import Progress, within
from firstcue.auditing.agreed import MAX_ROWS, agreement_findings, agreement_summary, measure_groups
from firstcue.auditing.ladder import climb
from firstcue.auditing.rich import measure_richness, richness_findings, richness_summary
from firstcue.auditing.simple import (
    measure_simplicity,
    simplicity_findings,
    simplicity_pictures,
    simplicity_summary,
)
from firstcue.auditing.splits import some_rows
from firstcue.auditing.subject import Subject
from firstcue.batch import Batch
from firstcue.finding import Finding, Picture
from firstcue.layers import features_and_outputs

MOST_ROWS = 8 * MAX_ROWS
"""Training rows among which those are chosen whose gradients are compared."""


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
    try:
        return measure()
    except Exception as error:  # whatever the user's model raises under hooks and gradients; the reader is told
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Described(note=f"The {lens} lens failed ({said}); the rest of the report stands.")


def orders(subject: Subject, held: Batch, layer: str, seed: int, progress: Progress) -> Described:
    """Of what order the statistics are that carry the class and the cue in front of the head."""
    features = subject.features
    return Described() if features is None else Described(tuple(climb(features, held, layer, seed, progress)))


def richness(
    model: nn.Module | None, subject: Subject, train: Batch | None, held: Batch, layer: str, seed: int, batch_size: int
) -> Described:
    """How far training transformed the features, and where class and cue are among them."""
    found = measure_richness(model, subject, train, held, layer, seed=seed, batch_size=batch_size)
    return Described() if found is None else Described(tuple(richness_findings(found)), richness_summary(found))


def agreement(
    model: nn.Module, subject: Subject, train: Batch, seed: int, batch_size: int, progress: Progress
) -> Described:
    """Whether the values of the cue want the same of the model."""
    if train.attribute is None:
        return Described()
    rows = train.rows(some_rows(len(train), MOST_ROWS, seed))
    features = None
    if subject.head is not None:
        features, _ = features_and_outputs(model, rows.x, batch_size=batch_size, head=subject.head)
    found = measure_groups(model, rows, features, subject.head, seed, progress)
    return Described() if found is None else Described(tuple(agreement_findings(found)), agreement_summary(found))


def simplicity(model: nn.Module, held: Batch, seed: int, progress: Progress) -> Described:
    """How many bits inputs take, and what of them a few decisions need."""
    found = measure_simplicity(model, held, seed, progress)
    if found is None:
        return Described()
    return Described(
        tuple(simplicity_findings(found)), simplicity_summary(found), found.note, simplicity_pictures(found)
    )


def of_model(
    model: nn.Module,
    subject: Subject,
    train: Batch,
    held: Batch,
    layer: str,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> dict[str, Described]:
    """All lenses on a model, by name."""
    progress("erasing step by step", 0.0)
    order = look("order of statistics", lambda: orders(subject, held, layer, seed, within(progress, 0.0, 0.4)))
    progress("measuring richness", 0.4)
    rich = look("richness", lambda: richness(model, subject, train, held, layer, seed, batch_size))
    agree = look("agreement", lambda: agreement(model, subject, train, seed, batch_size, within(progress, 0.6, 0.8)))
    simple = look("simplicity", lambda: simplicity(model, held, seed, within(progress, 0.8, 1.0)))
    return {"order": order, "richness": rich, "agreement": agree, "simplicity": simple}


def of_embeddings(subject: Subject, held: Batch, layer: str, seed: int, progress: Progress) -> dict[str, Described]:
    """The lenses that arrays alone allow."""
    order = look("order of statistics", lambda: orders(subject, held, layer, seed, progress))
    rich = look("richness", lambda: richness(None, subject, None, held, layer, seed, 512))
    return {"order": order, "richness": rich}
