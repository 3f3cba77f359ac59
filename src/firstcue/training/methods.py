"""Ways to fit a head to rows, by name: each maps a `Task` to a read-out of raw features and says what it chose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstcue.batch import balanced_rows
from firstcue.heads import Head
from firstcue.training.balance import Cells, Rows, by_class, cells_of, halves, worst_accuracy
from firstcue.training.logistic import Penalty, Readout, Space, average, fit_readout
from firstcue.training.selective import finetune, select
from firstcue.training.sparse import SparseFits, fit_sparse

GRID = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
"""Inverse strengths of the penalty that are tried, in this order; the first of equals wins."""

MOST_DIRECTIONS = 128
"""Principal directions kept for l1 with more than two classes."""

MOST_ROWS = 4_000
"""Rows of one fit; where balanced rows are more, each of the averaged fits takes another sample of them."""

MOST_WORK = 200_000
"""Rows x directions x classes of one fit up to which l1 is used with more than two classes; beyond it l2 is."""

LEAST_SHARED = 1 << 21
"""Rows x features of one fit from which, with two classes, l1 fits take their steps together and stop early."""

FIRST_STEPS, LATER_STEPS = 100, 30
"""Steps of such fits from zero, and from the fit of the strength that was chosen."""


@dataclass(frozen=True)
class Task:
    """Everything a method may use."""

    held: Rows
    train: Rows | None
    num_classes: int
    group_names: tuple[str, ...]
    outputs: Tensor | None
    early: Tensor | None
    head: Head | None
    seed: int


@dataclass(frozen=True)
class Fitted:
    """What a method found, in raw features."""

    readout: Readout
    penalty: Penalty | None
    inverse_strength: float | None
    cells: Cells
    ids: Tensor
    rows_per_group: int | None
    fits: int
    notes: tuple[str, ...] = ()


def _dfr(task: Task) -> Fitted:
    return _balanced(task, cells_of(task.held, task.train, task.num_classes, task.group_names, drawn=task.held))


def _class_balanced(task: Task) -> Fitted:
    return _balanced(task, by_class(task.held, task.train, task.num_classes))


def _balanced(task: Task, cells: Cells) -> Fitted:
    """Choose the strength on halves of the held-out rows, then average 20 fits to balanced subsets of all of them."""
    generator = torch.Generator().manual_seed(task.seed)
    score, fit = halves(cells.held, generator)
    subset = fit[_draw(cells.held[fit], generator)]
    scale = (task.held if task.train is None else task.train).x

    def attempt(penalty: Penalty) -> tuple[float, Readout]:
        if _is_shared(task, cells.held, penalty):
            return _together(task, task.held, subset, score, cells.held, cells.held, 20, generator)
        chosen = _tune(task, task.held, subset, task.held.x[fit.numpy()], score, cells.held, penalty)
        return chosen, _averaged(task, task.held, cells.held, scale, 20, chosen, penalty, generator)

    notes = ("" if task.train is not None else "features scaled by held-out rows",)
    return _with_penalty(task, attempt, cells, cells.held, 20, notes)


def _dfr_train(task: Task) -> Fitted:
    """Choose the strength on all held-out rows, then average 10 fits to balanced subsets of the training rows."""
    if task.train is None:
        raise ValueError('"dfr-train" balances training rows; give `train`, or use "dfr", which needs none.')
    known = task.train
    cells = cells_of(task.held, known, task.num_classes, task.group_names, drawn=known)
    ids = cells.train
    assert ids is not None
    generator = torch.Generator().manual_seed(task.seed)
    subset, everything = _draw(ids, generator), torch.arange(len(task.held))

    def attempt(penalty: Penalty) -> tuple[float, Readout]:
        if _is_shared(task, ids, penalty):
            return _together(task, known, subset, everything, cells.held, ids, 10, generator)
        chosen = _tune(task, known, subset, known.x, everything, cells.held, penalty, max_iter=20)
        return chosen, _averaged(task, known, ids, known.x, 10, chosen, penalty, generator)

    return _with_penalty(task, attempt, cells, ids, 10, ())


def _with_penalty(
    task: Task,
    attempt: Callable[[Penalty], tuple[float, Readout]],
    cells: Cells,
    ids: Tensor,
    fits: int,
    notes: tuple[str, ...],
) -> Fitted:
    """Fit with l1; with several classes go over to l2 where l1 is too much work or does not converge."""
    size = len(_draw(ids, torch.Generator())) // len(ids.unique())
    directions = min(task.held.x.shape[1], MOST_DIRECTIONS)
    penalty: Penalty = "l1"
    if task.num_classes > 2 and size * len(ids.unique()) * directions * task.num_classes > MOST_WORK:
        penalty, notes = "l2", (*notes, "l2 instead of l1: too many rows for its solver")
    chosen, readout = attempt(penalty)
    if penalty == "l1" and task.num_classes > 2 and not readout.converged:
        penalty, notes = "l2", (*notes, "l2 instead of l1: its solver did not converge")
        chosen, readout = attempt(penalty)
    if penalty == "l1" and task.num_classes > 2 and task.held.x.shape[1] > MOST_DIRECTIONS:
        notes = (*notes, f"l1 on {MOST_DIRECTIONS} principal directions")
    if not readout.converged:
        notes = (*notes, "a solver stopped before it converged")
    smallest = int(torch.bincount(ids)[ids.unique()].min())
    if size < smallest:
        notes = (*notes, f"each fit to a sample of {size} rows per {cells.kind}, of {smallest}")
    if _is_shared(task, ids, penalty):
        notes = (*notes, "fits stopped early, when predictions have settled")
    if size < 10:
        notes = (*notes, f"only {size} rows per {cells.kind} in each fit")
    return Fitted(readout, penalty, chosen, cells, ids, size, fits, notes)


def _draw(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Balanced rows, at most `MOST_ROWS`."""
    return balanced_rows(ids, generator, max(1, MOST_ROWS // len(ids.unique())))


def _space(task: Task, x: np.ndarray, penalty: Penalty) -> Space:
    return Space.of(x, MOST_DIRECTIONS if penalty == "l1" and task.num_classes > 2 else None)


def _is_shared(task: Task, ids: Tensor, penalty: Penalty) -> bool:
    """Whether fits are large and overlap enough that steps on all of them together are the faster way."""
    size = len(_draw(ids, torch.Generator()))
    large = size * task.held.x.shape[1] >= LEAST_SHARED and len(ids) <= 8 * size
    return penalty == "l1" and task.num_classes == 2 and large


def _together(
    task: Task,
    source: Rows,
    subset: Tensor,
    score: Tensor,
    cells: Tensor,
    ids: Tensor,
    fits: int,
    generator: torch.Generator,
) -> tuple[float, Readout]:
    """As `_tune` and then `_averaged`: all strengths at once, and from the best of them all averaged fits at once."""
    space = Space.of((task.held if task.train is None else task.train).x)
    x, y = torch.from_numpy(space(source.x)).float(), source.y.float()
    to_score = x if source is task.held else torch.from_numpy(space(task.held.x)).float()
    strengths = torch.tensor(GRID)
    tried = fit_sparse(x[subset], y[subset], torch.ones(len(subset), len(GRID)), strengths, steps=FIRST_STEPS)
    right = (to_score[score] @ tried.weight + tried.bias > 0).long() == task.held.y[score, None]
    best = int(np.argmax([worst_accuracy(correct, cells[score]) for correct in right.T]))
    start = SparseFits(tried.weight[:, [best]], tried.bias[[best]], tried.steps, tried.change)
    rows = torch.zeros(len(x), fits)
    for fit in range(fits):
        rows[_draw(ids, generator), fit] = 1.0
    found = fit_sparse(x, y, rows, strengths[[best] * fits], start=start, steps=LATER_STEPS)
    weight, bias = found.weight.mean(dim=1).double().numpy(), found.bias.mean().double().numpy()
    return GRID[best], space.fold(Readout(np.stack([-weight, weight]) / 2, np.stack([-bias, bias]) / 2))


def _tune(
    task: Task,
    source: Rows,
    subset: Tensor,
    scale: np.ndarray,
    score: Tensor,
    cells: Tensor,
    penalty: Penalty,
    max_iter: int | None = None,
) -> float:
    """The inverse strength in `GRID` whose fit to `subset` has the best worst-group accuracy on the rows `score`."""
    space = _space(task, scale, penalty)
    x, y = space(source.x[subset.numpy()]), source.y[subset].numpy()
    to_score, truth = space(task.held.x[score.numpy()]), task.held.y[score]
    worst, start = [], None
    for strength in GRID:
        start = fit_readout(
            x,
            y,
            task.num_classes,
            penalty=penalty,
            inverse_strength=strength,
            seed=task.seed,
            max_iter=max_iter,
            start=start,
        )
        worst.append(worst_accuracy(torch.from_numpy(start.predict(to_score)) == truth, cells[score]))
    return GRID[int(np.argmax(worst))]


def _averaged(
    task: Task,
    source: Rows,
    ids: Tensor,
    scale: np.ndarray,
    fits: int,
    strength: float,
    penalty: Penalty,
    generator: torch.Generator,
) -> Readout:
    """The mean of fits to balanced subsets, for raw features."""
    space = _space(task, scale, penalty)
    readouts: list[Readout] = []
    for _ in range(fits):
        rows = _draw(ids, generator)
        x, y = space(source.x[rows.numpy()]), source.y[rows].numpy()
        start = readouts[-1] if readouts else None
        readouts.append(
            fit_readout(
                x,
                y,
                task.num_classes,
                penalty=penalty,
                inverse_strength=strength,
                seed=task.seed,
                start=start,
            )
        )
    return space.fold(average(readouts))


def _self(task: Task) -> Fitted:
    """Finetune the present head on the rows of highest disagreement."""
    if task.head is None or task.outputs is None or task.early is None:
        raise ValueError(
            '"self" compares two models: it needs `head` and `early_outputs` (in `retrain_last_layer`: `early`).'
        )
    if task.early.shape != task.outputs.shape:
        raise ValueError(f"`early_outputs` has shape {tuple(task.early.shape)}; {tuple(task.outputs.shape)} is needed.")
    rows = select(task.early, task.outputs, task.held.y, task.num_classes)
    present = Readout(task.head.weight.double().numpy(), task.head.bias.double().numpy())
    space = Space.of((task.held if task.train is None else task.train).x)
    readout = finetune(present, space, torch.from_numpy(task.held.x)[rows], task.held.y[rows], task.seed)
    cells = by_class(task.held, task.train, task.num_classes)
    note = f"labels of {len(rows)} of {len(task.held)} held-out rows used"
    return Fitted(readout, None, None, cells, task.held.y, len(rows) // task.num_classes, 1, (note,))


def _erm(task: Task) -> Fitted:
    """All rows as they are."""
    rows = task.held if task.train is None else task.train
    return _plain(task, rows, Cells("none", task.held.y, None, tuple(map(str, range(task.num_classes)))), rows.y, None)


def _group_balanced(task: Task) -> Fitted:
    """All held-out rows, weighted so that groups count alike."""
    cells = cells_of(task.held, task.train, task.num_classes, task.group_names, drawn=task.held)
    counts = torch.bincount(cells.held)
    weights = (len(cells.held) / (int((counts > 0).sum()) * counts.double()))[cells.held]
    return _plain(task, task.held, cells, cells.held, weights.numpy())


def _plain(task: Task, rows: Rows, cells: Cells, ids: Tensor, weights: np.ndarray | None) -> Fitted:
    space = Space.of(rows.x)
    readout = fit_readout(
        space(rows.x), rows.y.numpy(), task.num_classes, penalty="l2", seed=task.seed, weights=weights
    )
    notes = () if readout.converged else ("the solver stopped before it converged",)
    return Fitted(space.fold(readout), "l2", 1.0, cells, ids, None, 1, notes)


METHODS: Mapping[str, Callable[[Task], Fitted]] = {
    "dfr": _dfr,
    "dfr-train": _dfr_train,
    "class-balanced": _class_balanced,
    "self": _self,
    "group-balanced": _group_balanced,
    "erm": _erm,
}
"""Methods by name."""
