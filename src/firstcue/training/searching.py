"""Train with a remedy at each of a few learning rates, and keep the epoch that held-out rows like best."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._progress import Progress, silent
from firstcue.batch import Batch, as_batch
from firstcue.forward import NotFinite, predict
from firstcue.training.choosing import Attempt, Kept, Selection, notes_on, require_choice, score
from firstcue.training.loop import minibatches, train
from firstcue.training.remedies import HELD_OUT_GROUPS, Plan, Setting, TrainingRemedy, find, require_labels
from firstcue.training.retrain import retrain_last_layer

RATES = (0.0005, 0.002, 0.01, 0.05)
"""Learning rates that are tried."""

Optimizer = Callable[[nn.Module, float], torch.optim.Optimizer]


def sgd(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum 0.9."""
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


@dataclass(frozen=True)
class Search:
    """What came of all learning rates: for each selection what it keeps, and every attempt by it."""

    kept: dict[Selection, Kept]
    tried: dict[Selection, tuple[Attempt, ...]]


@dataclass(frozen=True)
class Trained:
    """A network trained with a remedy, and how it was chosen."""

    model: nn.Module
    remedy: str
    needs: tuple[str, ...]
    """Labels used beyond the classes, for the remedy and for choosing."""
    selection: Selection
    rate: float
    epoch: int
    score: float | None
    """Of the choice, before a head is replaced; None for "last"."""
    tried: tuple[Attempt, ...]
    seed: int
    note: str
    seconds: float

    @property
    def chosen(self) -> dict[str, Any]:
        """The choices made, in plain values, as a file keeps them."""
        tried = [{"rate": a.rate, "scores": list(a.scores), "failure": a.failure} for a in self.tried]
        return {"selection": self.selection, "rate": self.rate, "epoch": self.epoch, "tried": tried, "seed": self.seed}


def train_with(
    remedy: str | TrainingRemedy,
    network: Callable[[int], nn.Module],
    data: Any,
    held_out: Any = None,
    *,
    selection: Selection = "worst group",
    rates: Sequence[float] = RATES,
    epochs: int = 8,
    batch_size: int = 64,
    optimizer: Optimizer = sgd,
    seed: int = 0,
    progress: Progress = silent,
) -> Trained:
    """A network trained with a remedy, at the learning rate and up to the epoch that held-out rows choose.

    Args:
        remedy: A name of `firstcue.training.remedies.TRAININGS`, or a remedy of your own.
        network: Builds a new network from a seed; two-stage remedies call it more than once.
        data: Training rows: a Batch, `(x, y)`, `(x, y, attribute)` or an iterable of those.
        held_out: Rows in the same forms that are not trained on. They choose, and the last-layer remedies fit to them.
        selection: "worst group" (needs groups of held-out rows), "worst class", "average", or "last", which takes the
            last epoch and allows one rate only.
        rates: Learning rates to try; every remedy deserves its own. One at which training diverges is out.
        epochs: Passes over the data at each rate.
        batch_size: Rows of a step.
        optimizer: Of a network at a rate.
        seed: Of networks, shuffling and everything random.
        progress: Told the stage and the fraction done.

    Returns:
        The network with how it was chosen. Its `note` names rates at which training diverged, groups that held-out rows
        lack, and a chosen rate at the edge of those tried.

    Raises:
        NotFinite: If training diverges at every rate; a ValueError, with the remedy and the rates.
        ValueError: If labels that the remedy or the selection needs are missing, or the input does not fit.

    Source:
        On choosing by worst class: Yang et al., "Change is hard" (2023), https://arxiv.org/abs/2302.12254.

    Example:
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> y, cue = (x[:, 0] > 0).long(), (x[:, 1] > 0).long()
        >>> trained = train_with("group-dro", lambda seed: torch.nn.Linear(3, 2), (x, y, cue), (x, y, cue), epochs=2)
        >>> trained.needs
        ('groups of the training rows', 'groups of held-out rows')
    """
    began = time.perf_counter()
    chosen = find(remedy) if isinstance(remedy, str) else remedy
    rows = as_batch(data)
    held = None if held_out is None else as_batch(held_out, name="held_out")
    found = search(
        chosen,
        network,
        rows,
        held,
        selections=(selection,),
        rates=rates,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        seed=seed,
        progress=progress,
    )
    kept, tried = found.kept[selection], found.tried[selection]
    by_groups = (HELD_OUT_GROUPS,) if selection == "worst group" else ()
    return Trained(
        model=finish(chosen, kept, network, rows, held, seed),
        remedy=chosen.name,
        needs=tuple(dict.fromkeys((*chosen.needs, *by_groups))),
        selection=selection,
        rate=kept.rate,
        epoch=kept.epoch,
        score=None if selection == "last" else kept.score,
        tried=tried,
        seed=seed,
        note="; ".join(notes_on(kept, tried, rows, held, selection)),
        seconds=time.perf_counter() - began,
    )


