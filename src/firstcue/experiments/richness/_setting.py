"""What the experiments on richness share: images, networks, one training run, and what is measured at its end."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from firstcue.batch import Batch
from firstcue.data import read
from firstcue.forward import predict, seeded
from firstcue.heads import features_and_outputs
from firstcue.moments import Moments
from firstcue.richness.collapse import neural_collapse
from firstcue.richness.low_rank import low_rank_measure
from firstcue.richness.movement import weight_movement
from firstcue.richness.recipes import (
    CentredOutput,
    centred_output,
    frozen_features,
    scaled_initialisation,
    scaled_loss,
    scaled_targets,
)
from firstcue.richness.similarity import cka
from firstcue.training.loop import minibatches, train

Setting = Mapping[str, Any]

DEFAULTS: dict[str, Any] = {
    "loss": "mse",
    "rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "batch_size": 128,
    "steps": 1500,
    "alpha": 0.0,
    "target": 0.0,
    "frozen": False,
    "init": 1.0,
    "batch_norm": False,
    "width": 200,
    "depth": 3,
}
"""alpha and target 0 stand for outputs and targets as they are."""


def images(name: str, train_rows: int, test_rows: int, seed: int, *, pool: int = 1) -> tuple[Batch, Batch]:
    """Disjoint random training and test rows of a data set, in units of the training rows' standard deviation.

    Args:
        name: As in `firstcue.data.read`; Fashion-MNIST and CIFAR-10 have test parts of their own.
        train_rows: Number of rows to train on.
        test_rows: Number of rows to test on.
        seed: Of the draw.
        pool: Side of the squares that are averaged.
    """
    generator = torch.Generator().manual_seed(seed)
    whole, rest = read(name), _test_part(name)
    order = torch.randperm(len(whole), generator=generator)
    first = whole.rows(order[:train_rows])
    if rest is None:
        second = whole.rows(order[train_rows : train_rows + test_rows])
    else:
        second = rest.rows(torch.randperm(len(rest), generator=generator)[:test_rows])
    mean, size = first.x.mean(), first.x.std()
    made = [
        avg_pool2d((part.x - mean) / size, pool) if pool > 1 else (part.x - mean) / size for part in (first, second)
    ]
    return tuple(replace(part, x=x, columns={}) for part, x in zip((first, second), made, strict=True))  # type: ignore[return-value]


def _test_part(name: str) -> Batch | None:
    if name == "builtin:fashion-mnist":
        return read("builtin:fashion-mnist/test")
    return read(f"{name}/test_batch") if "cifar" in name else None


def mlp(inputs: int, classes: int, *, width: int, depth: int, batch_norm: bool, seed: int) -> nn.Sequential:
    """ReLU network with He's initialisation and zero biases."""
    sizes = [inputs, *[width] * depth]
    with seeded(seed):
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if batch_norm else []), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
    return model


def built(setting: Setting, rows: Batch, seed: int) -> nn.Module:
    """The untrained network of a setting."""
    classes = len(rows.classes)
    model = mlp(
        rows.x[0].numel(),
        classes,
        width=setting["width"],
        depth=setting["depth"],
        batch_norm=setting["batch_norm"],
        seed=seed,
    )
    return model if setting["init"] == 1.0 else scaled_initialisation(model, setting["init"])


def fitted(model: nn.Module, rows: Batch, setting: Setting, seed: int, **options: Any) -> nn.Module:
    """The model after training: itself, or the centred output around it.

    Raises:
        ValueError: If training diverges.
    """
    classes = len(rows.classes)
    function, loss = _objective(model, rows, setting, classes)
    trained = [p for p in function.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=setting["rate"], momentum=setting["momentum"], weight_decay=setting["weight_decay"]
    )
    epochs = math.ceil(setting["steps"] * setting["batch_size"] / len(rows))
    steps = islice(minibatches(rows, setting["batch_size"], epochs, seed=seed), setting["steps"])
    return train(function, steps, optimizer, loss=loss, seed=seed, **options)


