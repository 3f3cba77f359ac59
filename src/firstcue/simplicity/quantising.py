"""Images on the lattice of grey levels, with gradients that pass straight through the rounding.

Without the rounding a simplifier could hide what it keeps below one grey level, where a density charges little for it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class SharedNoise(torch.Generator):
    """A source of noise that gives every image of a call the same draw.

    Differences between images then hold no noise of their own, and the bits of an image do not depend on the others
    that are measured beside it.
    """


def grey_levels(y: Float[Tensor, "*shape"], levels: int = 256) -> Float[Tensor, "*shape"]:
    """Whole numbers `0 .. levels - 1` nearest to `(levels - 1) y`; the gradient is that of `(levels - 1) y`, everywhere.

    Args:
        y: Of any shape; values outside [0, 1] are clamped.
        levels: Number of grey levels.

    Example:
        >>> grey_levels(torch.tensor([-0.1, 0.5, 1.0]))
        tensor([  0., 128., 255.])
    """
    scaled = y * (levels - 1)
    return scaled.detach().round().clamp(0, levels - 1) + (scaled - scaled.detach())


def quantised(y: Float[Tensor, "*shape"], levels: int = 256) -> Float[Tensor, "*shape"]:
    """The nearest image of `levels` grey levels, in [0, 1]; clamping and rounding are straight-through (gradient 1).

    Args:
        y: Of any shape; values outside [0, 1] are clamped.
        levels: Number of grey levels.

    Returns:
        Multiples of `1 / (levels - 1)`.

    Source:
        Bengio, Léonard and Courville (2013), https://arxiv.org/abs/1308.3432, for the straight-through gradient.

    Example:
        >>> y = torch.tensor([0.5, 1.2], requires_grad=True)
        >>> (255 * quantised(y)).sum().backward()
        >>> y.grad
        tensor([255., 255.])
    """
    nearest = (y.detach() * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1)
    return nearest + (y - y.detach())


def dequantised(
    y: Float[Tensor, "n *shape"], generator: torch.Generator | None = None, levels: int = 256
) -> Float[Tensor, "n *shape"]:
    """`(q + u) / levels` with q the grey level and u uniform in (0, 1): a continuous variable whose density bounds bits.

    Args:
        y: Images in [0, 1].
        generator: Source of u; without one, that of seed 0, the same for every image.
        levels: Number of grey levels.

    Returns:
        Values strictly between 0 and 1. A gradient passes straight through the rounding.

    Source:
        Theis, van den Oord and Bethge (2016), https://arxiv.org/abs/1511.01844.

    Example:
        >>> v = dequantised(torch.tensor([[0.0, 1.0]]))
        >>> (256 * v).floor()
        tensor([[  0., 255.]])
    """
    noise = generator if generator is not None else SharedNoise().manual_seed(0)
    shape = (1, *y.shape[1:]) if isinstance(noise, SharedNoise) else y.shape
    dtype = y.dtype if y.dtype == torch.float64 else torch.float32
    u = torch.rand(shape, generator=noise, dtype=dtype, device=noise.device).to(y.device)
    # the sum with a grey level must stay below the next one after rounding to the type
    edge = levels * torch.finfo(dtype).eps
    return (grey_levels(y.to(dtype), levels) + (u * (1 - 2 * edge) + edge)) / levels
