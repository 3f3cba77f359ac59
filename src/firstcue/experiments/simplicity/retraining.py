"""The honest numbers: new classifiers, of the same and of another kind, learn from the simplified images."""

from typing import Any

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.simplicity._beds import Setting, density_of, fitted, makers, plain
from firstcue.simplicity.evaluating import evaluate_simplified, late_gate, retrained_row
from firstcue.sweeps import Trial

TITLE = "What a simplifier leaves can be learnt by a new network, and by one of another kind"
SOURCE = "arXiv 2201.05610"
VERSION = 2
_COMMON = {"head": "mix", "share": 0.7, "d_max": 0.2, "classifier_rate": 2e-3}
SCALES = {
    "tiny": Scale(
        minutes=2.0,
        settings=_COMMON
        | {
            "core": "digits", "size": 16, "train_rows": 1000, "test_rows": 400, "channels": 8, "width": 8,
            "warmup": 120, "steps": 150, "retrain_steps": 120, "density": "dct",
        },
    ),
    "small": Scale(
        minutes=5.0,
        settings=_COMMON
        | {
            "core": "garments", "size": 14, "train_rows": 6000, "test_rows": 1000, "channels": 16, "width": 16,
            "warmup": 400, "steps": 600, "retrain_steps": 600, "density": "gray28",
        },
    ),
}  # fmt: skip
SEEDS = 3
STRATEGIES = ("lookahead", "act_grad")


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each strategy and seed."""
    return [
        Trial("simplicity/retraining", {**SCALES[scale].settings, "strategy": strategy}, seed)
        for strategy in STRATEGIES
        for seed in range(seeds)
    ]


def run(trial: Trial) -> list[dict[str, Any]]:
    """The joint classifier and new ones of both kinds, trained on simplified and on original images."""
    s, seed = trial.settings, trial.seed
    learn, test = plain(s, "train", seed), plain(s, "test", seed)
    density, kinds = density_of(s["density"], learn.x), makers(s, 10)
    fit = fitted(s, density, learn, 10, seed)
    rows = evaluate_simplified(fit, kinds, learn, test, density, steps=s["retrain_steps"], seed=seed + 1)
    rows += [_on_originals(s, kind, maker, learn, test, density, seed) for kind, maker in kinds.items()]
    return [{**row, "gate": late_gate(fit), "skipped": fit.skipped} for row in rows]


def _on_originals(s: Setting, kind: str, maker: Any, learn: Any, test: Any, density: Any, seed: int) -> dict[str, Any]:
    """The same new classifier, trained as long on the images as they are."""
    found = retrained_row(lambda x: x, maker, learn, test, density, steps=s["retrain_steps"], seed=seed + 1)
    return {"network": "originals", "kind": kind, "bits_per_pixel_original": found["bits_per_pixel"], **found}


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What new networks make of simplified images, by strategy."""
    found = []
    for strategy in STRATEGIES:
        part = [row for row in rows if row["strategy"] == strategy]
        found += [_learnt(strategy, kind, part) for kind in ("convolutional", "dense")]
        found += [_transfer(strategy, part), _collusion(strategy, part)]
    return found


def _of(rows: list[dict[str, Any]], network: str, kind: str) -> dict[int, dict[str, Any]]:
    return {row["seed"]: row for row in rows if row["network"] == network and row["kind"] == kind}


def _learnt(strategy: str, kind: str, rows: list[dict[str, Any]]) -> Claim:
    new, plain_ones = _of(rows, "retrained", kind), _of(rows, "originals", kind)
    left = [row["bits_per_pixel"] / row["bits_per_pixel_original"] for row in new.values()]
    return judged(
        f"{strategy}: a new {kind} network on simplified images is within 3 points of one on originals",
        [new[k]["accuracy_simplified"] - plain_ones[k]["accuracy_original"] + 0.03 for k in new if k in plain_ones],
        published="accuracy kept after retraining, across architectures",
        unit="difference of accuracies plus 0.03",
        note=f"Bits left: {sum(left) / max(1, len(left)):.0%}.",
    )


def _transfer(strategy: str, rows: list[dict[str, Any]]) -> Claim:
    new, plain_ones = _of(rows, "retrained", "convolutional"), _of(rows, "originals", "convolutional")
    return judged(
        f"{strategy}: a network that learned from simplified images also reads originals (within 3 points)",
        [new[k]["accuracy_original"] - plain_ones[k]["accuracy_original"] + 0.03 for k in new if k in plain_ones],
        published="not claimed; our question",
        unit="difference of accuracies plus 0.03",
    )


def _collusion(strategy: str, rows: list[dict[str, Any]]) -> Claim:
    joint, new = _of(rows, "joint", "its own"), _of(rows, "retrained", "convolutional")
    return judged(
        f"{strategy}: the classifier trained beside the simplifier does better on its images than a new one",
        [joint[k]["accuracy_simplified"] - new[k]["accuracy_simplified"] for k in joint if k in new],
        published="joint training can collude, hence retraining",
        unit="difference of accuracies on simplified images",
    )


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies on simplified and on original images of every network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    names = [("joint", "its own"), ("retrained", "convolutional"), ("retrained", "dense")]
    names += [("originals", "convolutional"), ("originals", "dense")]
    for axes, strategy in zip(figure.subplots(1, 2, sharey=True), STRATEGIES, strict=True):
        for i, (network, kind) in enumerate(names):
            part = _of([row for row in rows if row["strategy"] == strategy], network, kind).values()
            for color, on in (("C0", "simplified"), ("C1", "original")):
                y = [row[f"accuracy_{on}"] for row in part]
                axes.plot([i] * len(y), y, "o", ms=4, color=color, label=f"on {on}" if i == 0 else None)
        ticks = ["joint" if network == "joint" else f"{network}\n{kind}" for network, kind in names]
        axes.set(title=strategy, xticks=range(len(names)))
        axes.set_xticklabels(ticks, fontsize=6)
    figure.axes[0].set(ylabel="accuracy")
    figure.axes[0].legend(frameon=False)
    figure.tight_layout()
    return {"networks": figure}
