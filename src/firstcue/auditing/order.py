"""In which order class and cue became decodable and used: the audit's measurements repeated on checkpoints."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.auditing.edited import correct_by_value
from firstcue.auditing.splits import some_rows
from firstcue.auditing.verdict import MATTERS
from firstcue.batch import Batch
from firstcue.finding import Moment, Order
from firstcue.layers import features_and_outputs, find_head, predict
from firstcue.probes import held_out_accuracy
from firstcue.spurious.association import Association
from firstcue.spurious.metrics import group_metrics
from firstcue.spurious.reliance import accuracy_gap, edit_reliance
from firstcue.training.checkpoints import load_checkpoints

MAX_ROWS = 1000
HEAD_ROWS = 32
"""Rows by which the head of a checkpoint is found; it is verified on all that are measured."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Course:
    """Curves over training and the steps read off them; all on a scale from 0, chance, to 1."""

    timeline: tuple[Moment, ...]
    order: tuple[Order, ...]
    first: Tensor | None = None
    """`(n, K)` logits of the earliest trained checkpoint on all held-out rows, for clustering without an attribute."""


def states(checkpoints: Any) -> list[tuple[int, State]]:
    """Steps and weights, in order, from a glob, a folder, paths, or pairs `(step, state_dict)`.

    Raises:
        ValueError: If nothing is found, or a file is not one of ours.
    """
    from safetensors.torch import load_file

    if isinstance(checkpoints, str | Path):
        found: list[tuple[int, Any]] = list(load_checkpoints(checkpoints))
    else:
        found = [
            pair for item in checkpoints for pair in ([item] if isinstance(item, tuple) else load_checkpoints(item))
        ]
    if not found:
        raise ValueError(
            "`checkpoints` is empty; leave it out, or name the folder that a `checkpoints` recorder wrote."
        )
    loaded = [(int(step), load_file(str(what)) if isinstance(what, str | Path) else what) for step, what in found]
    return sorted(loaded, key=lambda pair: pair[0])


def course(
    model: nn.Module,
    checkpoints: Sequence[tuple[int, State]],
    held: Batch,
    found: Association | None,
    *,
    clusters: bool = False,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> Course:
    """Measure every checkpoint on (at most `MAX_ROWS`) held-out rows.

    Args:
        model: The architecture; a copy is loaded with each state.
        checkpoints: `(step, state_dict)`, ascending.
        held: Held-out rows, with the cue as attribute if there is one.
        found: Association of the cue in training.
        clusters: Whether the outputs of the earliest trained checkpoint are wanted on all held-out rows.
        seed: Of splits.
        batch_size: Rows per call.
        progress: Told the fraction done.

    Raises:
        ValueError: If a state does not fit the model.
    """
    rows, copied = some_rows(len(held), MAX_ROWS, seed), copy.deepcopy(model)
    part, every = held.rows(rows), torch.arange(len(held))
    timeline: list[Moment] = []
    first = None
    for i, (at, state) in enumerate(checkpoints):
        _load(copied, state, at)
        whole = clusters and first is None and at > 0
        x = held.x if whole else part.x
        head = find_head(copied, x[:HEAD_ROWS])
        features, logits = features_and_outputs(copied, x, batch_size=batch_size, head=head)
        first, here = (logits, rows) if whole else (first, every[: len(rows)])
        timeline += _measure(copied, at, part, features[here], logits[here], found, seed, batch_size)
        progress("following checkpoints", (i + 1) / len(checkpoints))
    return Course(tuple(timeline), _orders(timeline, part.cue if part.attribute is not None else None), first)


def require_fitting(model: nn.Module, checkpoints: Sequence[tuple[int, State]]) -> None:
    """Refuse checkpoints of another model, before any work.

    Raises:
        ValueError: If a state does not fit the model.
    """
    copied = copy.deepcopy(model)
    for at, state in checkpoints:
        _load(copied, state, at)


def _load(model: nn.Module, state: State, at: int) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"the checkpoint of step {at} does not fit the model: {error}") from error


