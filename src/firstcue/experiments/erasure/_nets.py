"""Five small networks, from fully connected to windowed attention, that read images of any size."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad

Shape = tuple[int, int, int]
"""Channels, height, width."""

FEED_FORWARD = ("mlp", "res-mlp", "lenet")
SOPHISTICATED = ("convnext", "swin")
NAMES = (*FEED_FORWARD, *SOPHISTICATED)


def build(name: str, shape: Shape, classes: int, width: int, depth: int = 2) -> nn.Module:
    """A network `(n, c, h, w) -> (n, classes)`, its weights drawn from the global random state.

    Args:
        name: One of `NAMES`.
        shape: Of an image.
        classes: Number of outputs.
        width: Of the hidden layers; of the first stage for "convnext" and "swin", whose second stage is twice as wide.
        depth: Hidden layers, or blocks per stage. "lenet" has two convolutions whatever the depth, and as many channels as
            give it the number of parameters of the "mlp".

    Example:
        >>> build("swin", (1, 8, 8), 10, 8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    makers: dict[str, Callable[..., nn.Module]] = {
        "mlp": mlp,
        "res-mlp": residual_mlp,
        "lenet": lenet_like_mlp,
        "convnext": ConvNeXt,
        "swin": Swin,
    }
    if name not in makers:
        raise ValueError(f"there is no network {name!r}; choose one of {', '.join(NAMES)}.")
    return makers[name](shape, classes, width, depth)


def mlp(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    size = shape[0] * shape[1] * shape[2]
    sizes = [size, *[width] * depth]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`."""
        return x + self.layers(x)


def residual_mlp(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
    """Residual blocks of batch norm, ReLU and a linear layer."""
    blocks = [Residual(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)]
    size = shape[0] * shape[1] * shape[2]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, width), *blocks, nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes)
    )


def lenet(shape: Shape, classes: int, channels: int, hidden: int) -> nn.Module:
    """Two convolutions, each with ReLU and pooling, and one hidden layer."""
    c, h, w = shape
    return nn.Sequential(
        nn.Conv2d(c, channels, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * channels * (h // 4) * (w // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def lenet_like_mlp(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
    """The `lenet` whose number of parameters comes nearest to that of the `mlp`."""
    with torch.device("meta"):
        wanted = count(mlp(shape, classes, width, depth))
        distance = {c: abs(count(lenet(shape, classes, c, width)) - wanted) for c in range(2, 4 * width)}
    return lenet(shape, classes, min(distance, key=distance.__getitem__), width)


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


class ConvNeXt(nn.Module):
    """Two stages of depthwise convolution, normalisation and a pointwise MLP, after patches of 2 x 2 pixels."""

    def __init__(self, shape: Shape, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, 2, stride=2)
        self.first = nn.ModuleList(ConvBlock(width) for _ in range(depth))
        self.shrink = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.second = nn.ModuleList(ConvBlock(2 * width) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        maps = self.patches(x)
        for block in self.first:
            maps = block(maps)
        maps = self.shrink(over_channels(maps))
        for block in self.second:
            maps = block(maps)
        return self.head(maps.mean(dim=(2, 3)))


class ConvBlock(nn.Module):
    """Mixes space by a depthwise convolution, then channels by a two-layer network, beside a residual path."""

    def __init__(self, width: int, kernel: int = 5) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`."""
        return x + self.mix(self.norm(self.space(x).movedim(1, -1))).movedim(-1, 1)


def over_channels(maps: Tensor) -> Tensor:
    """Each position of `(n, c, h, w)` normalised over its channels."""
    return layer_norm(maps.movedim(1, -1), maps.shape[1:2]).movedim(-1, 1)


class Swin(nn.Module):
    """Attention within windows, which every second block shifts, in two stages; patches of 2 x 2 pixels."""

    def __init__(self, shape: Shape, classes: int, width: int, depth: int, window: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, 2, stride=2)
        shifts = [window // 2 * (i % 2) for i in range(depth)]
        self.first = nn.ModuleList(WindowBlock(width, window, shift) for shift in shifts)
        self.shrink = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width))
        self.second = nn.ModuleList(WindowBlock(2 * width, window, shift) for shift in shifts)
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.patches(x).movedim(1, -1)
        for block in self.first:
            tokens = block(tokens)
        h, w = tokens.shape[1:3]
        tokens = pad(tokens, (0, 0, 0, w % 2, 0, h % 2))
        quads = tokens.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(3)
        tokens = self.shrink(quads)
        for block in self.second:
            tokens = block(tokens)
        return self.head(tokens.mean(dim=(1, 2)))


class WindowBlock(nn.Module):
    """Attention with a learned bias per relative position, within windows, then a two-layer network."""

    def __init__(self, width: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift, self.heads = window, shift, max(1, width // 16)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * window - 1) ** 2))
        at = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        step = at[:, None] - at[None] + window - 1
        self.register_buffer("place", step[..., 0] * (2 * window - 1) + step[..., 1])

    place: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`, `(n, h, w, d)`."""
        x = x + self._attend(self.before(x))
        return x + self.mix(self.after(x))

    def _attend(self, x: Tensor) -> Tensor:
        n, h, w = x.shape[:3]
        s, tall, wide = self.window, -h % self.window, -w % self.window
        step = (self.shift if h > s else 0, self.shift if w > s else 0)
        back = (-step[0], -step[1])
        full = pad(x, (0, 0, 0, wide, 0, tall)).roll(back, (1, 2))
        region = _regions((h, w), (tall, wide), step, x.device).roll(back, (0, 1))
        windows, same = _windows(full, s), _windows(region[None, ..., None], s)[..., 0]
        hidden = (same[:, :, None] != same[:, None, :]).repeat(n, 1, 1)[:, None]
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias[:, self.place].masked_fill(hidden, -1e4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        merged = _unwindowed(self.out(mixed.transpose(1, 2).flatten(2)), s, h + tall, w + wide)
        return merged.roll(step, (1, 2))[:, :h, :w]


def _regions(size: tuple[int, int], extra: tuple[int, int], step: tuple[int, int], device: torch.device) -> Tensor:
    """Which positions may see each other: after a shift opposite edges meet in one window, and padding sees none."""
    rows, columns = (torch.zeros(a + b, dtype=torch.int64, device=device) for a, b in zip(size, extra, strict=True))
    rows[: step[0]], columns[: step[1]] = 1, 1
    rows[size[0] :], columns[size[1] :] = 2, 2
    return 3 * rows[:, None] + columns


def _windows(x: Tensor, s: int) -> Tensor:
    """`(n, h, w, d)` as `(n * windows, s * s, d)`."""
    cut = x.unflatten(1, (-1, s)).unflatten(3, (-1, s))
    return cut.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)


def _unwindowed(windows: Tensor, s: int, h: int, w: int) -> Tensor:
    cut = windows.reshape(-1, h // s, w // s, s, s, windows.shape[-1])
    return cut.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3)
