"""How a network's maps change an image. Every head starts as the identity: what it takes away, it has learnt to."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, elu, softplus

from firstcue.simplicity.quantising import quantised
from firstcue.simplicity.unet import UNet

OPEN = 1e-3
"""Grey values are held this far from 0 and 1 before their logit is taken: less than half of a grey level."""

PLACES = 4
"""Side of the coarse view from which latents without places are changed."""

SHUT = -6.5
"""Start of a blend's logit: its share of 0.15 % changes no grey level."""


def open_logit(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logit of values held within (0, 1)."""
    return x.clamp(OPEN, 1 - OPEN).logit()


class Res(nn.Module):
    """`sigmoid(logit(x) + w U(x))` with a scalar w that starts at 0."""

    def __init__(self, channels: int, widths: Sequence[int], density: Any = None) -> None:
        super().__init__()
        self.body = UNet(channels, channels, widths)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (open_logit(x) + self.weight * self.body(x)).sigmoid()


class Mix(nn.Module):
    """`sigmoid(f logit(x) + t)` with maps f and t that start at 1 and 0."""

    grey = False

    def __init__(self, channels: int, widths: Sequence[int], density: Any = None) -> None:
        super().__init__()
        self.channels = channels
        self.body = _from_zero(UNet(channels, 2 * channels + self.grey, widths))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        logit, maps = open_logit(x), self.body(x)
        added, factor = maps[:, : self.channels], maps[:, self.channels : 2 * self.channels]
        mixed = (1 + factor) * logit + added
        return (mixed + maps[:, -1:] * logit.mean(dim=1, keepdim=True) if self.grey else mixed).sigmoid()


class MixGrey(Mix):
    """`mix` with a further map times the mean logit over channels, so that going grey is cheap."""

    grey = True


class Blend(nn.Module):
    """`g sigmoid(t) + (1 - g) x` with maps g, near 0 at the start, and t."""

    def __init__(self, channels: int, widths: Sequence[int], density: Any = None) -> None:
        super().__init__()
        self.body = _from_zero(UNet(channels, 2 * channels, widths))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        share, painted = self.body(x).chunk(2, dim=1)
        share = (share + SHUT).sigmoid()
        return share * painted.sigmoid() + (1 - share) * x


class Latent(nn.Module):
    """`decode(a + z s)` where z are the latents of a flow, and a and s, from the image, start at 0 and 1."""

    def __init__(self, channels: int, widths: Sequence[int], density: Any = None) -> None:
        super().__init__()
        if not (hasattr(density, "encode") and hasattr(density, "decode")):
            raise ValueError(
                f"the head `latent` changes an image in the latents of a flow; {type(density).__name__} has no `encode` and "
                f'`decode`. Take fc.load_density("gray28-glow"), fit a flow (fc.fit_density(images, kind="glow")), or '
                f"another head."
            )
        # in a tuple: the flow's weights are not the simplifier's
        self._density = (density,)
        self.body = UNet(channels, widths[0], widths)
        self.maps = nn.ModuleList(_reader(z, widths[0]) for z in _example_latents(density))
        for layer in self.maps:
            _zero(layer)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        density, features = self._density[0], elu(self.body(x))
        latents = density.encode(x)
        changed = [self._change(z, features, layer) for z, layer in zip(_listed(latents), self.maps, strict=True)]
        return density.decode(changed[0] if isinstance(latents, Tensor) else type(latents)(changed))

    def _change(self, latent: Tensor, features: Tensor, layer: nn.Module) -> Tensor:
        side = (PLACES, PLACES) if latent.ndim == 2 else (latent.shape[2], latent.shape[3])
        pooled = adaptive_avg_pool2d(features, side)
        added, scale = layer(pooled.flatten(1) if latent.ndim == 2 else pooled).chunk(2, dim=1)
        return added + latent * softplus(scale + _SOFTPLUS_OF_ONE)


_SOFTPLUS_OF_ONE = 0.5413248546129181
"""log(e - 1), where softplus is 1."""


def _reader(latent: Tensor, width: int) -> nn.Module:
    """From features to a change of each latent: place by place for maps, from a coarse view of all for vectors."""
    if latent.ndim == 2:
        return nn.Linear(PLACES * PLACES * width, 2 * latent.shape[1])
    return nn.Conv2d(width, 2 * latent.shape[1], 1)


def _example_latents(density: Any) -> list[Tensor]:
    if density.shape is None:
        raise ValueError("the head `latent` needs a density of images of a known size (`density.shape`).")
    like = next(iter(density.parameters()), torch.zeros(())) if isinstance(density, nn.Module) else torch.zeros(())
    with torch.no_grad():
        return _listed(density.encode(torch.full((1, *density.shape), 0.5, device=like.device)))


def _listed(latents: Any) -> list[Tensor]:
    return [latents] if isinstance(latents, Tensor) else list(latents)


def _from_zero(net: UNet) -> UNet:
    _zero(net.last)
    return net


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "res": Res,
    "mix": Mix,
    "mix_grey": MixGrey,
    "blend": Blend,
    "latent": Latent,
}


class SimplifierNet(nn.Module):
    """From images to simpler images: a head, then the lattice of grey levels.

    Args:
        head: One of `HEADS`, built.
        shape: `(c, h, w)` of the images that it was built for; other heights and widths are possible but for `latent`.
        levels: Number of grey levels.
    """

    def __init__(self, head: nn.Module, shape: tuple[int, ...], levels: int = 256) -> None:
        super().__init__()
        self.head, self.shape, self.levels = head, tuple(shape), levels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Images on the lattice of grey levels; gradients pass straight through the rounding."""
        if x.ndim != 4 or x.shape[1] != self.shape[0]:
            raise ValueError(
                f"this simplifier was made for images (n, {', '.join(map(str, self.shape))}); got {tuple(x.shape)}."
            )
        return quantised(self.head(x), self.levels)
