"""A quarter of the labels redrawn: does a network come to believe them?"""

from typing import Any

from firstcue.experiments.agreement._pictures import fit_pictures
from firstcue.experiments.agreement.random_labels import STANDS_IN
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.sweeps import Trial

TITLE = "With noisy labels the mask predicts the truth of what is mislabelled, and plain training memorises it"
SOURCE = "arXiv 2009.00329, section 4.2"
VERSION = 1
SCALES = {
    "tiny": Scale(
        minutes=1.0,
        settings={
            "data": "builtin:digits",
            "train_rows": 800,
            "test_rows": 900,
            "pool": 2,
            "epochs": 40,
            "hidden": 128,
        },
    ),
    "small": Scale(minutes=20.0, settings={"train_rows": 10000, "epochs": 40}),
    "paper": Scale(minutes=400.0, settings={"train_rows": 50000, "test_rows": 10000, "epochs": 80}),
}
SEEDS = 5
PLAIN, MASK = "plain", "mask, tau 0.2"
RUNS: dict[str, dict[str, Any]] = {PLAIN: {"threshold": 0.0, "rate": 1e-3}, MASK: {"threshold": 0.2, "rate": 5e-3}}
"""The paper's best settings of each."""


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each rule and seed, a quarter of the labels drawn anew."""
    shared = {**SCALES[scale].settings, "redrawn": 0.25, "decay": [0.75]}
    return [
        Trial("agreement/label-noise", {**shared, **RUNS[name], "run": name}, seed)
        for name in RUNS
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracies over one training."""
    return fit_pictures({k: v for k, v in trial.settings.items() if k != "run"}, trial.seed, curve=20)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether the mask believes fewer wrong labels, and what that does for accuracy."""
    ends = [row for row in rows if row["end"]]

    def fall(row: dict[str, Any]) -> float:
        curve = [r["test"] for r in rows if r["run"] == row["run"] and r["seed"] == row["seed"]]
        return max(curve) - curve[-1]

    return [
        judged(
            "At the end the mask believes fewer of the wrong labels",
            paired(ends, "run", "mislabelled_given", PLAIN, MASK),
            published="memorised by plain training, below chance with the mask (CIFAR-10)",
            unit="difference of accuracies on the wrong labels",
            note=STANDS_IN,
        ),
        judged(
            "The mask stays below chance (10 %) on the wrong labels",
            [0.1 - r["mislabelled_given"] for r in ends if r["run"] == MASK],
            published="below chance",
            unit="0.1 minus accuracy on the wrong labels",
        ),
        judged(
            "At the end the mask has the higher test accuracy",
            paired(ends, "run", "test", MASK, PLAIN),
            published="plain training peaks and falls, the mask rises slowly",
            unit="difference of test accuracies",
        ),
        judged(
            "Plain training's test accuracy falls from its peak",
            [fall(r) for r in ends if r["run"] == PLAIN],
            published="peaks, then falls",
            unit="peak minus end",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies over epochs, a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8))
    names = {"mislabelled_given": "wrong labels, as given", "mislabelled_true": "wrong labels, truth", "test": "test"}
    for axes, (name, title) in zip(figure.subplots(1, 3, sharey=True), names.items(), strict=True):
        for i, run_name in enumerate(RUNS):
            for j, seed in enumerate(sorted({row["seed"] for row in rows})):
                part = [row for row in rows if row["run"] == run_name and row["seed"] == seed]
                label = run_name if j == 0 else None
                axes.plot([r["epoch"] for r in part], [r[name] for r in part], color=f"C{i}", lw=0.9, label=label)
        axes.set(title=title, xlabel="epoch", ylim=(0, 1.02))
    figure.axes[0].legend(frameon=False)
    return {"epochs": figure}
