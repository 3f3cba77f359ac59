"""What simplified images are worth: a new classifier learns from them, and is tested on them and on the originals.

The classifier that was trained beside the simplifier may share a private code with it; a new one cannot. Accuracy is
therefore reported beside bits, for the joint classifier, for a new one and for one of another kind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from firstcue._progress import Progress, silent
from firstcue.batch import Batch
from firstcue.forward import predict, seeded
from firstcue.simplicity.density import Density, bits
from firstcue.simplicity.simplify import Simplified, Simplifier
from firstcue.training.loop import minibatches, train

MakeClassifier = Callable[[], nn.Module]
"""A new classifier with new weights; called with the random state seeded."""

Transform = Callable[[Any], Any]
"""From images to images."""


def retrain(
    make_classifier: MakeClassifier,
    batch: Batch,
    *,
    steps: int = 500,
    batch_size: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
) -> nn.Module:
    """A new classifier, trained plainly on these images.

    Args:
        make_classifier: Builds it.
        batch: Images and labels.
        steps: Of AdamW.
        batch_size: Rows per step.
        rate: Of AdamW.
        seed: Of its first weights and of the order of the rows.
    """
    with seeded(seed):
        model = make_classifier()
    per_pass = -(-len(batch) // batch_size)
    every = minibatches(batch, batch_size, -(-steps // per_pass), seed=seed)
    first = (part for part, _ in zip(every, range(steps), strict=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.995), weight_decay=1e-5)
    return train(model, first, optimizer, seed=seed).eval()


def transformed(transform: Transform, batch: Batch) -> Batch:
    """The same rows with other images."""
    return replace(batch, x=transform(batch.x))


def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of rows that the model classifies rightly."""
    return float((predict(model, batch.x).argmax(dim=1) == batch.y.cpu()).double().mean())


def bits_per_pixel(density: Density, images: Any) -> float:
    """Mean bits of images, per value."""
    return float(bits(density, images).mean()) / images[0].numel()


def retrained_row(
    transform: Transform,
    make_classifier: MakeClassifier,
    train_batch: Batch,
    test_batch: Batch,
    density: Density,
    **settings: Any,
) -> dict[str, float]:
    """What a new classifier learns from transformed images.

    Args:
        transform: A simplifier, a blur, a codec.
        make_classifier: Builds the classifier.
        train_batch: Originals and labels to learn from.
        test_batch: Originals and labels to test on.
        density: Says how many bits the transformed test images take.
        settings: As for `retrain`.

    Returns:
        `bits_per_pixel`, `accuracy_simplified` and `accuracy_original` (on transformed and original test images), `n`.

    Source:
        The protocol of https://arxiv.org/abs/2201.05610.
    """
    model = retrain(make_classifier, transformed(transform, train_batch), **settings)
    simple = transformed(transform, test_batch)
    return {
        "bits_per_pixel": bits_per_pixel(density, simple.x),
        "accuracy_simplified": accuracy(model, simple),
        "accuracy_original": accuracy(model, test_batch),
        "n": len(test_batch),
    }


def evaluate_simplified(
    fit: Simplified,
    makers: Mapping[str, MakeClassifier],
    train_batch: Batch,
    test_batch: Batch,
    density: Density,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The classifier that was trained beside the simplifier, and new ones of every kind, on simplified and on original images.

    Args:
        fit: From `Simplifier.fit`.
        makers: Builders of classifiers by name: the kind that the simplifier knows, and others.
        train_batch: Originals and labels to learn from.
        test_batch: Originals and labels to test on.
        density: Says how many bits the images take.
        settings: As for `retrain`.

    Returns:
        A row for each classifier: `network` ("joint" or "retrained"), `kind`, `bits_per_pixel`, `bits_per_pixel_original`,
        `accuracy_simplified`, `accuracy_original`, `n`.
    """
    before = bits_per_pixel(density, test_batch.x)
    rows: list[dict[str, Any]] = []
    if fit.classifier is not None:
        simple = transformed(fit, test_batch)
        rows.append(
            {
                "network": "joint",
                "kind": "its own",
                "bits_per_pixel": bits_per_pixel(density, simple.x),
                "accuracy_simplified": accuracy(fit.classifier, simple),
                "accuracy_original": accuracy(fit.classifier, test_batch),
                "n": len(test_batch),
            }
        )
    for kind, maker in makers.items():
        found = retrained_row(fit, maker, train_batch, test_batch, density, **settings)
        rows.append({"network": "retrained", "kind": kind, **found})
    return [{**row, "bits_per_pixel_original": before} for row in rows]


def tradeoff(
    make_classifier: MakeClassifier,
    density: Density,
    train_batch: Batch,
    test_batch: Batch,
    *,
    lams: Sequence[int | float] = (0, 0.1, 0.3, 1, 3),
    seeds: int = 3,
    simplifier: Simplifier | None = None,
    retrain_steps: int = 500,
    progress: Progress = silent,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Accuracy against bits: a simplifier for every weight of the bits, evaluated.

    Args:
        make_classifier: Builds classifiers: the one trained beside the simplifier, and the new one.
        density: Counts bits.
        train_batch: Images in [0, 1] and labels to learn from.
        test_batch: The same to test on.
        lams: Weights of the bits.
        seeds: Number of runs for each.
        simplifier: What to fit; `Simplifier()` when None.
        retrain_steps: Of the new classifiers.
        progress: Told how far it is.
        settings: As for `Simplifier.fit`.

    Returns:
        Two rows ("joint" and "retrained") for each weight and seed, as of `evaluate_simplified`, with `lam`, `seed` and `gate`
        (its mean over the second half of the steps).

    Example:
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> data = Batch(torch.rand(16, 1, 8, 8), torch.arange(16) % 2)
        >>> make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> small = Simplifier(width=2, scales=1)
        >>> rows = tradeoff(make, DCTLaplace(), data, data, lams=[0.1], seeds=1, simplifier=small, steps=1, retrain_steps=1)
        >>> [row["network"] for row in rows]
        ['joint', 'retrained']
    """
    runs = [(lam, seed) for lam in lams for seed in range(seeds)]
    rows: list[dict[str, Any]] = []
    for done, (lam, seed) in enumerate(runs):
        with seeded(seed):
            classifier = make_classifier()
        fit = (simplifier or Simplifier()).fit(classifier, density, train_batch, lam=lam, seed=seed, **settings)
        makers = {"the same": make_classifier}
        found = evaluate_simplified(fit, makers, train_batch, test_batch, density, steps=retrain_steps, seed=seed + 1)
        rows += [{"lam": lam, "seed": seed, "gate": late_gate(fit), **row} for row in found]
        progress("trading", (done + 1) / len(runs))
    return rows


def late_gate(fit: Simplified) -> float:
    """Mean gate over the second half of the steps."""
    gates = [row["gate"] for row in fit.history if row["phase"] == "simplify"]
    late = gates[len(gates) // 2 :]
    return sum(late) / len(late)
