"""Discovery from arrays: which simple property goes with the class, which groups and slices show, and what is relied on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue._progress import Progress, silent
from firstcue.spurious.agreeing import Inference, infer_groups
from firstcue.spurious.association import association
from firstcue.spurious.candidates import EQUAL, Chosen, choose
from firstcue.spurious.counterfactual import Transplant, carried_reliance
from firstcue.spurious.directions import candidate_direction
from firstcue.spurious.discovery import Candidate, Discovery, Standing
from firstcue.spurious.early_late import AT_CHANCE, early_late
from firstcue.spurious.inference import minority
from firstcue.spurious.metrics import group_metrics
from firstcue.spurious.properties import Kind, Property, kind_of, properties_of, take
from firstcue.spurious.reliance import Reliance, accuracy_gap
from firstcue.spurious.slice_line import slice_line
from firstcue.spurious.slices import ErrorSlice, domino_slices, enrichment, spotlight

MATTERS = 0.05
"""Change of accuracy below which reliance is of no practical interest."""

SCANNED = 10_000
"""Rows that are scanned."""

ASKED = 1000
"""Rows that a model is asked about after an edit."""

SLICED = 5000
"""Rows in which slices are looked for in embeddings."""

_FEW = 30


@dataclass(frozen=True)
class Material:
    """What discovery works on; whatever is absent is left out of the answer."""

    y: Tensor
    """`(n,)` int64."""

    classes: tuple[str, ...]
    x: Any = None
    metadata: Mapping[str, Any] | None = None
    outputs: Tensor | None = None
    """`(n, K)` logits of the model."""

    embeddings: Tensor | None = None
    course: Sequence[tuple[int, Tensor]] = ()
    """`(step, logits)` of checkpoints."""

    predict: Callable[[Any], Tensor] | None = None
    edits: Mapping[str, Callable[[Any, int], Any]] | None = None
    """A user's own way to set a property, by its name."""

    kind: Kind = "auto"


def discovered(m: Material, *, most: int = 5, seed: int = 0, progress: Progress = silent) -> Discovery:
    """All of discovery; see `firstcue.discover`, which makes the material from a model or embeddings."""
    rows = _some(len(m.y), SCANNED, seed)
    progress("scanning simple properties", 0.0)
    chosen, properties, scan = _chosen(m, rows, most, seed)
    progress("following checkpoints", 0.4)
    early = early_late(m.course, m.y) if any(step > 0 for step, _ in m.course) else None
    candidates = []
    for i, c in enumerate(chosen):
        progress(f"checking {c.property.name}", 0.5 + 0.2 * i / len(chosen))
        candidates.append(_candidate(c, properties, m, rows, seed))
    candidates.sort(key=lambda c: _ORDER[c.standing])  # stable: as they were chosen otherwise
    progress("inferring groups", 0.7)
    groups = _groups(m, early.early if early else None, early is None or early.clusters_found, seed)
    progress("looking for slices", 0.85)
    slices = _slices(m, candidates, seed)
    return Discovery(
        candidates=tuple(candidates),
        groups=groups,
        slices=slices,
        early=early,
        warnings=_warnings(m, candidates, groups),
        scan=scan,
        minority_score=None if groups is None else _minority_score(groups, m.y),
        worst_group=_worst(groups, m),
        y=m.y,
    )


_ORDER: dict[Standing, int] = {"relied on": 0, "associated": 1, "not relied on": 2, "equals the label": 3}


def _chosen(
    m: Material, rows: np.ndarray, most: int, seed: int
) -> tuple[tuple[Chosen, ...], tuple[Property, ...], Any]:
    metadata = {name: _host(values)[rows] for name, values in (m.metadata or {}).items()}
    properties = properties_of(None if m.x is None else take(m.x, rows), metadata, kind=m.kind)
    chosen, scan = choose(properties, m.y.numpy()[rows], shape=_shape(m), most=most, seed=seed)
    return chosen, properties, scan


def _shape(m: Material) -> tuple[int, int] | None:
    if m.x is None or (kind_of(m.x) if m.kind == "auto" else m.kind) != "image":
        return None
    h, w = as_tensor(m.x).shape[-2:]
    return int(h), int(w)


