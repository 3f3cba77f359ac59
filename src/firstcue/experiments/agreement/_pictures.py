"""A perceptron on pictures, every example its own environment, with labels that are true, partly redrawn, or random."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from firstcue.agreement.apply import apply_rule
from firstcue.agreement.rules import and_mask
from firstcue.batch import Batch
from firstcue.data import read
from firstcue.forward import predict, seeded
from firstcue.training.loop import minibatches

COMMON: dict[str, Any] = {
    "data": "builtin:fashion-mnist",
    "train_rows": 10000,
    "test_rows": 5000,
    "pool": 1,
    "redrawn": 0.0,
    "threshold": 0.0,
    "scale": "tensor",
    "rate": 5e-4,
    "decay": [0.5, 0.75],
    "weight_decay": 1e-6,
    "batch_size": 80,
    "epochs": 40,
    "hidden": 256,
}
"""Batch size, rate and weight decay are the paper's for CIFAR-10; its network and data are others, and its 80 epochs."""


@dataclass(frozen=True)
class Labelled:
    """Training rows with the labels that training is told, the true ones, and rows for testing."""

    train: Batch
    truth: Tensor
    test: Batch

    @property
    def mislabelled(self) -> Tensor:
        """`(n,)` bool: rows whose label changed, not those whose redrawn label is the true one."""
        return self.train.y != self.truth


def pictures(s: Mapping[str, Any], seed: int) -> Labelled:
    """Disjoint random rows for training and testing, standardised; the share `redrawn` of labels is drawn anew."""
    whole = read(s["data"])
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(whole), generator=generator)
    rows = whole.rows(order[: s["train_rows"] + s["test_rows"]])
    x = rows.x.float().reshape(len(rows), 1, *rows.x.shape[-2:])
    x = avg_pool2d(x, s["pool"]) if s["pool"] > 1 else x
    x = ((x - x[: s["train_rows"]].mean()) / x[: s["train_rows"]].std()).flatten(1)
    train, test = (
        Batch(x[: s["train_rows"]], rows.y[: s["train_rows"]]),
        Batch(x[s["train_rows"] :], rows.y[s["train_rows"] :]),
    )
    classes = whole.num_classes
    chosen = torch.rand(len(train), generator=generator) < s["redrawn"]
    fresh = torch.randint(0, classes, (len(train),), generator=generator)
    return Labelled(replace(train, y=torch.where(chosen, fresh, train.y)), train.y, test)


def fit_pictures(settings: Mapping[str, Any], seed: int, curve: int = 10) -> list[dict[str, Any]]:
    """Train with the mask over single examples; accuracies over epochs, the last row with `end` set."""
    s = {**COMMON, **settings}
    data = pictures(s, seed)
    classes = int(data.truth.max()) + 1
    model = perceptron(data.train.x.shape[1], s["hidden"], classes, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=s["rate"], weight_decay=s["weight_decay"])
    rule = partial(and_mask, threshold=s["threshold"], scale=s["scale"])
    examples = torch.arange(s["batch_size"])
    rows = []
    with seeded(seed):
        for epoch in range(s["epochs"]):
            for group in optimizer.param_groups:
                group["lr"] = s["rate"] * 0.1 ** sum(epoch >= int(share * s["epochs"]) for share in s["decay"])
            for batch in minibatches(data.train, s["batch_size"], seed=1000 * seed + epoch):
                if s["threshold"] > 0:
                    apply_rule(model, rule, cross_entropy, batch, examples[: len(batch)])
                else:
                    model.zero_grad(set_to_none=True)
                    cross_entropy(model(batch.x), batch.y).backward()
                optimizer.step()
            if (epoch + 1) % max(1, s["epochs"] // curve) == 0 or epoch + 1 == s["epochs"]:
                rows.append({"epoch": epoch + 1, "end": False, **accuracies(model, data)})
    rows[-1]["end"] = True
    return rows


def accuracies(model: nn.Module, data: Labelled) -> dict[str, float]:
    """On given labels of all training rows and of the mislabelled ones, on their true labels, and on test rows.

    Numbers on mislabelled rows are -1 where there is none.
    """
    said, wrong = predict(model, data.train.x).argmax(dim=1), data.mislabelled
    on_test = predict(model, data.test.x).argmax(dim=1) == data.test.y

    def share(right: Tensor) -> float:
        return float(right.double().mean()) if len(right) else -1.0

    return {
        "train": share(said == data.train.y),
        "test": share(on_test),
        "mislabelled_given": share((said == data.train.y)[wrong]),
        "mislabelled_true": share((said == data.truth)[wrong]),
    }


def perceptron(inputs: int, hidden: int, classes: int, seed: int) -> nn.Sequential:
    """Two hidden layers with rectifiers."""
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )
