"""A density is anything that says how many bits an image takes; everything about simplicity is measured with one.

The bits of an image are the length of its description under a density that knows what images look like: few for an
empty page, many for noise. The choice of density decides as much as the images do, so measure with two.
"""

import warnings
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite
from firstcue.forward import left_as_found
from firstcue.simplicity.quantising import SharedNoise

TOO_MANY = 20.0
"""Bits per value beyond which a density is asked about what it does not know: eight bits write any grey level down."""
ROUNDING = 1e-3
"""A quarter of a grey level: what arithmetic may leave outside [0, 1] without changing any pixel."""


@runtime_checkable
class Density(Protocol):
    """What a density offers; any object with these four names is one.

    Further abilities are found by name: `bits_map(x) -> (n, h, w)`, which sums to the bits of each image;
    `encode(x) -> latents` and `decode(latents) -> x`, an exact inverse.
    """

    levels: int
    """Number of grey levels of an image."""

    shape: tuple[int, ...] | None
    """`(c, h, w)` of the images it knows, `(d,)` for vectors, None for images of any size."""

    differentiable: bool
    """Whether `bits` has a gradient, so that images may be simplified with it."""

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Total bits of each image.

        Args:
            x: `(n, c, h, w)` in [0, 1]; rounded to the nearest grey level.
            generator: Source of the noise of a density over continuous values; an exact one ignores it.

        Returns:
            `(n,)` bits.
        """
        ...


class Measured(NamedTuple):
    """Bits of each image and what the noise of dequantisation leaves open about them."""

    bits: Any
    """`(n,)`"""

    error: Any
    """`(n,)` standard error of each; zero for a density over grey levels, NaN after a single draw of noise."""


def bits(
    density: Density, x: Any, *, n_dequant: int = 8, seed: int = 0, batch_size: int = 512, return_error: bool = False
) -> Any:
    """Bits of each image under a density.

    A density over continuous values gives an upper bound that depends on noise; it is averaged over `n_dequant` draws.
    Every image gets the same draws, so its bits depend neither on its neighbours nor on the size of the batches.

    Args:
        density: From `load_density`, `fit_density`, `from_log_prob`, or any object with `levels`, `shape`,
            `differentiable` and `bits`.
        x: Images `(n, c, h, w)` in [0, 1], or vectors `(n, d)` for a density over vectors.
        n_dequant: Draws of noise; an exact density needs none and is asked once.
        seed: Of the noise.
        batch_size: Images measured at once.
        return_error: Also return the standard error of each value.

    Returns:
        `(n,)` total bits per image, in the type of `x`; divide by c h w for bits per value. With `return_error` a
        `Measured(bits, error)`.

    Raises:
        ValueError: If images are outside [0, 1], of another shape than the density knows, or not finite; or if the
            density answers with NaN or with another shape than `(n,)`.

    Warns:
        UserWarning: If bits are negative, or more than 20 per value: the density does not know such images.

    Example:
        >>> from firstcue.simplicity.density import Uniform
        >>> bits(Uniform(), torch.rand(2, 1, 28, 28))
        tensor([6272., 6272.])
    """
    if n_dequant < 1 or batch_size < 1:
        raise ValueError(f"`n_dequant` and `batch_size` must be at least 1; got {n_dequant} and {batch_size}.")
    images = require_inputs(density, x)
    work, device = _where(density, images)
    parts = [_of_batch(density, part.to(device, work), n_dequant, seed) for part in images.split(batch_size)]
    found = torch.cat(parts, dim=1) if parts else torch.zeros(2, 0)
    _warn_of_oddities(found[0], images[0].numel() if len(images) else 1)
    value, error = (_as_given(row, x) for row in found)
    return Measured(value, error) if return_error else value


def require_inputs(density: Density, x: Any, name: str = "x") -> Tensor:
    """Images (or vectors) that fit the density, as a tensor.

    Raises:
        ValueError: If they are of a wrong shape, range or type.
    """
    images = as_tensor(x, name)
    known = density.shape
    if known is not None and len(known) == 1:
        _require_shape(images, known, name, "rows (n, d)", 2)
        require_finite(images, name)
        return images
    _require_shape(images, known, name, "images (n, c, h, w)", 4)
    require_finite(images, name)
    if not images.is_floating_point():
        raise ValueError(f"`{name}` holds {images.dtype} values; grey levels in [0, 1] are needed: {name} / 255.")
    low, high = (float(images.min()), float(images.max())) if len(images) else (0.0, 1.0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"`{name}` has values from {low:.4g} to {high:.4g}; bits are of images in [0, 1]. {_remedy(low, high, name)}"
        )
    return images if low >= 0 and high <= 1 else images.clamp(0, 1)


def require_differentiable(density: Density, purpose: str) -> None:
    """Refuse a density without a gradient, naming what it was wanted for and what to take instead.

    Raises:
        ValueError: If `density.differentiable` is False.
    """
    if not density.differentiable:
        raise ValueError(
            f"{purpose} needs the gradient of the bits, which {type(density).__name__} does not have: it measures only. "
            f'Take a density with one, for example fc.load_density("gray28") or fc.load_density("dct").'
        )


def _require_shape(images: Tensor, known: tuple[int, ...] | None, name: str, what: str, ndim: int) -> None:
    if images.ndim != ndim or 0 in images.shape[1:]:
        grey = f" For grey images of shape (n, h, w) write {name}[:, None]." if ndim == 4 and images.ndim == 3 else ""
        raise ValueError(f"`{name}` has shape {tuple(images.shape)}; {what} are needed.{grey}")
    if known is not None and tuple(images.shape[1:]) != tuple(known):
        other = (
            ' Resize them, fit a density of your own with `fc.fit_density`, or take fc.load_density("dct"), which measures '
            "images of any size."
        )
        raise ValueError(
            f"`{name}` has items of shape {tuple(images.shape[1:])}, but this density knows {tuple(known)} only."
            f"{other if ndim == 4 else ''}"
        )


def _remedy(low: float, high: float, name: str) -> str:
    if low >= 0 and high <= 256:
        return f"Divide by 255: {name} / 255."
    if -1 <= low < 0 and high <= 1:
        return f"If they were scaled to [-1, 1]: ({name} + 1) / 2; if they were standardised, undo it with the mean and SD."
    return "Undo the standardisation with its mean and standard deviation, or clamp what a transformation left outside."


def _where(density: Density, images: Tensor) -> tuple[torch.dtype, torch.device]:
    """The type and the device to measure in: those of the density's weights if it has any."""
    if isinstance(density, nn.Module):
        for tensor in (*density.parameters(), *density.buffers()):
            if tensor.is_floating_point():
                return (tensor.dtype if tensor.element_size() >= 4 else torch.float32), tensor.device
    return (torch.float64 if images.dtype == torch.float64 else torch.float32), images.device


