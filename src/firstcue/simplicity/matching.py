"""What made images teach a network, beside real ones: gradients class by class, or what is solved after a step."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

GradientLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""`(gradients of the made images, of the real ones) -> scalar`."""

Teaching = Callable[[nn.Module, Tensor, Sequence[Tensor], float], tuple[float, Tensor]]
"""`(network, made images, real images of each class, weight) -> (mean over classes, gradient of weight times the sum)`.

Made images need gradients and lie class after class, as many of each."""

STRIDE = 0.1
"""Of the step that `by_look_ahead` takes."""


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


def by_gradients(loss: GradientLoss) -> Teaching:
    """Gradients of the made images are to be those of the real ones; one class at a time, so that memory holds one graph.

    Source:
        Zhao, Mopuri and Bilen (2020), https://arxiv.org/abs/2006.05929.
    """

    def taught(network: nn.Module, made: Tensor, real: Sequence[Tensor], weight: float) -> tuple[float, Tensor]:
        found, slope = 0.0, torch.zeros_like(made)
        for c, (own, x) in enumerate(zip(made.chunk(len(real)), real, strict=True)):
            wanted = gradients(network, x, c, create_graph=False)
            match = loss(gradients(network, own, c, create_graph=True), wanted)
            found += float(match.detach()) / len(real)
            slope = slope + torch.autograd.grad(weight * match, made)[0]
        return found, slope

    return taught


def by_look_ahead(network: nn.Module, made: Tensor, real: Sequence[Tensor], weight: float) -> tuple[float, Tensor]:
    """Real images x_c of each class c are to be solved after a step of gradient descent on the made ones s:

        theta' = theta - 0.1 grad CE(f_theta(s), y),   lowered: rows sum_c CE(f_theta'(x_c), c)

    where `rows` counts the cosines that `row_cosines` adds up, so that bits weigh the same beside either. The number found is
    the mean of CE(f_theta'(x_c), c) over classes.

    Source:
        The code of https://arxiv.org/abs/2201.05610 has such a loss; step and scale are ours.
    """
    y = torch.arange(len(real), device=made.device).repeat_interleave(len(made) // len(real))
    parameters = dict(network.named_parameters())
    learnt = torch.autograd.grad(cross_entropy(network(made - 0.5), y), list(parameters.values()), create_graph=True)
    moved = {name: p - STRIDE * g for (name, p), g in zip(parameters.items(), learnt, strict=True)}
    each = [
        cross_entropy(functional_call(network, moved, (x - 0.5,)), torch.full((len(x),), c, device=x.device))
        for c, x in enumerate(real)
    ]
    rows = sum(len(p) for p in parameters.values() if p.ndim > 1)
    (slope,) = torch.autograd.grad(weight * rows * torch.stack(each).sum(), made)
    return float(torch.stack(each).detach().mean()), slope


LOSSES: dict[str, Teaching] = {
    "match": by_gradients(row_cosines),
    "grad_dot": by_gradients(dot_products),
    "lookahead": by_look_ahead,
}


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
