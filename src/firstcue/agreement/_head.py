"""Gradients of the last layer for every example, as the two factors that they are made of."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstcue.agreement._losses import row_losses
from firstcue.agreement.gradients import Loss
from firstcue.forward import left_as_found, run, unwrap
from firstcue.heads import find_head


@dataclass(frozen=True)
class HeadGradients:
    """The gradient of example i is the outer product of `delta[i]` and `features[i]`; float64."""

    delta: Float[Tensor, "n k"]
    """Derivatives of the examples' losses by the last layer's outputs."""

    features: Float[Tensor, "n d"]
    """What goes into the last layer, and a last column of ones for its bias."""

    losses: Float[Tensor, " n"]

    @property
    def gram(self) -> Float[Tensor, "n n"]:
        """Inner products of the examples' gradients."""
        return (self.delta @ self.delta.mT) * (self.features @ self.features.mT)

    def rows(self, index: Tensor) -> "HeadGradients":
        """The examples at `index`."""
        return HeadGradients(self.delta[index], self.features[index], self.losses[index])


def head_gradients(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, batch_size: int = 512) -> HeadGradients:
    """The last layer's gradients, in evaluation mode; the model is left as found.

    Raises:
        ValueError: If the model has no linear last layer.
    """
    inner = unwrap(model)
    name = find_head(inner, x).name
    head = inner.get_submodule(name)
    bias = getattr(head, "bias", None) is not None
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        cut = output.detach().requires_grad_()
        seen.append(((args[0] if args else kwargs["input"]).detach().flatten(1), cut))
        return cut

    parts = []
    handle = head.register_forward_hook(hook, with_kwargs=True)
    try:
        with left_as_found(inner), torch.enable_grad():
            for start in range(0, len(x), batch_size):
                seen.clear()
                labels = y[start : start + batch_size]
                losses = row_losses(loss, run(inner, x[start : start + batch_size]), labels.to(head.weight.device))  # type: ignore[arg-type]
                features, cut = seen[-1]
                (delta,) = torch.autograd.grad(losses.sum(), cut)
                ones = features.new_ones(len(features), int(bias))
                parts.append((delta.flatten(1), torch.cat([features, ones], dim=1), losses.detach()))
    finally:
        handle.remove()
    delta, features, losses = (torch.cat(p).double().cpu() for p in zip(*parts, strict=True))
    return HeadGradients(delta, features, losses)
