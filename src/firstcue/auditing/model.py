"""`audit`: one pass over a model and its data, from accuracies to a verdict and to what repairs it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from firstcue._progress import Progress, silent, within
from firstcue.auditing import remedies as repair
from firstcue.auditing.accepting import accepted
from firstcue.auditing.closing import close
from firstcue.auditing.cue import Measured, findings, measure_cue, measure_jointly, widest
from firstcue.auditing.decodability import PENULTIMATE, probe_layers
from firstcue.auditing.edited import edited_inputs, sources
from firstcue.auditing.lenses import Described, of_model
from firstcue.auditing.order import Course, course, states
from firstcue.auditing.pictures import pictures
from firstcue.auditing.prepare import Prepared, prepare
from firstcue.auditing.subject import Subject
from firstcue.auditing.suspects import Suspect, as_discovered, inferred_findings, suspects
from firstcue.auditing.tables import group_table
from firstcue.batch import Batch, Edit
from firstcue.finding import Finding, Remedy, Report
from firstcue.layers import features_and_outputs, find_head, predict
from firstcue.probes import held_out_accuracy
from firstcue.spurious.reliance import association


def audit(
    model: Any,
    data: Any,
    *,
    attribute: Any = None,
    held_out: Any = None,
    edit: Edit | Mapping[str, Edit] | None = None,
    remedies: Sequence[str] | None = None,
    checkpoints: Any = None,
    trained_on: bool = True,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 512,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Does the model rely on a shortcut, which, since when, and what removes it?

    A cue is called a shortcut only after an intervention on it: its value set in the input with the core kept, where the
    data or `edit` can say how, else its erasure at the penultimate layer under the unchanged head. What is merely encoded
    or merely associated with the label is reported as that.

    Args:
        model: A classifier that returns logits, or what `firstcue.integrations.modules.as_module` takes: a fitted scikit-learn
            classifier, a skorch net, an exported program. It is left bit for bit as found.
        data: Rows of the training distribution: a Batch, `(x, y)`, `(x, y, attribute)`, a mapping, an iterable of those
            (a DataLoader), a table of pandas or Polars, or a path.
        attribute: The cue to judge: an array `(n,)`, a column's name, several names, or a mapping from names to arrays.
            Without one, simple properties that tell the class are found and put to the same test, and clusters that
            errors concentrate in are inferred. Clusters never convict; a property only if its pairing with the class
            is broken in held-out rows.
        held_out: Rows the model never saw, in the same forms. Without it `data` is split, and the report says so.
        edit: `edit(x, value) -> x` sets the cue of every row to the value with that id (values in sorted order) and keeps
            the core. Composed data carries its own.
        remedies: Names of the remedies to try; all that apply when None; an empty sequence tries none.
        checkpoints: A glob, a folder, paths, or pairs `(step, state_dict)`: adds the order of learning.
        trained_on: Whether the model saw the rows of `data`.
        seed: Of every split, shuffle and resampling.
        device: "auto" uses the model's own; "cpu" or "cuda" works on a copy there.
        batch_size: Rows per call of the model.
        command: Shell command to print under "how to run it again".
        progress: Told the stage and the fraction done.

    Returns:
        A frozen report.

    Raises:
        ValueError: If data, labels or model cannot be used, with what was found and the way out.

    Source:
        LEACE (Belrose et al. 2023, arXiv 2306.03819); last-layer retraining (Kirichenko et al. 2022, arXiv 2204.02937);
        core and spurious features over training (Qiu et al. 2024, arXiv 2403.03375).

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> y, unrelated = torch.arange(400) % 2, torch.arange(400) // 2 % 2
        >>> audit(torch.nn.Linear(2, 2), (x, y, unrelated), remedies=()).verdict
        'no shortcut found'
    """
    progress("reading data", 0.0)
    model, data, held_out = accepted(model, data, held_out, attribute)
    run = _Run(_placed(model, device), seed, batch_size, progress)
    data_in = prepare(data, attribute, held_out, edit, trained_on=trained_on, num_outputs=run.num_outputs, seed=seed)
    subject, notes = run.subject(data_in)
    measured = run.cues(data_in, subject)
    primary = _primary(measured, data_in)
    train, held = data_in.with_cue(primary) if primary else (data_in.train, data_in.held)
    said = run.findings(measured, subject)
    if not measured:
        progress("looking for properties that go with the class", 0.1)
        unnamed, told = run.unnamed(data_in, subject)
        said, notes = [finding for finding, _ in unnamed], (*notes, *told)
        train, held = _most_used(unnamed, train, held)
    probes = run.probes(subject, held)
    described = run.lenses(subject, train, held)
    learned = run.course(checkpoints, train, held)
    if not measured:
        progress("looking for a cue in the errors", 0.75)
        said += inferred_findings(held, subject, learned.first if learned else None, seed)
    tried = run.remedies(remedies, subject, train, held)
    progress("writing the report", 0.98)
    return close(
        said + probes,
        described=described,
        given=bool(measured),
        groups=group_table(subject.decisions, held, train, data_in.split),
        learned=learned,
        remedies=tried,
        pictures=pictures(held, subject.decisions, seed),
        notes=(*data_in.notes, *notes),
        seed=seed,
        device=str(run.device),
        command=command,
    )


