"""What the comparisons of remedies share: every training at its own rates, and every head that is made of plain training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, judged
from firstcue.experiments.spurious._lab import mean, values_of
from firstcue.forward import NotFinite, predict
from firstcue.heads import features_and_outputs, find_head
from firstcue.replacing import with_head
from firstcue.spurious.metrics import group_metrics
from firstcue.training.choosing import Kept, Selection
from firstcue.training.loop import minibatches, train
from firstcue.training.remedies import HELD_OUT_GROUPS, TRAININGS, TrainingRemedy, find
from firstcue.training.searching import finish, search, sgd

CONTROL = "control: shortcut removed"
SELECTIONS: tuple[Selection, ...] = ("worst group", "worst class")
"""What chooses the rate and the epoch: the second needs no group labels."""

_ERASE = TrainingRemedy("erase", find("erm").recipe, (HELD_OUT_GROUPS,))
HEADS: tuple[TrainingRemedy, ...] = (*(r for r in TRAININGS.values() if r.head), _ERASE)
"""What is made of plain training afterwards."""

REHEARSAL = "rehearsals on the last layer"
"""A trial of its own: plain training at the middle rate, and every other remedy rehearsed on its features."""

KEYS = (*(name for name, remedy in TRAININGS.items() if not remedy.head), CONTROL)
"""Trainings, one trial each; the control is plain training on rows whose cue says nothing of the label."""


@dataclass(frozen=True)
class Task:
    """What every remedy is given."""

    train: Batch
    held_out: Batch
    """Never trained on; chooses, and new heads are fitted to it."""
    test: Batch
    control: Callable[[], Batch]
    """The training rows with cues drawn anew, independent of the label: what only the editor of the data can do."""
    network: Callable[[int], nn.Module]
    """A new network from a seed."""
    rates: tuple[float, ...]
    epochs: int
    batch_size: int
    seed: int


def fresh_cues(batch: Batch, seed: int) -> Batch:
    """The same rows with cues drawn anew, independent of the label."""
    if batch.edit is None or batch.attribute is None:
        raise ValueError("cues can be drawn anew only in data that carries an editor.")
    value = torch.randint(0, 2, (len(batch),), generator=torch.Generator().manual_seed(seed))
    ones = (value == 1).reshape(-1, *[1] * (batch.x.ndim - 1))
    return replace(batch, x=torch.where(ones, batch.edit(batch.x, 1), batch.edit(batch.x, 0)), attribute=value)


def run_training(key: str, task: Task) -> list[dict[str, Any]]:
    """Train by that name at every rate; one row for every remedy that this training serves, and every selection.

    Where training diverges at every rate, or a head cannot be fitted, the row says so and has no numbers.
    """
    remedy = find("erm" if key == CONTROL else key)
    data = task.control() if key == CONTROL else task.train
    served = [remedy, *(HEADS if key == "erm" else ())]
    try:
        found = search(
            remedy,
            task.network,
            data,
            task.held_out,
            selections=SELECTIONS,
            rates=task.rates,
            epochs=task.epochs,
            batch_size=task.batch_size,
            seed=task.seed,
        )
    except NotFinite as error:
        return [_row(key, remedy, s, Kept(), None, task.test) | {"note": str(error)} for s in SELECTIONS]
    rows = []
    for one in served:
        for selection in SELECTIONS:
            kept = found.kept[selection]
            rows.append(_finished(CONTROL if key == CONTROL else one.name, one, selection, kept, data, task))
    return rows


def _finished(
    name: str, remedy: TrainingRemedy, selection: Selection, kept: Kept, data: Batch, task: Task
) -> dict[str, Any]:
    try:
        model = finish(remedy, kept, task.network, data, task.held_out, task.seed)
    except ValueError as error:  # as when the first epoch is the best, and no earlier network disagrees with it
        return _row(name, remedy, selection, kept, None, task.test) | {"note": str(error)}
    if remedy is _ERASE:
        model = _erased(model, task.held_out, task.seed)
    return _row(name, remedy, selection, kept, model, task.test)


def run_rehearsals(task: Task) -> list[dict[str, Any]]:
    """What rehearsals on the last layer of plain training, which know the held-out rows, say of each remedy.

    An audit leaves out those that need a network early in training (`TrainingRemedy.early`); here they are the evidence for that.
    """
    from firstcue.auditing.head_fits import Rows
    from firstcue.auditing.rehearsing import rehearse, stage
    from firstcue.auditing.remedies import report_rows

    model = task.network(task.seed)
    middle = sorted(task.rates)[len(task.rates) // 2]
    passes = minibatches(task.train, task.batch_size, task.epochs, seed=task.seed)
    train(model, passes, sgd(model, middle), seed=task.seed)
    head = find_head(model, task.held_out.x)
    held, known = (
        Rows(features_and_outputs(model, b.x, head=head)[0], b.y, b.attribute, b.num_values)
        for b in (task.held_out, task.train)
    )
    _, reports = report_rows(held.cells, task.seed)
    on = stage(known, held, reports, len(head.weight), task.seed)
    rows = []
    for remedy in TRAININGS.values():
        if not remedy.head and not remedy.on_features:
            right, cells = rehearse(remedy, on), on.reports.groups()
            shares = [float(right[cells == g].double().mean()) for g in cells.unique()]
            told = {"remedy": remedy.name, "selection": REHEARSAL, "needs": ", ".join(remedy.needs) or "nothing"}
            rows.append(told | {"note": "", "worst_group": min(shares), "group_average": mean(shares)})
    return rows


def _row(
    name: str, remedy: TrainingRemedy, selection: Selection, kept: Kept, model: nn.Module | None, test: Batch
) -> dict[str, Any]:
    needs = dict.fromkeys((*remedy.needs, *([HELD_OUT_GROUPS] if selection == "worst group" else [])))
    chosen = {"remedy": name, "selection": selection, "needs": ", ".join(needs) or "nothing", "note": ""}
    return chosen | {"rate": kept.rate, "epoch": kept.epoch} | _scores(model, test)


def _scores(model: nn.Module | None, test: Batch) -> dict[str, float | None]:
    if model is None:
        return dict.fromkeys(("worst_group", "group_average", "core", "cue"))
    guess, cue = predict(model, test.x).argmax(dim=1), test.groups() % 2
    found = group_metrics(test.y, guess, test.groups())
    return {
        "worst_group": None if found.worst_group is None else found.worst_group.accuracy,
        "group_average": found.group_average,
        "core": 2 * float((guess == test.y).double().mean()) - 1,
        "cue": 2 * float((guess == cue).double().mean()) - 1,
    }


def _erased(model: nn.Module, held_out: Batch, seed: int) -> nn.Module:
    """The cue erased in front of the head, fitted on balanced held-out rows; the bias set anew."""
    from firstcue.auditing.head_fits import Rows, erase  # the audit is made of what is here, not the other way round

    head = find_head(model, held_out.x)
    features, _ = features_and_outputs(model, held_out.x, head=head)
    repaired = erase(Rows(features, held_out.y, held_out.attribute, held_out.num_values), None, head, seed)
    return with_head(model, head.name, repaired.weight, repaired.bias)


def present(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The remedies that occur in rows, in the order of the tables."""
    names = (*TRAININGS, "erase", CONTROL)
    return [name for name in names if any(row["remedy"] == name for row in rows)]


