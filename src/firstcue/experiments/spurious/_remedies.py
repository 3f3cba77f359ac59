"""Remedies as two tables that grow: ways to train, and what is made of what was trained.

Every training is run at several rates; which rate and which epoch is kept is decided on held-out rows, by the worst group
or, without group labels, by the worst class.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from firstcue.batch import Batch, balanced_rows
from firstcue.forward import predict
from firstcue.training.loop import Weighting, minibatches, train
from firstcue.training.retrain import retrain_last_layer
from firstcue.training.weighting import group_dro

Score = Callable[[Tensor, Batch], float]
"""From predicted classes and held-out rows: the larger the better."""


@dataclass(frozen=True)
class Task:
    """What a remedy is given."""

    train: Batch
    held_out: Batch
    """Rows from the distribution of training, never trained on."""
    network: Callable[[int], nn.Module]
    """A new network from a seed."""
    rates: tuple[float, ...]
    epochs: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Training:
    """One way to train."""

    data: Callable[[Batch, int], Batch] = lambda batch, seed: batch
    """What is done to the training rows, from a seed."""
    rows: Callable[[Batch], Callable[[torch.Generator], Tensor] | None] = lambda batch: None
    """How the rows of one pass are drawn, as for `minibatches`."""
    weighting: Callable[[], Weighting] | None = None


@dataclass(frozen=True)
class Remedy:
    """What is made of a training."""

    training: str
    """A name of `TRAININGS`."""
    select: Score
    head: str | None = None
    """A method of `retrain_last_layer`, applied to what was selected."""
    needs: str = "nothing"
    """Labels beyond those of the class, and where."""


def worst_group(guess: Tensor, batch: Batch) -> float:
    """Accuracy in the worst group."""
    return _worst(guess == batch.y, batch.groups())


def worst_class(guess: Tensor, batch: Batch) -> float:
    """Accuracy in the worst class, which needs no group labels."""
    return _worst(guess == batch.y, batch.y)


def fresh_cues(batch: Batch, seed: int) -> Batch:
    """The same rows with cues drawn anew, independent of the label: what only the editor of the data can do."""
    if batch.edit is None or batch.attribute is None:
        raise ValueError("cues can be drawn anew only in data that carries an editor.")
    value = torch.randint(0, 2, (len(batch),), generator=torch.Generator().manual_seed(seed))
    x = torch.where(value[:, None] == 1, batch.edit(batch.x, 1), batch.edit(batch.x, 0))
    return replace(batch, x=x, attribute=value)


def _balanced(batch: Batch) -> Callable[[torch.Generator], Tensor]:
    """As many passes over balanced rows as make one pass over all of them."""
    groups = batch.groups()
    size = int(groups.bincount()[groups.bincount() > 0].min()) * len(groups.unique())

    def draw(generator: torch.Generator) -> Tensor:
        return torch.cat([balanced_rows(groups, generator) for _ in range(max(1, len(batch) // size))])

    return draw


TRAININGS = {
    "plain": Training(),
    "balanced": Training(rows=_balanced),
    "dro": Training(rows=_balanced, weighting=group_dro),
    "fresh cues": Training(data=fresh_cues),
}
REMEDIES = {
    "none": Remedy("plain", worst_group, needs="groups to select"),
    "none, selected by class": Remedy("plain", worst_class),
    "last layer, groups": Remedy("plain", worst_group, head="dfr", needs="groups to select and retrain"),
    "last layer, classes": Remedy("plain", worst_class, head="class-balanced"),
    "last layer, disagreement": Remedy("plain", worst_class, head="self"),
    "balanced groups": Remedy("balanced", worst_group, needs="groups to train and select"),
    "group DRO": Remedy("dro", worst_group, needs="groups to train and select"),
    "control: shortcut removed": Remedy("fresh cues", worst_group, needs="an editor of the data"),
}
CONTROL = "control: shortcut removed"


@dataclass
class Kept:
    """The best network so far by one score, where it came from, and the first epoch's at the same rate."""

    score: float = -1.0
    model: nn.Module | None = None
    early: nn.Module | None = None
    rate: float = 0.0
    epoch: int = 0


def run_training(name: str, task: Task) -> dict[str, Kept]:
    """Train at every rate; by name of a score, what it would keep."""
    scores = {remedy.select.__name__: remedy.select for remedy in REMEDIES.values() if remedy.training == name}
    kept = {score: Kept() for score in scores}
    training = TRAININGS[name]
    data = training.data(task.train, task.seed)
    data = replace(data, group=data.groups())
    for rate in task.rates:
        model, early = task.network(task.seed), None
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        weighting = None if training.weighting is None else training.weighting()
        for epoch in range(1, task.epochs + 1):
            one_pass = minibatches(data, task.batch_size, seed=1000 * task.seed + epoch, rows=training.rows(data))
            train(model, one_pass, optimizer, weighting=weighting)
            early = copy.deepcopy(model) if early is None else early
            guess = predict(model, task.held_out.x).argmax(dim=1)
            for score, measure in scores.items():
                value = measure(guess, task.held_out)
                if value > kept[score].score:
                    kept[score] = Kept(value, copy.deepcopy(model), early, rate, epoch)
    return kept


def finish(remedy: Remedy, kept: Kept, task: Task) -> nn.Module:
    """The network that the remedy hands over."""
    assert kept.model is not None
    if remedy.head is None:
        return kept.model
    early = kept.early if remedy.head == "self" else None
    return retrain_last_layer(kept.model, task.held_out, remedy.head, early=early, seed=task.seed)


def _worst(right: Tensor, group: Tensor) -> float:
    return min(float(right[group == g].double().mean()) for g in group.unique())