def _measure(
    model: nn.Module,
    at: int,
    held: Batch,
    features: Tensor,
    logits: Tensor,
    found: Association | None,
    seed: int,
    batch_size: int,
) -> list[Moment]:
    correct, k = logits.argmax(dim=1) == held.y, held.num_classes
    metrics = group_metrics(held.y, logits.argmax(dim=1), held.groups())
    low, high = metrics.intervals["group_average"]
    said = [
        Moment(
            step=at,
            curve="used/core",
            value=_scaled(metrics.group_average, k),
            ci_low=_scaled(low, k),
            ci_high=_scaled(high, k),
        ),
        _decodable(at, "core", features, held.y, k, seed),
    ]
    if metrics.worst_group is not None:
        w = metrics.worst_group
        said.append(Moment(step=at, curve="accuracy/worst", value=w.accuracy, ci_low=w.ci_low, ci_high=w.ci_high))
    if held.attribute is None:
        return said
    said.append(_decodable(at, held.cue, features, held.attribute, held.num_values, seed))
    if found is not None and found.associated:
        said += _used(model, at, held, found, correct, seed, batch_size)
    return said


def _used(
    model: nn.Module, at: int, held: Batch, found: Association, correct: Tensor, seed: int, batch_size: int
) -> list[Moment]:
    """Reliance by edit where rows can be edited, else the accuracy gap."""
    assert held.attribute is not None
    if held.edit is not None:
        right = correct_by_value(lambda x: predict(model, x, batch_size=batch_size), held, torch.arange(len(held)))
        r = edit_reliance(found.r, right, held.y, seed=seed, draws=200)
        return [Moment(step=at, curve=f"used/{held.cue}", value=r.value, ci_low=r.ci_low, ci_high=r.ci_high)]
    gap = accuracy_gap(found, correct, held.y, held.attribute)
    return (
        []
        if gap.undroppable
        else [Moment(step=at, curve=f"used/{held.cue}", value=gap.value, ci_low=gap.ci_low, ci_high=gap.ci_high)]
    )


def _decodable(at: int, cue: str, features: Tensor, z: Tensor, num: int, seed: int) -> Moment:
    p = held_out_accuracy("linear", features, z, seed=seed)
    return Moment(
        step=at,
        curve=f"decodable/{cue}",
        value=_scaled(p.accuracy, num),
        ci_low=_scaled(p.ci_low, num),
        ci_high=_scaled(p.ci_high, num),
    )


def _scaled(accuracy: float, num: int) -> float:
    """0 at chance, 1 when always right; for two classes this is the correlation 2 a - 1."""
    return (accuracy - 1 / num) / (1 - 1 / num)


def _orders(timeline: list[Moment], cue: str | None) -> tuple[Order, ...]:
    names = ["core"] + ([cue] if cue is not None else [])
    return tuple(
        Order(
            cue=name,
            step_decodable=_since(timeline, f"decodable/{name}", relative=True),
            step_used=_since(timeline, f"used/{name}", relative=False),
        )
        for name in names
    )


def _since(timeline: list[Moment], curve: str, *, relative: bool) -> int | None:
    """First step from which the curve stays up for three checkpoints, or to the end.

    Up means: used, its lower bound above `MATTERS`; decodable, nine tenths of its highest value.
    """
    points = [m for m in timeline if m.curve == curve]
    values = [m.value for m in points if m.value is not None]
    if not values or (relative and max(values) <= MATTERS):
        return None
    up = [_is_up(m, 0.9 * max(values) if relative else None) for m in points]
    return next((m.step for i, m in enumerate(points) if all(up[i : i + 3])), None)


def _is_up(point: Moment, least: float | None) -> bool:
    if least is not None:
        return point.value is not None and point.value >= least
    return point.ci_low is not None and point.ci_low > MATTERS
