"""What a model makes of rows: each row is run once, when it is first asked for, and what came out is shared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from firstcue.forward import parts
from firstcue.layers import Head, features_and_outputs, pooled, predict, unwrap


@dataclass(frozen=True)
class Looked:
    """One pass over rows."""

    logits: Tensor
    """`(n, K)`."""
    features: Tensor | None
    """`(n, d)` what the head reads; None without a head."""
    depth: Mapping[str, Tensor]
    """`(m, d)` by layer, in order of depth, at the rows asked for; averaged over positions, of a layer that runs twice the
    last call. Layers that did not run or cannot be pooled are left out."""


def look_through(
    model: nn.Module, head: Head | None, x: Tensor, layers: Sequence[str], probed: Tensor, batch_size: int
) -> Looked:
    """Logits and features of all rows, and activations of some, in one pass.

    Args:
        model: Left as found.
        head: Its last layer, if it has one.
        x: `(n, ...)` inputs.
        layers: Names of modules.
        probed: Ids of the rows whose activations are kept, ascending.
        batch_size: Rows per call.
    """
    made: list[tuple[Tensor | None, Tensor]] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}
    wanted = torch.zeros(len(x), dtype=torch.bool)
    wanted[probed] = True
    for start, part in parts(x, batch_size):
        here = wanted[start : start + len(part)]
        with _watched(model, layers if bool(here.any()) else ()) as seen:
            made.append(_run(model, head, part, len(part)))
        for name, vectors in seen.items():
            if len(vectors) == len(part):
                kept[name].append(vectors[here].to("cpu", torch.float32))
    depth = {name: torch.cat(rows) for name, rows in kept.items() if sum(map(len, rows)) == len(probed) > 0}
    features = [f for f, _ in made if f is not None]
    return Looked(torch.cat([z for _, z in made]), torch.cat(features) if features else None, depth)


def _run(model: nn.Module, head: Head | None, x: Tensor, batch_size: int) -> tuple[Tensor | None, Tensor]:
    """Features, if there is a head, and logits."""
    if head is None:
        return None, predict(model, x, batch_size=batch_size)
    return features_and_outputs(model, x, batch_size=batch_size, head=head)


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What each layer returned in its last call inside the block; a layer whose output has no rows is left out."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            try:
                seen[name] = pooled(output, "mean", name)
            except ValueError:
                seen.pop(name, None)

        return hook

    modules = dict(unwrap(model).named_modules())
    with ExitStack() as hooks:
        for name in layers:
            hooks.callback(modules[name].register_forward_hook(watch(name)).remove)
        yield seen


@dataclass
class _Kept:
    """Rows of one set that have run: where each stands among the results."""

    place: Tensor
    features: Tensor | None
    logits: Tensor


@dataclass(frozen=True)
class Seen:
    """Features and logits of rows, by the name of the set they belong to."""

    model: nn.Module
    batch_size: int
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def at(
        self, name: str, total: int, rows: Tensor, inputs: Callable[[Tensor], Tensor], head: Head | None
    ) -> tuple[Tensor | None, Tensor]:
        """Features and logits of some rows of a set; only those run that have not run before.

        Args:
            name: Of the set.
            total: Rows of the set.
            rows: Ids of those wanted.
            inputs: The inputs of given ids.
            head: The model's last layer, if it has one.
        """
        kept = self._kept.get(name)
        missing = rows if kept is None else rows[kept.place[rows] < 0]
        if len(missing):
            kept = self._kept[name] = self._more(kept, total, missing, inputs(missing), head)
        assert kept is not None
        place = kept.place[rows]
        if len(place) == len(kept.logits) and torch.equal(place, torch.arange(len(place))):
            return kept.features, kept.logits
        return None if kept.features is None else kept.features[place], kept.logits[place]

    def _more(self, kept: _Kept | None, total: int, rows: Tensor, x: Tensor, head: Head | None) -> _Kept:
        features, logits = _run(self.model, head, x, self.batch_size)
        if kept is None:
            kept = _Kept(torch.full((total,), -1, dtype=torch.int64), None, logits[:0])
        kept.place[rows] = torch.arange(len(kept.logits), len(kept.logits) + len(rows))
        if features is not None and kept.features is not None:
            features = torch.cat([kept.features, features])
        return _Kept(kept.place, features, torch.cat([kept.logits, logits]))
