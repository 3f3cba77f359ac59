"""Repairs that train the whole network again: from scratch, with a remedy, chosen and reported on different held-out rows."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.auditing.prepare import prepare
from firstcue.auditing.remedies import report_rows
from firstcue.auditing.tables import groups
from firstcue.batch import Batch
from firstcue.finding import Groups
from firstcue.forward import left_as_found, predict, seeded, unwrap
from firstcue.spurious.metrics import group_metrics
from firstcue.training.choosing import Selection
from firstcue.training.remedies import TrainingRemedy, require_labels
from firstcue.training.searching import Trained, train_with


@dataclass(frozen=True)
class Schedule:
    """How networks are trained."""

    rates: Sequence[float]
    epochs: int
    rows_per_step: int
    selection: Selection | None
    """None chooses by the worst group, or by the worst class where groups are unknown."""


@dataclass(frozen=True)
class Anew:
    """A network trained again, and the groups before and after on rows that report."""

    trained: Trained
    before: Groups
    after: Groups
    cue: str | None
    rows: int


@dataclass(frozen=True)
class Asked:
    """A model to be trained, on which rows, and how it is asked."""

    model: nn.Module
    data: Any
    held_out: Any
    attribute: Any
    trained_on: bool
    seed: int
    batch_size: int
    progress: Progress


def train_anew(
    asked: Asked, remedy: TrainingRemedy, network: Callable[[], nn.Module] | None, schedule: Schedule
) -> Anew:
    """Train on the rows of `data`, choose on two fifths of the held-out rows, report on the others."""
    model, rows = asked.model, divided(asked)
    require_labels(remedy, rows.train)
    _require_logits(model, rows.chooses)
    found = train_with(
        remedy,
        builder(model, network),
        rows.train,
        rows.chooses,
        selection=schedule.selection or ("worst class" if rows.chooses.attribute is None else "worst group"),
        rates=schedule.rates,
        epochs=schedule.epochs,
        batch_size=schedule.rows_per_step,
        seed=asked.seed,
        progress=asked.progress,
    )
    before, after = (rows.told(m, asked.batch_size) for m in (model, found.model))
    return Anew(found, before, after, rows.cue, len(rows.train))


@dataclass(frozen=True)
class Divided:
    """Rows to train on, rows to choose by, and rows that report."""

    train: Batch
    chooses: Batch
    reports: Batch
    words: str
    """What the rows that report are."""
    cue: str | None

    def told(self, model: nn.Module, batch_size: int) -> Groups:
        """The groups of a model on the rows that report."""
        decisions = predict(model, self.reports.x, batch_size=batch_size).argmax(dim=1)
        found = group_metrics(self.reports.y, decisions, self.reports.groups())
        return groups(found, self.reports, self.words)


def divided(asked: Asked) -> Divided:
    """Read the data and deal out the held-out rows: two fifths choose, three fifths report.

    Raises:
        ValueError: If there are several attributes, or data and model do not fit.
    """
    prepared = prepare(
        asked.data,
        asked.attribute,
        asked.held_out,
        None,
        trained_on=asked.trained_on,
        num_outputs=lambda x: predict(asked.model, x, batch_size=asked.batch_size).shape[1],
        seed=asked.seed,
    )
    if len(prepared.cues) > 1:
        raise ValueError(
            f"training serves the groups of one attribute, but there are {', '.join(prepared.cues)}; name one of them."
        )
    train, held = prepared.with_cue(prepared.cues[0]) if prepared.cues else (prepared.train, prepared.held)
    _, reports = report_rows(held.groups(), asked.seed)
    words = f"three fifths of the {prepared.split}, which chose nothing"
    return Divided(train, held.rows(~reports), held.rows(reports), words, prepared.cues[0] if prepared.cues else None)


def builder(model: nn.Module, network: Callable[[], nn.Module] | None) -> Callable[[int], nn.Module]:
    """A function from a seed to a new network on the model's device: what `network` makes, or a copy with fresh weights.

    Raises:
        ValueError: When called, if a layer cannot be given fresh weights.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def build(seed: int) -> nn.Module:
        with seeded(seed):
            return (with_fresh_weights(model) if network is None else network()).to(device)

    return build


def with_fresh_weights(model: nn.Module) -> nn.Module:
    """A copy of the model in which every layer is initialised again, by its own `reset_parameters`.

    Raises:
        ValueError: If a layer with parameters of its own has no such method.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> bool((with_fresh_weights(model).weight == model.weight).any())
        False
    """
    made = copy.deepcopy(unwrap(model))
    for name, module in made.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(
                f"training from scratch needs fresh weights, but {type(module).__name__} ({name or 'the model'}) has "
                f"parameters and no `reset_parameters`; give network=, a function that builds a new network."
            )
    return made


def _require_logits(model: nn.Module, held: Batch) -> None:
    with left_as_found(unwrap(model)) as inner:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        outputs = inner(held.x[:2].to(device))
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"training with cross-entropy needs logits of every class, a tensor (n, K); the model returns {found}. Wrap it "
            f"in a module that returns them."
        )