def worst(rows: Sequence[Mapping[str, Any]], remedy: str, selection: str = "worst group") -> list[float]:
    """Worst-group accuracy in the order of seeds; NaN where training diverged."""
    return values_of(rows, "worst_group", remedy=remedy, selection=selection)


def gains(rows: Sequence[Mapping[str, Any]], published: str) -> list[Claim]:
    """For every remedy, its worst-group accuracy minus that of plain training chosen with the same labels."""
    made = []
    for name in present(rows):
        for selection in SELECTIONS:
            own, plain = worst(rows, name, selection), worst(rows, "erm", selection)
            needs = {str(row["needs"]) for row in rows if row["remedy"] == name and row["selection"] == selection}
            if (
                name in ("erm", CONTROL)
                or len(own) != len(plain)
                or (selection == "worst class" and needs != {"nothing"})
            ):
                continue
            how = "" if selection == "worst group" else ", without any group label"
            made.append(
                judged(
                    f"{name}{how}: the worst group gains over plain training",
                    [a - b for a, b in zip(own, plain, strict=True)],
                    published=published,
                    unit="difference of worst-group accuracies",
                    note=f"Worst group {mean(own):.3f}, plain {mean(plain):.3f}. Labels used: {', '.join(needs)}.",
                )
            )
    return made


def rehearsed(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """By remedy, per seed what it gained over plain training in rehearsal, and what in training."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name in present(rows):
        told, plain = worst(rows, name, REHEARSAL), worst(rows, "erm", REHEARSAL)
        true, base = worst(rows, name), worst(rows, "erm")
        if name != "erm" and len(told) == len(plain) == len(true) == len(base) > 0:
            found[name] = [(a - b, c - d) for a, b, c, d in zip(told, plain, true, base, strict=True)]
    return found


def foretold(rows: Sequence[Mapping[str, Any]], published: str) -> list[Claim]:
    """Whether gains in rehearsal order the remedies as their gains in training do, and how far they are off."""
    found = rehearsed(rows)
    shown = {name: p for name, p in found.items() if not TRAININGS[name].early}
    return [
        _ordered(p, words, published) for p, words in ((shown, "that an audit shows"), (found, "in all")) if len(p) > 2
    ]


def _ordered(found: Mapping[str, list[tuple[float, float]]], words: str, published: str) -> Claim:
    from scipy.stats import spearmanr

    pairs = list(found.values())
    seeds = [[p[i] for p in pairs] for i in range(min(map(len, pairs)))]
    ranks = [float(spearmanr([a for a, _ in s], [b for _, b in s]).statistic) for s in seeds]
    off = [mean([abs(a - b) for a, b in s]) for s in seeds]
    return judged(
        f"Rehearsals on the last layer order {len(pairs)} remedies, {words}, by gain as training does",
        ranks,
        published=published,
        unit="Spearman's rank correlation",
        note=f"Mean absolute difference of the two gains {mean(off):.3f}.",
    )


def chart(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Worst-group accuracy by remedy, with intervals over seeds; filled where held-out groups chose, open where classes did."""
    from matplotlib.figure import Figure

    from firstcue.experiments.claims import t_interval

    names = present(rows)[::-1]
    figure = Figure(figsize=(6.5, 0.32 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        for shift, selection, fill in ((0.15, "worst group", "full"), (-0.15, "worst class", "none")):
            values = worst(rows, name, selection)
            if values:
                middle, low, high = t_interval(values)
                axes.plot([low, high], [place + shift] * 2, "C0", lw=1.5)
                axes.plot(values, [place + shift] * len(values), "C0.", ms=2)
                axes.plot(middle, place + shift, "C0o", fillstyle=fill)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="worst-group accuracy", xlim=(0, 1))
    return figure
