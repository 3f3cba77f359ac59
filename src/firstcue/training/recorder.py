"""Numbers over training: at chosen steps, one row from every measure, in our loop or in the user's own."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from firstcue.batch import Batch
from firstcue.forward import left_as_found, predict

When = int | Collection[int]
"""Every how many steps, or at which steps."""


@dataclass(frozen=True)
class Step:
    """A moment of training, as measures see it."""

    number: int
    """Updates made so far; 0 is the untrained model."""

    model: nn.Module

    loss: float | None = None
    """Objective of the last update, before it; None at step 0 or where the loop did not say."""


Measure = Callable[[Step], Mapping[str, Any]]
"""Numbers by name, with names that read like paths: `{"accuracy/worst": 0.3}`."""


@dataclass
class Recorder:
    """Keep one row of numbers at every step that is due.

    Args:
        measures: Each maps a `Step` to numbers by name. The model is in evaluation mode, without gradients, and left as found.
        every: Steps between rows, or the steps themselves, as from `log_spaced`.

    Example:
        >>> import torch
        >>> recorder = Recorder([lambda step: {"weight": float(step.model.weight.detach().sum())}], every={0, 10})
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> for number in range(11):
        ...     recorder.step(model, number)
        >>> [row["step"] for row in recorder.rows]
        [0, 10]
    """

    measures: Sequence[Measure]
    every: When = 100
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_when(self.every)

    def __call__(self, step: Step) -> None:
        """Record the step if it is due: what `train` calls."""
        if not is_due(self.every, step.number):
            return
        row: dict[str, Any] = {"step": step.number, "loss": step.loss}
        with left_as_found(step.model):
            for measure in self.measures:
                found = measure(step)
                twice = sorted(row.keys() & found.keys())
                if twice:
                    raise ValueError(f"two measures are called {twice[0]!r}; give one another name.")
                row |= found
        self.rows.append(row)

    def step(self, model: nn.Module, number: int, loss: Any = None) -> None:
        """Record the model after `number` updates, if that is due: what the user's own loop calls."""
        self(Step(number, model, None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)))

    def curve(self, name: str) -> list[tuple[int, Any]]:
        """Pairs of step and value of one number.

        Raises:
            ValueError: If no row holds it.
        """
        pairs = [(row["step"], row[name]) for row in self.rows if name in row]
        if not pairs:
            known = ", ".join(sorted({key for row in self.rows for key in row})) or "nothing yet"
            raise ValueError(f"nothing called {name!r} was recorded; recorded: {known}.")
        return pairs


def log_spaced(total: int, count: int = 20) -> tuple[int, ...]:
    """Steps 0, 1, ..., total, denser at the start, where order is decided; at most `count` + 1 of them.

    Args:
        total: The last step.
        count: Steps wanted besides step 0; fewer where whole numbers coincide.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> log_spaced(1000, 5)
        (0, 1, 6, 32, 178, 1000)
    """
    if total < 1 or count < 1:
        raise ValueError(f"`total` and `count` are at least 1; got {total} and {count}.")
    if count == 1:
        return (0, total)
    return tuple(sorted({0, *(round(total ** (i / (count - 1))) for i in range(count))}))


def group_accuracy(held_out: Batch, name: str = "accuracy") -> Measure:
    """A measure: accuracy on each group of `held_out`, and the worst of them, as fractions in [0, 1].

    Groups are those of the attribute (`held_out.groups()`), or `held_out.group` without one, or the classes.

    Args:
        held_out: Rows the model is not trained on.
        name: Prefix of the numbers: `accuracy/0`, ..., `accuracy/worst`.

    Example:
        >>> import torch
        >>> held_out = Batch(torch.eye(2), torch.tensor([0, 1]))
        >>> group_accuracy(held_out)(Step(0, torch.nn.Identity()))
        {'accuracy/0': 1.0, 'accuracy/1': 1.0, 'accuracy/worst': 1.0}
    """
    group = held_out.group if held_out.attribute is None and held_out.group is not None else held_out.groups()
    members = {int(g): (group == g).cpu() for g in group.unique()}

    def measure(step: Step) -> dict[str, float]:
        correct = (predict(step.model, held_out.x).argmax(dim=1) == held_out.y.cpu()).double()
        by_group = {f"{name}/{g}": float(correct[rows].mean()) for g, rows in members.items()}
        return by_group | {f"{name}/worst": min(by_group.values())}

    return measure


def require_when(every: When) -> None:
    """Refuse a period below one and steps that are not whole numbers."""
    if isinstance(every, int):
        if every < 1:
            raise ValueError(f"`every` is a number of steps, at least 1; got {every}.")
    elif not every or any(int(step) != step or step < 0 for step in every):
        raise ValueError("`every` names no step, or steps that are not whole numbers from 0.")


def is_due(every: When, number: int) -> bool:
    """Whether step `number` is one of those meant by `every`."""
    return number % every == 0 if isinstance(every, int) else number in every
