"""Rows of Boolean data for many networks at once: each its own, padded to the same columns, the last of which is 1."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from firstcue.spurious.sampling import BLOCK, Recipe, Rows, block


class Parts(NamedTuple):
    """Rows of r networks."""

    x: Tensor
    """`(r, n, k + 1)` signs, zeros beyond a network's columns, and 1."""
    core: Tensor
    """`(r, n)` signs of the label."""
    spurious: Tensor
    """`(r, n)` signs of the shortcut."""


class Source(Protocol):
    """Hands out the next rows of every network."""

    def take(self, n: int) -> Parts: ...

    def keep(self, ids: Tensor) -> None:
        """Forget all networks but these."""


class Fresh:
    """Rows never seen before, from the same blocks as `boolean_stream`."""

    def __init__(self, recipes: Sequence[Recipe], size: int) -> None:
        self.recipes, self.size, self.number = list(recipes), size, 0
        self.rest = padded([], len(self.recipes), 0, size)

    def take(self, n: int) -> Parts:
        while self.rest.x.shape[1] < n:
            new = padded([block(r, self.number) for r in self.recipes], len(self.recipes), BLOCK, self.size)
            self.number += 1
            empty = self.rest.x.shape[1] == 0
            self.rest = new if empty else Parts(*(torch.cat(p, dim=1) for p in zip(self.rest, new, strict=True)))
        taken = Parts(*(part[:, :n] for part in self.rest))
        self.rest = Parts(*(part[:, n:] for part in self.rest))
        return taken

    def keep(self, ids: Tensor) -> None:
        self.recipes = [self.recipes[i] for i in ids.tolist()]
        self.rest = Parts(*(part[ids] for part in self.rest))


class Finite:
    """The same rows again and again, in a new order each time."""

    def __init__(self, recipes: Sequence[Recipe], size: int, rows: int) -> None:
        self.all = held(recipes, size, rows)
        self.seeds, self.rows, self.epoch = [r.seed for r in recipes], rows, 0
        self.order = torch.empty(len(recipes), 0, dtype=torch.int64)

    def take(self, n: int) -> Parts:
        while self.order.shape[1] < n:
            new = [
                torch.from_numpy(np.random.default_rng([seed, self.epoch, 7]).permutation(self.rows))
                for seed in self.seeds
            ]
            self.epoch += 1
            self.order = torch.cat([self.order, torch.stack(new)], dim=1)
        ids, self.order = self.order[:, :n], self.order[:, n:]
        x = self.all.x.gather(1, ids[..., None].expand(-1, -1, self.all.x.shape[2]))
        return Parts(x, self.all.core.gather(1, ids), self.all.spurious.gather(1, ids))

    def keep(self, ids: Tensor) -> None:
        self.all = Parts(*(part[ids] for part in self.all))
        self.order, self.seeds = self.order[ids], [self.seeds[i] for i in ids.tolist()]


def held(recipes: Sequence[Recipe], size: int, rows: int) -> Parts:
    """The first rows of every recipe: those of `boolean_data`."""
    made = [_first(recipe, rows) for recipe in recipes]
    return padded(made, len(recipes), rows, size)


def padded(made: Sequence[Rows], networks: int, rows: int, size: int) -> Parts:
    """Rows of all networks in one tensor."""
    x = torch.zeros(networks, rows, size + 1)
    x[..., -1] = 1
    core, spurious = torch.empty(networks, rows), torch.empty(networks, rows)
    for i, part in enumerate(made):
        x[i, :, : part.x.shape[1]] = torch.from_numpy(part.x)
        core[i] = 2.0 * torch.from_numpy(part.y) - 1
        spurious[i] = 2.0 * torch.from_numpy(part.a) - 1
    return Parts(x, core, spurious)


def _first(recipe: Recipe, rows: int) -> Rows:
    made = [block(recipe, b, limit=min(BLOCK, rows - b * BLOCK)) for b in range(-(-rows // BLOCK))]
    return Rows(*(np.concatenate(column) for column in zip(*made, strict=True)))
