"""Put an eraser into the linear layer after it, so that erasing costs nothing when the model runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from firstcue.erasure.affine import AffineEraser


def fold(eraser: Callable[..., Any], linear: nn.Module) -> nn.Linear:
    """A linear layer that gives `linear(eraser(x))` for every x: weight W P and bias b + W (mean - P mean).

    Args:
        eraser: An affine eraser; one that needs labels cannot be folded.
        linear: The `nn.Linear` that follows; it is left as it is.

    Returns:
        A new layer of the same type and device, with a bias.

    Raises:
        ValueError: If the eraser is not affine, the layer is not `nn.Linear`, or their widths differ.

    Example:
        >>> from firstcue import Moments, leace
        >>> x = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> eraser, linear = leace(Moments.of_groups(x, [0, 0, 1, 1])), nn.Linear(2, 3)
        >>> torch.allclose(fold(eraser, linear)(x), linear(eraser(x)), atol=1e-6)
        True
    """
    if not isinstance(eraser, AffineEraser):
        raise ValueError(
            f"only an affine eraser folds into a layer; a {type(eraser).__name__} needs the class of each row. "
            f"Fit `leace` on the same moments."
        )
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"`linear` is a {type(linear).__name__}; the layer to fold into has to be an nn.Linear.")
    if linear.in_features != len(eraser.mean):
        raise ValueError(
            f"`linear` reads {linear.in_features} features but the eraser was fitted on {len(eraser.mean)}; fold it into "
            f"the layer that reads what was erased."
        )
    weight = linear.weight.detach()
    moved = weight.to(eraser.left) @ eraser.left
    folded = nn.utils.skip_init(
        nn.Linear, linear.in_features, linear.out_features, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        folded.weight.copy_(weight.to(moved) - moved @ eraser.right.mT)
        folded.bias.copy_(moved @ (eraser.right.mT @ eraser.mean))
        if linear.bias is not None:
            folded.bias.add_(linear.bias)
    folded.weight.requires_grad_(linear.weight.requires_grad)
    folded.bias.requires_grad_(linear.weight.requires_grad if linear.bias is None else linear.bias.requires_grad)
    return folded.train(linear.training)