def _candidate(c: Chosen, properties: Sequence[Property], m: Material, rows: np.ndarray, seed: int) -> Candidate:
    reads = _Reads(c)
    values = _all_values(c.property, m, rows)
    attribute = reads.ids(values)
    y = m.y.numpy()
    found = association(y, attribute, len(m.classes), len(reads.names(m.classes)))
    equal = c.scanned.strength >= EQUAL
    edits = () if equal else _edits(c, properties, m, attribute, seed)
    reliance, edit = _asked(edits, m, attribute, found, seed)
    gap = None
    if m.outputs is not None and found.associated:
        gap = accuracy_gap(found, m.outputs.argmax(dim=1) == m.y, m.y, torch.from_numpy(attribute))
    measure = c.property.measure
    return Candidate(
        name=c.property.name,
        standing="equals the label" if equal else _standing(reliance),
        attribute=torch.from_numpy(attribute),
        values=reads.names(m.classes),
        balanced_accuracy=c.scanned.balanced_accuracy,
        score=c.scanned.score,
        bits=c.scanned.bits,
        p_value=c.scanned.p_adjusted,
        place=c.property.cell,
        follows=c.follows,
        reliance=reliance,
        gap=gap,
        followed=_followed(m, c.scanned.rule(values)),
        direction=_direction(m, attribute),
        assign=None if c.property.levels else partial(_assign, measure=measure or _numbers, reads=reads),
        edit=edit,
    )


@dataclass(frozen=True)
class _Reads:
    """From a property's numbers to ids of its values: its levels, or the classes that it speaks for."""

    chosen: Chosen

    def ids(self, values: np.ndarray) -> np.ndarray:
        """`(n,)` int64."""
        if self.chosen.property.levels:
            return values.astype(np.int64)
        return np.searchsorted(self._said(), self.chosen.scanned.rule(values))

    def names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return self.chosen.property.levels or tuple(f"as in {classes[k]}" for k in self._said())

    def _said(self) -> np.ndarray:
        return np.unique(self.chosen.scanned.rule.says)


def _assign(x: Any, measure: Callable[[Any], np.ndarray], reads: _Reads) -> np.ndarray:
    return reads.ids(measure(x))


def _numbers(column: Any) -> np.ndarray:
    return _host(column).astype(np.float64)


def _all_values(p: Property, m: Material, rows: np.ndarray) -> np.ndarray:
    """The property of every row, also of those that were not scanned."""
    if len(rows) == len(m.y):
        return p.values
    if p.measure is not None:
        return p.measure(m.x)
    assert m.metadata is not None
    return properties_of(None, {p.name: m.metadata[p.name]})[0].values


def _edits(
    c: Chosen, properties: Sequence[Property], m: Material, attribute: np.ndarray, seed: int
) -> tuple[Callable[[Any, int], Any], ...]:
    """Ways to set the candidate: the user's own, or to carry it over, or the widest property that follows it."""
    own = (m.edits or {}).get(c.property.name)
    if own is not None:
        return (own,)
    wider = next((p for p in properties if p.name in c.follows and p.carry is not None and p.cell is None), None)
    carries = [p.carry for p in (c.property, wider) if p is not None and p.carry is not None]
    num = int(attribute.max()) + 1
    if num < 2 or len(np.unique(attribute)) < num:
        return ()
    return tuple(Transplant.of(carry, m.x, attribute, num, seed) for carry in carries)


def _asked(
    edits: tuple[Callable[[Any, int], Any], ...], m: Material, attribute: np.ndarray, found: Any, seed: int
) -> tuple[Reliance | None, Callable[[Any, int], Any] | None]:
    if not edits or not found.associated:
        return None, None
    if m.predict is None:
        return None, edits[0]
    rows = _some(len(m.y), ASKED, seed)
    y, num = m.y.numpy()[rows], found.counts.shape[1]
    reliance, best = carried_reliance(m.predict, edits, take(m.x, rows), y, found, num_values=num, seed=seed)
    return reliance, edits[best]


def _standing(reliance: Reliance | None) -> Standing:
    if reliance is None:
        return "associated"
    if reliance.ci_low > MATTERS:
        return "relied on"
    return "not relied on" if reliance.ci_low > -MATTERS and reliance.ci_high < MATTERS else "associated"


