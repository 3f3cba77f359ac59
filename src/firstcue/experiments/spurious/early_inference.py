"""Guessing the groups from early training works if the shortcut is learned early, and is at chance if it is not."""

from typing import Any

import torch

from firstcue.experiments.claims import Claim, Scale, judged
from firstcue.experiments.spurious._lab import function_of, median, values_of
from firstcue.spurious.batched import BooleanRun, train_boolean
from firstcue.spurious.batched_metrics import Snapshot, used
from firstcue.spurious.batched_rows import held
from firstcue.spurious.inference import eiil_environments, error_set, minority, spare_clusters
from firstcue.sweeps import Trial

TITLE = "Inferring groups from early training fails when the shortcut is not learned early"
SOURCE = "arXiv 2403.03375"
VERSION = 2
METHODS = {
    "error set": lambda output, y, steps, seed: error_set(output, y),
    "output clusters": lambda output, y, steps, seed: minority(spare_clusters(output, y), y),
    "opposed environments": lambda output, y, steps, seed: minority(
        eiil_environments(output, y, steps=steps, rate=0.01, seed=seed), y
    ),
}
"""JTT, SPARE, EIIL: a guess at the minority from outputs `(n,)` and classes."""

EASY = [["parity 4", "parity 1"], ["staircase 5", "staircase 1"]]
HARD = [["parity 4", "parity 3"], ["staircase 5", "staircase 5"]]
_COMMON = {"noise": 4, "strength": 0.9, "rate": 0.1, "batch_size": 64, "width": 128}
SCALES = {
    "tiny": Scale(
        minutes=0.3, settings=_COMMON | {"rows": 2000, "epochs": [1, 3, 8], "pairs": [EASY[0], HARD[0]], "steps": 300}
    ),
    "small": Scale(
        minutes=3,
        settings=_COMMON
        | {"rows": 6000, "epochs": [1, 2, 3, 4, 6, 8, 12, 16, 24], "pairs": EASY + HARD, "steps": 3000},
    ),
    "paper": Scale(
        minutes=60,
        settings=_COMMON | {"rows": 60_000, "epochs": [1, 2, 3, 4, 6, 8, 12], "pairs": EASY + HARD, "steps": 20_000},
    ),
}
SEEDS = 10


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/early-inference", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """F1 of the minority that each way infers after each epoch."""
    s = trial.settings
    runs = [
        BooleanRun(function_of(core), function_of(cue), s["strength"], s["noise"], trial.seed)
        for core, cue in s["pairs"]
    ]
    seen = held([r.recipe() for r in runs], max(r.columns for r in runs), s["rows"])
    steps = {max(1, round(epoch * s["rows"] / s["batch_size"])): epoch for epoch in s["epochs"]}
    rows: list[dict[str, Any]] = []

    def infer(snapshot: Snapshot) -> dict[str, torch.Tensor]:
        outputs = snapshot.networks.read_out(snapshot.networks.hidden(seen.x))
        for i, (core, cue) in enumerate(s["pairs"]):
            y, minority = (seen.core[i] > 0).long(), seen.core[i] != seen.spurious[i]
            share = float(minority.double().mean())
            for name, method in METHODS.items():
                guess = method(outputs[i], y, s["steps"], trial.seed)
                rows.append(
                    {
                        "pair": f"{cue} / {core}",
                        "hard": [core, cue] in HARD,
                        "epoch": steps[snapshot.step],
                        "method": name,
                        "f1": f1_score(guess, minority),
                        "chance": f1_of_all(share),
                    }
                )
        return {}

    train_boolean(
        runs,
        max(steps),
        width=s["width"],
        rate=s["rate"],
        batch_size=s["batch_size"],
        rows=s["rows"],
        at=list(steps),
        measures=[used, infer],
    )
    return rows


def f1_score(guess: torch.Tensor, truth: torch.Tensor) -> float:
    """Of the minority."""
    right = int((guess & truth).sum())
    return 2 * right / max(int(guess.sum() + truth.sum()), 1)


def f1_of_all(share: float) -> float:
    """Of the guess that every row is in a minority of that share: what knowing nothing achieves.

    Example:
        >>> round(f1_of_all(0.1), 3)
        0.182
    """
    return 2 * share / (1 + share)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Where early training tells the minority, and where it does not."""
    made = []
    for pair, hard in sorted({(row["pair"], row["hard"]) for row in rows}, key=lambda p: (p[1], p[0])):
        for method in METHODS:
            best = _best(rows, pair, method)
            chance = median([row["chance"] for row in rows if row["pair"] == pair])
            note = f"Best epoch of each seed, chosen by the truth: median F1 {median(best):.2f}; chance {chance:.2f}."
            if hard:
                text = f"{method}: hardly better than chance for a shortcut as hard as {pair.replace(' / ', ' under ')}"
                values, unit = [0.35 - v for v in best], "0.35 minus F1 of the minority"
            else:
                text = f"{method}: the minority is found for a shortcut as easy as {pair.replace(' / ', ' under ')}"
                values, unit = [v - 0.95 for v in best], "F1 of the minority minus 0.95"
            published = "methods that exploit early learning are limited"
            made.append(judged(text, values, published=published, unit=unit, note=note))
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """F1 over epochs: one panel per pair of functions."""
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    figure = Figure(figsize=(3 * len(pairs), 3))
    for axes, pair in zip(figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0], pairs, strict=True):
        epochs = sorted({row["epoch"] for row in rows})
        for method in METHODS:
            middle = [median(values_of(rows, "f1", pair=pair, method=method, epoch=e)) for e in epochs]
            axes.plot(epochs, middle, marker="o", ms=3, label=method)
        axes.axhline(rows[0]["chance"], color="grey", ls=":", label="all rows")
        axes.set(title=pair, xlabel="epoch", ylim=(0, 1.05))
    figure.axes[0].set_ylabel("F1 of the minority")
    figure.axes[0].legend(frameon=False, fontsize=7)
    return {"f1": figure}


def _best(rows: list[dict[str, Any]], pair: str, method: str) -> list[float]:
    """The best epoch of each seed: an oracle's choice, kinder than any user's."""
    seeds = sorted({row["seed"] for row in rows})
    chosen = [row for row in rows if row["pair"] == pair and row["method"] == method]
    return [max(row["f1"] for row in chosen if row["seed"] == seed) for seed in seeds]
