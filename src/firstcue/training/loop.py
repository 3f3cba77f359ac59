"""One plain training loop, with a seam for how gradients are combined and one for how examples are weighed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from firstcue._allocator import keep_freed
from firstcue._checks import as_tensor, require_rows
from firstcue.agreement.rules import Rule, mean_gradient
from firstcue.batch import Batch
from firstcue.forward import seeded
from firstcue.training import distributed
from firstcue.training.recorder import Step
from firstcue.training.stepping import Loss, Stepping, Weighting


def train(
    model: nn.Module,
    batches: Iterable[Any] | Batch,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss = cross_entropy,
    rule: Rule = mean_gradient,
    weighting: Weighting | None = None,
    recorders: Sequence[Callable[[Step], None]] = (),
    epochs: int = 1,
    seed: int = 0,
) -> nn.Module:
    """Train `model` in place and return it; afterwards it is in the mode in which it came.

    Inside `firstcue.training.distributed.joined()`, several processes train one model, each on its rows of every batch; a
    step is then that of one process with all the rows, up to rounding.

    Args:
        model: Trained in train mode on the device where it is.
        batches: Iterable of `Batch`, `(x, y)` or `(x, y, environment)`: a DataLoader, or `minibatches(...)`. Labels are
            class ids as the loss wants them.
        optimizer: Holds the parameters to train.
        loss: `loss(outputs, y)`, the mean over rows. With a weighting or environments it is called with
            `reduction="none"` if it knows that argument, else on each row.
        rule: Maps the gradients of the batch's environments (`batch.group`), `(e, p)`, to one `(p,)`. Its attribute `scope`,
            "element" or "tensor", says that it may see one parameter at a time; without one it sees the whole model's.
            With `mean_gradient` this is ordinary training: the mean over rows, whatever the environments.
        weighting: Maps per-example losses to weights or to an objective; see `Weighting`.
        recorders: Called with `Step(0, model)` before the first update and after every update.
        epochs: Passes over `batches`, which must then allow several.
        seed: Source of dropout and of a loader's shuffling within this call; the global random state is left as found.
            Calls that continue a training need different seeds.

    Raises:
        NotFinite: If the loss (the parameters are then those before the step) or a trained parameter is not finite; it is
            a ValueError.
        ValueError: If `batches` yields nothing or something else, or if a rule is asked for without environments.

    Example:
        >>> data = Batch(torch.randn(20, 2), torch.arange(20) % 2)
        >>> model = torch.nn.Linear(2, 2)
        >>> train(model, minibatches(data, 10, epochs=3), torch.optim.SGD(model.parameters(), lr=0.1)) is model
        True
    """
    steps, step = _readable(batches, epochs), Stepping(model, optimizer, loss, rule, weighting)
    flags = [(module, module.training) for module in model.modules()]
    keep_freed()
    number = 0
    try:
        with seeded(seed):
            model.train()
            distributed.begin(model)
            _report(recorders, Step(0, model, None))
            for item in distributed.in_step(item for _ in range(epochs) for item in steps):
                value = step(_as_batch(item, model), number)
                number += 1
                _report(recorders, Step(number, model, value))
            distributed.finish(model)
    finally:
        for module, flag in flags:
            module.training = flag
    if number == 0:
        raise ValueError("`batches` yields nothing; a generator can be read once only: make a new one for every call.")
    step.require_finite_parameters(number)
    return model


def minibatches(
    batch: Batch,
    batch_size: int,
    epochs: int = 1,
    *,
    seed: int = 0,
    rows: Callable[[torch.Generator], Tensor] | None = None,
) -> Iterator[Batch]:
    """Shuffled mini-batches of `epochs` passes, the same for the same seed.

    Args:
        batch: All rows.
        batch_size: Rows per mini-batch; the last of a pass may have fewer.
        epochs: Number of passes.
        seed: Of the shuffling.
        rows: Draws the row ids of one pass from a generator, for example
            `lambda generator: balanced_rows(batch.groups(), generator)`; a permutation of all rows by default.

    Raises:
        ValueError: If `batch` is empty, or a number is not positive.

    Example:
        >>> data = Batch(torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.int64))
        >>> [len(part) for part in minibatches(data, 2)]
        [2, 2, 1]
    """
    if batch_size < 1 or epochs < 1:
        raise ValueError(f"`batch_size` and `epochs` are at least 1; got {batch_size} and {epochs}.")
    if len(batch) == 0:
        raise ValueError("`batch` has no rows to train on.")
    generator = torch.Generator().manual_seed(seed)
    draw = rows if rows is not None else lambda g: torch.randperm(len(batch), generator=g)
    lean = replace(batch, columns={})  # training reads no columns; slicing them in every step costs time
    return (lean.rows(part) for _ in range(epochs) for part in draw(generator).split(batch_size))


def _readable(batches: Any, epochs: int) -> Iterable[Any]:
    if epochs < 1:
        raise ValueError(f"`epochs` is at least 1; got {epochs}.")
    if isinstance(batches, Batch | Tensor) or (
        isinstance(batches, tuple) and any(isinstance(b, Tensor) for b in batches)
    ):
        raise ValueError(
            "`batches` is one set of rows; cut it into steps: train(model, minibatches(batch, 64, epochs=8), optimizer)."
        )
    if epochs > 1 and isinstance(batches, Iterator):
        raise ValueError(
            "`batches` can be read once only, but `epochs` > 1; give a DataLoader or list, or `minibatches(..., epochs=...)`."
        )
    return batches


def _as_batch(item: Any, model: nn.Module) -> Batch:
    """A batch on the model's device; labels stay the ids they are, since one batch may lack a class."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if not isinstance(item, Batch):
        if not isinstance(item, tuple | list) or len(item) not in (2, 3):
            found = f"{len(item)}-tuple" if isinstance(item, tuple | list) else type(item).__name__
            raise ValueError(
                f"`batches` yields a {found}; every item has to be (x, y), (x, y, environment) or a Batch."
            )
        x, y = as_tensor(item[0]), as_tensor(item[1], "y")
        group = as_tensor(item[2], "environment") if len(item) == 3 else None
        item = Batch(x, y if y.is_floating_point() else y.long(), group)
    require_rows(item.x, item.y)
    if item.group is not None:
        require_rows(item.x, item.group, y_name="environment")
    moved = {
        name: value.to(device)
        for name in ("x", "y", "group", "attribute", "index")
        if (value := getattr(item, name)) is not None
    }
    return replace(item, **moved)


def _report(recorders: Sequence[Callable[[Step], None]], step: Step) -> None:
    for recorder in recorders:
        recorder(step)
