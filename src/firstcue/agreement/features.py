"""On which input features do environments agree? Columns that hold everywhere stand out from those that do not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._checks import encode_labels
from firstcue.agreement._tally import layer_agreement, least_sum
from firstcue.agreement.gradients import Loss, environment_gradients, sorted_rows
from firstcue.agreement.sums import GradientSums
from firstcue.batch import Batch
from firstcue.forward import left_as_found, run, unwrap


@dataclass(frozen=True)
class FeatureAgreement:
    """One input feature: agreement of environments on the weights that read it."""

    name: str
    agreement: float
    """Mean over the first layer's units, from 0 to 1."""

    null: float
    """The same for random signs."""

    random_groups: float
    """The same for groups of rows drawn at random."""

    kept: float
    """Share of its weights that the AND-mask keeps."""

    expected: float
    """The share that it would keep of random signs."""


def feature_agreement(
    model: nn.Module,
    loss: Loss,
    batch: Batch | tuple[Any, Any],
    environment: Any = None,
    *,
    names: Sequence[str] | None = None,
    threshold: float | int = 1.0,
    seed: int = 0,
) -> list[FeatureAgreement]:
    """For each input feature, how far environments agree on the weights of the first layer that read it.

    The model is in evaluation mode meanwhile and left as found.

    Args:
        model: Its first layer is an `nn.Linear` that sees the inputs themselves.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)`, x of d features.
        environment: `(n,)` labels, or None for `batch.group`.
        names: Of the d features; their numbers by default.
        threshold: Of the AND-mask whose kept share is counted.
        seed: Of the random groups.

    Returns:
        One entry for each feature, in their order.

    Raises:
        ValueError: If no linear layer sees the inputs, or as `measure_agreement`.

    Example:
        >>> model, x = torch.nn.Linear(2, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.0), model.bias.fill_(0.0)
        >>> found = feature_agreement(model, torch.nn.functional.mse_loss, (x, torch.ones(2, 1)), [0, 1])
        >>> [(f.name, f.agreement) for f in found]
        [('0', 1.0), ('1', 0.0)]
    """
    inner = unwrap(model)
    labels = batch.group if environment is None and isinstance(batch, Batch) else environment
    rows = sorted_rows(batch, labels, inner)
    if len(rows.sizes) < 2:
        raise ValueError(
            f"all rows are of environment {encode_labels(labels)[1][0]}; two environments or more are needed."
        )
    parameter = first_weight(inner, rows.x)
    d = rows.x[0].numel()
    names = [str(i) for i in range(d)] if names is None else list(names)
    if len(names) != d:
        raise ValueError(f"`names` has {len(names)} entries for {d} features.")
    ids = torch.arange(len(rows.sizes)).repeat_interleave(torch.tensor(rows.sizes))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    with left_as_found(inner):
        own, drawn = (
            environment_gradients(inner, loss, (rows.x, rows.y), e, parameters=[parameter])[parameter]
            for e in (ids, ids[order])
        )
    count = len(rows.sizes)
    least = least_sum(float(threshold), count)
    return [_feature(name, own[:, :, j], drawn[:, :, j], least) for j, name in enumerate(names)]


def first_weight(model: nn.Module, x: Tensor) -> str:
    """Name of the weight of the linear layer that sees the inputs themselves.

    Raises:
        ValueError: If there is none.
    """
    seen: list[str] = []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    flat = x[:2].flatten(1)

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].shape == flat.shape and bool((args[0] == flat).all()):
                seen.append(name)

        return hook

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in layers]
    try:
        with left_as_found(model):
            run(model, x[:2])
    finally:
        for handle in hooks:
            handle.remove()
    if not seen:
        raise ValueError(
            "no nn.Linear sees the inputs themselves, so there is no weight per feature; compare gradients by layer with "
            "`measure_agreement` instead."
        )
    return f"{seen[0]}.weight" if seen[0] else "weight"


def _feature(name: str, own: Tensor, drawn: Tensor, least: int) -> FeatureAgreement:
    found, control = (
        layer_agreement(name, GradientSums.of(g, ("signs", "nonzero", "scatter")), least) for g in (own, drawn)
    )
    return FeatureAgreement(name, found.mean, found.null_mean, control.mean, found.kept, found.expected)
