"""Watch a model's forward pass, so that one backward pass gives the gradients of every environment.

While the tape runs, calls such as `F.linear(x, weight)` see the weight without its gradient, and the output is marked: in
the backward pass the mark hands over the derivative by the output. Weight gradients, a third of a training step, are then
computed once per environment from that environment's rows instead of once for all, which costs the same.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from firstcue.agreement._uses import Use, captures

Receive = Callable[[Use, Tensor, Tensor], None]
"""`receive(use, x, d)`: the input and the derivative by the output of one call, as the backward pass comes by."""


class Tape(TorchFunctionMode):
    """The uses of parameters during a forward pass of `rows` rows.

    Args:
        parameters: Those wanted, by name.
        rows: First axis of the batch; calls on something else are left alone.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rows: int):
        super().__init__()
        self._names = {id(value): name for name, value in parameters.items()}
        self._rows = rows
        self._switch = torch.zeros((), requires_grad=True)
        self.uses: list[Use] = []
        self.receive: Receive = _ignore

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not captures(func, args, kwargs) or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        names = {place: self._names[id(value)] for place, value in _places(args, kwargs) if id(value) in self._names}
        if not names or 0 in names or args[0].ndim < 1 or len(args[0]) != self._rows:
            return func(*args, **kwargs)
        freed = [value.detach() if place in names else value for place, value in enumerate(args)]
        options = {key: value.detach() if key in names else value for key, value in kwargs.items()}
        out = func(*freed, **options)
        use = Use(func, (None, *freed[1:]), options, names)
        self.uses.append(use)
        return _Mark.apply(out, self._switch, args[0].detach(), self, use)

    @property
    def signature(self) -> tuple[tuple[str, ...], ...]:
        """Which parameters were used together, call by call."""
        return tuple(tuple(use.names.values()) for use in self.uses)

    def complete(self, objective: Tensor) -> bool:
        """Whether every wanted parameter that the objective depends on was seen, and used once."""
        seen = [name for names in self.signature for name in names]
        return len(seen) == len(set(seen)) and not any(id(leaf) in self._names for leaf in leaves(objective))

    def backward(self, objective: Tensor, receive: Receive) -> None:
        """Hand over what every use saw; nothing else of the graph is touched, and no `.grad` written."""
        self.receive = receive
        if self.uses and objective.requires_grad:
            torch.autograd.grad(objective, [self._switch], allow_unused=True)


class _Mark(torch.autograd.Function):
    """The identity in place; its backward pass reports."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, switch: Tensor, x: Tensor, tape: Tape, use: Use) -> Tensor:
        ctx.mark_dirty(out)
        ctx.save_for_backward(x)
        ctx.tape, ctx.use = tape, use
        return out

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.tape.receive(ctx.use, x, d)
        return d, None, None, None, None


def leaves(objective: Tensor) -> Iterator[nn.Parameter]:
    """The leaf tensors that a backward pass from `objective` would reach."""
    waiting, known = [objective.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting.extend(next_node for next_node, _ in node.next_functions)


def _places(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[int | str, Any]]:
    yield from enumerate(args)
    yield from kwargs.items()


def _ignore(use: Use, x: Tensor, d: Tensor) -> None:
    """Before a backward pass, nobody listens."""