def _objective(
    model: nn.Module, rows: Batch, setting: Setting, classes: int
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """What is trained, and on which loss."""
    if setting["frozen"]:
        model = frozen_features(model, rows.x[:64])
    loss = cross_entropy if setting["loss"] == "ce" else scaled_targets(classes, setting["target"] or 1.0)
    if setting["alpha"]:
        return centred_output(model, setting["alpha"]), scaled_loss(loss, setting["alpha"])
    return (centred_output(model) if setting["target"] else model), loss


def inner(function: nn.Module) -> nn.Module:
    """The network whose features are measured."""
    return function.model if isinstance(function, CentredOutput) else function


Also = Callable[[nn.Module, nn.Module], Mapping[str, float]]
"""More numbers, of the network now and at the start."""


def one_run(setting: Setting, seed: int, rows: Batch, test: Batch, also: Also | None = None) -> dict[str, Any]:
    """Train one network and measure it; where training diverged, `diverged` is 1 and nothing is measured."""
    full = {**DEFAULTS, **setting}
    start = built(full, rows, seed)
    try:
        function = fitted(copy.deepcopy(start), rows, full, seed)
    except ValueError as error:
        if "learning rate" not in str(error):
            raise
        return dict.fromkeys(MEASURED) | {"diverged": 1}
    more = {} if also is None else dict(also(inner(function), start))
    return measured(function, start, rows, test) | more | {"diverged": 0}


MEASURED = (
    "train_accuracy", "test_accuracy", "dlr", "dlr_centered", "used", "participation_ratio", "rank", "dlr_start",
    "dlr_test", "dlr_function", "feature_change", "weight_movement", "norm_ratio", "nc1",
)  # fmt: skip


def measured(function: nn.Module, start: nn.Module, rows: Batch, test: Batch) -> dict[str, float]:
    """Accuracy, richness of the training rows with all that explains it, and what it is compared with."""
    network = inner(function)
    features, outputs = features_and_outputs(network, rows.x)
    before, first = features_and_outputs(start, rows.x)
    found = low_rank_measure(features, outputs)
    moved = weight_movement(network, start)
    values = (
        accuracy(function, rows),
        accuracy(function, test),
        found.dlr,
        found.dlr_centered,
        found.used,
        found.participation_ratio,
        found.rank,
        low_rank_measure(before, first).dlr,
        low_rank_measure(*features_and_outputs(network, test.x)).dlr,
        low_rank_measure(features, predict(function, rows.x)).dlr,
        1 - cka(features, before),
        moved.relative,
        moved.norm_ratio,
        neural_collapse(Moments.of_groups(features, rows.y)).nc1,
    )
    return dict(zip(MEASURED, map(float, values), strict=True))


def accuracy(model: nn.Module, rows: Batch) -> float:
    """Fraction of rows whose largest output is that of their class."""
    return float((predict(model, rows.x).argmax(dim=1) == rows.y).double().mean())


def by_setting(rows: Sequence[Mapping[str, Any]], key: str, value: str) -> dict[Any, list[float]]:
    """Values of each setting, over seeds; those not finite are left out."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        number = row.get(value)
        if number is not None and math.isfinite(number):
            found.setdefault(row[key], []).append(float(number))
    return found


def bars(rows: Sequence[Mapping[str, Any]], key: str, value: str, label: str) -> Any:
    """A figure of means with 95 % intervals over seeds."""
    from matplotlib.figure import Figure

    from firstcue.experiments.claims import t_interval

    groups = by_setting(rows, key, value)
    figure = Figure(figsize=(6, 0.32 * len(groups) + 1))
    axes = figure.subplots()
    for place, values in enumerate(groups.values()):
        mean, low, _ = t_interval(values)
        axes.errorbar(mean, -place, xerr=0 if math.isnan(low) else mean - low, fmt="o", color="tab:blue", capsize=3)
    axes.set_yticks([-i for i in range(len(groups))], [str(name) for name in groups])
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    return figure
