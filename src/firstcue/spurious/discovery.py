"""What discovery says: candidates for a cue, groups that were guessed, slices with many errors, and warnings. Data only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from firstcue._checks import encode_labels
from firstcue.spurious.agreeing import Inference
from firstcue.spurious.directions import Direction
from firstcue.spurious.early_late import EarlyLate
from firstcue.spurious.inference import crossed, minority
from firstcue.spurious.reliance import Gap, Reliance
from firstcue.spurious.scan import Scanned
from firstcue.spurious.slices import ErrorSlice

Standing = Literal["relied on", "associated", "not relied on", "equals the label"]
"""What is known of a candidate; only a counterfactual says "relied on"."""


@dataclass(frozen=True)
class Candidate:
    """A simple property that goes with the class."""

    name: str
    standing: Standing
    attribute: Int[Tensor, " n"]
    """Id of the value of each row: a pseudo-attribute for an audit, an eraser or a new head."""

    values: tuple[str, ...]
    """Name of each value; of a number, the class that it speaks for."""

    balanced_accuracy: float
    """Of telling the class from this property alone, on rows the rule has not seen; 1 / K is chance."""

    score: float
    """Error over that of chance: 1 if it says nothing of the class, 0 if it is the class."""

    bits: float
    p_value: float
    """After Holm's correction over all properties."""

    place: tuple[int, int, int, int] | None = None
    """Top, bottom, left and right (ends excluded) of the part of the image it lies in; None if it is in no one place."""

    follows: tuple[str, ...] = ()
    """Other properties that go with the class only by way of this one."""

    reliance: Reliance | None = None
    """By carrying the property over between rows; None where that cannot be done or there is no model to ask."""

    gap: Gap | None = None
    """Accuracy where it goes with the class minus accuracy where it goes against it; None without outputs."""

    followed: tuple[tuple[int, float], ...] = ()
    """At each checkpoint, of the rows where it speaks for another class, the share decided for that class."""

    direction: Direction | None = None
    """Where its values lie apart in the embeddings."""

    assign: Callable[[Any], np.ndarray] | None = None
    """Ids of the values of other inputs, or of another column of the same metadata; None for categories."""

    edit: Callable[[Any, int], Any] | None = None
    """`edit(x, value)` carries the property over from rows of that value."""

    @property
    def strength(self) -> float:
        """`1 - score`: 0 by chance, 1 if it is the class."""
        return 1 - self.score


@dataclass(frozen=True)
class Discovery:
    """Everything found without group labels."""

    candidates: tuple[Candidate, ...]
    """Relied on first; otherwise in the order in which they were chosen, about that of their strength."""

    groups: Inference | None
    """Groups by several methods; None without outputs, checkpoints or embeddings."""

    slices: tuple[ErrorSlice, ...]
    early: EarlyLate | None
    warnings: tuple[str, ...]
    scan: tuple[Scanned, ...]
    """Every property by itself."""

    minority_score: Float[Tensor, " n"] | None = None
    """Share of the methods that put a row outside the largest group of its class."""

    worst_group: float | None = None
    """Accuracy of the worst group of the method that the others agree with most."""

    y: Int[Tensor, " n"] | None = None

    def against(self, attribute: Any) -> Mapping[str, float]:
        """F1 of the minority that each method guessed, once the true attribute is known; "chance" is that of guessing all.

        Args:
            attribute: `(n,)` true values, of any kind.

        Raises:
            ValueError: If no groups were inferred, or lengths differ.
        """
        if self.groups is None or self.y is None:
            raise ValueError("no groups were inferred: give outputs, checkpoints or embeddings to `discover`.")
        ids = encode_labels(attribute, "attribute")[0].cpu()
        if len(ids) != len(self.y):
            raise ValueError(f"`attribute` has {len(ids)} rows, discovery was made on {len(self.y)}.")
        truth = minority(crossed(ids, self.y), self.y)
        share = float(truth.double().mean())
        found = {name: f1(minority(g.groups, self.y), truth) for name, g in self.groups.by_method.items()}
        return found | {"chance": 2 * share / (1 + share)}

    def summary(self) -> str:
        """The findings in plain sentences."""
        lines = [_candidate_line(c) for c in self.candidates] or ["No simple property goes with the class."]
        if self.groups is not None:
            agreed = "" if np.isnan(self.groups.agreement) else f", agreement {self.groups.agreement:.2f}"
            lines.append(f"Groups inferred by {', '.join(self.groups.by_method)}{agreed}.")
        lines += [
            f"{s.method}: {s.size} rows, {s.error:.0%} wrong against {s.overall:.0%}{': ' + s.name if s.name else ''}."
            for s in self.slices
        ]
        return "\n".join([*lines, *(f"Warning: {w}." for w in self.warnings)])


def f1(guess: Tensor, truth: Tensor) -> float:
    """Of the rows guessed to be in the minority.

    Example:
        >>> import torch
        >>> f1(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        0.6666666666666666
    """
    return 2 * int((guess & truth).sum()) / max(int(guess.sum() + truth.sum()), 1)


def _candidate_line(c: Candidate) -> str:
    told = f"tells the class in {c.balanced_accuracy:.0%} of rows"
    if c.standing == "equals the label":
        return f"{c.name} {told}: it is the label under another name, or leaks it."
    if c.reliance is None:
        return f"{c.name} {told}: associated; whether the model relies on it was not measured."
    moved = f"carrying it over moves accuracy by {c.reliance.value:.2f} ({c.reliance.ci_low:.2f} to {c.reliance.ci_high:.2f})"
    said = {"relied on": "the model relies on it", "not relied on": "the model does not rely on it"}
    return f"{c.name} {told}; {moved}: {said.get(c.standing, 'associated, and reliance undecided')}."
