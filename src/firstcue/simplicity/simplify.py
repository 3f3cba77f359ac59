"""A network that makes images simpler while a classifier learns: what it leaves is what the classifier needs."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor
from firstcue._progress import Progress, silent
from firstcue.forward import left_as_found, seeded
from firstcue.simplicity._feeding import first_images
from firstcue.simplicity.density import Density, bits, require_differentiable
from firstcue.simplicity.fitting import Augment, Plan, fit
from firstcue.simplicity.gating import warnings_of
from firstcue.simplicity.heads import HEADS, SimplifierNet
from firstcue.simplicity.strategies import STRATEGIES

MEASURED = 500
"""Images whose mean bits a share is taken of."""


@dataclass(frozen=True)
class Simplified:
    """A simplifier and the classifier that it was trained beside."""

    simplifier: nn.Module
    """From images to images on the lattice of grey levels."""

    classifier: nn.Module | None
    """A trained copy of the one that was given; as it was where it was frozen."""

    history: tuple[Mapping[str, Any], ...]
    """A row for each step: `phase`, `loss`, `lam`, `gate` (its mean: the share of the images' bits that counted),
    `bits_per_pixel` (of the images whose gate was open; None where none was), `skipped` (whether the step was), and what the
    strategy looked at; `training_monitor` draws it."""

    warnings: tuple[str, ...]
    """What to know before believing the result, each with its remedy."""

    tau: float | None
    """Tolerance of the gate that looks ahead."""

    skipped: int
    """Steps not taken because something was not finite."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for."""

    def __call__(self, x: Any, *, batch_size: int = 256) -> Any:
        """Simplified images, in the type of `x`.

        Args:
            x: `(n, c, h, w)` in [0, 1], tensor or array.
            batch_size: Images per pass.
        """
        images = as_tensor(x)
        like = next(self.simplifier.parameters())
        with left_as_found(self.simplifier):
            parts = [self.simplifier(part.to(like.device, like.dtype)) for part in images.split(batch_size)]
        found = torch.cat(parts).to(images.device, images.dtype)
        return found if isinstance(x, Tensor) else found.numpy().astype(np.asarray(x).dtype)

    def as_module(self) -> nn.Module:
        """One module that simplifies images and then classifies them.

        Raises:
            ValueError: If there is no classifier.
        """
        if self.classifier is None:
            raise ValueError("there is no classifier: this simplifier was fitted to reconstruct.")
        return nn.Sequential(self.simplifier, self.classifier)


@dataclass(frozen=True)
class Simplifier:
    """What a simplifier is made of; `fit` trains one.

    Args:
        head: How the network's maps change an image: `mix` (contrast and brightness by pixel), `mix_grey` (the same, and
            grey is cheap), `res` (a change of the logit), `blend` (paint over) or `latent` (in the latents of a flow). All
            leave every image as it is at the start.
        width: Channels of the network at full size; doubled at each halving.
        scales: Sizes at which the network works.

    Source:
        https://arxiv.org/abs/2201.05610

    Example:
        >>> from firstcue import load_density
        >>> images, y = torch.rand(64, 1, 8, 8), torch.arange(64) % 2
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> fit = Simplifier("mix", width=4, scales=2).fit(classifier, load_density("dct"), (images, y), steps=2, warmup=0)
        >>> fit(images).shape, len(fit.history)
        (torch.Size([64, 1, 8, 8]), 2)
    """

    head: str = "mix"
    width: int = 16
    scales: int = 3

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"there is no head {self.head!r}; heads: {', '.join(HEADS)}.")
        if self.width < 1 or self.scales < 1:
            raise ValueError(f"`width` and `scales` are at least 1; got {self.width} and {self.scales}.")

    def build(self, shape: tuple[int, ...], density: Density | None = None, *, seed: int = 0) -> SimplifierNet:
        """The network before any training, which changes no image.

        Args:
            shape: `(c, h, w)` of the images.
            density: Whose latents are changed, for the head `latent`; says how many grey levels there are.
            seed: Of the first weights.
        """
        widths = [self.width * 2**k for k in range(self.scales)]
        with seeded(seed):
            head = HEADS[self.head](shape[0], widths, density)
        return SimplifierNet(head, shape, 256 if density is None else density.levels)

    def fit(
        self,
        classifier: nn.Module | None,
        density: Density | None,
        batches: Any,
        *,
        strategy: str = "lookahead",
        lam: int | float = 1.0,
        tau: int | float | str = "auto",
        d_max: int | float = 0.2,
        bits_target: int | float | None = None,
        share: int | float | None = None,
        warmup: int = 200,
        steps: int = 1000,
        ramp: int | None = None,
        frozen: bool = False,
        augment: Augment | None = None,
        batch_size: int = 32,
        rate: float = 1e-3,
        classifier_rate: float = 1e-3,
        virtual_rate: float = 0.1,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Simplified:
        """Train a simplifier, and a copy of the classifier beside it.

        - "lookahead": the classifier takes a step on simplified images and must then solve the originals. It is trained
          on simplified images.
        - "act_grad": the activations of the classifier times their gradients must stay what they were on the original. It
          is trained on originals, or not at all (`frozen`): the simplifier then explains it, one pass for each image.
        - "reconstruction": pixels must stay what they were; no classifier. A baseline.

        Batch normalisation keeps its statistics from the moment bits are counted, and dropout drops the same units in all
        passes of a step.

        Args:
            classifier: From images in [0, 1] to logits. If yours wants standardised images, put that step before it:
                `nn.Sequential(Standardise(), model)`. Left as it is; a copy is trained.
            density: Says how many bits an image takes. Not asked while `lam` is 0.
            batches: A `Batch`, a pair `(x, y)`, or an iterable of those that can be read again and again (a DataLoader).
                With `frozen`, images alone are enough: what counts is the class that the classifier predicts.
            strategy: What an image has to keep: "lookahead", "act_grad" or "reconstruction".
            lam: Weight of the bits per pixel. How fast bits fall at a weight depends on the task and on the density.
            tau: "lookahead": the loss at which an image is out of reach of the bits term; "auto" takes the median loss
                when bits are switched on, at least 0.1.
            d_max: "act_grad": the distance (0 to 2) beyond which an image is out of reach of the bits term; the knob to
                turn first.
            bits_target: Mean bits per image to arrive at (total, not per pixel); `lam` is then adapted.
            share: The same as a share of the bits that the first 500 images take, such as 0.7.
            warmup: Plain steps of the classifier before that: without them the gate stays shut.
            steps: Of the simplifier.
            ramp: Steps over which the weight rises; a fifth of `steps` for "act_grad", else 0.
            frozen: Leave the classifier as it is ("act_grad" only).
            augment: From images and a `torch.Generator` to images, differentiable. Applied with the same draws to an
                original and to what was made of it; bits are of the image before it.
            batch_size: Rows of a mini-batch where `batches` are rows.
            rate: Of the simplifier's Adam.
            classifier_rate: Of the classifier's AdamW.
            virtual_rate: Of the step that is looked ahead to.
            seed: Of everything random; the global random state is left as found.
            progress: Told how far it is.

        Returns:
            The simplifier, the trained copy, a row for each step, and warnings (also raised as `UserWarning`), for example
            of a gate that stayed shut.

        Raises:
            ValueError: If a setting is impossible, images are outside [0, 1], or the density has no gradient.
        """
        settings = {k: v for k, v in locals().items() if isinstance(v, int | float | str | type(None))}
        _require_sense(strategy, lam, tau, d_max, bits_target, share, steps, frozen, classifier, density)
        if lam > 0 and density is not None:
            require_differentiable(density, "simplifying")
        if share is not None and density is not None:
            bits_target = share * _mean_bits(density, batches)
        plan = Plan(
            strategy=strategy,
            lam=float(lam),
            tau=None if tau == "auto" else float(tau),
            d_max=float(d_max),
            bits_target=bits_target,
            warmup=0 if frozen or classifier is None else warmup,
            steps=steps,
            ramp=(steps // 5 if strategy == "act_grad" else 0) if ramp is None else ramp,
            frozen=frozen,
            augment=augment,
            batch_size=batch_size,
            rate=rate,
            classifier_rate=classifier_rate,
            virtual_rate=virtual_rate,
            seed=seed,
        )
        trained = None if strategy == "reconstruction" else copy.deepcopy(classifier)
        net = self.build(_shape(density, batches), density, seed=seed)
        run = fit(net, trained, density, batches, plan, progress)
        told = (*warnings_of(run.history, strategy, run.pressure.target), *run.notes)
        for line in told:
            warnings.warn(line, stacklevel=2)
        return Simplified(
            net.eval(),
            trained,
            tuple(run.history),
            told,
            run.tau if strategy == "lookahead" else None,
            run.skipped,
            {**settings, "head": self.head, "width": self.width, "scales": self.scales},
        )


def simplified_training(
    classifier: nn.Module, density: Density, data: Any, *, head: str = "mix", width: int = 16, **settings: Any
) -> Simplified:
    """Train a classifier beside a simplifier: `Simplifier(head, width).fit(...)` in one call.

    Args:
        classifier: As for `Simplifier.fit`.
        density: Says how many bits an image takes.
        data: Rows or batches.
        head: How images are changed.
        width: Of the network.
        settings: As for `Simplifier.fit`.

    Returns:
        The fit; `.classifier` is the trained copy and `.as_module()` simplifies and then classifies.

    Raises:
        ValueError: As `Simplifier.fit`.
    """
    return Simplifier(head, width).fit(classifier, density, data, **settings)


def _shape(density: Density | None, batches: Any) -> tuple[int, ...]:
    if density is not None and density.shape is not None:
        return tuple(density.shape)
    images = first_images(batches)
    if images is None:
        raise ValueError(
            "the shape of the images is not known: `batches` is an iterator that can be read once only, and this density "
            "measures images of any size. Give a Batch, a DataLoader or a list."
        )
    return tuple(images.shape[1:])


def _mean_bits(density: Density, batches: Any) -> float:
    images = first_images(batches, MEASURED)
    if images is None:
        raise ValueError(
            "a `share` of the bits asks what the images take, but `batches` is an iterator that can be read once only. Give a "
            "Batch, a DataLoader or a list, or a `bits_target`."
        )
    return float(bits(density, images).mean())


def _require_sense(
    strategy: str,
    lam: int | float,
    tau: int | float | str,
    d_max: int | float,
    bits_target: int | float | None,
    share: int | float | None,
    steps: int,
    frozen: bool,
    classifier: nn.Module | None,
    density: Density | None,
) -> None:
    wrong = {
        f"there is no strategy {strategy!r}; strategies: {', '.join(STRATEGIES)}.": strategy not in STRATEGIES,
        'only "act_grad" explains a frozen classifier; the others train it.': frozen and strategy == "lookahead",
        "`classifier` is None; only strategy='reconstruction' does without one.": classifier is None
        and strategy != "reconstruction",
        f"`lam` is a weight, 0 or more; got {lam}.": lam < 0,
        f'`tau` is a loss above 0, or "auto"; got {tau!r}.': tau != "auto"
        and not (not isinstance(tau, str) and tau > 0),
        f"`d_max` is a distance above 0; got {d_max}.": d_max <= 0,
        f"`steps` is at least 1; got {steps}.": steps < 1,
        "`lam` is above 0, so a density is needed to count bits with.": lam > 0 and density is None,
        "`bits_target` and `share` need `lam` above 0 as the weight to start from.": lam == 0
        and not (bits_target is None and share is None),
        "give `bits_target` or `share`, not both.": bits_target is not None and share is not None,
        f"`share` is a share of the bits, above 0 and at most 1; got {share}.": share is not None
        and not 0 < share <= 1,
        f"`bits_target` is a number of bits per image, above 0; got {bits_target}.": bits_target is not None
        and bits_target <= 0,
    }
    for message, found in wrong.items():
        if found:
            raise ValueError(message)
