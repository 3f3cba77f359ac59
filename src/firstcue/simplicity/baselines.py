"""Simpler images for a classifier that nobody asked: blur, JPEG and plain reconstruction, at the same number of bits.

A simplifier that does not beat these at equal bits says nothing about the classifier.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstcue.batch import Batch
from firstcue.simplicity._pictures import blurred
from firstcue.simplicity.density import Density
from firstcue.simplicity.evaluating import MakeClassifier, Transform, retrained_row
from firstcue.simplicity.quantising import quantised
from firstcue.simplicity.simplify import Simplified, Simplifier


def blur(sigma: int | float) -> Transform:
    """A Gaussian blur of `sigma` pixels, on the lattice of grey levels.

    Example:
        >>> blur(1.0)(torch.ones(2, 1, 8, 8)).unique()
        tensor([1.])
    """
    if sigma < 0:
        raise ValueError(f"`sigma` is a width in pixels, 0 or more; got {sigma}.")
    return lambda x: quantised(blurred(x.float(), float(sigma))).to(x.dtype)


def jpeg(quality: int) -> Transform:
    """What JPEG of this quality (1 to 95) leaves of images with one or three channels.

    Example:
        >>> jpeg(50)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"the quality of a JPEG is between 1 and 95; got {quality}.")
    return lambda x: torch.stack([_through_jpeg(image, quality) for image in x]).to(x)


def _through_jpeg(image: Float[Tensor, "c h w"], quality: int) -> Tensor:
    from PIL import Image

    if len(image) not in (1, 3):
        raise ValueError(f"JPEG holds one or three channels; these images have {len(image)}.")
    levels = (255 * image.cpu().float()).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if len(image) == 1 else levels).save(file, "JPEG", quality=quality)
    with Image.open(io.BytesIO(file.getvalue())) as found:
        array = np.array(found, dtype=np.float32).reshape(*levels.shape[:2], len(image))
    return torch.from_numpy(array / 255).permute(2, 0, 1)


def reconstruction(
    density: Density, batch: Batch, lam: int | float, *, simplifier: Simplifier | None = None, **settings: Any
) -> Simplified:
    """A simplifier that keeps pixels, not classes: 10 times the squared error plus `lam` times bits per pixel.

    Args:
        density: Counts bits.
        batch: Images to learn from.
        lam: Weight of the bits.
        simplifier: What to fit; `Simplifier()` when None.
        settings: As for `Simplifier.fit`.
    """
    return (simplifier or Simplifier()).fit(None, density, batch, strategy="reconstruction", lam=lam, **settings)


def baseline_curve(
    name: str,
    transform_of: Callable[[Any], Transform],
    strengths: Sequence[Any],
    make_classifier: MakeClassifier,
    train_batch: Batch,
    test_batch: Batch,
    density: Density,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Accuracy against bits for one way of making images simpler.

    Args:
        name: Of the baseline.
        transform_of: From a strength to what it does: `blur`, `jpeg`.
        strengths: To try.
        make_classifier: Builds the classifier that learns from the transformed images.
        train_batch: Images in [0, 1] and labels to learn from.
        test_batch: The same to test on.
        density: Counts bits.
        settings: As for `retrain`.

    Returns:
        A row for each strength: `baseline`, `strength`, and what `retrained_row` says.
    """
    return [
        {
            "baseline": name,
            "strength": strength,
            **retrained_row(transform_of(strength), make_classifier, train_batch, test_batch, density, **settings),
        }
        for strength in strengths
    ]


def at_equal_bits(
    curve: Sequence[Mapping[str, Any]], bits_per_pixel: float, value: str = "accuracy_simplified"
) -> float:
    """What a baseline reaches at this many bits, between the strengths that were tried.

    Args:
        curve: Rows with `bits_per_pixel` and `value`.
        bits_per_pixel: Where to read the curve.
        value: What to read.

    Returns:
        On the straight line between neighbours in bits; NaN outside the bits that were tried.

    Example:
        >>> curve = [{"bits_per_pixel": 2.0, "accuracy": 0.5}, {"bits_per_pixel": 4.0, "accuracy": 0.9}]
        >>> at_equal_bits(curve, 3.0, "accuracy"), at_equal_bits(curve, 1.0, "accuracy")
        (0.7, nan)
    """
    points = sorted((float(row["bits_per_pixel"]), float(row[value])) for row in curve)
    if not points or not points[0][0] <= bits_per_pixel <= points[-1][0]:
        return math.nan
    return float(np.interp(bits_per_pixel, [b for b, _ in points], [a for _, a in points]))
