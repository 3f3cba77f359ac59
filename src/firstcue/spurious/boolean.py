"""Boolean data with a shortcut: the label is one function of some signs, and a second function agrees with it too often.

How hard each function is to learn, and how often they agree, are two numbers to set; the rest is exact. So one can see what
a network learns first, how long the easy cue delays the core, and what is left of it in the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstcue.batch import Batch
from firstcue.spurious.functions import BooleanFunction
from firstcue.spurious.packed import signs_of, words_of
from firstcue.spurious.sampling import BLOCK, Recipe, Rows, Sampling, block, level_set

SIGNS = ("-1", "+1")
"""Names of the classes 0 and 1."""


@dataclass(frozen=True)
class Layout:
    """Which columns of `x` belong to the core function, to the spurious one, and to neither."""

    core: Int[Tensor, " c"]
    spurious: Int[Tensor, " s"]
    noise: Int[Tensor, " u"]

    @property
    def size(self) -> int:
        """Number of columns."""
        return len(self.core) + len(self.spurious) + len(self.noise)


def boolean_layout(
    core: BooleanFunction, spurious: BooleanFunction, noise: int = 0, *, shuffle: int | None = None
) -> Layout:
    """The columns of Boolean data: core, then spurious, then noise; or shuffled.

    Args:
        core: The function that gives the label.
        spurious: The function that gives the attribute.
        noise: Number of columns of neither.
        shuffle: Seed of a fixed permutation of the columns; none by default.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> boolean_layout(parity(2), parity(1), noise=1)
        Layout(core=tensor([0, 1]), spurious=tensor([2]), noise=tensor([3]))
    """
    size = core.size + spurious.size + noise
    columns = torch.arange(size)
    if shuffle is not None:
        columns = torch.randperm(size, generator=torch.Generator().manual_seed(shuffle))
    return Layout(*columns.split([core.size, spurious.size, noise]))


def boolean_data(
    core: BooleanFunction,
    spurious: BooleanFunction,
    strength: float,
    n: int,
    *,
    noise: int = 0,
    sampling: Sampling | str = "core-uniform",
    seed: int = 0,
    layout: Layout | None = None,
) -> Batch:
    """Rows of signs whose label is the core function; the spurious function agrees with it with probability `strength`.

    Args:
        core: Gives the label from its own columns.
        spurious: Gives the attribute from its own columns.
        strength: Probability that both agree, in [0, 1]; .5 is independence, at 1 nothing tells them apart.
        n: Rows.
        noise: Columns that belong to neither.
        sampling: "core-uniform" draws the core columns uniformly and then a spurious part with the value wanted;
            "mixture" draws a row uniformly among all that agree, or disagree. They are the same if and only if the
            spurious function is unbiased.
        seed: Of every draw. The first rows are the same for every `n`, and core columns for every strength.
        layout: From `boolean_layout`, if the columns are to be shuffled.

    Returns:
        x `(n, k)` float32 signs; y and `attribute` are 0 for -1 and 1 for +1; groups 0 and 3 agree, 1 and 2 do not.
        `edit(x, value)` sets the spurious columns of rows with another value to ones that have it.

    Raises:
        ValueError: If a number is out of range, or a function never takes a value that is needed.

    Source:
        Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> batch = boolean_data(parity(4), parity(1), 0.9, 1000, noise=4)
        >>> batch.x.shape, batch.groups().bincount().tolist()
        (torch.Size([1000, 9]), [446, 36, 55, 463])
    """
    recipe = Recipe(core, spurious, strength, noise, sampling, seed)
    if n < 0:
        raise ValueError(f"`n` is a number of rows, at least 0; got {n}.")
    x = np.empty((n, recipe.size), dtype=np.float32)
    parts = [
        block(recipe, number, out=x[start : start + BLOCK], limit=min(BLOCK, n - start))
        for number, start in enumerate(range(0, n, BLOCK))
    ]
    y, a = (np.concatenate([np.empty(0, np.int64), *(part[i] for part in parts)]) for i in (1, 2))
    return _Batches(recipe, layout).of(Rows(x, y, a))


def boolean_stream(
    core: BooleanFunction,
    spurious: BooleanFunction,
    strength: float,
    batch_size: int,
    *,
    noise: int = 0,
    sampling: Sampling | str = "core-uniform",
    seed: int = 0,
    layout: Layout | None = None,
) -> Iterator[Batch]:
    """Batches of the rows of `boolean_data` without end; the rows do not depend on `batch_size`.

    Batches are views of larger blocks: one batch costs microseconds.

    Args:
        batch_size: Rows per batch, at least 1.
        core, spurious, strength, noise, sampling, seed, layout: As in `boolean_data`.

    Raises:
        ValueError: As `boolean_data`, at once.

    Example:
        >>> from firstcue.spurious.functions import parity
        >>> stream = boolean_stream(parity(4), parity(1), 0.9, batch_size=64)
        >>> bool((next(stream).x == boolean_data(parity(4), parity(1), 0.9, 64).x).all())
        True
    """
    recipe = Recipe(core, spurious, strength, noise, sampling, seed)
    if batch_size < 1:
        raise ValueError(f"`batch_size` is at least 1; got {batch_size}.")
    return _cut(_Batches(recipe, layout), batch_size)


class _Batches:
    """Makes batches of rows: permutes the columns and hands over names and the editor."""

    def __init__(self, recipe: Recipe, layout: Layout | None) -> None:
        if layout is not None and [len(layout.core), len(layout.spurious), len(layout.noise)] != [
            recipe.core.size,
            recipe.spurious.size,
            recipe.noise,
        ]:
            raise ValueError(
                "`layout` is that of other functions; make it with `boolean_layout(core, spurious, noise)`."
            )
        own = boolean_layout(recipe.core, recipe.spurious, recipe.noise) if layout is None else layout
        self.recipe = recipe
        self.columns = None if layout is None else torch.cat([own.core, own.spurious, own.noise])
        self.edit = partial(_with_cue, spurious=recipe.spurious, columns=own.spurious, seed=recipe.seed)

    def of(self, rows: Rows) -> Batch:
        x = torch.from_numpy(rows.x)
        if self.columns is not None:
            x = torch.empty_like(x).index_copy_(1, self.columns, x)
        return Batch(
            x,
            torch.from_numpy(rows.y),
            attribute=torch.from_numpy(rows.a),
            edit=self.edit,
            classes=SIGNS,
            values=SIGNS,
            cue=self.recipe.spurious.name,
        )


def _cut(batches: _Batches, batch_size: int) -> Iterator[Batch]:
    rest: Batch | None = None
    for number in count():
        whole = batches.of(block(batches.recipe, number))
        if rest is not None:
            whole = _joined(rest, whole)
        assert whole.attribute is not None
        used = len(whole) - len(whole) % batch_size
        for start in range(0, used, batch_size):
            end = start + batch_size
            yield Batch(
                whole.x[start:end],
                whole.y[start:end],
                attribute=whole.attribute[start:end],
                edit=whole.edit,
                classes=SIGNS,
                values=SIGNS,
                cue=whole.cue,
            )
        rest = whole.rows(slice(used, None)) if used < len(whole) else None


def _joined(first: Batch, second: Batch) -> Batch:
    assert first.attribute is not None and second.attribute is not None
    return replace(
        second,
        x=torch.cat([first.x, second.x]),
        y=torch.cat([first.y, second.y]),
        attribute=torch.cat([first.attribute, second.attribute]),
    )


def _with_cue(
    x: Float[Tensor, "n k"], value: int, spurious: BooleanFunction, columns: Int[Tensor, " s"], seed: int
) -> Float[Tensor, "n k"]:
    """The same rows with a spurious part on which the function has class `value`; rows that have it stay as they are."""
    if value not in (0, 1):
        raise ValueError(f"the cue {spurious.name} has the values 0 (-1) and 1 (+1); got {value}.")
    columns = columns.to(x.device)
    words = words_of(x[:, columns].detach().cpu().numpy())
    negative = np.full(len(words), value == 0)
    wrong = spurious.negative(words) != negative
    rng = np.random.Generator(np.random.SFC64([seed, 1, len(words)]))
    drawn = level_set(spurious, negative, words, rng)
    edited = x.clone()
    signs = torch.from_numpy(signs_of(np.where(wrong, drawn, words), spurious.size))
    edited[:, columns] = signs.to(edited)
    return edited