def _of_batch(density: Density, images: Tensor, n_dequant: int, seed: int) -> Tensor:
    """`(2, n)` float64 mean and standard error over draws of noise; one draw if the density takes no noise."""
    generator = SharedNoise(device=images.device).manual_seed(seed)
    before = generator.get_state()
    with torch.no_grad():
        draws = [_asked(density, images, generator)]
        if torch.equal(before, generator.get_state()):
            return torch.stack([draws[0], torch.zeros_like(draws[0])])
        draws += [_asked(density, images, generator) for _ in range(n_dequant - 1)]
    stacked = torch.stack(draws)
    return torch.stack([stacked.mean(dim=0), stacked.std(dim=0) / n_dequant**0.5 if n_dequant > 1 else _nan(draws[0])])


def _asked(density: Density, images: Tensor, generator: torch.Generator) -> Tensor:
    if isinstance(density, nn.Module) and density.training:
        with left_as_found(density):
            answer = density.bits(images, generator=generator)
    else:
        answer = density.bits(images, generator=generator)
    return _require_answer(answer, len(images), type(density).__name__)


def _require_answer(answer: Any, n: int, kind: str) -> Tensor:
    if not isinstance(answer, Tensor) or tuple(answer.shape) != (n,):
        found = tuple(answer.shape) if hasattr(answer, "shape") else type(answer).__name__
        raise ValueError(f"the density ({kind}) answered {n} images with {found}; a tensor of shape ({n},) is needed.")
    broken = ~torch.isfinite(answer)
    if bool(broken.any()):
        raise ValueError(
            f"the density ({kind}) gave NaN or infinite bits for {int(broken.sum())} of {n} images (first: image "
            f"{int(broken.nonzero()[0])} of its batch). Check that its training converged and that it covers all of [0, 1]."
        )
    return answer.detach().double()


def _nan(like: Tensor) -> Tensor:
    return torch.full_like(like, float("nan"))


def _warn_of_oddities(found: Tensor, size: int) -> None:
    per_value = found / size
    negative, many = int((per_value < 0).sum()), int((per_value > TOO_MANY).sum())
    if negative:
        warnings.warn(
            f"{negative} of {len(found)} inputs have negative bits (lowest: {float(per_value.min()):.3g} per value): the density "
            f"is so narrow there that its bound is no code length. Compare with an exact density, such as PNG or gray28.",
            stacklevel=3,
        )
    if many:
        warnings.warn(
            f"{many} of {len(found)} inputs have more than {TOO_MANY:g} bits per value (highest: {float(per_value.max()):.3g}): "
            f"the density has not seen anything like them, and their order means little.",
            stacklevel=3,
        )


def _as_given(row: Tensor, x: Any) -> Any:
    """`(n,)` in the type of what the caller gave."""
    dtype = x.dtype if isinstance(x, Tensor) else as_tensor(x).dtype
    result = row.to(dtype if dtype.is_floating_point else torch.float32)
    if bool(result.isinf().any()):
        raise ValueError(
            f"the bits (up to {float(row.max()):.4g}) overflow {result.dtype}; pass the images as float32: x.float()."
        )
    if isinstance(x, Tensor):
        return result.to(x.device)
    return result.cpu().numpy().astype(np.asarray(x).dtype if np.asarray(x).dtype.kind == "f" else np.float32)


class Uniform:
    """Every grey level is as likely as any other: 8 bits per value, whatever the image.

    Args:
        levels: Number of grey levels.

    Example:
        >>> Uniform().bits(torch.zeros(1, 3, 2, 2))
        tensor([96.])
    """

    shape: tuple[int, ...] | None = None
    differentiable = True

    def __init__(self, levels: int = 256) -> None:
        self.levels = levels

    @property
    def config(self) -> dict[str, Any]:
        """What builds it again."""
        return {"levels": self.levels}

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The same for every image."""
        return self.bits_map(x).sum(dim=(1, 2))

    def bits_map(self, x: Tensor) -> Tensor:
        """`(n, h, w)`, the same everywhere."""
        each = x.shape[1] * float(np.log2(self.levels))
        return (x.sum(dim=1) * 0).add(each)
