"""Teach a density what your images look like, in minutes: with a clock, early stopping, and checkpoints to resume from."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstcue._progress import Progress, bar
from firstcue.simplicity._fit_network import Plan, State, Stream, fit_network
from firstcue.simplicity.autoregressive import PixelAR
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.density import Uniform, require_inputs
from firstcue.simplicity.glow import ImageGlow
from firstcue.simplicity.independent import Independent

FEWEST = 10
HELD_OUT_SHARE = 0.1
MOST_HELD_OUT = 500
BATCH = 32
LEARNING_RATE = {"autoregressive": 2e-3, "glow": 1e-3}


def fit_density(
    images: Any,
    kind: str = "autoregressive",
    *,
    minutes: int | float = 5,
    steps: int | None = None,
    held_out: Any = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Any:
    """A density of images like these.

    A density that has only ever seen one kind of image measures how typical an image is, not how simple: to compare images of
    different kinds, let it see all of them, and simple ones. `release_gate` tells the two apart.

    Args:
        images: `(n, c, h, w)` in [0, 1].
        kind: "autoregressive" (a `PixelAR`: exact bits, and a map of them), "glow" (an `ImageGlow`: an inverse), "dct" (a
            `DCTLaplace` with fitted scales) or "independent" (a histogram per pixel); the last two take seconds.
        minutes: How long to train on the clock; ends early when held-out bits no longer fall.
        steps: A number of steps instead of minutes, so that one machine gives the same density every time.
        held_out: Images of the same shape on which training is judged; a tenth of `images`, at most 500, when absent.
        seed: Of first weights, batches and noise. No other source of randomness is touched.
        checkpoint: A file. If it exists, the run goes on from there, else it begins; it is kept 40 times during the run.
        progress: Told the held-out bits and the fraction done; a bar on the terminal when absent.
        **settings: For the density, for example `hidden=48`.

    Returns:
        The density that was best on the held-out images, in evaluation mode and frozen.

    Raises:
        ValueError: If images are not in [0, 1] or fewer than ten, sizes do not fit the kind, the checkpoint is of another run,
            or training never gave finite bits.

    Warns:
        UserWarning: If the density is no better than writing down each value.

    Example:
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 4
        >>> density = fit_density(images, steps=20, hidden=8, blocks=1)
        >>> float(density.bits(images).mean()) < 8 * 64
        True
    """
    known = require_inputs(Uniform(), images, "images")
    if kind in _CLOSED:
        return _CLOSED[kind](known, **settings)
    if kind not in LEARNING_RATE:
        raise ValueError(f'`kind` is one of "autoregressive", "glow", "dct" and "independent"; got {kind!r}.')
    if minutes <= 0 or (steps is not None and steps < 1):
        raise ValueError(f"`minutes` and `steps` have to be positive; got {minutes} and {steps}.")
    density = _built(kind, known, seed, settings)
    learnt, judged = _divided(known, held_out, seed)
    plan = Plan(kind, density.config, None if steps else float(minutes), steps, BATCH, LEARNING_RATE[kind], seed)
    with bar() as shown:
        state = fit_network(
            density, _drawn_from(learnt), judged, plan, checkpoint=checkpoint, progress=progress or shown
        )
    _judge(state, density.levels)
    return density.requires_grad_(False).eval()


_CLOSED: dict[str, Callable[..., Any]] = {"dct": DCTLaplace.fit, "independent": Independent.fit}


def _built(kind: str, images: Tensor, seed: int, settings: dict[str, Any]) -> PixelAR | ImageGlow:
    _, c, h, w = images.shape
    if kind == "autoregressive":
        return PixelAR(c, seed=seed, **settings)
    scales = max((s for s in (1, 2) if h % 2**s == 0 and w % 2**s == 0), default=0)
    if not scales and "scales" not in settings:
        raise ValueError(
            f'"glow" halves images and needs an even height and width; these are {h} x {w}. Pad them by a row or a column, or '
            f'take kind="autoregressive", which fits any size.'
        )
    return ImageGlow((c, h, w), **{"scales": scales, "seed": seed, **settings})


def _divided(images: Tensor, held_out: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Images to learn from and images to be judged on."""
    if len(images) < FEWEST:
        raise ValueError(f"`images` has {len(images)} images; at least {FEWEST} are needed to learn a density.")
    if held_out is None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        count = min(MOST_HELD_OUT, max(1, int(HELD_OUT_SHARE * len(images))))
        return images[order[count:]], images[order[:count]]
    judged = require_inputs(Uniform(), held_out, "held_out")
    if judged.shape[1:] != images.shape[1:] or len(judged) == 0:
        raise ValueError(
            f"`held_out` has shape {tuple(judged.shape)}, but the images have {tuple(images.shape)}; the same channels and size "
            f"are needed, and at least one image."
        )
    return images, judged


def _drawn_from(images: Tensor) -> Stream:
    def draw(count: int, generator: torch.Generator) -> Tensor:
        return images[torch.randint(0, len(images), (count,), generator=generator)].float()

    return draw


def _judge(state: State, levels: int) -> None:
    """Say when training did not work."""
    plain = torch.tensor(float(levels)).log2().item()
    if not state.best < float("inf"):
        raise ValueError(
            f"none of {state.step} steps gave finite held-out bits ({state.skipped} were skipped). Check the images for values that "
            f"hardly vary, or try another `seed`."
        )
    if state.best > plain:
        warnings.warn(
            f"after {state.step} steps the density needs {state.best:.2f} bits per value; writing them down takes {plain:.0f}. It "
            f"has learnt nothing yet: give it more minutes.",
            stacklevel=3,
        )