def _followed(m: Material, said: np.ndarray) -> tuple[tuple[int, float], ...]:
    """Share of the rows it would mislead that each checkpoint decides its way."""
    told = torch.from_numpy(said)
    misled = told != m.y
    if not bool(misled.any()):
        return ()
    return tuple((step, float((o.argmax(dim=1) == told)[misled].double().mean())) for step, o in m.course)


def _direction(m: Material, attribute: np.ndarray) -> Any:
    if m.embeddings is None:
        return None
    ids = torch.from_numpy(attribute)
    if all(len(ids[m.y == k].unique()) < 2 for k in m.y.unique()):
        return None
    return candidate_direction(m.embeddings, m.y, ids)


def _groups(m: Material, early_step: int | None, trusted: bool, seed: int) -> Inference | None:
    outputs = m.outputs if early_step is None else dict(m.course)[early_step]
    if outputs is None and m.embeddings is None:
        return None
    return infer_groups(m.y, outputs=outputs, features=m.embeddings, trusted=trusted, seed=seed)


def _minority_score(groups: Inference, y: Tensor) -> Tensor:
    return torch.stack([minority(g.groups, y) for g in groups.by_method.values()]).double().mean(dim=0)


def _worst(groups: Inference | None, m: Material) -> float | None:
    if groups is None or m.outputs is None:
        return None
    ids = groups.by_method[groups.best].groups
    worst = group_metrics(m.y, m.outputs.argmax(dim=1), ids).worst_group
    return None if worst is None else worst.accuracy


def _slices(m: Material, candidates: Sequence[Candidate], seed: int) -> tuple[ErrorSlice, ...]:
    """Slices of rows that the model gets wrong, by metadata and candidates and by place in the embedding."""
    if m.outputs is None:
        return ()
    wrong = (m.outputs.argmax(dim=1) != m.y).numpy()
    table = {"class": np.array(m.classes)[m.y.numpy()]} | {n: _host(v) for n, v in (m.metadata or {}).items()}
    table |= {c.name: np.array(c.values)[c.attribute.numpy()] for c in candidates if c.name not in table}
    found = [
        ErrorSlice("SliceLine", s.rows, s.error, float(wrong.mean()), (), (), name=s.name)
        for s in slice_line(table, wrong, most=3)
    ]
    if m.embeddings is None or not wrong.any():
        return tuple(found)
    rows = _some(len(m.y), SLICED, seed)
    z, y, logits = m.embeddings[rows], m.y[rows], m.outputs[rows]
    near = domino_slices(z, y, logits, seed=seed) + spotlight(z, wrong[rows].astype(np.float64), seed=seed)
    part = {name: np.asarray(column)[rows] for name, column in table.items()}
    return (*found, *(_placed(s, rows, part, len(wrong)) for s in near))


def _placed(s: ErrorSlice, rows: np.ndarray, table: Mapping[str, Any], n: int) -> ErrorSlice:
    """A slice of some rows as one of all rows, with what explains it."""
    explained = enrichment(s.rows, table)
    whole = np.zeros(n, dtype=bool)
    whole[rows[s.rows]] = True
    return replace(
        s,
        rows=whole,
        typical=tuple(int(rows[i]) for i in s.typical),
        atypical=tuple(int(rows[i]) for i in s.atypical),
        explained=explained,
        name=" and ".join(f"{e.column} = {e.value}" for e in explained),
    )


def _warnings(m: Material, candidates: Sequence[Candidate], groups: Inference | None) -> tuple[str, ...]:
    said = []
    if groups is not None and not groups.trusted:
        said.append(AT_CHANCE)
    smallest = int(m.y.bincount(minlength=len(m.classes)).min())
    if smallest < _FEW:
        said.append(f"the smallest class has {smallest} rows; only strong associations can be told from chance")
    if m.outputs is not None and bool((m.outputs.argmax(dim=1) == m.y).all()):
        said.append("the model makes no error on these rows, so no slice can be found: give rows it has not seen")
    said += [
        f"{c.name} cannot be told from the label in these rows: rows that break the pairing would decide"
        for c in candidates
        if c.standing == "equals the label"
    ]
    return tuple(said)


def _some(n: int, most: int, seed: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _host(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
