"""What each repair is worth, on rows that neither fitted nor chose it.

Every remedy is a function from fitting rows to a new head, so that all of them end as an ordinary linear layer. Held-out
rows are dealt into five folds; each row is answered by a head fitted on the other four. Two folds choose the remedy, the
other three report it: the promise. The head that is handed over is fitted on all held-out rows. Remedies that train the
whole network are rehearsed on the last layer (`rehearsing`): a prediction, marked as one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from firstcue._progress import Progress, within
from firstcue.auditing.erased import FOLDS
from firstcue.auditing.head_fits import Fit, Repaired, Rows, erase, erase_covariances, keep, mask_gradients, retrain
from firstcue.auditing.rehearsing import gain, predicted
from firstcue.auditing.splits import stratified_folds
from firstcue.finding import Interval, Remedy
from firstcue.layers import Head
from firstcue.spurious.association import Association
from firstcue.spurious.metrics import GroupMetrics, group_metrics
from firstcue.spurious.reliance import accuracy_gap, edit_reliance
from firstcue.training.remedies import HELD_OUT_GROUPS, TRAINING_GROUPS, TRAININGS

CHOOSING = (0, 1)
"""Folds whose rows choose between the remedies; the others report."""


MARGIN = 0.01
"""Worst-group accuracy that a repair has to gain to be chosen over leaving the head as it is."""


@dataclass(frozen=True)
class Stakes:
    """What is needed to measure how much a repaired head still leans on the cue."""

    association: Association
    edited: tuple[Tensor, ...] | None = None
    """Per value of the cue, `(n, d)` features of the held-out rows with the cue set to it; None when nothing can be edited."""
    clusters: Tensor | None = None
    """`(n,)` source of each row."""


@dataclass(frozen=True)
class Method:
    """A remedy by name."""

    name: str
    fit: Fit
    needs_group_labels: bool
    needs_attribute: bool = False
    needs_train: bool = False
    by_request: bool = False
    """Tried only when it is named."""
    needs_early: bool = False
    """Compares the model with an earlier checkpoint."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels that it uses beyond the classes."""
        if not self.needs_group_labels:
            return ()
        return (TRAINING_GROUPS, HELD_OUT_GROUPS) if self.needs_train else (HELD_OUT_GROUPS,)


METHODS: Mapping[str, Method] = {
    m.name: m
    for m in (
        Method("as it is", keep, needs_group_labels=False),
        Method("last-layer", retrain("dfr"), needs_group_labels=True, needs_attribute=True),
        Method("erase", erase, needs_group_labels=True, needs_attribute=True),
        Method(
            "last-layer on training rows",
            retrain("dfr-train"),
            needs_group_labels=True,
            needs_attribute=True,
            needs_train=True,
        ),
        Method("last-layer, class-balanced", retrain("class-balanced"), needs_group_labels=False),
        Method(
            "last-layer, disagreement",
            retrain("self"),
            needs_group_labels=False,
            by_request=True,
            needs_early=True,
        ),
        Method("and-mask", mask_gradients, needs_group_labels=True, needs_attribute=True),
        Method(
            "erase means and covariances",
            erase_covariances,
            needs_group_labels=True,
            needs_attribute=True,
            by_request=True,
        ),
    )
}
"""Remedies that an audit tries, in the order of its table."""

NEEDS_TRAINING = frozenset(name for name, remedy in TRAININGS.items() if not remedy.head)
"""Remedies that train the whole network: `fix` does, an audit only rehearses them."""

SIMPLIFY = "simplify"
"""Goes on training on images from which a simplifier takes bits."""


@dataclass(frozen=True)
class Tried:
    """One remedy with its promise."""

    method: Method
    promise: GroupMetrics
    """On report rows only."""
    relies: Interval | None
    """What is left of the reliance on the cue, on report rows."""
    choosing: float
    """Worst-group accuracy on the rows that choose."""
    repaired: Repaired
    """Fitted on all held-out rows."""
    seconds: float
    right: Tensor
    """`(n,)` bool, the rows that report and that it has right."""


