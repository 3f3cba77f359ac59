"""A benchmark on which a shortcut is nearly as hard as the core: what each remedy makes of it.

Both functions are staircases of even degree, which are biased: 62 % and 60 % of rows are positive.
"""

from functools import partial
from typing import Any

from torch import nn

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.spurious._lab import mean
from firstcue.experiments.spurious._remedies import (
    CONTROL,
    KEYS,
    Task,
    chart,
    fresh_cues,
    present,
    run_training,
    worst,
)
from firstcue.forward import seeded
from firstcue.spurious.boolean import boolean_data
from firstcue.spurious.functions import staircase
from firstcue.sweeps import Trial

TITLE = "Most remedies do not help where the shortcut is nearly as complex as the core (Hard Staircase)"
SOURCE = "arXiv 2403.03375, Hard Staircase of the released data"
VERSION = 2
_HARD = {"core": 14, "cue": 10, "cue_columns": 20, "strength": 0.9, "rows": 60_000, "held_out": 10_000, "test": 20_000}
SCALES = {
    "tiny": Scale(
        minutes=2,
        settings=_HARD
        | {"rows": 4000, "held_out": 2000, "test": 4000, "width": 64, "rates": [0.05], "epochs": 3, "batch_size": 128},
    ),
    "small": Scale(minutes=40, settings=_HARD | {"width": 256, "rates": [0.02, 0.1], "epochs": 8, "batch_size": 256}),
    "paper": Scale(
        minutes=900, settings=_HARD | {"width": 512, "rates": [0.01, 0.03, 0.1], "epochs": 60, "batch_size": 256}
    ),
}
SEEDS = 5
PUBLISHED = "nearly all debiasing algorithms tried by the authors fail on this data"


def network(width: int, columns: int, seed: int) -> nn.Module:
    """Two hidden ReLU layers."""
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )


def trials(scale: str, seeds: int) -> list[Trial]:
    """One per way to train; what is made of it afterwards belongs to the same trial."""
    return [
        Trial("spurious/hard-staircase", {**SCALES[scale].settings, "training": name}, seed)
        for seed in range(seeds)
        for name in KEYS
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracies of every remedy that starts from the trial's training, on rows whose cue says nothing of the label."""
    s = trial.settings
    core, cue = staircase(s["core"], ties="plus"), staircase(s["cue"], ties="plus", size=s["cue_columns"])
    data, held_out = (
        boolean_data(core, cue, s["strength"], s[name], seed=trial.seed + shift)
        for name, shift in (("rows", 0), ("held_out", 1 << 32))
    )
    test = boolean_data(core, cue, 0.5, s["test"], seed=trial.seed + (1 << 33))
    task = Task(
        train=data,
        held_out=held_out,
        test=test,
        control=lambda: fresh_cues(data, trial.seed),
        network=partial(network, s["width"], data.x.shape[1]),
        rates=tuple(s["rates"]),
        epochs=s["epochs"],
        batch_size=s["batch_size"],
        seed=trial.seed,
    )
    return run_training(s["training"], task)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How far each remedy stays behind training without the shortcut, and what it gains over none."""
    made = []
    for name in present(rows):
        own, plain, ceiling = worst(rows, name), worst(rows, "erm"), worst(rows, CONTROL)
        if name == CONTROL or not len(own) == len(plain) == len(ceiling):
            continue
        gain = [a - b for a, b in zip(own, plain, strict=True)]
        needs = next(str(r["needs"]) for r in rows if r["remedy"] == name and r["selection"] == "worst group")
        made.append(
            judged(
                f"{name}: worst-group accuracy stays 10 points below that of training without the shortcut",
                [top - v - 0.1 for top, v in zip(ceiling, own, strict=True)],
                published=PUBLISHED,
                unit="difference of worst-group accuracies minus 0.1",
                note=f"Worst group {mean(own):.3f}, without the shortcut {mean(ceiling):.3f}; gain over no remedy "
                f"{mean(gain):+.3f}. Labels used: {needs}.",
            )
        )
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst-group accuracy by remedy, with intervals over seeds."""
    return {"remedies": chart(rows)}
