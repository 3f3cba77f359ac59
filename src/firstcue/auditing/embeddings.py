"""`audit_embeddings`: what can be said from arrays alone, and no more than that."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from firstcue._checks import as_tensor, require_finite, require_rows
from firstcue._progress import Progress, silent, within
from firstcue._rows import in_parts
from firstcue.auditing import remedies as repair
from firstcue.auditing.attempt import attempt
from firstcue.auditing.closing import close
from firstcue.auditing.cue import Measured, findings, measure_cue, measure_jointly
from firstcue.auditing.decodability import decodability_finding
from firstcue.auditing.effort import Effort, effort_of
from firstcue.auditing.forecast import forecast_embeddings, unsaid
from firstcue.auditing.lenses import of_embeddings
from firstcue.auditing.prepare import Prepared, prepare
from firstcue.auditing.splits import stratified_folds
from firstcue.auditing.stages import Judged, primary, unmeasured
from firstcue.auditing.subject import Subject, linear_readout
from firstcue.auditing.suspects import inferred_findings
from firstcue.auditing.tables import group_table
from firstcue.batch import Batch, as_batch
from firstcue.finding import Finding, Remedy, Report
from firstcue.moments import Moments
from firstcue.probes import ProbeResult, held_out_accuracy
from firstcue.probes.closed_form import linear_from_means
from firstcue.shrinkage import oas

LAYER = "embeddings"
CHUNK = 1024
MAX_REPAIR = 4000
"""Held-out rows that remedies are fitted on."""


def audit_embeddings(
    x: Any,
    y: Any,
    attribute: Any = None,
    outputs: Any = None,
    held_out: Any = None,
    *,
    remedies: Sequence[str] | None = None,
    effort: str = "default",
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
    announce: Callable[[str], None] = unsaid,
) -> Report:
    """Audit embeddings: is the cue encoded, is it associated with the label, and does a linear read-out rely on it?

    With outputs that are linear in the embeddings (checked), the model's head is known and the cue can be erased under it.
    Without them nothing is said of reliance: `relies` stays null, and a linear head fitted here, each row by the half that
    does not hold it, supports a warning about linear models only.

    Args:
        x: `(n, d)` embeddings of rows of the training distribution.
        y: `(n,)` labels of any kind.
        attribute: The cue: an array `(n,)`, or a mapping from names to arrays.
        outputs: `(n, K)` logits of the model on the same rows.
        held_out: `(x, y, attribute[, outputs])` of unseen rows (attribute None when there is none).
        remedies: Names of the remedies to try; those that apply when None and outputs are given; an empty sequence tries none.
        effort: "fast", "default" or "thorough", as in `audit`.
        seed: Of every split and shuffle.
        command: Shell command to print under "how to run it again".
        progress: Told the stage and the fraction done.
        announce: Told once, before the work, what will be done and about how long it will take here.

    Returns:
        A frozen report.

    Raises:
        ValueError: If arrays do not fit each other.

    Example:
        >>> x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        >>> audit_embeddings(x, torch.arange(400) % 2, attribute=torch.arange(400) // 2 % 2).verdict
        'no shortcut found'
    """
    clock, much = time.perf_counter(), effort_of(effort)
    for name in set(remedies or ()) - repair.NEEDS_TRAINING:
        repair.find(name)
    progress("reading embeddings", 0.0)
    material = _material(x, y, attribute, outputs, held_out, seed)
    data, subject = material.data, material.subject
    expected = forecast_embeddings(data, subject, much, remedies)
    announce(expected.sentence)
    judged = _judged(data, subject, much, seed, within(progress, 0.0, 0.75))
    held = judged.held
    lenses = of_embeddings(subject, held, LAYER, much, seed, within(progress, 0.75, 0.8))
    tried, untried = attempt(
        "trying remedies",
        lambda: _remedies(much.tries(remedies, bool(data.cues)), subject, held, seed, progress),
        (),
    )
    return close(
        judged.findings,
        described=lenses,
        given=bool(data.cues),
        groups=group_table(subject.decisions, held, judged.train, data.split),
        learned=None,
        remedies=tried,
        pictures=(),
        notes=(*data.notes, *material.notes, *judged.notes, untried),
        seed=seed,
        device="cpu",
        command=command,
        effort=effort,
        expected=expected.seconds,
        seconds=time.perf_counter() - clock,
    )


def _judged(data: Prepared, subject: Subject, effort: Effort, seed: int, progress: Progress) -> Judged:
    """The verdict on every cue, what probes read, and the rows by the cue with the largest gap."""
    cued = [data.with_cue(cue) for cue in data.cues]
    draws = max(effort.draws, effort.draws_per_cue * len(cued))
    measured: list[Measured] = []
    failed: list[Finding] = []
    for i, (train, held) in enumerate(cued):
        progress(f"erasing {held.cue}" if subject.own else f"measuring {held.cue}", 0.1 + 0.4 * i / len(cued))
        one, note = attempt(
            f"measuring {held.cue}", partial(measure_cue, train, held, subject, seed=seed, draws=draws), None
        )
        measured += [] if one is None else [one]
        failed += [unmeasured(held.cue, note)] if one is None else []
    joint, alone = attempt("measuring cues together", lambda: measure_jointly(measured, subject, seed), measured)
    train, held = data.with_cue(primary(measured, data)) if data.cues else (data.train, data.held)
    probes, unread = attempt(
        "probing embeddings", lambda: _probes(data, held, effort, seed, within(progress, 0.5, 1.0)), {}
    )
    encoded = {cue: probes[cue, "linear"] for cue in data.cues if (cue, "linear") in probes}
    said = [*findings(joint, encoded, subject, LAYER), *failed]
    clusters, unclustered = attempt(
        "looking for a cue in the errors", lambda: [] if data.cues else inferred_findings(held, subject, None, seed), []
    )
    decodable = [decodability_finding(LAYER, cue, p, None, held) for (cue, _), p in probes.items()]
    return Judged((*said, *clusters, *decodable), train, held, (alone, unread, unclustered))


@dataclass(frozen=True)
class _Material:
    data: Prepared
    subject: Subject
    notes: tuple[str, ...]


def _material(x: Any, y: Any, attribute: Any, outputs: Any, held_out: Any, seed: int) -> _Material:
    vectors, logits = _vectors(x, "x"), _logits(outputs, x, "outputs")
    batch = Batch.of(vectors, y)
    unseen, unseen_logits = _unseen(held_out)
    num = logits.shape[1] if logits is not None else _num_classes(batch, unseen)
    given = {"attribute": attribute} if attribute is not None and not isinstance(attribute, Mapping) else attribute
    data = prepare(
        batch, given, unseen, None, trained_on=False, num_outputs=lambda _: num, seed=seed, split=logits is not None
    )
    if logits is None:
        return _fitted_here(data, num, unseen is not None, seed)
    if unseen is not None and unseen_logits is None:
        raise ValueError(
            "`outputs` are given for `x` but not for `held_out`; give held_out = (x, y, attribute, outputs)."
        )
    on_held = unseen_logits if unseen_logits is not None else logits[data.held.index]
    head = linear_readout(data.held.x, on_held)
    if head is None:
        note = "The outputs are not linear in these embeddings (or there are too few rows to tell), so the cue could not be erased under the head."
        return _Material(data, Subject(on_held), (note,))
    return _Material(data, Subject(on_held, data.held.x, head), ())


def _fitted_here(data: Prepared, num: int, unseen: bool, seed: int) -> _Material:
    """A linear head of our own, each row answered by a fit that did not see it."""
    held = data.held
    if unseen:
        whole, rows = Moments.of(data.train.x), torch.arange(len(data.train))
        logits = _answers(whole, data.train, rows, held.x, torch.arange(len(held)))
    else:
        logits = torch.empty(len(held), num)
        half = stratified_folds(held.groups(), 2, seed)
        sides = [(half == side).nonzero()[:, 0] for side in (0, 1)]
        by_half = Moments.of_groups(held.x, half, 2)
        for side in (0, 1):
            logits[sides[side]] = _answers(by_half.group(1 - side), held, sides[1 - side], held.x, sides[side])
    note = "No model outputs were given: accuracies are those of a linear discriminant fitted to these embeddings, and nothing is said of your model's reliance."
    return _Material(data, Subject(logits, held.x, own=False), (note,))


def _answers(whole: Moments, fitted: Batch, fit: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    """Logits of `x` at `rows` by a linear discriminant of the rows `fit`, of which `whole` are the moments."""
    k, d = fitted.num_classes, fitted.x.shape[1]
    counts = torch.bincount(fitted.y[fit], minlength=k).double()
    sums = torch.zeros(k, d, dtype=torch.float64)
    for part in fit.split(CHUNK):
        # a product with one-hot rows: adding row by row would wake all threads once per row
        sums += one_hot(fitted.y[part], k).double().mT @ (fitted.x[part].double() - whole.mean)
    means = whole.mean + sums / counts.clamp(min=1)[:, None]
    shrinkage = oas if len(fit) < 5 * d else None
    probe = linear_from_means(whole, means, counts, fitted.classes, balanced=False, shrinkage=shrinkage)
    return in_parts(rows, lambda part: torch.as_tensor(probe(x[part])).float(), k, dtype=torch.float32)


def _vectors(x: Any, name: str) -> Tensor:
    vectors = as_tensor(x, name)
    if vectors.ndim != 2:
        raise ValueError(
            f"`{name}` has shape {tuple(vectors.shape)}; embeddings are (n, d). Flatten or pool them first."
        )
    require_finite(vectors, name)
    return vectors


def _logits(outputs: Any, x: Any, name: str) -> Tensor | None:
    if outputs is None:
        return None
    logits = as_tensor(outputs, name)
    require_rows(as_tensor(x), logits, y_name=name)
    require_finite(logits, name)
    logits = logits[:, None] if logits.ndim == 1 else logits
    if logits.ndim != 2:
        raise ValueError(f"`{name}` has shape {tuple(logits.shape)}; logits are (n, K), or (n,) for two classes.")
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def _unseen(held_out: Any) -> tuple[Any, Tensor | None]:
    if held_out is None or isinstance(held_out, Batch | Mapping):
        return held_out, None
    if not isinstance(held_out, tuple | list) or len(held_out) not in (2, 3, 4):
        raise ValueError(
            "`held_out` is (x, y), (x, y, attribute) or (x, y, attribute, outputs), with attribute None when there is none."
        )
    x, y, attribute, outputs = (*held_out, None, None)[:4]
    columns = attribute if isinstance(attribute, Mapping) else {} if attribute is None else {"attribute": attribute}
    return as_batch({**columns, "x": _vectors(x, "held_out x"), "y": y}), _logits(outputs, x, "held_out outputs")


def _num_classes(batch: Batch, unseen: Any) -> int:
    names = set(batch.classes) | (set(unseen.classes) if isinstance(unseen, Batch) else set())
    return max(
        len(names),
        1 + max((int(n) for n in names if n.isdigit()), default=0)
        if all(n.isdigit() for n in names) and len(names) <= 2
        else 0,
    )


def _probes(
    data: Prepared, held: Batch, effort: Effort, seed: int, progress: Progress
) -> dict[tuple[str, str], ProbeResult]:
    targets = {"class": held.y} | {cue: data.with_cue(cue)[1].attribute for cue in data.cues}
    found: dict[tuple[str, str], ProbeResult] = {}
    for cue, z in targets.items():
        for kind in effort.probes:
            found[cue, kind] = held_out_accuracy(kind, held.x, z, seed=seed)
            progress("probing embeddings", len(found) / len(targets) / len(effort.probes))
    return found


def _remedies(
    wanted: Sequence[str] | None, subject: Subject, held: Batch, seed: int, progress: Progress
) -> tuple[Remedy, ...]:
    if subject.head is None or subject.features is None or (wanted is not None and not wanted):
        return ()
    rows = torch.arange(len(held))
    if len(rows) > MAX_REPAIR:
        fold = stratified_folds(held.groups(), -(-len(rows) // MAX_REPAIR), seed)
        rows = (fold == 0).nonzero()[:, 0]
    part = repair.Rows(
        subject.features[rows], held.y[rows], None if held.attribute is None else held.attribute[rows], held.num_values
    )
    return repair.try_all(wanted, part, None, subject.head, seed, within(progress, 0.8, 0.98))