def report_rows(cells: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Fold ids of all held-out rows, and the mask of those that report."""
    fold = stratified_folds(cells, FOLDS, seed)
    return fold, ~torch.isin(fold, torch.tensor(CHOOSING))


def try_remedy(
    method: Method, held: Rows, train: Rows | None, head: Head, seed: int, stakes: Stakes | None = None
) -> Tried:
    """Cross-fit one remedy over the held-out rows, then fit it on all of them.

    Args:
        method: The remedy.
        held: Held-out rows.
        train: Training rows, for the methods that use them.
        head: The model's own head.
        seed: Of folds and subsets.
        stakes: How reliance on the cue is measured after the repair; not measured when absent.
    """
    began = time.perf_counter()
    fold, reports = report_rows(held.cells, seed)
    repaired = method.fit(held, train, head, seed)
    inputs = (held.features, *(stakes.edited or () if stakes else ()))
    decisions = torch.empty(len(inputs), len(held.y), dtype=torch.int64)
    for f in range(FOLDS):
        out = fold == f
        if bool(out.any()):
            fitted = repaired if method.fit is keep else method.fit(held.at(~out), train, head, seed)
            for i, features in enumerate(inputs):
                decisions[i, out] = _decide(fitted, features[out])
    chooses = ~reports
    choosing = group_metrics(held.y[chooses], decisions[0, chooses], held.cells[chooses], min_count=1)
    worst = choosing.worst_group.accuracy if choosing.worst_group else 0.0
    promise = group_metrics(held.y[reports], decisions[0, reports], held.cells[reports])
    left = None if stakes is None else _left(stakes, held, decisions, reports, seed)
    right = decisions[0, reports] == held.y[reports]
    return Tried(method, promise, left, worst, repaired, time.perf_counter() - began, right)


def _left(stakes: Stakes, held: Rows, decisions: Tensor, reports: Tensor, seed: int) -> Interval | None:
    """Reliance by edit, or the accuracy gap, that remains; None where neither can be measured."""
    y = held.y[reports]
    right = decisions[:, reports] == y
    if stakes.edited is not None:
        clusters = None if stakes.clusters is None else stakes.clusters[reports]
        r = edit_reliance(stakes.association, right[1:].mT, y, clusters=clusters, seed=seed)
        return Interval(value=r.value, ci_low=r.ci_low, ci_high=r.ci_high, n=r.n, baseline=0.0, baseline_kind="by edit")
    assert held.attribute is not None
    gap = accuracy_gap(stakes.association, right[0], y, held.attribute[reports])
    if gap.undroppable:
        return None
    return Interval(
        value=gap.value, ci_low=gap.ci_low, ci_high=gap.ci_high, n=gap.n, baseline=0.0, baseline_kind="accuracy gap"
    )


def _decide(repaired: Repaired, features: Tensor) -> Tensor:
    return (features.double() @ repaired.weight.double().mT + repaired.bias.double()).argmax(dim=1)


def find(name: str) -> Method:
    """The remedy of that name.

    Raises:
        ValueError: If there is none.
    """
    if name in NEEDS_TRAINING:
        raise ValueError(
            f"{name!r} trains the whole network again, which an audit does not do: run it by itself, with fix(model, data, "
            f"{name!r}). Remedies of the last layer: {', '.join(METHODS)}."
        )
    if name not in METHODS:
        raise ValueError(f"no remedy is called {name!r}; remedies: {', '.join(METHODS)}.")
    return METHODS[name]


def applicable(held: Rows, train: Rows | None, wanted: Sequence[str] | None) -> list[Method]:
    """The remedies that these rows allow, or those asked for.

    Raises:
        ValueError: If a name is unknown.
    """
    usual = [m for m in METHODS.values() if not m.by_request]
    chosen = usual if wanted is None else [find(name) for name in dict.fromkeys(["as it is", *wanted])]
    return [
        m
        for m in chosen
        if (held.attribute is not None or not m.needs_attribute) and (train is not None or not m.needs_train)
    ]


def try_all(
    wanted: Sequence[str] | None,
    held: Rows,
    train: Rows | None,
    head: Head,
    seed: int,
    progress: Progress,
    stakes: Stakes | None = None,
    train_counts: Tensor | None = None,
) -> tuple[Remedy, ...]:
    """Every remedy as a row of the report: those of the last layer measured, the others rehearsed or named.

    Of the measured ones, that with the best worst group on the choosing rows is selected.

    Args:
        wanted: Names of remedies of the last layer, which are measured and no other has a row; all when None.
        held: Held-out rows.
        train: Training rows; without them nothing is rehearsed.
        head: The model's own head.
        seed: Of folds, subsets and training.
        progress: Told the stage and the fraction done.
        stakes: How reliance on the cue is measured after the repair.
        train_counts: `(cells,)` training rows by class and value of the cue, where `train` is not a fair sample of them.

    Raises:
        ValueError: If a name is unknown.
    """
    methods = applicable(held, train, wanted)
    share = 0.5 if wanted is None else 1.0
    tried = []
    for i, method in enumerate(methods):
        progress(f"trying {method.name}", share * i / len(methods))
        tried.append(try_remedy(method, held, train, head, seed, stakes))
    best = max(tried, key=lambda t: t.choosing + (MARGIN if t.method.fit is keep else 0.0), default=None)
    _, reports = report_rows(held.cells, seed)
    plain, cells = tried[0].right, held.cells[reports]
    measured = [_row(t, t is best, gain(plain, t.right, cells, seed, "the model as it came")) for t in tried]
    if wanted is not None:
        return tuple(measured)
    names = [name for name, remedy in TRAININGS.items() if not remedy.head]
    told = predicted(names, held, train, reports, len(head.weight), seed, within(progress, share, 1.0), train_counts)
    best_first = sorted(told, key=lambda r: -1.0 if r.worst_group is None else r.worst_group, reverse=True)
    return (*measured, *best_first, *_untried(methods))


def _row(t: Tried, selected: bool, gained: Interval | None) -> Remedy:
    worst = t.promise.worst_group
    low, high = t.promise.intervals.get("worst_group", (None, None))
    unchanged = t.method.fit is keep
    return Remedy(
        name=t.method.name,
        worst_group=worst.accuracy if worst else None,
        ci_low=low if worst else None,
        ci_high=high if worst else None,
        overall=t.promise.overall.accuracy,
        group_average=t.promise.group_average,
        n=t.promise.overall.n,
        gain=None if unchanged else gained,
        relies=t.relies,
        unchanged=unchanged,
        needs_group_labels=t.method.needs_group_labels,
        needs=t.method.needs,
        seconds=t.seconds,
        selected=selected,
        note=t.repaired.note,
    )


def _untried(tried: Sequence[Method]) -> tuple[Remedy, ...]:
    """Rows without numbers for the remedies of the last layer that were not tried, and for "simplify"."""
    rows = [
        Remedy(
            name=m.name, basis="not tried", needs_group_labels=m.needs_group_labels, needs=m.needs, note=_why_untried(m)
        )
        for m in METHODS.values()
        if m not in tried
    ]
    why = "not predicted: acts on the inputs, of image models"
    return (*rows, Remedy(name=SIMPLIFY, basis="not predicted", needs_group_labels=False, note=why))


def _why_untried(method: Method) -> str:
    if method.needs_early:
        return "not tried: needs an earlier checkpoint"
    if method.by_request:
        return "not tried: only if it is named"
    return "not tried: needs an attribute, or features of training rows"
