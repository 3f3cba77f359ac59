"""Train one network until validation stops improving, on rows that may still have to be augmented and erased."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from firstcue.experiments.erasure._augment import augmented
from firstcue.experiments.erasure._data import Pool
from firstcue.experiments.erasure._nets import build

PART = 1024


@dataclass(frozen=True)
class Learner:
    """A network and how it is trained; called as `fit` of `firstcue.description_length`.

    Rows are images as vectors, followed by their class, which is for the eraser alone.
    """

    pool: Pool
    net: str
    width: int
    depth: int
    classes: int
    rate: float
    batch: int
    epochs: int
    """At most; an epoch is a pass over the rows, or `steps` updates where that is more."""

    patience: int
    """Epochs without a better validation loss after which training ends; the best weights are kept."""

    steps: int
    augment: str = "none"
    eraser: Any = None

    def __call__(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        """Train on the rows and return the network's logits as a function of such rows."""
        generator = torch.Generator().manual_seed(seed)
        model = build(self.net, self.pool.shape, self.classes, self.width, self.depth)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, foreach=True)
        size = min(self.batch, len(x))
        updates = max(len(x) // size, self.steps)
        ready = self._ready(x) if self.augment == "none" else None
        held, best, waited = self._ready(x_val), (float("inf"), copy.deepcopy(model.state_dict())), 0
        picks = endless(len(x), size, generator)
        for _ in range(self.epochs):
            model.train()
            for _ in range(updates):
                rows = next(picks)
                inputs = self._ready(x[rows], generator) if ready is None else ready[rows]
                optimizer.zero_grad()
                cross_entropy(model(inputs), y[rows]).backward()
                optimizer.step()
            loss = float(cross_entropy(outputs(model, held), y_val))
            waited = 0 if loss < best[0] else waited + 1
            if loss < best[0]:
                best = loss, copy.deepcopy(model.state_dict())
            if waited >= self.patience:
                break
        model.load_state_dict(best[1])
        return lambda rows: outputs(model, self._ready(rows))

    def _ready(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images as the network gets them; augmented where there is a generator."""
        x, label = rows[:, :-1], rows[:, -1].long()
        if generator is not None:
            x = augmented(x.unflatten(1, self.pool.shape), self.augment, generator).flatten(1)
        if self.eraser is not None:
            x = self.eraser(x, label)
        return ((x - self.pool.mean) / self.pool.scale).unflatten(1, self.pool.shape)


def endless(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Ids of full batches, from one random order of all rows after the other."""
    waiting = torch.randperm(n, generator=generator)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(n, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(PART)])
