"""The stages of an audit of a model, each a function of the run; what fails in one is told, and the others go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from firstcue._progress import within
from firstcue.auditing import remedies as repair
from firstcue.auditing.attempt import attempt
from firstcue.auditing.cue import Measured, findings, measure_cue, measure_jointly, widest
from firstcue.auditing.decodability import PENULTIMATE, probe_layers
from firstcue.auditing.edited import sources
from firstcue.auditing.effort import DEFAULT
from firstcue.auditing.lenses import Described, of_model
from firstcue.auditing.order import Course, State, course
from firstcue.auditing.prepare import Prepared
from firstcue.auditing.running import Run
from firstcue.auditing.subject import Subject
from firstcue.auditing.suspects import Suspect, as_discovered, suspects
from firstcue.auditing.untrained import Untrained
from firstcue.batch import Batch
from firstcue.finding import Finding, Remedy
from firstcue.probes import held_out_accuracy
from firstcue.spurious.association import association

MAX_EDITED = 50_000
"""Edited rows whose features are kept to price remedies; beyond that the gap is reported."""


@dataclass(frozen=True)
class Judged:
    """What is said of the cues, and the rows by the one that the rest of the report is about."""

    findings: tuple[Finding, ...]
    train: Batch
    held: Batch
    notes: tuple[str, ...] = ()


def judged(run: Run, data: Prepared, subject: Subject) -> Judged:
    """The verdict on every cue that was named, or on properties that nobody named.

    Raises:
        ValueError: If a cue cannot be read, or its editor raises.
    """
    if not data.cues:
        return _unnamed(run, data, subject)
    measured, failed = measured_cues(run, data, subject)
    joint, note = attempt("measuring cues together", lambda: measure_jointly(measured, subject, run.seed), measured)
    said, notes = _findings(run, joint, subject)
    train, held = data.with_cue(primary(measured, data))
    return Judged((*said, *failed), train, held, (note, *notes))


def measured_cues(run: Run, data: Prepared, subject: Subject) -> tuple[list[Measured], list[Finding]]:
    """Measurements of every cue, and a finding for each that could not be measured."""
    found, failed = [], []
    for i, cue in enumerate(data.cues):
        run.progress(f"editing and erasing {cue}", 0.05 + 0.15 * i / len(data.cues))
        one, note = _measured(run, data, subject, cue)
        found += [] if one is None else [one]
        failed += [unmeasured(cue, note)] if one is None else []
    return found, failed


def _measured(run: Run, data: Prepared, subject: Subject, cue: str) -> tuple[Measured | None, str]:
    draws = max(run.effort.draws, run.effort.draws_per_cue * len(data.cues))
    train, held = data.with_cue(cue)
    return attempt(
        f"measuring {cue}",
        lambda: measure_cue(train, held, subject, seed=run.seed, draws=draws),
        None,
        mine=(ValueError,),  # the user's editor
    )


def unmeasured(cue: str, note: str) -> Finding:
    """A cue of which nothing can be said because measuring it failed."""
    return Finding(
        id=f"reliance/{cue}/model/failed",
        cue=cue,
        kind="reliance",
        status="inconclusive",
        meaning=f"{cue} could not be judged. {note}",
    )


def primary(measured: Sequence[Measured], data: Prepared) -> str:
    """The cue that the group table is about: the one with the largest gap."""
    return max(measured, key=widest).cue if measured else data.cues[0]


def _findings(run: Run, measured: list[Measured], subject: Subject) -> tuple[list[Finding], list[str]]:
    """What is said of every cue that was measured, with the linear probe of each at the penultimate layer, and notes."""
    features = subject.features
    encoded: dict[str, Any] = {}
    note = ""
    if features is not None:
        encoded, note = attempt(
            "probing cues",
            lambda: {m.cue: held_out_accuracy("linear", features, m.held.attribute, seed=run.seed) for m in measured},
            {},
        )
    return findings(measured, encoded, subject, PENULTIMATE if subject.head else None), [note]


def _unnamed(run: Run, data: Prepared, subject: Subject) -> Judged:
    """Properties that nobody named, and the rows by the one that most hangs on, if one is suspect."""
    run.progress("looking for properties that go with the class", 0.1)
    nothing: tuple[list[Suspect], list[str]] = ([], [])
    (found, told), note = attempt("looking for unnamed properties", lambda: suspects(data, subject, run.seed), nothing)
    said, notes = _findings(run, [s.measured for s in found], subject)
    unnamed = [(as_discovered(f, s), s) for f, s in zip(said, found, strict=True)]
    train, held = _most_used(unnamed, data.train, data.held)
    return Judged(tuple(f for f, _ in unnamed), train, held, (*told, note, *notes))


def _most_used(unnamed: list[tuple[Finding, Suspect]], train: Batch, held: Batch) -> tuple[Batch, Batch]:
    """The rows by the property that most hangs on, if one is suspect; as they were otherwise."""
    serious = [(finding, s) for finding, s in unnamed if finding.severity != "none"]
    if not serious:
        return train, held
    _, first = max(serious, key=lambda pair: (pair[0].status == "relies", pair[0].value or 0.0))
    return first.train, first.held


def described(
    run: Run, subject: Subject, train: Batch, held: Batch
) -> tuple[list[Finding], dict[str, Described], list[str]]:
    """What can be read from each layer, what the lenses found, and notes."""
    notes: list[str] = []
    fresh: Untrained | None = None
    if run.effort.layers or "richness" in run.effort.lenses:
        fresh, note = attempt("running the untrained network", lambda: run.untrained(subject, held), None)
        notes.append(note)
    probes, note = attempt("probing layers", lambda: _probes(run, subject, fresh, held), [])
    lenses = of_model(run, subject, fresh, train, held, PENULTIMATE, within(run.progress, 0.4, 0.55))
    return probes, lenses, [*notes, note]


def _probes(run: Run, subject: Subject, fresh: Untrained | None, held: Batch) -> list[Finding]:
    rows = run.probed(held)
    if not len(rows) or not run.effort.layers:
        return []
    depth, untrained = dict(subject.depth), {} if fresh is None else dict(fresh.looked.depth)
    if subject.features is not None:
        depth[PENULTIMATE] = subject.features[rows]
        begun = None if fresh is None else fresh.features_at(rows)
        untrained |= {} if begun is None else {PENULTIMATE: begun}
    tell = within(run.progress, 0.2, 0.4)
    return probe_layers(depth, untrained, held.rows(rows), seed=run.seed, progress=tell)


def learned(
    run: Run, checkpoints: Sequence[tuple[int, State]], train: Batch, held: Batch, *, clusters: bool
) -> tuple[Course | None, str]:
    """The same measurements on every checkpoint, if there are any, and a note."""
    if not checkpoints:
        return None, ""
    found = None
    if train.attribute is not None:
        found = association(train.y, train.attribute, train.num_classes, train.num_values)

    def followed() -> Course:
        return course(
            run.model,
            checkpoints,
            held,
            found,
            clusters=clusters,
            seed=run.seed,
            batch_size=run.batch_size,
            progress=within(run.progress, 0.55, 0.75),
        )

    return attempt("following checkpoints", followed, None)


@dataclass(frozen=True)
class Material:
    """What remedies of the last layer work on."""

    held: repair.Rows
    train: repair.Rows | None


def material(run: Run, wanted: Sequence[str] | None, subject: Subject, train: Batch, held: Batch) -> Material | None:
    """Held-out features, and those of training rows, rare cells first; None where nothing can be tried or is wanted."""
    if subject.head is None or subject.features is None or (wanted is not None and not wanted):
        return None
    mine = repair.Rows(subject.features, held.y, held.attribute, held.num_values)
    named = any(name in repair.NEEDS_TRAINING or repair.find(name).needs_train for name in wanted or ())
    chosen = spread(train, max(run.effort.train_rows, DEFAULT.train_rows if named else 0), run.seed)
    features = run.trained_on(train, chosen, subject.head) if len(chosen) else None
    if features is None:
        return Material(mine, None)
    part = train.rows(chosen)
    return Material(mine, repair.Rows(features, part.y, part.attribute, part.num_values))


def spread(train: Batch, most: int, seed: int) -> torch.Tensor:
    """Ids of at most so many rows, every cell with as many as the others where it has them."""
    if len(train) <= most:
        return torch.arange(len(train))
    cells, generator = train.groups(), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    rank = torch.empty(len(train), dtype=torch.int64)
    for c in cells.unique():
        members = order[cells[order] == c]
        rank[members] = torch.arange(len(members))
    return rank.argsort(stable=True)[:most].sort().values


def tried(
    run: Run, wanted: Sequence[str] | None, found: Material | None, subject: Subject, train: Batch, held: Batch
) -> tuple[Remedy, ...]:
    """What each remedy of the last layer is worth; nothing without material."""
    if found is None or subject.head is None:
        return ()
    names = run.effort.tries(wanted, held.attribute is not None)
    tell = within(run.progress, 0.75, 0.97)
    stakes = _stakes(run, train, held, subject)
    counts = torch.bincount(train.groups(), minlength=train.num_classes * train.num_values)
    return repair.try_all(names, found.held, found.train, subject.head, run.seed, tell, stakes, train_counts=counts)


def _stakes(run: Run, train: Batch, held: Batch, subject: Subject) -> repair.Stakes | None:
    """How reliance on the cue is measured after a repair: on edited features, or by the gap."""
    if train.attribute is None:
        return None
    found = association(train.y, train.attribute, train.num_classes, train.num_values)
    if not found.associated:
        return None
    if held.edit is None or len(held) * held.num_values > MAX_EDITED:
        return repair.Stakes(found)
    rows = torch.arange(len(held))
    edited = [run.edited(held, value, rows, subject.head)[0] for value in range(held.num_values)]
    return repair.Stakes(found, tuple(f for f in edited if f is not None), sources(held, rows))
