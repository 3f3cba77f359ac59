"""Look one step ahead: would a classifier that learns from the simplified images still solve the originals?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from firstcue.simplicity._outputs import class_logits

Call = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""From parameters by name and images to logits `(n, K)`."""


@dataclass(frozen=True)
class LookAhead:
    """One virtual step on the simplified images, and what it is worth."""

    now: Float[Tensor, ""]
    """Mean cross-entropy on the simplified images before the step."""

    then: Float[Tensor, ""]
    """The same after it."""

    original: Float[Tensor, " n"]
    """Cross-entropy of each original image after the step."""

    gradients: Mapping[str, Tensor]
    """Of `now`, by the parameter's name, without graph: those of the step that the classifier really takes."""

    logits: Float[Tensor, "n k"]
    """Of the simplified images before the step."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """What the simplifier lowers besides bits: `now + then + 10 mean(original)`."""
        return self.now + self.then + 10 * self.original.mean()


def look_ahead(
    classifier: nn.Module,
    simplified: Float[Tensor, "n ..."],
    original: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    *,
    rate: int | float = 0.1,
    call: Call | None = None,
) -> LookAhead:
    """Losses after a gradient step on simplified images, differentiable with respect to those images.

    Args:
        classifier: Its rows must not depend on each other (batch normalisation in evaluation mode).
        simplified: Images with a graph.
        original: Those that they were made from.
        y: Their classes.
        rate: Of the virtual step of gradient descent.
        call: Runs the classifier with given parameters; arranges, for example, that dropout repeats itself.

    Raises:
        ValueError: If the classifier has nothing to train, or its loss does not depend on it.

    Source:
        Section 3 of https://arxiv.org/abs/2201.05610.

    Example:
        >>> x, y = torch.rand(4, 3, requires_grad=True), torch.tensor([0, 1, 0, 1])
        >>> ahead = look_ahead(torch.nn.Linear(3, 2), x, x.detach(), y)
        >>> torch.autograd.grad(ahead.loss, x)[0].shape
        torch.Size([4, 3])
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    run = call or _caller(classifier)
    parameters = {name: p for name, p in classifier.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("the classifier has no parameters to train, so there is no step to look ahead to.")
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        logits = run(parameters, simplified)
        now = cross_entropy(logits, y)
        gradients, now = _first_derivatives(now, parameters, simplified)
        moved = {name: p - rate * gradients[name] if name in gradients else p for name, p in parameters.items()}
        then = cross_entropy(run(moved, simplified), y)
        each = cross_entropy(run(moved, original), y, reduction="none")
    return LookAhead(now, then, each, {name: g.detach() for name, g in gradients.items()}, logits.detach())


def _first_derivatives(
    loss: Tensor, parameters: Mapping[str, Tensor], images: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients by parameter, with their graph, and the loss as a linear function of the images.

    The derivative with respect to the images falls out of the same backward pass; held fixed, it spares another one.
    """
    asked = [*parameters.values(), *([images] if images.requires_grad else [])]
    found = torch.autograd.grad(loss, asked, create_graph=True, allow_unused=True)
    gradients = {name: g for name, g in zip(parameters, found, strict=False) if g is not None}
    slope = found[-1] if images.requires_grad else None
    flat = loss.detach() if slope is None else loss.detach() + ((images - images.detach()) * slope.detach()).sum()
    return gradients, flat


def _caller(classifier: nn.Module) -> Call:
    return lambda parameters, x: class_logits(functional_call(classifier, dict(parameters), (x,)), len(x))
