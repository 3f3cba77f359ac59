"""Every pixel by itself, with the grey levels seen there: the simplest density that is fitted, and the one to beat."""

from typing import Any

import torch
from torch import Tensor

from firstcue.simplicity.density import Uniform, require_inputs
from firstcue.simplicity.quantising import grey_levels


class Independent:
    """A histogram of grey levels for each pixel, or one for all pixels of a channel.

    Args:
        probabilities: `(c, h, w, levels)` for each pixel, or `(c, 1, 1, levels)` for all of a channel; each row sums to 1.

    Raises:
        ValueError: If rows do not sum to 1 or hold a zero.

    Example:
        >>> images = torch.tensor([0.0, 0.0, 0.0, 1.0]).reshape(4, 1, 1, 1)
        >>> density = Independent.fit(images, levels=2, smoothing=0.0)
        >>> density.bits(images)[[0, -1]]
        tensor([0.4150, 2.0000])
    """

    differentiable = True

    def __init__(self, probabilities: Tensor) -> None:
        if probabilities.ndim != 4 or probabilities.shape[-1] < 2:
            raise ValueError(f"`probabilities` has shape {tuple(probabilities.shape)}; (c, h, w, levels) is needed.")
        if not bool((probabilities > 0).all()) or not bool(
            torch.allclose(probabilities.sum(-1).double(), _one(), atol=1e-5)
        ):
            raise ValueError("`probabilities` of each pixel must be positive and sum to 1; smooth the counts first.")
        self.log2 = probabilities.double().log2()
        self.levels = probabilities.shape[-1]
        c, h, w = probabilities.shape[:3]
        self.shared = (h, w) == (1, 1)
        self.shape: tuple[int, ...] | None = None if self.shared else (c, h, w)

    @classmethod
    def fit(
        cls, images: Any, *, shared: bool = False, smoothing: int | float = 1.0, levels: int = 256
    ) -> "Independent":
        """Count grey levels.

        Args:
            images: `(n, c, h, w)` in [0, 1].
            shared: One histogram for all pixels of a channel: images of any size may then be measured.
            smoothing: Images' worth of weight that is spread evenly over the levels, so that none is impossible.
            levels: Number of grey levels.

        Raises:
            ValueError: If there are no images, or a level was never seen and `smoothing` is 0.
        """
        known = require_inputs(Uniform(levels), images, "images")
        if len(known) == 0:
            raise ValueError("`images` is empty; at least one image is needed to count grey levels.")
        q = grey_levels(known.double(), levels).long()
        c, h, w = q.shape[1:]
        cells = torch.arange(c).view(1, c, 1, 1) if shared else torch.arange(c * h * w).view(1, c, h, w)
        shape = (c, 1, 1, levels) if shared else (c, h, w, levels)
        flat = (cells.to(q.device) * levels + q).flatten()
        counts = flat.bincount(minlength=int(torch.tensor(shape).prod())).reshape(shape).double() + smoothing / levels
        if bool((counts == 0).any()):
            raise ValueError("some grey levels were never seen and would be impossible; give `smoothing` above 0.")
        return cls(counts / counts.sum(-1, keepdim=True))

    @property
    def config(self) -> dict[str, Any]:
        """Nothing: the histogram says it all."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """The histogram, in bits."""
        return {"log2": self.log2}

    @classmethod
    def from_stored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "Independent":
        """From what `config` and `state_dict` said."""
        made = cls(tensors["log2"].exp2())
        made.log2 = tensors["log2"]
        return made

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact; the gradient is the slope between the neighbouring grey levels."""
        return self.bits_map(x).sum(dim=(1, 2))

    def bits_map(self, x: Tensor) -> Tensor:
        """`(n, h, w)`, summed over channels."""
        if x.shape[1] != self.log2.shape[0]:
            raise ValueError(f"images have {x.shape[1]} channels, this histogram {self.log2.shape[0]}.")
        q = grey_levels(x, self.levels)
        level = q.detach().long()
        cost, above, below = (
            self._cost((level + step).clamp(0, self.levels - 1), x.dtype, x.device) for step in (0, 1, -1)
        )
        return (cost + 0.5 * (above - below) * (q - q.detach())).sum(dim=1)

    def _cost(self, level: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        n, c, h, w = level.shape
        table = -self.log2.to(device).expand(c, h, w, self.levels)
        return table.unsqueeze(0).expand(n, -1, -1, -1, -1).gather(-1, level.unsqueeze(-1)).squeeze(-1).to(dtype)


def _one() -> Tensor:
    return torch.ones((), dtype=torch.float64)
