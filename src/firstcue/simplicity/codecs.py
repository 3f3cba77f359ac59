"""The size of the file that a real coder makes: a yardstick that no density has to be trusted for, and no gradient."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue.simplicity.quantising import grey_levels

FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "optimize": True},
    "webp": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    "jpeg": {"format": "JPEG", "quality": 90},
}


class Codec:
    """File sizes in bits, less the size of the file of a single pixel, and never below zero.

    Lossless WebP is the best yardstick for small images. JPEG loses what is hard to describe, so its size is no measure
    of complexity, and its headers are larger than a small image.

    Args:
        coder: "png", "webp" (lossless), "jpeg" (quality 90), or a function from a uint8 array `(h, w)` or `(h, w, 3)` to
            bytes.

    Raises:
        ValueError: If the name is unknown, or Pillow was built without that format.

    Example:
        >>> Codec("png").bits(torch.zeros(1, 1, 28, 28)) < 200
        tensor([True])
    """

    levels = 256
    shape: tuple[int, ...] | None = None
    differentiable = False

    def __init__(self, coder: str | Callable[[np.ndarray], bytes] = "webp") -> None:
        if isinstance(coder, str) and coder not in FORMATS:
            raise ValueError(f"there is no codec {coder!r}; give one of {', '.join(FORMATS)}, or a function to bytes.")
        self.coder = coder
        self._write = _written_as(coder) if isinstance(coder, str) else coder
        self._overhead: dict[int, int] = {}

    @property
    def config(self) -> dict[str, Any]:
        """What builds it again.

        Raises:
            ValueError: If the coder is a function, which cannot be stored.
        """
        if not isinstance(self.coder, str):
            raise ValueError("a codec made of a function cannot be stored; name one of " + ", ".join(FORMATS) + ".")
        return {"coder": self.coder}

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits of each image; channels are coded one by one unless there are three.

        Raises:
            ValueError: If `x` wants a gradient: a file size has none.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"a codec ({self.coder}) measures and cannot be optimised: the size of a file has no gradient. Simplify with "
                f'fc.load_density("gray28") or fc.load_density("dct") and use the codec to check the result.'
            )
        images = grey_levels(x.detach(), self.levels).to(torch.uint8).cpu().numpy()
        sizes = [sum(self._net(plane) for plane in _planes(image)) for image in images]
        return torch.tensor(sizes, dtype=x.dtype, device=x.device)

    def _net(self, plane: np.ndarray) -> int:
        if plane.ndim not in self._overhead:
            self._overhead[plane.ndim] = self._size(np.zeros((1, 1, *plane.shape[2:]), dtype=np.uint8))
        return max(0, 8 * (self._size(plane) - self._overhead[plane.ndim]))

    def _size(self, plane: np.ndarray) -> int:
        written = self._write(plane)
        if not isinstance(written, bytes | bytearray | memoryview):
            raise ValueError(f"the codec gave {type(written).__name__}; a function to bytes is needed.")
        return len(written)


def _planes(image: np.ndarray) -> list[np.ndarray]:
    """`(c, h, w)` as one colour picture or several grey ones."""
    return [np.ascontiguousarray(image.transpose(1, 2, 0))] if len(image) == 3 else list(image)


def _written_as(name: str) -> Callable[[np.ndarray], bytes]:
    from PIL import Image, features

    if name == "webp" and not features.check("webp"):
        raise ValueError("this Pillow was built without WebP; install one that has it, or take the codec 'png'.")

    def write(plane: np.ndarray) -> bytes:
        memory = io.BytesIO()
        Image.fromarray(plane).save(memory, **FORMATS[name])
        return memory.getvalue()

    return write
