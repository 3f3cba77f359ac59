"""Intervention one: set the cue in the input, keep the core, and ask the model again. The strongest evidence there is."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from firstcue.batch import Batch

MAX_ROWS = 2000
"""Rows edited at the most; 300 already tell a clear reliance from none."""


def correct_by_value(predict: Callable[[Tensor], Tensor], held: Batch, rows: Tensor) -> Tensor:
    """Whether each row is classified right with its cue set to each value.

    Args:
        predict: Logits `(n, K)` of inputs.
        held: Rows that carry an editor.
        rows: Which of them to edit.

    Returns:
        `(len(rows), V)` bool.

    Raises:
        ValueError: If the editor raises, or changes the shape of the inputs.
    """
    y = held.y[rows]
    right = [predict(x).argmax(dim=1) == y for x in edited_inputs(held, rows)]
    return torch.stack(right, dim=1)


def edited_inputs(held: Batch, rows: Tensor) -> Iterator[Tensor]:
    """The rows with their cue set to each value in turn.

    Raises:
        ValueError: If the editor raises, or changes the shape of the inputs.
    """
    for value in range(held.num_values):
        yield edited_input(held, held.x[rows], value)


def edited_input(held: Batch, x: Tensor, value: int) -> Tensor:
    """Inputs with the cue of every row set to one value.

    Raises:
        ValueError: If the editor raises, or changes the shape of the inputs.
    """
    assert held.edit is not None
    try:
        edited = held.edit(x.clone(), value)
    except Exception as error:  # a user's function: whatever it raises is told, with the value it was given
        raise ValueError(
            f"`edit(x, {value})` for the cue {held.cue!r} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(edited, Tensor) or edited.shape != x.shape:
        found = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        raise ValueError(f"`edit(x, {value})` has to return inputs of shape {tuple(x.shape)}; found {found}.")
    return edited


def sources(held: Batch, rows: Tensor) -> Tensor | None:
    """`(len(rows),)` id of the source that each row's core came from, for intervals that resample sources."""
    if held.index is None:
        return None
    index = held.index if held.index.ndim == 1 else held.index[:, 0]
    return index[rows]
