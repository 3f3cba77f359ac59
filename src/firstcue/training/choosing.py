"""What decides on the epoch and the learning rate of a training: held-out rows, by a score that names its labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from firstcue.batch import Batch
from firstcue.training.remedies import groups_of

Selection = Literal["worst group", "worst class", "average", "last"]
"""What decides on the epoch and the learning rate."""


@dataclass(frozen=True)
class Attempt:
    """One learning rate."""

    rate: float
    scores: tuple[float, ...]
    """After every epoch, by the selection; empty for "last"."""
    failure: str = ""
    """Why it ended early: the loss, a parameter or an output was not finite."""


@dataclass
class Kept:
    """The best state so far by one selection."""

    score: float = -1.0
    rate: float = 0.0
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    early: dict[str, Tensor] = field(default_factory=dict)
    """The state after the first epoch at the same rate."""


def score(selection: str, right: Tensor | None, held_out: Batch | None) -> float:
    """What a selection looks at: accuracy of held-out rows, of their worst group, or of their worst class."""
    assert right is not None and held_out is not None
    if selection == "average":
        return float(right.double().mean())
    ids = (groups_of(held_out) if selection == "worst group" else held_out.y).cpu()
    counts = ids.bincount()
    shares = ids[right].bincount(minlength=len(counts)) / counts
    return float(shares[counts > 0].min())


def require_choice(selections: Sequence[str], held_out: Batch | None, rates: Sequence[float], epochs: int) -> None:
    """Refuse a selection that these rows and rates cannot serve."""
    if not rates or any(not rate > 0 for rate in rates) or epochs < 1:
        raise ValueError(f"at least one positive rate and one epoch are needed; got {tuple(rates)} and {epochs}.")
    for name in selections:
        if name == "last":
            if len(rates) > 1:
                raise ValueError('"last" chooses no learning rate: give one, rates=(0.01,), or another selection.')
        elif held_out is None:
            raise ValueError(f'choosing by "{name}" needs `held_out` rows; give them, or use "last" with one rate.')
        elif name == "worst group" and held_out.attribute is None and held_out.group is None:
            raise ValueError(
                'choosing by "worst group" needs groups of held-out rows: give them an `attribute`, or choose by '
                '"worst class", which needs none.'
            )
        elif name not in ("worst group", "worst class", "average"):
            raise ValueError(
                f'no selection is called {name!r}; there are "worst group", "worst class", "average", "last".'
            )


def notes_on(
    kept: Kept, tried: Sequence[Attempt], data: Batch, held_out: Batch | None, selection: str
) -> Iterator[str]:
    """What a reader should know of a choice: rates that diverged, a rate at the edge, groups that are absent."""
    for attempt in tried:
        if attempt.failure:
            yield f"diverged at learning rate {attempt.rate:g}"
    rates = sorted(attempt.rate for attempt in tried if not attempt.failure)
    if len(rates) > 1 and kept.rate in (rates[0], rates[-1]):
        yield f"the chosen learning rate {kept.rate:g} is the {'lowest' if kept.rate == rates[0] else 'highest'} tried"
    absent = _groups_absent(data, held_out) if selection == "worst group" and held_out is not None else []
    if absent:
        yield f"chosen without groups of which there is no held-out row: {', '.join(absent[:5])}{', ...' * (len(absent) > 5)}"


def _groups_absent(data: Batch, held_out: Batch) -> list[str]:
    """Groups of the training rows that held-out rows lack, by name."""
    if (data.attribute is None) != (held_out.attribute is None) or (data.attribute is None and data.group is None):
        return []
    return sorted(_group_names(data) - _group_names(held_out))


def _group_names(batch: Batch) -> set[str]:
    if batch.attribute is None:
        return {str(g) for g in groups_of(batch).unique().tolist()}
    pairs = {(y, a) for y, a in zip(batch.y.tolist(), batch.attribute.tolist(), strict=True)}
    named = batch.values or tuple(map(str, range(batch.num_values)))
    return {f"class {y} with {batch.cue} {named[a]}" for y, a in pairs}
