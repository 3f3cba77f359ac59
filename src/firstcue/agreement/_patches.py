"""Gradients of a convolution's weight for single rows, as products with the patches that its output pixels see."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def weight_gradients(
    x: Tensor, d: Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int, step: int
) -> Iterator[Tensor]:
    """The gradient of a convolution's weight for each row: the derivative by a pixel, times what that pixel sees.

    Args:
        x: `(n, channels, width)` or `(n, channels, height, width)` input.
        d: `(n, pixels, out)` derivatives by the output.
        shape: Of the weight.
        stride: As `torch.nn.functional.conv2d`, as are the next three.
        padding: A number, numbers, "same" or "valid".
        dilation: Distance between the pixels that a kernel sees.
        groups: Of channels.
        step: Most rows at a time.

    Returns:
        `(m, *shape)` parts, each in memory that is used again for the next.
    """
    view, channels_last = _patches(x, shape, stride, padding, dilation, groups)
    patches = d.new_empty(min(step, len(d)), *view.shape[1:])
    products = d.new_empty(len(patches) * groups, shape[0] // groups, shape[1:].numel())
    for start in range(0, len(d), step):
        m = min(step, len(d) - start)
        seen = patches[:m].copy_(view[start : start + m]).view(m * groups, *_matrix(view, channels_last))
        rows = d[start : start + m].unflatten(2, (groups, -1)).permute(0, 2, 3, 1).flatten(end_dim=1)
        made = torch.bmm(rows, seen if channels_last else seen.mT, out=products[: m * groups])
        if channels_last:
            made = made.view(m, shape[0], *view.shape[4:-1], shape[1]).movedim(-1, 2)
        yield made.reshape(m, *shape)


def _matrix(view: Tensor, channels_last: bool) -> tuple[int, int]:
    """Rows and columns of one image's patches."""
    split = 4 if channels_last else 5
    return view.shape[2:split].numel(), view.shape[split:].numel()


def _patches(
    x: Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int
) -> tuple[Tensor, bool]:
    """A view of the padded input, `(n, groups, height, width, *kernel, channels)`, and True.

    Where runs of pixels are longer than runs of channels it is `(n, groups, channels, *kernel, height, width)` and False:
    patches are copied run by run.
    """
    kernel = tuple(shape[2:])
    if len(kernel) == 1:  # a signal is an image of height one
        x, kernel = x[:, :, None], (1, *kernel)
        stride, padding, dilation = (1, *_wide(stride, 1)), _flat(padding), (1, *_wide(dilation, 1))
    stride, dilation = _wide(stride, 2), _wide(dilation, 2)
    before, after = zip(*map(_margins, _wide(padding, 2), kernel, dilation), strict=True)
    image = F.pad(x, (before[1], after[1], before[0], after[0])).contiguous()
    size = tuple(1 + (image.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] for i in (0, 1))
    channels = shape[1]
    channels_last = (kernel[1] if dilation[1] == 1 else 1) * channels >= (size[1] if stride[1] == 1 else 1)
    if channels_last:
        image = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    r, c, h, w = image.stride()
    of_size, of_kernel = (h * stride[0], w * stride[1]), (h * dilation[0], w * dilation[1])
    lengths, strides = (len(image), groups), (r, channels * c)
    if channels_last:
        view = image.as_strided((*lengths, *size, *kernel, channels), (*strides, *of_size, *of_kernel, c))
    else:
        view = image.as_strided((*lengths, channels, *kernel, *size), (*strides, c, *of_kernel, *of_size))
    return view, channels_last


def _wide(value: Any, n: int) -> tuple[Any, ...]:
    """A setting for each of n axes."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * n if len(values) == 1 else values


def _flat(padding: Any) -> Any:
    return padding if isinstance(padding, str) else (0, *_wide(padding, 1))


def _margins(padding: Any, kernel: int, dilation: int) -> tuple[int, int]:
    """Pixels added before and after; "same" puts an odd one after."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = dilation * (kernel - 1)
        return total // 2, total - total // 2
    return padding, padding
