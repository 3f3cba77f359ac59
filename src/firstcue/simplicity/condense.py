"""A data set in a few images: made so that a network learns from them what it learns from all, in as few bits as asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from firstcue._checks import encode_labels, require_rows
from firstcue._progress import Progress, silent
from firstcue.forward import predict, seeded
from firstcue.simplicity.density import Density, bits, require_differentiable, require_inputs
from firstcue.simplicity.matching import LOSSES, Teaching, convnet
from firstcue.simplicity.quantising import quantised

Factory = Callable[[], nn.Module]
FIRST_SPREAD = 0.2
"""Standard deviation of the logits of the first images."""
MATCHING = 10.0


@dataclass(frozen=True, eq=False)
class Condensed:
    """A small set that stands for a large one."""

    images: Any
    """`(classes * per_class, c, h, w)` on the lattice of grey levels, class after class."""

    labels: Any
    """`(classes * per_class,)` class ids."""

    classes: tuple[str, ...]
    """Name of each id."""

    bits: Any
    """`(classes * per_class,)` bits of each image."""

    history: tuple[dict[str, float], ...]
    """A row per step: `match` (per class; with "lookahead", the cross-entropy of real rows), `bits_per_value`."""

    skipped: int = 0
    """Steps not taken because something was not finite."""

    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def total_bits(self) -> float:
        """What storing the images takes; labels take log2(classes) bits each besides."""
        return float(self.bits.sum())

    def __len__(self) -> int:
        return len(self.images)


def condense(
    images: Tensor | np.ndarray,
    labels: Any,
    density: Density | None,
    per_class: int = 1,
    lam: int | float = 100.0,
    steps: int = 1000,
    loss: str = "match",
    seed: int = 0,
    *,
    network: Factory | None = None,
    real_batch: int = 32,
    updates: int | None = None,
    inner_steps: int | None = None,
    rate: float = 0.1,
    network_rate: float = 0.01,
    progress: Progress = silent,
) -> Condensed:
    """Make a few images per class from which fresh networks learn as from all of them, and which take few bits.

    Their gradients are to match those of real rows of the same class in networks with fresh weights. The matching has weight
    `10 / (1 + lam)` per class and class, the mean bits per value `2 lam / (1 + lam)`: at 0 only gradients count, and from
    about 100 on the bits bite, because the matching sums over all rows of all weights.

    Args:
        images: `(n, c, h, w)` in [0, 1].
        labels: `(n,)` of any kind.
        density: Gives the bits and their gradient; may be None where `lam` is 0 (bits are then NaN).
        per_class: Images to make of each class.
        lam: Weight of the bits.
        steps: Updates of the images.
        loss: "match" (cosine of each row of weights), "grad_dot" (dot product), or "lookahead" (real rows are to be solved
            after a step on the made images, for which no gradients are matched).
        seed: Of images, rows and networks.
        network: Makes a fresh network of `classes` outputs; it draws from torch's global generator, which is seeded for it.
            `convnet` (up to three convolutional blocks of width 32) when None.
        real_batch: Real rows of each class per step.
        updates: Updates before the network is drawn afresh; 1 for one image per class, else 10.
        inner_steps: Steps that the network learns on the images between two updates; 50 where `updates` is above 1.
        rate: Of Adam over the images' logits.
        network_rate: Of the network's SGD (momentum 0.5).
        progress: Told the fraction done.

    Returns:
        The images, their labels and bits. Global random state is left as found.

    Raises:
        ValueError: If images are not in [0, 1], there is one class only, a number is out of range, or bits are weighted
            without a density that has gradients.

    Source:
        Zhao, Mopuri and Bilen (2020), "Dataset condensation with gradient matching", https://arxiv.org/abs/2006.05929; the bits
        after Schirrmeister et al. (2022), https://arxiv.org/abs/2201.05610.

    Example:
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> made = condense(torch.rand(20, 1, 8, 8), [0, 1] * 10, DCTLaplace(), steps=2)
        >>> made.images.shape, made.labels.tolist(), made.total_bits > 0
        (torch.Size([2, 1, 8, 8]), [0, 1], True)
    """
    x, y, names = _checked(images, labels, density, per_class, lam, steps, loss, real_batch)
    several = 10 if per_class > 1 else 1
    plan = _Plan(
        density, float(lam), steps, LOSSES[loss], network or convnet(tuple(x.shape[1:]), len(names)), real_batch,
        updates or several, 50 if inner_steps is None else inner_steps, rate, network_rate,
    )  # fmt: skip
    with seeded(seed), torch.enable_grad():
        logits, history, skipped = _condensed(plan, x, y, len(names), per_class, seed, progress)
    made = quantised(logits.detach().sigmoid(), 256 if density is None else density.levels)
    ids = torch.arange(len(names)).repeat_interleave(per_class)
    cost = torch.full((len(made),), torch.nan) if density is None else bits(density, made, seed=seed)
    given = (lambda t: t) if isinstance(images, Tensor) else (lambda t: t.numpy())
    settings = {"per_class": per_class, "lam": float(lam), "steps": steps, "loss": loss, "seed": seed}
    return Condensed(given(made), given(ids), names, given(cost), tuple(history), skipped, settings)


@dataclass(frozen=True)
class _Plan:
    density: Density | None
    lam: float
    steps: int
    loss: Teaching
    network: Factory
    real_batch: int
    updates: int
    inner_steps: int
    rate: float
    network_rate: float


def _condensed(
    plan: _Plan, x: Tensor, y: Tensor, classes: int, per_class: int, seed: int, progress: Progress
) -> tuple[Tensor, list[dict[str, float]], int]:
    generator = torch.Generator().manual_seed(seed)
    members = [(y == c).nonzero()[:, 0] for c in range(classes)]
    logits = FIRST_SPREAD * torch.randn(classes * per_class, *x.shape[1:], generator=generator)
    logits = logits.to(x.dtype).requires_grad_()
    adam = torch.optim.Adam([logits], lr=plan.rate, betas=(0.5, 0.99), eps=1e-6)
    history, skipped, network = [], 0, plan.network()
    for step in range(plan.steps):
        if step % plan.updates == 0:
            network = plan.network()
        elif plan.inner_steps:
            _learn(network, logits.detach().sigmoid(), per_class, plan)
        row, gradient = _gradient(plan, network, logits, x, members, generator)
        history.append(row)
        if bool(gradient.isfinite().all()):
            logits.grad = gradient
            adam.step()
        else:
            skipped += 1
        progress("condensing", (step + 1) / plan.steps)
    return logits, history, skipped


def _gradient(
    plan: _Plan,
    network: nn.Module,
    logits: Tensor,
    x: Tensor,
    members: Sequence[Tensor],
    generator: torch.Generator,
) -> tuple[dict[str, float], Tensor]:
    """Of the whole loss in the logits of the images."""
    images = quantised(logits.sigmoid())
    noise = torch.rand(images.shape, generator=generator, dtype=images.dtype) / 256  # as real images have below a level
    leaf = images.detach().requires_grad_()
    drawn = [
        x[rows[torch.randint(len(rows), (min(plan.real_batch, len(rows)),), generator=generator)]] for rows in members
    ]
    shown = (leaf.detach() + noise).requires_grad_()
    found, gradient = plan.loss(network, shown, drawn, MATCHING / (1 + plan.lam) * len(members))
    per_value = torch.nan
    if plan.density is not None and plan.lam > 0:
        mean = plan.density.bits(leaf, generator=generator).mean() / leaf[0].numel()
        gradient = gradient + torch.autograd.grad(2 * plan.lam / (1 + plan.lam) * mean, leaf)[0]
        per_value = float(mean.detach())
    return {"match": found, "bits_per_value": per_value}, torch.autograd.grad(images, logits, gradient)[0]


def _learn(network: nn.Module, images: Tensor, per_class: int, plan: _Plan) -> None:
    """A few steps of the network on the images made so far."""
    y = torch.arange(len(images) // per_class).repeat_interleave(per_class)
    sgd = torch.optim.SGD(network.parameters(), lr=plan.network_rate, momentum=0.5)
    for _ in range(plan.inner_steps):
        sgd.zero_grad()
        cross_entropy(network(images - 0.5), y).backward()
        sgd.step()


def evaluate_condensed(
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    test_images: Tensor | np.ndarray,
    test_labels: Tensor | np.ndarray,
    *,
    networks: int = 3,
    steps: int = 300,
    network: Factory | None = None,
    rate: float = 0.01,
    batch_size: int = 256,
    seed: int = 0,
) -> list[float]:
    """Accuracies on test images of fresh networks that learn from these images alone.

    Args:
        images: `(m, c, h, w)` in [0, 1]: a condensed set, or real rows to compare it with.
        labels: `(m,)` class ids.
        test_images: `(n, c, h, w)` in [0, 1].
        test_labels: `(n,)` class ids.
        networks: How many, each with its own weights.
        steps: Of SGD with momentum 0.9, each on at most `batch_size` images.
        network: Makes a fresh network, as for `condense`.
        rate: Of SGD.
        batch_size: Images of one step.
        seed: Of weights and order.

    Returns:
        One accuracy per network, in [0, 1].

    Raises:
        ValueError: If there are no images, or lengths differ.

    Example:
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> len(evaluate_condensed(x, y, x, y, networks=2, steps=2))
        2
    """
    x, y = torch.as_tensor(images).float(), torch.as_tensor(labels)
    held, wanted = torch.as_tensor(test_images).float(), torch.as_tensor(test_labels)
    require_rows(x, y)
    require_rows(held, wanted, "test_images", "test_labels")
    if len(x) == 0 or len(held) == 0:
        raise ValueError("`images` or `test_images` is empty; there is nothing to learn from or to test on.")
    build = network or convnet(tuple(x.shape[1:]), int(max(y.max(), wanted.max())) + 1)
    found = []
    for i in range(networks):
        with seeded(seed + i), torch.enable_grad():
            fresh = build()
            _fit(fresh, x, y, steps, rate, batch_size, torch.Generator().manual_seed(seed + i))
        decided = predict(fresh, held - 0.5).argmax(dim=1)
        found.append(float((decided == wanted).double().mean()))
    return found


def _fit(
    network: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float, batch_size: int, generator: torch.Generator
) -> None:
    sgd = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        rows = torch.arange(len(x))
        if len(x) > batch_size:
            rows = torch.randint(len(x), (batch_size,), generator=generator)
        sgd.zero_grad()
        cross_entropy(network(x[rows] - 0.5), y[rows]).backward()
        sgd.step()


def _checked(
    images: Any,
    labels: Any,
    density: Density | None,
    per_class: int,
    lam: float | int,
    steps: int,
    loss: str,
    real_batch: int,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    if loss not in LOSSES:
        raise ValueError(f"there is no loss {loss!r} of condensation; losses: {', '.join(LOSSES)}.")
    if min(per_class, steps, real_batch) < 1:
        raise ValueError(
            f"`per_class`, `steps` and `real_batch` are at least 1; got {per_class}, {steps} and {real_batch}."
        )
    if not 0 <= lam < float("inf"):
        raise ValueError(f"`lam` is a weight, 0 or more; got {lam}.")
    if density is None and lam > 0:
        raise ValueError("`lam` is above 0, so a density is needed to count bits with; or take lam=0.")
    if density is not None and lam > 0:
        require_differentiable(density, "condensing")
    x = require_inputs(_AnySize() if density is None else density, images, "images").detach().float()
    y, names = encode_labels(labels, "labels")
    require_rows(x, y, "images", "labels")
    present = y.unique()
    if len(present) < 2:
        raise ValueError(
            f"`labels` hold {len(present)} class(es); condensation tells classes apart and needs two or more."
        )
    if len(present) < len(names):
        ids = torch.searchsorted(present, y)
        y, names = ids, tuple(names[int(c)] for c in present)
    return x, y, names


class _AnySize:
    """Lets the images be checked where no density says what it knows."""

    levels = 256
    shape: tuple[int, ...] | None = None
    differentiable = False

    def bits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Unknown."""
        return torch.full((len(x),), torch.nan)
