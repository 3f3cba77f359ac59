"""Every remedy on real images: garments under digits that agree with them in 95 of 100 training rows.

Each remedy is trained at several learning rates; held-out rows, in which the digit says nothing, choose the rate and the
epoch, by their worst group or, without group labels, by their worst class. Last-layer remedies also fit to these rows. One
more trial rehearses every remedy on the last layer of a plainly trained network, as an audit does.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from firstcue.batch import Batch
from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.spurious._remedies import (
    KEYS,
    REHEARSAL,
    Task,
    chart,
    foretold,
    fresh_cues,
    gains,
    run_rehearsals,
    run_training,
)
from firstcue.forward import seeded
from firstcue.sweeps import Trial

TITLE = "What each remedy makes of real images with a shortcut, at its own learning rate"
SOURCE = "arXiv 2403.03375; data after arXiv 2006.07710"
VERSION = 1
_COMMON = {"core": ["pullover", "coat"], "top": [0, 1], "strength": 0.95, "width": 128, "batch_size": 64}
SCALES = {
    "tiny": Scale(
        minutes=1.5,
        settings=_COMMON
        | {"source": "shipped", "rows": 1000, "held_out": 400, "test": 800, "rates": [0.005], "epochs": 3, "width": 64},
    ),
    "small": Scale(
        minutes=10,
        settings=_COMMON
        | {
            "source": "fashion-mnist",
            "rows": 4000,
            "held_out": 1000,
            "test": 2000,
            "rates": [0.001, 0.005, 0.025],
            "epochs": 6,
        },
    ),
    "paper": Scale(
        minutes=40,
        settings=_COMMON
        | {
            "source": "fashion-mnist",
            "rows": 10_000,
            "held_out": 1000,
            "test": 2000,
            "rates": [0.0005, 0.002, 0.01, 0.05],
            "epochs": 16,
        },
    ),
}
SEEDS = 5
PUBLISHED = "no number known for this data"


def network(width: int, columns: int, seed: int) -> nn.Module:
    """One hidden ReLU layer."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, 2))


def trials(scale: str, seeds: int) -> list[Trial]:
    """One per way to train; heads made of plain training belong to its trial."""
    return [
        Trial("spurious/remedies", {**SCALES[scale].settings, "training": name}, seed)
        for seed in range(seeds)
        for name in (*KEYS, REHEARSAL)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracies of every remedy that starts from the trial's training, on rows whose digit says nothing of the garment."""
    s = trial.settings
    raw, held_out, test = (_images(s, part, trial.seed) for part in ("train", "held-out", "test"))
    centre, spread = raw.x.mean(dim=0), raw.x.std(dim=0) + 0.1

    def ready(batch: Batch) -> Batch:
        return replace(batch, x=((batch.x - centre) / spread).flatten(start_dim=1), edit=None)

    data = ready(raw)
    task = Task(
        train=data,
        held_out=ready(held_out),
        test=ready(test),
        control=lambda: ready(fresh_cues(raw, trial.seed)),
        network=partial(network, s["width"], data.x.shape[1]),
        rates=tuple(s["rates"]),
        epochs=s["epochs"],
        batch_size=s["batch_size"],
        seed=trial.seed,
    )
    return run_rehearsals(task) if s["training"] == REHEARSAL else run_training(s["training"], task)


def _images(s: Any, part: str, seed: int) -> Batch:
    n = s[{"train": "rows", "held-out": "held_out", "test": "test"}[part]]
    if s["source"] == "fashion-mnist":
        from firstcue.data.builtin import fashion_dominoes

        return fashion_dominoes(s["strength"], part, tuple(s["core"]), tuple(s["top"]), n=n, seed=seed)
    from firstcue.data import garment_dominoes

    return _first_of_each_group(garment_dominoes(s["strength"], part, seed=seed), n)


def _first_of_each_group(batch: Batch, n: int) -> Batch:
    """About `n` rows with the shares of groups kept."""
    groups = batch.groups()
    place = _place_within(groups)
    return batch.rows(place < (groups.bincount().double() * n / len(batch)).round()[groups])


def _place_within(ids: Tensor) -> Tensor:
    """How many rows with the same id come before each row."""
    order = ids.argsort(stable=True)
    counts = ids.bincount()
    starts = counts.cumsum(0) - counts
    place = ids.new_empty(len(ids))
    place[order] = ids.new_tensor(range(len(ids))) - starts[ids[order]]
    return place


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What the worst group gains by each remedy, and whether a rehearsal on the last layer foretells it."""
    return gains(rows, PUBLISHED) + foretold(rows, PUBLISHED)


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst-group accuracy by remedy, with intervals over seeds."""
    return {"remedies": chart(rows)}