@dataclass(frozen=True)
class _Run:
    """What every stage needs: the model, the seed, rows per call, and whom to tell."""

    model: nn.Module
    seed: int
    batch_size: int
    progress: Progress

    @property
    def device(self) -> torch.device:
        parameter = next(self.model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def num_outputs(self, x: torch.Tensor) -> int:
        return predict(self.model, x, batch_size=self.batch_size).shape[1]

    def subject(self, data: Prepared) -> tuple[Subject, tuple[str, ...]]:
        """Logits, features and head on the held-out rows; without a head only where the cue can be edited."""
        self.progress("running the model on held-out rows", 0.02)
        x = data.held.x

        def again(inputs: torch.Tensor) -> torch.Tensor:
            return predict(self.model, inputs, batch_size=self.batch_size)

        try:
            head = find_head(self.model, x)
        except ValueError as error:
            if data.held.edit is None:
                raise
            note = f"The last layer could not be examined or repaired: {error}"
            return Subject(again(x), predict=again), (note,)
        features, logits = features_and_outputs(self.model, x, batch_size=self.batch_size, head=head)
        return Subject(logits, features, head, again), ()

    def cues(self, data: Prepared, subject: Subject) -> list[Measured]:
        draws = max(199, 40 * len(data.cues))
        measured = []
        for i, cue in enumerate(data.cues):
            self.progress(f"editing and erasing {cue}", 0.05 + 0.15 * i / len(data.cues))
            train, held = data.with_cue(cue)
            measured.append(measure_cue(train, held, subject, seed=self.seed, draws=draws))
        return measure_jointly(measured, subject, self.seed)

    def findings(self, measured: list[Measured], subject: Subject) -> list[Finding]:
        """What is said of every cue that was measured."""
        encoded = _encoded(measured, subject, self.seed)
        return findings(measured, encoded, subject, PENULTIMATE if subject.head else None)

    def unnamed(self, data: Prepared, subject: Subject) -> tuple[list[tuple[Finding, Suspect]], list[str]]:
        """Properties that nobody named, each with what is said of it, and notes."""
        found, notes = suspects(data, subject, self.seed)
        said = self.findings([s.measured for s in found], subject)
        return [(as_discovered(f, s), s) for f, s in zip(said, found, strict=True)], notes

    def probes(self, subject: Subject, held: Batch) -> list[Finding]:
        """What can be read from each layer."""
        name = subject.head.name if subject.head else None
        return probe_layers(
            self.model,
            name,
            subject.features,
            held,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=within(self.progress, 0.2, 0.4),
        )

    def lenses(self, subject: Subject, train: Batch, held: Batch) -> dict[str, Described]:
        """What describes the model beside the verdict."""
        tell = within(self.progress, 0.4, 0.55)
        return of_model(self.model, subject, train, held, PENULTIMATE, self.seed, self.batch_size, tell)

    def course(self, checkpoints: Any, train: Batch, held: Batch) -> Course | None:
        """The same measurements on every checkpoint, if there are any."""
        if checkpoints is None:
            return None
        found = None
        if train.attribute is not None:
            found = association(train.y, train.attribute, train.num_classes, train.num_values)
        return course(
            self.model,
            states(checkpoints),
            held,
            found,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=within(self.progress, 0.55, 0.75),
        )

    def remedies(self, wanted: Sequence[str] | None, subject: Subject, train: Batch, held: Batch) -> tuple[Remedy, ...]:
        if subject.head is None or subject.features is None or (wanted is not None and not wanted):
            return ()
        held_rows, train_rows = self.rows(subject, train, held)
        stakes = self.stakes(train, held, subject)
        return repair.try_all(
            wanted, held_rows, train_rows, subject.head, self.seed, within(self.progress, 0.75, 0.97), stakes
        )

    def stakes(self, train: Batch, held: Batch, subject: Subject) -> repair.Stakes | None:
        """How reliance on the cue is measured after a repair: on edited features, or by the gap."""
        if train.attribute is None:
            return None
        found = association(train.y, train.attribute, train.num_classes, train.num_values)
        if not found.associated:
            return None
        if held.edit is None or len(held) * held.num_values > MAX_EDITED:
            return repair.Stakes(found)
        rows = torch.arange(len(held))
        edited = tuple(
            features_and_outputs(self.model, x, batch_size=self.batch_size, head=subject.head)[0]
            for x in edited_inputs(held, rows)
        )
        return repair.Stakes(found, edited, sources(held, rows))

    def rows(self, subject: Subject, train: Batch, held: Batch) -> tuple[repair.Rows, repair.Rows]:
        """What remedies work on: held-out features, and those of at most `MAX_TRAIN` training rows, rare cells first."""
        assert subject.features is not None
        chosen = train.rows(_spread(train, self.seed))
        features, _ = features_and_outputs(self.model, chosen.x, batch_size=self.batch_size, head=subject.head)
        return _rows(subject.features, held), _rows(features, chosen)


def _rows(features: torch.Tensor, batch: Batch) -> repair.Rows:
    return repair.Rows(features, batch.y, batch.attribute, batch.num_values)


def audit_subject(
    model: nn.Module,
    data: Any,
    attribute: Any,
    held_out: Any,
    *,
    trained_on: bool,
    seed: int,
    device: str,
    batch_size: int,
) -> tuple[Subject, Batch, Batch, repair.Rows, repair.Rows, str]:
    """What an audit and a repair start from, the same for the same arguments.

    Returns:
        The model's answers, training rows, held-out rows, both as rows for remedies, and the held-out rows in words.

    Raises:
        ValueError: If data or model cannot be used, or the model has no linear head.
    """
    model, data, held_out = accepted(model, data, held_out, attribute)
    run = _Run(_placed(model, device), seed, batch_size, silent)
    prepared = prepare(data, attribute, held_out, None, trained_on=trained_on, num_outputs=run.num_outputs, seed=seed)
    find_head(run.model, prepared.held.x)  # a repair needs one: the error says which layers were seen
    subject, _ = run.subject(prepared)
    measured = run.cues(prepared, subject) if len(prepared.cues) > 1 else []
    primary = _primary(measured, prepared)
    train, held = prepared.with_cue(primary) if primary else (prepared.train, prepared.held)
    return subject, train, held, *run.rows(subject, train, held), prepared.split


MAX_EDITED = 50_000
"""Edited rows whose features are kept to price remedies; beyond that the gap is reported."""

MAX_TRAIN = 10_000
"""Training rows whose features are used by a remedy."""


def _spread(train: Batch, seed: int) -> torch.Tensor:
    if len(train) <= MAX_TRAIN:
        return torch.arange(len(train))
    cells, generator = train.groups(), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    rank = torch.empty(len(train), dtype=torch.int64)
    for c in cells.unique():
        members = order[cells[order] == c]
        rank[members] = torch.arange(len(members))
    return rank.argsort(stable=True)[:MAX_TRAIN].sort().values


def _placed(model: nn.Module, device: str) -> nn.Module:
    here = next((p.device.type for p in model.parameters()), "cpu")
    return model if device in ("auto", here) else copy.deepcopy(model).to(device)


def _primary(measured: list[Measured], data: Prepared) -> str | None:
    """The cue that the group table is about: the one with the largest gap."""
    if not measured:
        return data.cues[0] if data.cues else None
    return max(measured, key=widest).cue


def _most_used(unnamed: list[tuple[Finding, Suspect]], train: Batch, held: Batch) -> tuple[Batch, Batch]:
    """The rows by the property that most hangs on, if one is suspect; as they were otherwise."""
    serious = [(finding, s) for finding, s in unnamed if finding.severity != "none"]
    if not serious:
        return train, held
    _, first = max(serious, key=lambda pair: (pair[0].status == "relies", pair[0].value or 0.0))
    return first.train, first.held


def _encoded(measured: list[Measured], subject: Subject, seed: int) -> dict[str, Any]:
    """The linear probe of every cue at the penultimate layer."""
    if subject.features is None:
        return {}
    return {m.cue: held_out_accuracy("linear", subject.features, m.held.attribute, seed=seed) for m in measured}