def search(
    remedy: TrainingRemedy,
    network: Callable[[int], nn.Module],
    data: Batch,
    held_out: Batch | None,
    *,
    selections: Sequence[Selection],
    rates: Sequence[float] = RATES,
    epochs: int = 8,
    batch_size: int = 64,
    optimizer: Optimizer = sgd,
    seed: int = 0,
    progress: Progress = silent,
) -> Search:
    """One training at every rate, judged by several selections at once; arguments as for `train_with`."""
    require_labels(remedy, data)
    require_choice(selections, held_out, rates, epochs)
    batch = replace(data, index=torch.arange(len(data)))
    kept = {name: Kept() for name in selections}
    tried: dict[Selection, list[Attempt]] = {name: [] for name in selections}
    for number, rate in enumerate(rates):
        found = {name: Kept() for name in selections}
        scores: dict[Selection, list[float]] = {name: [] for name in selections}
        failure = ""
        try:
            for epoch, model in enumerate(
                _epochs(remedy, network, batch, rate, epochs, batch_size, optimizer, seed), 1
            ):
                progress(f"{remedy.name} at rate {rate:g}", (number + epoch / epochs) / len(rates))
                _judge(found, scores, epoch, model, rate, held_out)
        except NotFinite as error:
            failure = f"{remedy.name} at learning rate {rate:g}: {error}"
        for name in selections:
            tried[name].append(Attempt(rate, tuple(scores[name]), failure))
            if not failure and found[name].score > kept[name].score:
                kept[name] = found[name]
    if not all(one.state for one in kept.values()):
        why = "; ".join(attempt.failure for attempt in tried[selections[0]])
        raise NotFinite(f"training with {remedy.name!r} diverged at every learning rate tried. {why}")
    return Search(kept, {name: tuple(attempts) for name, attempts in tried.items()})


def _judge(
    found: dict[Selection, Kept],
    scores: dict[Selection, list[float]],
    epoch: int,
    model: nn.Module,
    rate: float,
    held_out: Batch | None,
) -> None:
    """Keep the network after this epoch for every selection by which it is the best so far."""
    right = None if held_out is None else predict(model, held_out.x).argmax(dim=1) == held_out.y.cpu()
    state = _copied(model)
    for name, kept in found.items():
        value = float(epoch) if name == "last" else score(name, right, held_out)
        scores[name] += [] if name == "last" else [value]
        if value > kept.score:
            found[name] = Kept(value, rate, epoch, state, kept.early or state)


def finish(
    remedy: TrainingRemedy,
    kept: Kept,
    network: Callable[[int], nn.Module],
    data: Batch,
    held_out: Batch | None,
    seed: int = 0,
) -> nn.Module:
    """The network that the remedy hands over: the kept one, with a new head if the remedy is one of the last layer.

    Raises:
        ValueError: If a new head is to be fitted and there are no held-out rows.
    """
    model = _restored(network, seed, kept.state)
    if remedy.head is None:
        return model
    if held_out is None:
        raise ValueError(f"the remedy {remedy.name!r} fits a head to held-out rows; give `held_out`.")
    if remedy.head == "self" and kept.epoch < 2:
        raise ValueError(
            f"{remedy.name!r} compares a network with its state after the first epoch, but the first epoch was chosen; "
            f"train longer, or at a lower rate."
        )
    early = _restored(network, seed, kept.early) if remedy.head == "self" else None
    train_rows = data if remedy.head == "dfr-train" else None
    return retrain_last_layer(model, held_out, remedy.head, train=train_rows, early=early, seed=seed)


def _epochs(
    remedy: TrainingRemedy,
    network: Callable[[int], nn.Module],
    batch: Batch,
    rate: float,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    seed: int,
) -> Iterator[nn.Module]:
    """The network after every epoch."""
    model = network(seed)
    plan = remedy.recipe(Setting(batch, model, network, lambda m: optimizer(m, rate), batch_size, seed))
    steps = optimizer(model, rate)
    try:
        for epoch in range(epochs):
            _one_pass(plan, model, steps, batch_size, _seed(seed, epoch))
            yield model
    finally:
        getattr(plan.weighting, "remove", lambda: None)()  # hooks


def _one_pass(plan: Plan, model: nn.Module, steps: torch.optim.Optimizer, batch_size: int, seed: int) -> None:
    batches = plan.mix(minibatches(plan.batch, batch_size, seed=seed, rows=plan.rows), seed)
    train(model, batches, steps, rule=plan.rule, weighting=plan.weighting, seed=seed)


def _seed(seed: int, epoch: int) -> int:
    return 1000 * seed + epoch + 1


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _restored(network: Callable[[int], nn.Module], seed: int, state: dict[str, Tensor]) -> nn.Module:
    model = network(seed)
    model.load_state_dict(copy.copy(state))
    return model
