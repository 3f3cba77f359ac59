"""How alike two sets of images teach a network: their gradients, class by class."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

GradientLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""`(gradients of the made images, of the real ones) -> scalar`."""


def gradients(network: nn.Module, x: Float[Tensor, "n c h w"], label: int, *, create_graph: bool) -> list[Tensor]:
    """Gradient of the cross-entropy of one class for each parameter of the network."""
    outputs = network(x - 0.5)
    loss = cross_entropy(outputs, torch.full((len(x),), label, device=x.device))
    return list(torch.autograd.grad(loss, list(network.parameters()), create_graph=create_graph))


def row_cosines(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over weight tensors and their output rows of 1 - cosine; biases and norms do not count.

    Example:
        >>> w = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> float(row_cosines([w], [w])), float(row_cosines([w], [-w]))
        (0.0, 4.0)
    """
    total = torch.zeros((), device=made[0].device)
    for g, r in zip(made, real, strict=True):
        if g.ndim > 1:
            a, b = g.flatten(1), r.flatten(1)
            # the floor stands inside the root, whose slope at zero is not finite
            norms = (a.square().sum(dim=1) * b.square().sum(dim=1) + 1e-24).sqrt()
            total = total + (1 - (a * b).sum(dim=1) / norms).sum()
    return total


def dot_products(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Minus the dot product of each weight tensor's gradients, in units of their present sizes, summed over tensors.

    Sizes are held fixed: the direction is that of the dot product, the scale that of a cosine.
    """
    total = torch.zeros((), device=made[0].device)
    for g, r in zip(made, real, strict=True):
        if g.ndim > 1:
            size = (g.detach().norm() * r.norm()).clamp_min(1e-12)
            total = total - len(g) * (g * r).sum() / size
    return total


LOSSES: dict[str, GradientLoss] = {"match": row_cosines, "grad_dot": dot_products}


class ConvNet(nn.Module):
    """Blocks of convolution, instance normalisation, ReLU and pooling, and a linear layer: what condensation trains.

    Args:
        shape: `(c, h, w)` of the images.
        classes: Outputs.
        width: Channels of each block.
        depth: Blocks; each halves height and width while they are at least 4. Without, as many (1 to 3) as leave about 4.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 32, depth: int | None = None):
        super().__init__()
        channels, height, side = shape
        depth = max(1, min(3, round(math.log2(min(height, side) / 4)))) if depth is None else depth
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU()]
            channels = width
            if min(height, side) >= 4:
                blocks.append(nn.AvgPool2d(2))
                height, side = height // 2, side // 2
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(channels * height * side, classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits."""
        return self.head(self.features(x))


def convnet(
    shape: tuple[int, ...], classes: int, *, width: int = 32, depth: int | None = None
) -> Callable[[], nn.Module]:
    """A factory of fresh networks, as `condense` takes them.

    Example:
        >>> sum(p.numel() for p in convnet((1, 8, 8), 3, width=4)().parameters()) > 200
        True
    """
    return partial(ConvNet, shape, classes, width, depth)
