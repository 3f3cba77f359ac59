"""Pictures that everybody agrees on: constants, ramps and noise, and garments, digits and photographs cut to size."""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

SIZE = 28
Size = int | tuple[int, int]
"""Side of a square, or height and width."""
TRAINED_SHARE = 0.7
"""Left part of each photograph, and first part of the digits, that shipped densities learn from."""
GREY = (0.299, 0.587, 0.114)


def _sides(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def constants(count: int, generator: torch.Generator, size: Size = SIZE) -> Tensor:
    """One grey level everywhere, drawn for each image."""
    level = torch.randint(0, 256, (count, 1, 1, 1), generator=generator) / 255
    return level.expand(count, 1, *_sides(size)).clone()


def ramps(count: int, generator: torch.Generator, size: Size = SIZE) -> Tensor:
    """Grey that changes evenly in a direction of its own, from one drawn level to another."""
    angle = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    down, right = (torch.linspace(-1, 1, side) for side in _sides(size))
    place = angle.cos() * right[None, :] + angle.sin() * down[:, None]
    place = place / (angle.cos().abs() + angle.sin().abs())
    ends = torch.rand(2, count, 1, 1, generator=generator)
    return (ends[0] + (ends[1] - ends[0]) * (place + 1) / 2)[:, None]


def noise(count: int, generator: torch.Generator, size: Size = SIZE, contrast: float | Tensor = 1.0) -> Tensor:
    """Independent uniform grey levels around the middle."""
    levels = torch.randint(0, 256, (count, 1, *_sides(size)), generator=generator) / 255
    return 0.5 + contrast * (levels - 0.5)


def held_out_garments(count: int) -> Tensor:
    """Pullovers and coats that this package ships; no shipped density has learnt from them."""
    from firstcue.data.images import shipped

    return shipped().x[:count]


def resized(x: Tensor, size: Size) -> Tensor:
    """The same images at another size."""
    if tuple(x.shape[2:]) == _sides(size):
        return x
    return interpolate(x, size=_sides(size), mode="bilinear", align_corners=False, antialias=True)


@cache
def smooth_digits(part: str, size: Size = SIZE) -> Tensor:
    """Scikit-learn's handwritten digits on black, enlarged smoothly: of the first 70 % ("train") or of the rest ("test")."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits(return_X_y=True)[0]).float().reshape(-1, 1, 8, 8) / 16
    cut = int(TRAINED_SHARE * len(images))
    images = images[:cut] if part == "train" else images[cut:]
    return interpolate(images, size=_sides(size), mode="bilinear", align_corners=False)


@cache
def photographs(part: str) -> tuple[Tensor, ...]:
    """Scikit-learn's two photographs in grey `(h, w)`: their left 70 % ("train") or the rest ("test")."""
    from sklearn.datasets import load_sample_images

    weights = np.array(GREY, dtype=np.float32)
    grey = [torch.from_numpy(image.astype(np.float32) @ weights / 255) for image in load_sample_images().images]
    cuts = [int(TRAINED_SHARE * image.shape[1]) for image in grey]
    return tuple(image[:, :cut] if part == "train" else image[:, cut:] for image, cut in zip(grey, cuts, strict=True))


def patches(count: int, generator: torch.Generator, part: str = "test", size: Size = SIZE) -> Tensor:
    """Squares at drawn places of the photographs."""
    sources, (h, w) = photographs(part), _sides(size)
    rows = []
    for _ in range(count):
        source = sources[int(torch.randint(0, len(sources), (), generator=generator))]
        top = int(torch.randint(0, source.shape[0] - h + 1, (), generator=generator))
        left = int(torch.randint(0, source.shape[1] - w + 1, (), generator=generator))
        rows.append(source[top : top + h, left : left + w])
    return torch.stack(rows)[:, None]


def contrasted(x: Tensor, factor: float | Tensor, background: float | Tensor) -> Tensor:
    """The image drawn towards its background: factor 1 leaves it, 0 makes it constant."""
    return background + factor * (x - background)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of `sigma` pixels; the image goes on as its border does."""
    if sigma == 0:
        return x
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2).to(x.dtype)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = conv2d(pad(x, (reach, reach, reach, reach), mode="replicate"), kernel, groups=x.shape[1])
    return conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Moved by some pixels; what enters repeats the border."""
    h, w = x.shape[-2:]
    rows = (torch.arange(h) - down).clamp(0, h - 1)
    columns = (torch.arange(w) - right).clamp(0, w - 1)
    return x[..., rows[:, None], columns]
