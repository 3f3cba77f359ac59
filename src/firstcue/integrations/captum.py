"""Explanation by simplification in the shape of Captum's attributions, so that its plots and metrics take it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from firstcue._extras import require_extra
from firstcue.simplicity.density import Density
from firstcue.simplicity.explain import explain_simplify
from firstcue.simplicity.explained import SimplifyResult


def simplification(forward_func: nn.Module | Callable[..., Any], density: Density, **settings: Any) -> Any:
    """A `captum.attr.Attribution` whose attributions are what simplification took away, |x - simplified|.

    Args:
        forward_func: The classifier, a module or any function of images.
        density: Gives the bits and their gradient.
        settings: As for `explain_simplify`: `kl_budget`, `steps`, `start`, `to_inputs` and others. Controls do not run unless
            `controls` asks for them.

    Returns:
        An object with `attribute(inputs, baselines=None, target=None, additional_forward_args=None)` of the inputs' shape,
        and `explain(...)` of the same arguments, which returns the whole `SimplifyResult`.

    Raises:
        MissingExtra: If Captum is not installed.

    Example:
        >>> import torch
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> method = simplification(model, DCTLaplace(), steps=2)
        >>> method.attribute(torch.rand(1, 1, 8, 8), target=1).shape
        torch.Size([1, 1, 8, 8])
    """
    base = require_extra("captum.attr", "captum", "an attribution for Captum").Attribution

    class Simplification(base):  # type: ignore[misc,valid-type]
        def explain(
            self, inputs: Any, baselines: Any = None, target: Any = None, additional_forward_args: Any = None
        ) -> SimplifyResult:
            """The whole explanation."""
            images = _one(inputs)
            if baselines is not None:
                raise ValueError(
                    "simplification compares with no baseline: it finds the simplest image itself. Leave `baselines` out."
                )
            arguments = additional_forward_args
            more = () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)
            return explain_simplify(
                _called(self.forward_func, more), images, density, target, **{"controls": False, **settings}
            )

        def attribute(
            self, inputs: Any, baselines: Any = None, target: Any = None, additional_forward_args: Any = None
        ) -> Any:
            """`|x - simplified|`, of the shape of `inputs`."""
            found = self.explain(inputs, baselines, target, additional_forward_args).difference
            return (found,) if isinstance(inputs, tuple) else found

    return Simplification(forward_func)


def _one(inputs: Any) -> Tensor:
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise ValueError(f"images of one kind are simplified; got a tuple of {len(inputs)} inputs.")
        inputs = inputs[0]
    if not isinstance(inputs, Tensor):
        raise ValueError(f"`inputs` is a {type(inputs).__name__}; a tensor of images (n, c, h, w) is needed.")
    return inputs


def _called(forward: nn.Module | Callable[..., Any], more: tuple[Any, ...]) -> nn.Module:
    """The classifier as a module of images alone; one that is a module keeps its layers to be looked at."""
    if isinstance(forward, nn.Module) and not more:
        return forward
    return _With(forward, more)


class _With(nn.Module):
    def __init__(self, forward: nn.Module | Callable[..., Any], more: tuple[Any, ...]):
        super().__init__()
        self.function, self.more = forward, more

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.more)
