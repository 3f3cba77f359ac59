"""Digits above garments: the easier the cue and the stronger it goes with the garment, the less of the garment is used."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from firstcue.batch import Batch
from firstcue.data import digits, fashion_dominoes, shipped
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.forward import predict, seeded
from firstcue.spurious.compose import dominoes
from firstcue.spurious.decode import decode
from firstcue.spurious.metrics import group_metrics
from firstcue.sweeps import Trial
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import Step, is_due, log_spaced
from firstcue.training.retrain import retrain_last_layer

TITLE = "An easy cue hides a core that is there, on real images"
SOURCE = "arXiv 2403.03375"
VERSION = 1
EASY, HARD = "0 and 1", "7 and 9"
COMMON = {"hidden": 128, "rate": 0.05, "batch_size": 64}
SCALES = {
    "tiny": Scale(
        minutes=1,
        settings=COMMON
        | {"data": "shipped", "garments": ["pullover, coat"], "strengths": [0.5, 0.95], "rows": 2000, "held_out": 800}
        | {"test": 800, "epochs": 6},
    ),
    "small": Scale(
        minutes=5,
        settings=COMMON
        | {"data": "fashion-mnist", "garments": ["pullover, coat", "dress, coat"], "strengths": [0.5, 0.8, 0.95]}
        | {"rows": 6000, "held_out": 1000, "test": 2000, "epochs": 8},
    ),
    "paper": Scale(
        minutes=60,
        settings=COMMON
        | {
            "data": "fashion-mnist",
            "garments": ["pullover, coat", "dress, coat"],
            "strengths": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
        }
        | {"rows": 10_000, "held_out": 2000, "test": 2000, "epochs": 30},
    ),
}
SEEDS = 5


def trials(scale: str, seeds: int) -> list[Trial]:
    """Every pair of garments under every cue and strength."""
    shared = {key: value for key, value in SCALES[scale].settings.items() if key not in ("garments", "strengths")}
    return [
        Trial("spurious/easy-and-hard-cues", shared | {"garments": garments, "cue": cue, "strength": strength}, seed)
        for garments in SCALES[scale].settings["garments"]
        for cue in (EASY, HARD)
        for strength in SCALES[scale].settings["strengths"]
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """What is used and what could be read at several steps of one training; at the last, also after a new last layer."""
    s = trial.settings
    rows, held_out, test = _data(trial)
    mean, spread = rows.x.mean(dim=0), rows.x.std(dim=0) + 0.1
    model = _network(mean, spread, s["hidden"], trial.seed)
    untrained = _network(mean, spread, s["hidden"], trial.seed + 1000)
    steps = -(-len(rows) // s["batch_size"]) * s["epochs"]
    found: list[dict[str, Any]] = []

    def record(step: Step) -> None:
        if is_due(log_spaced(steps, 8), step.number) or step.number == steps:
            found.append({"step": step.number, "end": step.number == steps} | _used(model, test))
            found[-1] |= _readable(model, untrained, held_out)

    passes = minibatches(rows, s["batch_size"], s["epochs"], seed=trial.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=s["rate"], momentum=0.9)
    train(model, passes, optimizer, recorders=(record,), seed=trial.seed)
    repaired = retrain_last_layer(model, held_out, "dfr", seed=trial.seed)
    found[-1]["repaired"] = _used(repaired, test)["worst"]
    return found


def _data(trial: Trial) -> tuple[Batch, Batch, Batch]:
    s, top = trial.settings, (0, 1) if trial.settings["cue"] == EASY else (7, 9)
    sizes = {"train": s["rows"], "held-out": s["held_out"], "test": s["test"]}
    if s["data"] == "shipped":
        starts = {"train": 0, "held-out": s["rows"], "test": s["rows"] + s["held_out"]}
        made = [
            dominoes(_shipped().rows(slice(starts[part], starts[part] + n)), digits(top), s["strength"] if part == "train" else 0.5, seed=3 * trial.seed + i)
            for i, (part, n) in enumerate(sizes.items())
        ]  # fmt: skip
    else:
        core = s["garments"].split(", ")
        made = [fashion_dominoes(s["strength"], part, core, top, n=n, seed=trial.seed) for part, n in sizes.items()]
    return made[0], made[1], made[2]


@cache
def _shipped() -> Batch:
    return shipped()


class _Standardised(nn.Module):
    """Pixels minus their mean over the training rows, divided by their spread."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.spread).flatten(1)


def _network(mean: Tensor, spread: Tensor, hidden: int, seed: int) -> nn.Sequential:
    with seeded(seed):
        return nn.Sequential(
            _Standardised(mean, spread), nn.Linear(mean.numel(), hidden), nn.ReLU(), nn.Linear(hidden, 2)
        )


