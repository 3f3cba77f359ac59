"""Small relatives of VGG and ResNet for images of 28 x 28 or 32 x 32 pixels."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu


def _convolution(a: int, b: int, batch_norm: bool, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(a, b, 3, stride, padding=1, bias=not batch_norm)]
    nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    if batch_norm:
        layers.append(nn.BatchNorm2d(b))
    else:
        nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


class Vgg(nn.Module):
    """Stages of 3 x 3 convolutions with ReLU, each followed by pooling; then a mean over the map and a linear head.

    Args:
        channels: Of the input.
        classes: Number of outputs.
        widths: Channels of each stage.
        repeats: Convolutions per stage.
        batch_norm: After every convolution.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int], repeats: int, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            for _ in range(repeats):
                layers += [_convolution(channels, width, batch_norm), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean(dim=(2, 3)))


class Block(nn.Module):
    """Two convolutions beside a shortcut; without normalisation the second starts at zero, so that the block does nothing."""

    def __init__(self, a: int, b: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.one, self.two = _convolution(a, b, batch_norm, stride), _convolution(b, b, batch_norm)
        self.shortcut = nn.Identity() if a == b and stride == 1 else nn.Conv2d(a, b, 1, stride, bias=False)
        if not batch_norm:
            nn.init.zeros_(self.two[0].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.shortcut(x) + self.two(relu(self.one(x))))


class ResNet(nn.Module):
    """Residual stages, each halving the map but the first; then a mean over the map and a linear head.

    Args:
        channels: Of the input.
        classes: Number of outputs.
        widths: Channels of each stage.
        repeats: Blocks per stage.
        batch_norm: After every 3 x 3 convolution.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int], repeats: int, batch_norm: bool) -> None:
        super().__init__()
        self.stem = _convolution(channels, widths[0], batch_norm)
        blocks, before = [], widths[0]
        for stage, width in enumerate(widths):
            for place in range(repeats):
                blocks.append(Block(before, width, 2 if stage and place == 0 else 1, batch_norm))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(relu(self.stem(x))).mean(dim=(2, 3)))


NETS = {"vgg": Vgg, "resnet": ResNet}
