"""Labels that say nothing: plain training learns them by heart, the mask over single examples does not."""

from typing import Any

from firstcue.experiments.agreement._pictures import fit_pictures
from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.sweeps import Trial

TITLE = "A little required agreement stops the memorisation of random labels and keeps the learning of true ones"
SOURCE = "arXiv 2009.00329, section 4.2"
VERSION = 1
SCALES = {
    "tiny": Scale(
        minutes=1.0,
        settings={"data": "builtin:digits", "train_rows": 800, "test_rows": 900, "pool": 2, "epochs": 150, "rate": 2e-3, "hidden": 128},
    ),
    "small": Scale(minutes=25.0, settings={"train_rows": 5000, "epochs": 60}),
    "paper": Scale(minutes=600.0, settings={"train_rows": 50000, "test_rows": 10000, "epochs": 80}),
}  # fmt: skip
SEEDS = 3
THRESHOLDS = {
    "tiny": (0.0, 0.1, 0.4),
    "small": (0.0, 0.05, 0.1, 0.2, 0.4),
    "paper": (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
}
STANDS_IN = "Fashion-MNIST and a perceptron stand in for CIFAR-10 and a residual network without batch statistics."


def trials(scale: str, seeds: int) -> list[Trial]:
    """True and random labels, at every threshold."""
    return [
        Trial(
            "agreement/random-labels",
            {**SCALES[scale].settings, "threshold": threshold, "redrawn": redrawn},
            seed,
        )
        for redrawn in (0.0, 1.0)
        for threshold in THRESHOLDS[scale]
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracies over one training."""
    return fit_pictures(trial.settings, trial.seed)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What each threshold memorises, and what it still learns."""
    ends = [row for row in rows if row["end"]]

    def of(threshold: float, redrawn: float, name: str) -> list[float]:
        return [r[name] for r in ends if r["threshold"] == threshold and r["redrawn"] == redrawn]

    masks = sorted({r["threshold"] for r in ends} - {0.0})
    shown = " ".join(
        f"tau {t:g}: random labels {_mean(of(t, 1.0, 'train')):.2f}, true labels {_mean(of(t, 0.0, 'train')):.2f}, test "
        f"{_mean(of(t, 0.0, 'test')):.2f}."
        for t in (0.0, *masks)
    )
    stops = next((t for t in masks if _mean(of(t, 1.0, "train")) < 0.3), masks[-1])
    return [
        judged(
            "Plain training learns random labels by heart: above 90 % on them",
            [a - 0.9 for a in of(0.0, 1.0, "train")],
            published="about 100 % (CIFAR-10)",
            unit="training accuracy above 0.9",
            note=f"{STANDS_IN} {shown}",
        ),
        judged(
            f"The mask at tau = {stops:g}, the first that keeps random labels below 30 %, still learns true ones",
            [a - b - 0.4 for a, b in zip(of(stops, 0.0, "test"), of(stops, 1.0, "train"), strict=True)],
            published="already small tau stops memorisation, while true labels train and generalise",
            unit="test accuracy minus accuracy on random labels, above 0.4",
        ),
        judged(
            "With true labels the gap between training and test shrinks under the mask",
            [
                (a - b) - (c - d)
                for a, b, c, d in zip(
                    of(0.0, 0.0, "train"),
                    of(0.0, 0.0, "test"),
                    of(stops, 0.0, "train"),
                    of(stops, 0.0, "test"),
                    strict=True,
                )
            ],
            published="training accuracy falls to meet test accuracy",
            unit="difference of gaps",
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies over the threshold."""
    from matplotlib.figure import Figure

    ends = [row for row in rows if row["end"]]
    thresholds = sorted({row["threshold"] for row in ends})
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    lines = {
        "random labels, train": (1.0, "train"),
        "true labels, train": (0.0, "train"),
        "true labels, test": (0.0, "test"),
    }
    for label, (redrawn, name) in lines.items():
        means = [_mean([r[name] for r in ends if r["threshold"] == t and r["redrawn"] == redrawn]) for t in thresholds]
        axes.plot(thresholds, means, marker="o", label=label)
    axes.set(xlabel="required agreement", ylabel="accuracy", ylim=(0, 1.02))
    axes.legend(frameon=False)
    return {"thresholds": figure}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
