"""The same network before training: fresh weights, and what they make of some held-out rows."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstcue.auditing.seen import Looked, look_through
from firstcue.layers import Head, find_head


@dataclass(frozen=True)
class Untrained:
    """A network with fresh weights, run once over some held-out rows."""

    model: nn.Module
    head: Head | None
    rows: Tensor
    """`(m,)` ids of the held-out rows that it was run on, ascending."""
    looked: Looked
    """At those rows; the depth at the probed ones."""

    def features_at(self, rows: Tensor) -> Tensor | None:
        """`(len(rows), d)` at held-out rows, all among `rows`."""
        features = self.looked.features
        return None if features is None else features[torch.searchsorted(self.rows, rows)]

    def logits_at(self, rows: Tensor) -> Tensor:
        """`(len(rows), K)`, likewise."""
        return self.looked.logits[torch.searchsorted(self.rows, rows)]


def untrained_copy(model: nn.Module, seed: int) -> nn.Module | None:
    """A copy with freshly initialised weights, or None if some parameters know no initialisation."""
    fresh, known = copy.deepcopy(model), set()
    with torch.random.fork_rng():  # layers draw their weights from the global generator
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                known |= {id(p) for p in module.parameters(recurse=False)}
    return fresh if all(id(p) in known for p in fresh.parameters()) else None


def look_untrained(
    model: nn.Module, x: Tensor, rows: Tensor, probed: Tensor, layers: Sequence[str], *, seed: int, batch_size: int
) -> Untrained | None:
    """Fresh weights run over held-out rows; None where the network cannot begin anew.

    Args:
        model: The trained model; it is copied.
        x: `(n, ...)` all held-out inputs.
        rows: Ids of those to run, ascending.
        probed: Ids, among them, of the rows whose activations are kept.
        layers: Of which.
        seed: Of the fresh weights.
        batch_size: Rows per call.
    """
    fresh = untrained_copy(model, seed)
    if fresh is None:
        return None
    part = x[rows]
    head = find_head(fresh, part)
    looked = look_through(fresh, head, part, layers, torch.searchsorted(rows, probed), batch_size)
    return Untrained(fresh, head, rows, looked)
