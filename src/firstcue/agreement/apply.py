"""Write a rule's gradient into `.grad`, layer by layer as the backward pass comes by, for any optimiser to step on."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from firstcue.agreement._sinks import Sink, Sinks, Stack, require_finite_gradients
from firstcue.agreement._ways import pooled, taped
from firstcue.agreement.gradients import Loss, collect, sorted_rows, wanted_parameters
from firstcue.agreement.rules import Rule, scope_of, streamed_of
from firstcue.agreement.sums import GradientSums
from firstcue.forward import unwrap


def apply_rule(
    model: nn.Module,
    rule: Rule,
    loss: Loss,
    batch: Any,
    environment: Any = None,
    *,
    batch_norm: str = "pooled",
    weight: str = "environment",
) -> Tensor:
    """Combine the gradients of environments by a rule and write the result to `.grad` of every trained parameter.

    What `loss.backward()` is in an ordinary loop: follow it with `optimizer.step()`. Rules of scope "element" or "tensor"
    are applied to one parameter after the other during the backward pass, and its environments' gradients forgotten; the
    rules of this package need only their sums. Environments may change from call to call, in number and in size; one that
    is absent has no say, and a single one leaves `and_mask` nothing to mask.

    Args:
        model: In the mode in which it is trained; its BatchNorm statistics move as in any training step.
        rule: `(e, p) -> (p,)`, for example `functools.partial(and_mask, threshold=0.8)` or an aggregator of TorchJD.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)`.
        environment: `(n,)` labels, one per row, or None for `batch.group`.
        batch_norm: As in `environment_gradients`.
        weight: Every environment counts alike ("environment"), or in proportion to its rows ("example"); this changes
            magnitudes, never a sign.

    Returns:
        `(e,)` mean losses of the environments, detached.

    Raises:
        ValueError: If a gradient is not finite (the parameter is named and nothing is written), or the batch, the
            environments or the rule cannot be used.

    Source:
        Parascandolo et al. (2020), https://arxiv.org/abs/2009.00329.

    Example:
        >>> from firstcue.agreement.rules import and_mask
        >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(4, 1)
        >>> y = torch.tensor([[5.0], [5.0], [-5.0], [-5.0]])
        >>> losses = apply_rule(model, and_mask, torch.nn.functional.mse_loss, (x, y), torch.tensor([0, 0, 1, 1]))
        >>> model.weight.grad
        tensor([[0.]])
    """
    if weight not in ("environment", "example"):
        raise ValueError(f'`weight` is "environment" or "example"; got {weight!r}.')
    inner = unwrap(model)
    rows, parameters = sorted_rows(batch, environment, inner), wanted_parameters(inner)
    sizes = torch.tensor(rows.sizes, dtype=torch.float64)
    factors = None if weight == "environment" else sizes * len(sizes) / sizes.sum()
    combined = Combined(rule, parameters)
    with torch.enable_grad():
        losses = collect(
            inner, loss, rows, parameters, combined.make, combined.done, batch_norm=batch_norm, weights=factors
        )
    combined.write()
    return losses if factors is None else losses / factors.to(losses)


def apply_to_losses(
    model: nn.Module,
    x: Tensor,
    losses_of: Callable[[Any], Tensor],
    sizes: list[int],
    parameters: Mapping[str, Tensor],
    rule: Rule,
) -> None:
    """As `apply_rule`, for losses that need the outputs of all rows: `.grad` of `parameters` from the `(e,)` losses.

    Args:
        model: Called as it is.
        x: `(n, ...)` rows, environments following each other.
        losses_of: From the model's outputs: `(e,)` losses, each a function of its environment's rows.
        sizes: Rows of each environment.
        parameters: By name.
        rule: `(e, p) -> (p,)`.
    """
    combined = Combined(rule, parameters)

    def forward(module: nn.Module, rows: Tensor) -> Any:
        return module(rows)

    def sinks() -> Sinks:
        return Sinks(parameters, sizes, combined.make, combined.done)

    if taped(unwrap(model), x, parameters, losses_of, sinks(), forward) is None:
        pooled(losses_of(model(x)), parameters, sinks())
    combined.write()


class Combined:
    """A rule's result, parameter by parameter as they come, or for the whole model in the end."""

    def __init__(self, rule: Rule, parameters: Mapping[str, Tensor]):
        self._rule, self._parameters = rule, parameters
        self._whole = scope_of(rule) == "model"
        self._streamed = None if self._whole else streamed_of(rule)
        self._stacks: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    def make(self, environments: int, like: Tensor) -> Sink:
        """An empty sink: sums, where they are all that the rule needs to know."""
        if self._streamed is None:
            return Stack(environments, like)
        needs, floor, _ = self._streamed
        return GradientSums(like, needs, floor)

    def done(self, name: str, sink: Sink) -> None:
        """Combine a full sink."""
        require_finite_gradients(name, sink)
        if isinstance(sink, GradientSums):
            assert self._streamed is not None
            self._gradients[name] = self._streamed[2](sink)
        elif self._whole:
            self._stacks[name] = sink.values.flatten(start_dim=1)
        else:
            self._gradients[name] = self._of(sink.values.flatten(start_dim=1))

    def write(self) -> None:
        """Set `.grad` of every parameter."""
        if self._whole:
            stacks = [self._stacks.pop(name) for name in self._parameters]
            whole = self._of(torch.cat(stacks, dim=1))
            parts = whole.split([stack.shape[1] for stack in stacks])
            self._gradients = dict(zip(self._parameters, parts, strict=True))
        for name, parameter in self._parameters.items():
            parameter.grad = self._gradients[name].reshape(parameter.shape).to(parameter)

    def _of(self, stack: Tensor) -> Tensor:
        """`(p,)` from `(e, p)`."""
        result = self._rule(stack)
        if result.shape != stack.shape[1:]:
            raise ValueError(
                f"the rule maps gradients of shape {tuple(stack.shape)} to {tuple(result.shape)}; it has to return "
                f"{tuple(stack.shape[1:])}, one number for each component."
            )
        return result.detach()
