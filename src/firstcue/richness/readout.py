"""What goes into the last linear map of a model and what comes out, also for tokens and for heads tied to an embedding.

The product with the head's weights is found by watching one call on a few rows: the last product whose result is what
the model returns. No name is guessed, and a head may be a layer, a shared weight, or a bare matrix product.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from firstcue.forward import run
from firstcue.heads import find_head
from firstcue.richness.joint import compact

PROBE_ROWS = 4
_LINEAR: tuple[Any, ...] = (functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)
_POINTWISE: tuple[Any, ...] = (functional.conv1d, functional.conv2d, functional.conv3d)


@dataclass(frozen=True)
class _Product:
    """One product of a pass; its tensors by reference, with the version each had, which in-place changes raise."""

    features: Tensor
    output: Tensor
    weight: Tensor
    bias: Tensor | None
    versions: tuple[int, int]
    channels_first: bool

    @property
    def untouched(self) -> bool:
        """Whether nothing wrote into what went in or came out."""
        return (_version(self.features), _version(self.output)) == self.versions


class _Watch(TorchFunctionMode):
    """Keep the products of a pass: all of them, or the one with a given number."""

    def __init__(self, only: int | None = None) -> None:
        super().__init__()
        self.only, self.count = only, 0
        self.seen: dict[int, _Product] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func not in _LINEAR and func not in _POINTWISE:
            return output
        features, weight, groups = _operands(args, kwargs or {})
        if _is_product(func, features, weight, groups):
            if self.only is None or self.count == self.only:
                versions = _version(features), _version(output)
                rows = weight.flatten(1) if func in _POINTWISE else weight if func is functional.linear else weight.mT
                bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
                self.seen[self.count] = _Product(features, output, rows, bias, versions, func in _POINTWISE)
            self.count += 1
        return output


@dataclass(frozen=True)
class Readout:
    """Where in a pass of one model its head is."""

    number: int
    """Of the product, counted from the start of the pass."""

    count: int
    """Outputs C."""

    small: tuple[Tensor, Tensor] | None
    """Where C is above the number of features: weight and bias of a head with the same span, as from `compact`."""

    def __call__(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(n, ..., p)` and outputs `(n, ..., C)` of some rows, on the model's device; inside `left_as_found`.

        Both are views of what the model computed.

        Raises:
            ValueError: If on these rows the model returns something else than the head's product.
        """
        with _Watch(self.number) as watch:
            outputs = run(model, x)
        product = watch.seen.get(self.number)
        if product is None or not _is(product, outputs):
            raise ValueError(
                "the product taken for the head on the first rows is not what the model returns on later ones: something "
                "acts on its outputs, or the model takes another path. Let it return the output of its last linear layer."
            )
        if not product.channels_first:
            return product.features.detach(), product.output.detach()
        return product.features.detach().movedim(1, -1), product.output.detach().movedim(1, -1)


def find_readout(model: nn.Module, x: Tensor) -> Readout:
    """The last product of the model's call whose result is the model's output; inside `left_as_found`.

    Args:
        model: Unwrapped.
        x: Inputs, of which a few rows are used.

    Raises:
        ValueError: If the outputs are no linear map of anything, for example after a softmax.
    """
    probe = x[:PROBE_ROWS]
    with _Watch() as watch:
        outputs = run(model, probe)
    for number, product in reversed(watch.seen.items()):
        if product.output.numel() == outputs.numel() and _is(product, outputs):
            return Readout(number, len(product.weight), _compacted(product))
    if outputs.ndim <= 2:
        find_head(model, probe)  # says which function acts on the outputs, and what to do
    shape = tuple(outputs.shape)
    near = ", ".join(str(tuple(p.output.shape)) for p in list(watch.seen.values())[-5:]) or "none"
    raise ValueError(
        f"no linear product gives the model's outputs {shape}; products that ran, last ones: {near}. Let the model return "
        f"the output of its last linear layer (before any softmax), or measure arrays: `low_rank_measure(features, outputs)`."
    )


def _compacted(product: _Product) -> tuple[Tensor, Tensor] | None:
    weight = product.weight.detach()
    if weight.shape[0] <= weight.shape[1] + 2:
        return None
    bias = weight.new_zeros(len(weight)) if product.bias is None else product.bias.detach()
    return compact(weight.double(), bias.double())


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, int]:
    """Input, weight and groups of a call, by place or by name."""
    found = [*args[:2], *(kwargs[name] for name in ("input", "weight", "other") if name in kwargs), None, None]
    return found[0], found[1], args[6] if len(args) > 6 else kwargs.get("groups", 1)


def _is_product(func: Any, features: Any, weight: Any, groups: int) -> bool:
    """Whether this call maps every position of `features` by the same matrix."""
    if not isinstance(features, Tensor) or not isinstance(weight, Tensor):
        return False
    if func in _POINTWISE:
        return set(weight.shape[2:]) == {1} and groups == 1
    return func in _LINEAR and weight.ndim == 2 and features.ndim > 1


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _is(product: _Product, outputs: Tensor) -> bool:
    """Whether the product is what the model returned, nothing having been written into it or into the features."""
    if not product.untouched or product.output.numel() != outputs.numel():
        return False
    if product.output.untyped_storage().data_ptr() == outputs.untyped_storage().data_ptr():
        return True
    return torch.equal(product.output.flatten(), outputs.flatten().to(product.output))
