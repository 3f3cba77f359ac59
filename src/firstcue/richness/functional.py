"""A network as a function of its parameters, in a form that can be differentiated either way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from firstcue._checks import as_tensor, require_finite

Parameters = dict[str, Tensor]
Function = Callable[[Parameters, Tensor], Tensor]


def functional(model: nn.Module) -> tuple[Function, Parameters]:
    """The model as a function of its trainable parameters, `f(parameters, x) -> (n, C)`."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter of the model requires gradients; its tangent kernel is empty.")
    dtype, device = next((p.dtype, p.device) for p in parameters.values())

    def function(values: Parameters, x: Tensor) -> Tensor:
        given = x.to(device, dtype) if x.is_floating_point() else x.to(device)
        outputs = functional_call(model, values, (given,))
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"the model returns a {type(outputs).__name__}; wrap it in a module that returns its logits."
            )
        return logits.reshape(len(logits), -1)

    return function, parameters


def pushed(function: Any, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Value and directional derivative."""
    return jvp(function, primals, tangents)  # type: ignore[return-value]


def pulled(function: Any, primal: Any) -> tuple[Tensor, Any]:
    """Value, and the map from a change of the value to its gradient."""
    return vjp(function, primal)  # type: ignore[return-value]


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients on, and attention in the form that has forward derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def probe_inputs(x: Any) -> Tensor:
    """Finite inputs with at least one row, as a tensor."""
    inputs = as_tensor(x)
    require_finite(inputs)
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError("`x` has no rows; a few dozen probe inputs are needed.")
    return inputs
