"""`fix`: one remedy, one line, a repaired model, and the groups before and after."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from firstcue._progress import Progress, silent
from firstcue.auditing import remedies as repair
from firstcue.auditing.accepting import accepted
from firstcue.auditing.anew import Asked, Schedule, train_anew
from firstcue.auditing.model import audit_subject
from firstcue.auditing.simplified import Simplifying, train_simply
from firstcue.auditing.tables import groups
from firstcue.finding import Groups
from firstcue.forward import predict
from firstcue.layers import with_head
from firstcue.training.choosing import Selection
from firstcue.training.remedies import find as find_training
from firstcue.training.searching import RATES

SIMPLIFY = repair.SIMPLIFY


@dataclass(frozen=True)
class Fixed:
    """A repaired model and what it may be expected to do on rows that it never saw."""

    model: nn.Module
    """A copy of the model with a new last layer, or a network trained again; the model given is untouched."""
    remedy: str
    before: Groups
    """The model as it was, on the rows that report."""
    after: Groups
    """The remedy on the same rows, none of which it was fitted to or chosen by."""
    changes: dict[str, Any]
    """What was changed, for the record that is stored beside the weights."""
    note: str
    seconds: float
    needs: tuple[str, ...] = ()
    """Labels that it used beyond the classes."""


def fix(
    model: Any,
    data: Any,
    remedy: str = "last-layer",
    held_out: Any = None,
    *,
    attribute: Any = None,
    trained_on: bool = True,
    early: nn.Module | None = None,
    network: Callable[[], nn.Module] | None = None,
    rates: Sequence[float] = RATES,
    epochs: int = 8,
    rows_per_step: int = 64,
    selection: Selection | None = None,
    density: str | None = None,
    lam: int | float = 1.0,
    share: int | float | None = 0.7,
    steps: int = 500,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 512,
    progress: Progress = silent,
) -> Fixed:
    """Repair a model: its last layer with held-out rows, or all of it by training again with a remedy.

    Remedies of the last layer are quick. Their numbers are those that `audit` reports for the same remedy, data and seed:
    held-out rows are dealt into five folds, each answered by a head fitted on the others, and three folds report. The
    returned model's head is fitted on all of them. The others train a network of the same kind from scratch on the rows of
    `data`, at each of the rates; two of the folds choose rate and epoch, the same three report. "simplify" goes on training
    the model on images from which a simplifier takes bits.

    Args:
        model: A classifier in any form that `audit` takes; with a linear head for remedies of the last layer. It is left as found.
        data: Rows of the training distribution, in any form that `audit` takes.
        remedy: Of the last layer: "last-layer", "last-layer on training rows", "last-layer, class-balanced", "last-layer,
            disagreement", "erase", "erase means and covariances" or "and-mask". Of the whole network: "group-dro", "jtt",
            "lff" and the others of `firstcue.training.remedies.TRAININGS`. Of image models: "simplify".
        held_out: Rows the model never saw; `data` is split when absent, and the remedy then learns from rows the model knows.
        attribute: The cue whose groups are to be served equally.
        trained_on: Whether the model saw the rows of `data`.
        early: An earlier checkpoint of the model, for "last-layer, disagreement".
        network: Builds a network to be trained; a copy of the model with fresh weights when absent. To start from the
            model as it is: `lambda: copy.deepcopy(model)`.
        rates: Learning rates to try, of training.
        epochs: Passes over the data at each rate.
        rows_per_step: Of training.
        selection: What chooses rate and epoch: "worst group", "worst class", "average" or "last"; the first when absent, or
            the second without an attribute.
        density: Of "simplify": what counts bits, a name or file as `load_density` takes it; the shipped one that knows such
            images when absent.
        lam: Of "simplify": the weight of the bits.
        share: Of "simplify": the share of the bits to arrive at, to which `lam` is adapted; None holds `lam`.
        steps: Of "simplify".
        seed: Of folds, subsets, networks and shuffling.
        device: "auto" uses the model's own.
        batch_size: Rows per call.
        progress: Told the stage and the fraction done.

    Returns:
        The repaired model with its groups before and after.

    Raises:
        NotFinite: If training diverges at every rate; a ValueError.
        ValueError: If the remedy is unknown or needs labels that are not given, or data and model cannot be used.

    Example:
        >>> import torch
        >>> x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        >>> y, a = (x[:, 0] > 0).long(), (x[:, 1] > 0).long()
        >>> model = torch.nn.Linear(3, 2, bias=False)  # one that leans on the second feature
        >>> _ = model.load_state_dict({"weight": torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 0.0]])})
        >>> fixed = fix(model, (x, y, a), "erase")
        >>> fixed.after.group_average > fixed.before.group_average
        True
    """
    model, data, held_out = accepted(model, data, held_out, attribute)
    if remedy == SIMPLIFY or remedy in repair.NEEDS_TRAINING:
        placed = model if device == "auto" else copy.deepcopy(model).to(device)
        asked = Asked(placed, data, held_out, attribute, trained_on, seed, batch_size, progress)
        if remedy == SIMPLIFY:
            return _simplified(asked, Simplifying(density, lam, share, steps))
        return _trained(asked, remedy, network, Schedule(rates, epochs, rows_per_step, selection))
    return _with_new_head(model, data, remedy, held_out, attribute, trained_on, early, seed, device, batch_size)


def _with_new_head(
    model: nn.Module,
    data: Any,
    remedy: str,
    held_out: Any,
    attribute: Any,
    trained_on: bool,
    early: nn.Module | None,
    seed: int,
    device: str,
    batch_size: int,
) -> Fixed:
    method = _head_method(remedy)
    subject, _, held, held_rows, train_rows, split = audit_subject(
        model, data, attribute, held_out, trained_on=trained_on, seed=seed, device=device, batch_size=batch_size
    )
    if method.needs_attribute and held.attribute is None:
        raise ValueError(
            f"the remedy {remedy!r} serves groups equally and needs an attribute; give `attribute` (--attribute COL), or "
            f"use 'last-layer, class-balanced' (firstcue fix last-layer-classes)."
        )
    if method.needs_early:
        if early is None:
            raise ValueError(
                f"the remedy {remedy!r} compares the model with an earlier checkpoint of it; give `early`, or use "
                f"'last-layer, class-balanced', which needs none."
            )
        held_rows = replace(held_rows, early=predict(early, held.x, batch_size=batch_size))
    assert subject.head is not None
    before = repair.try_remedy(repair.find("as it is"), held_rows, train_rows, subject.head, seed)
    tried = repair.try_remedy(method, held_rows, train_rows, subject.head, seed)
    words = f"three fifths of the {split}, each row answered by a fit that did not see it"
    changes = {
        "remedy": remedy,
        "layer": subject.head.name,
        "cue": held.cue if held.attribute is not None else None,
        "rows": len(held),
        "seed": seed,
    }
    return Fixed(
        with_head(model, subject.head.name, tried.repaired.weight, tried.repaired.bias),
        remedy,
        groups(before.promise, held, words),
        groups(tried.promise, held, words),
        changes,
        tried.repaired.note,
        tried.seconds,
        method.needs,
    )


def _trained(asked: Asked, remedy: str, network: Callable[[], nn.Module] | None, schedule: Schedule) -> Fixed:
    found = train_anew(asked, find_training(remedy), network, schedule)
    trained = found.trained
    changes = {"remedy": remedy, "layer": "all", "cue": found.cue, "rows": found.rows, **trained.chosen}
    note = f"chosen by {trained.selection}: learning rate {trained.rate:g}, epoch {trained.epoch}"
    return Fixed(
        trained.model,
        remedy,
        found.before,
        found.after,
        changes,
        "; ".join(filter(None, (note, trained.note))),
        trained.seconds,
        trained.needs,
    )


def _simplified(asked: Asked, plan: Simplifying) -> Fixed:
    found = train_simply(asked, plan)
    changes: dict[str, Any] = {
        "remedy": SIMPLIFY,
        "layer": "all",
        "cue": found.cue,
        "rows": found.rows,
        "seed": asked.seed,
    }
    changes |= {"density": found.density, "lam": plan.lam, "share": plan.share, "steps": plan.steps}
    return Fixed(found.model, SIMPLIFY, found.before, found.after, changes, found.note, found.seconds)


def _head_method(remedy: str) -> repair.Method:
    if remedy not in repair.METHODS:
        known = ", ".join([*repair.METHODS, *sorted(repair.NEEDS_TRAINING), SIMPLIFY])
        raise ValueError(f"no remedy is called {remedy!r}; remedies: {known}.")
    return repair.find(remedy)
