"""Tables of people and tumours: an attribute that goes with the label costs the worst group, and leaving its column out is no cure."""

from typing import Any

import torch
from torch import nn

from firstcue.batch import Batch
from firstcue.data import read
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.forward import predict, seeded
from firstcue.spurious.decode import decode
from firstcue.spurious.metrics import group_metrics
from firstcue.spurious.resampling import column_attribute, confounded
from firstcue.sweeps import Trial
from firstcue.training.loop import minibatches, train
from firstcue.training.retrain import retrain_last_layer
from firstcue.training.sampling import balanced

TITLE = "Real tables, resampled until the attribute goes with the label"
SOURCE = "arXiv 2403.03375"
VERSION = 1
PLAIN, SAMPLED, RETRAINED = "plain", "group sampling", "last-layer retraining"
COMMON = {"hidden": 64, "rate": 0.001, "batch_size": 64}
SCALES = {
    "tiny": Scale(minutes=0.5, settings=COMMON | {"data": "breast-cancer", "strength": 0.9, "rows": 100, "held_out": 60, "test": 80, "epochs": 40}),
    "small": Scale(minutes=1, settings=COMMON | {"data": "adult", "strength": 0.95, "rows": 3000, "held_out": 1000, "test": 1000, "epochs": 10}),
    "paper": Scale(minutes=3, settings=COMMON | {"data": "census", "strength": 0.95, "rows": 4000, "held_out": 1000, "test": 1000, "epochs": 10}),
}  # fmt: skip
SEEDS = 5


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/tables", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Worst-group and mean accuracy of three ways to train, and how well the attribute can be read."""
    s = trial.settings
    rows, held_out, test = _split(_table(s["data"]), s, trial.seed)
    plain = _trained(rows, s, trial.seed, None)
    models = {
        PLAIN: plain,
        SAMPLED: _trained(rows, s, trial.seed, balanced(rows.groups())),
        RETRAINED: retrain_last_layer(plain, held_out, "dfr", seed=trial.seed),
    }
    hidden = decode(predict(plain[:-1], test.x), test, permutations=0)
    return [{"method": name, "decoded": hidden.spurious} | _measured(model, test) for name, model in models.items()]


def _table(name: str) -> Batch:
    found = read(f"builtin:{name}")
    return column_attribute(found, 1, name="texture") if found.attribute is None else found


def _split(data: Batch, settings: Any, seed: int) -> tuple[Batch, Batch, Batch]:
    """Training rows at the strength asked for; held-out and test rows, others, at independence."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    # the label with the attribute that already goes with it more often
    together = data.groups().bincount(minlength=4)
    goes_with = (0, 1) if together[0] * together[3] >= together[1] * together[2] else (1, 0)
    parts, taken = [], torch.zeros(len(data), dtype=torch.bool)
    for part, strength in (("test", 0.5), ("held_out", 0.5), ("rows", settings["strength"])):
        free = order[~taken[order]]
        numbered = confounded(
            _numbered(data.rows(free), free), strength, n=settings[part], goes_with=goes_with, seed=seed
        )
        assert numbered.index is not None
        taken[numbered.index] = True
        parts.append(numbered)
    return parts[2], parts[1], parts[0]


def _numbered(rows: Batch, index: torch.Tensor) -> Batch:
    return Batch(**{**vars(rows), "index": index})


def _trained(rows: Batch, settings: Any, seed: int, draw: Any) -> nn.Sequential:
    with seeded(seed):
        model = nn.Sequential(
            nn.Linear(rows.x.shape[1], settings["hidden"]), nn.ReLU(), nn.Linear(settings["hidden"], 2)
        )
    passes = minibatches(rows, settings["batch_size"], settings["epochs"], seed=seed, rows=draw)
    train(model, passes, torch.optim.Adam(model.parameters(), lr=settings["rate"]), seed=seed)
    return model


def _measured(model: nn.Module, test: Batch) -> dict[str, Any]:
    found = group_metrics(test.y, predict(model, test.x).argmax(dim=1), test.groups())
    return {
        "worst": None if found.worst_group is None else found.worst_group.accuracy,
        "overall": found.overall.accuracy,
    }


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What balance and a new last layer do for the worst group, and whether the attribute can be read."""
    data, strength = rows[0]["data"], rows[0]["strength"]
    where = f"{data}, strength {strength}"
    return [
        judged(
            f"Drawing groups equally often serves the worst group better than plain training ({where})",
            paired(rows, "method", "worst", SAMPLED, PLAIN),
            published="no number known",
            unit="difference of worst-group accuracies",
        ),
        judged(
            f"A new last layer serves the worst group better than the old one ({where})",
            paired(rows, "method", "worst", RETRAINED, PLAIN),
            published="retraining the last layer removes the spurious correlation",
            unit="difference of worst-group accuracies",
        ),
        judged(
            f"The attribute can be read from the hidden layer ({where})",
            [row["decoded"] - 0.6 for row in rows if row["method"] == PLAIN],
            published="no number known",
            unit="balanced accuracy of the read-out minus 0.6",
            note="Its own columns are left out of the inputs of adult and census; other columns tell it."
            if data in ("adult", "census")
            else "Its own column is among the inputs.",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst group and mean of each way to train, one dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    names = list(dict.fromkeys(row["method"] for row in rows))
    for name, colour in (("worst", "C3"), ("overall", "C0")):
        axes.plot(
            [names.index(r["method"]) for r in rows], [r[name] for r in rows], "o", color=colour, label=name, alpha=0.6
        )
    axes.set(xticks=range(len(names)), xticklabels=names, ylabel="accuracy", title=rows[0]["data"])
    axes.legend(frameon=False)
    return {"accuracy": figure}