def _used(model: nn.Module, test: Batch) -> dict[str, Any]:
    """Correlations of the answer with class and cue on rows where they are independent, and the worst group."""
    answer = predict(model, test.x).argmax(dim=1)
    assert test.attribute is not None
    worst = group_metrics(test.y, answer, test.groups()).worst_group
    return {
        "core": 2 * float((answer == test.y).double().mean()) - 1,
        "spurious": 2 * float((answer == test.attribute).double().mean()) - 1,
        "worst": None if worst is None else worst.accuracy,
    }


def _readable(model: nn.Module, untrained: nn.Module, rows: Batch) -> dict[str, Any]:
    """Correlations that a new read-out of the hidden layer reaches, beside the same of an untrained network."""
    assert isinstance(model, nn.Sequential) and isinstance(untrained, nn.Sequential)
    found = decode(predict(model[:-1], rows.x), rows, permutations=0)
    random = decode(predict(untrained[:-1], rows.x), rows, permutations=0)
    assert found.spurious is not None and random.spurious is not None
    return {
        "decoded_core": 2 * found.core - 1,
        "decoded_spurious": 2 * found.spurious - 1,
        "capacity_core": 2 * random.core - 1,
        "capacity_spurious": 2 * random.spurious - 1,
    }


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What an easy cue costs the worst group, and that the core is there all the same."""
    ends = [row for row in rows if row["end"]]
    strongest, none = max(row["strength"] for row in ends), min(row["strength"] for row in ends)
    made = []
    for core in dict.fromkeys(row["garments"] for row in ends):
        own = [row for row in ends if row["garments"] == core]
        easy = [row for row in own if row["cue"] == EASY]
        hurt = [row for row in easy if row["strength"] == strongest]
        made += [
            judged(
                f"A cue of strength {strongest} lowers the worst group ({core}; digits {EASY})",
                paired(easy, "strength", "worst", none, strongest),
                published="the stronger the correlation, the longer the core is hidden",
                unit="worst-group accuracy without minus with the cue",
            ),
            judged(
                f"An easy cue hurts more than a hard one at strength {strongest} ({core})",
                paired([row for row in own if row["strength"] == strongest], "cue", "worst", HARD, EASY),
                published="simpler shortcuts hurt more",
                unit="worst-group accuracy, hard minus easy cue",
            ),
            judged(
                f"A new last layer restores the worst group ({core}; digits {EASY}, strength {strongest})",
                [row["repaired"] - row["worst"] for row in hurt],
                published="retraining the last layer removes the spurious correlation",
                unit="worst-group accuracy after minus before",
                note="The head is fitted by DFR to held-out rows in which class and digit are independent.",
            ),
            judged(
                f"What the network does not use, it holds ({core}; digits {EASY}, strength {strongest})",
                [row["decoded_core"] - row["core"] for row in hurt],
                published="the core is learned in the representation",
                unit="correlation decoded minus used",
            ),
            judged(
                f"Where the cue is no use, it can be read all the same ({core}; digits {EASY}, strength {none})",
                [row["decoded_spurious"] - abs(row["spurious"]) - 0.5 for row in easy if row["strength"] == none],
                published="spurious features stay in the representation",
                unit="correlation decoded minus used, minus 0.5",
                note="An untrained network lets it be read as well: the line 'capacity' in the figure.",
            ),
        ]
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Core and cue over steps: used, decodable, and decodable from an untrained network."""
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys((row["garments"], row["cue"], row["strength"]) for row in rows))
    cells = [cell for cell in cells if cell[2] == max(c[2] for c in cells)]
    figure = Figure(figsize=(3.4 * len(cells), 3.2))
    lines = {"core": "C0-", "decoded_core": "C0--", "capacity_core": "C0:"}
    lines |= {"spurious": "C3-", "decoded_spurious": "C3--", "capacity_spurious": "C3:"}
    for axes, (core, cue, strength) in zip(
        figure.subplots(1, len(cells), squeeze=False, sharey=True)[0], cells, strict=True
    ):
        own = [row for row in rows if (row["garments"], row["cue"], row["strength"]) == (core, cue, strength)]
        steps = sorted({row["step"] for row in own})
        for name, style in lines.items():
            means = [_mean([row[name] for row in own if row["step"] == step]) for step in steps]
            axes.plot([step + 1 for step in steps], means, style, label=name.replace("_", " "))
        axes.set(xscale="log", xlabel="step + 1", title=f"{core}\ndigits {cue}, strength {strength}")
    figure.axes[0].set_ylabel("correlation, mean over seeds")
    figure.axes[0].legend(frameon=False, fontsize=7)
    return {"learning-curves": figure}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
