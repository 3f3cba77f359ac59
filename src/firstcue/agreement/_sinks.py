"""Where gradients of environments go, one parameter at a time: side by side, or into sums."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from firstcue.agreement._uses import Use, is_vector_linear, one_by_one, together
from firstcue.agreement.sums import GradientSums

CHUNK_ROWS = 64
CHUNK_ELEMENTS = 1 << 19
"""Of per-row gradients and patches that exist at one time: 2 MB in float32, so that they stay near the processor."""


class Stack:
    """Gradients side by side, in the order in which they come."""

    def __init__(self, environments: int, like: Tensor):
        self.values = like.new_empty(environments, *like.shape)
        """`(e, *shape)`."""
        self.count = 0

    def add(self, gradients: Tensor, *, owned: bool = False) -> None:
        """Add `(m, *shape)` gradients."""
        self.values[self.count : self.count + len(gradients)] = gradients
        self.count += len(gradients)

    def add_one(self, gradient: Tensor) -> None:
        """Add one gradient `(*shape)`."""
        if gradient.data_ptr() != self.values[self.count].data_ptr():
            self.values[self.count] = gradient
        self.count += 1

    def slot(self) -> Tensor:
        """Memory in which to write the next gradient for `add_one`."""
        return self.values[self.count]


Sink = Stack | GradientSums
Make = Callable[[int, Tensor], Sink]
"""From the number of environments and the parameter: an empty sink."""
Done = Callable[[str, Sink], None]
"""Called once for every parameter, with its name and its full sink, which may then be forgotten."""


class Sinks:
    """Route gradients to the sink of their parameter, and hand a sink on when it is full.

    Args:
        parameters: By name.
        sizes: Rows of each environment, in the order of the batch.
        make: Makes a parameter's sink when its first gradient comes.
        done: Takes full sinks.
    """

    def __init__(self, parameters: Mapping[str, Tensor], sizes: Sequence[int], make: Make, done: Done):
        self._parameters, self._sizes, self._make, self._done = parameters, list(sizes), make, done
        self._single = max(self._sizes) == 1
        self._open: dict[str, Sink] = {}
        self._left = set(parameters)
        self._memory: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}

    def receive(self, use: Use, x: Tensor, d: Tensor) -> None:
        """What one call of a layer saw in the backward pass: all gradients of its parameters."""
        dtype = self._parameters[next(iter(use.names.values()))].dtype
        if d.dtype != dtype:
            d = d.to(dtype)
        if x.dtype != dtype and x.is_floating_point():
            x = x.to(dtype)
        if self._single:
            self._row_by_row(use, x, d)
        else:
            for rows, outs in zip(x.split(self._sizes), d.split(self._sizes), strict=True):
                for name, gradient in together(use, rows, outs, self._slot).items():
                    self._sink(name).add_one(gradient)
        for name in use.names.values():
            self._finish(name)

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """The next m environments' gradients `(m, *shape)`."""
        for name, values in gradients.items():
            self._sink(name).add(values)

    def close(self) -> None:
        """Parameters that the losses do not depend on have gradient zero."""
        for name in list(self._open):
            self._finish(name)
        for name in list(self._left):
            like = self._parameters[name]
            self._sink(name).add(like.new_zeros(1).expand(len(self._sizes), *like.shape))
            self._finish(name)

    def _row_by_row(self, use: Use, x: Tensor, d: Tensor) -> None:
        if self._took_products(use, x, d):
            return
        for part in one_by_one(use, x, d, self._chunk(use, d)):
            for name, gradients in part.items():
                self._sink(name).add(gradients, owned=True)

    def _took_products(self, use: Use, x: Tensor, d: Tensor) -> bool:
        """Whether the sums could be written as matrix products, and were."""
        weight, bias = use.names_of(1, "weight"), use.names_of(2, "bias")
        sink = self._sink(weight) if weight is not None and is_vector_linear(use, x) else None
        if not isinstance(sink, GradientSums) or not sink.takes_products or x.dtype != sink.dtype:
            return False
        signs = (self._sign("d", d), self._sign("x", x)) if "signs" in sink.needs else None
        sink.add_products(d, x, signs)
        if bias is not None:
            other = self._sink(bias)
            assert isinstance(other, GradientSums)
            other.add(d, signs=None if signs is None else signs[0])
        return True

    def _sign(self, which: str, t: Tensor) -> Tensor:
        """The signs, in memory that is used again for the next layer of this shape: fresh memory takes longer than the signs."""
        key = (which, t.shape, t.dtype)
        if key not in self._memory:
            self._memory[key] = torch.empty(t.shape, dtype=t.dtype, device=t.device)
        return torch.sign(t, out=self._memory[key])

    def _chunk(self, use: Use, d: Tensor) -> int:
        """Rows whose gradients, and the patches they are made of, fit into the space."""
        largest = max(self._parameters[name].numel() for name in use.names.values())
        channels = max(1, d.shape[1])
        patches = (d[0].numel() // channels) * (largest // channels)
        return max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // max(1, largest + patches)))

    def _sink(self, name: str) -> Sink:
        if name not in self._open:
            self._open[name] = self._make(len(self._sizes), self._parameters[name].detach())
        return self._open[name]

    def _slot(self, name: str) -> Tensor:
        return self._sink(name).slot()

    def _finish(self, name: str) -> None:
        self._left.discard(name)
        self._done(name, self._open.pop(name))


def require_finite_gradients(name: str, sink: Sink) -> None:
    """Refuse NaN and infinity, naming the parameter.

    Raises:
        ValueError: If a gradient is not finite.
    """
    total = sink.values if isinstance(sink, Stack) else sink.signs if sink.total is None else sink.total
    assert total is not None
    if math.isfinite(total.sum()) or bool(torch.isfinite(total).all()):
        return
    where = ""
    if isinstance(sink, Stack):
        bad = (~torch.isfinite(sink.values.flatten(start_dim=1))).any(dim=1).nonzero()[:, 0].tolist()
        where = f" in {len(bad)} of {len(sink.values)} environments (the first is number {bad[0]})"
    raise ValueError(
        f"the gradient of parameter {name!r} is NaN or infinite{where}: lower the learning rate, clip gradients, or look for "
        f"NaN in the inputs and in the loss. No parameter was changed."
    )
