"""When the mask learns the spiral: weight decay, threshold and rescaling, turned one at a time."""

from typing import Any

from firstcue.experiments.agreement._memorising import memorise
from firstcue.experiments.agreement.memorisation import README, RUNS
from firstcue.experiments.claims import Claim, Scale, judged, paired
from firstcue.sweeps import Trial

TITLE = "Whether the AND-mask learns the mechanism hangs on weight decay, threshold and rescaling"
SOURCE = "arXiv 2009.00329, section 4.1 and the settings in the README of its code"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=2.0, settings={"environments": 8, "rows": 256, "batch_size": 64, "epochs": 12, "hidden": 64}),
    "small": Scale(minutes=40.0),
    "paper": Scale(minutes=60.0, settings={"environments": 32}),
}
SEEDS = 5

CURVES: dict[str, tuple[Any, ...]] = {
    "l2": (0.0, 1e-5, 1e-4, 1e-3, 1e-2),
    "threshold": (0.0, 0.5, 0.75, 0.875, 1.0),
    "scale": ("none", "sqrt", "norm", "tensor"),
}
"""Values of each setting, while the others stay at `CENTRE`; threshold 0 is plain training."""
CENTRE: dict[str, Any] = {"l2": 1e-3, "threshold": 1.0, "scale": "tensor"}


def trials(scale: str, seeds: int) -> list[Trial]:
    """The centre, and each setting at each other value; seeds from 1, as 0 served for choosing settings."""
    shared = {**RUNS[README], **SCALES[scale].settings}
    settings = [CENTRE, *({**CENTRE, knob: v} for knob, values in CURVES.items() for v in values if v != CENTRE[knob])]
    return [Trial("agreement/mask-settings", {**shared, **s}, seed + 1) for s in settings for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Accuracies at the end of one training, and the best on the way."""
    rows = memorise(dict(trial.settings), trial.seed)
    return [{**rows[-1], "best_test": max(row["test"] for row in rows)}]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """That the centre works, and that it does not without threshold, weight decay or rescaling."""
    marked = [{**row, "at": _place(row)} for row in rows]
    centre = [row["test"] - 0.5 for row in marked if row["at"] == ("centre",)]
    weaker = [
        ("threshold", 0.75, "The mask at threshold 1 is better on test data than at 0.75"),
        ("threshold", 0.0, "The mask at threshold 1 is better on test data than plain training"),
        ("l2", 0.0, "Weight decay helps the mask: 1e-3 against none"),
        ("scale", "none", "Rescaling what is kept helps: by numel / kept against not at all"),
    ]
    return [
        judged(
            "The mask is above chance on test data",
            centre,
            published="perfect test accuracy",
            unit="test accuracy above one half",
        ),
        *(
            judged(
                text,
                paired(marked, "at", "test", ("centre",), (knob, value)),
                published="argued; no curve is published",
                unit="difference of test accuracies",
            )
            for knob, value, text in weaker
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Test and training accuracy at the end over each setting, one dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8))
    for axes, (knob, values) in zip(figure.subplots(1, 3, sharey=True), CURVES.items(), strict=True):
        for i, value in enumerate(values):
            at = ("centre",) if value == CENTRE[knob] else (knob, value)
            part = [row for row in rows if _place(row) == at]
            axes.plot(
                [i + 0.12] * len(part),
                [r["train"] for r in part],
                "x",
                color="C1",
                ms=4,
                label="train" if i == 0 else None,
            )
            axes.plot(
                [i - 0.12] * len(part),
                [r["test"] for r in part],
                "o",
                color="C0",
                ms=4,
                alpha=0.7,
                label="test" if i == 0 else None,
            )
        axes.axhline(0.5, color="0.7", lw=0.8)
        axes.set(xticks=range(len(values)), xticklabels=[str(v) for v in values], xlabel=knob, ylim=(0.4, 1.02))
    figure.axes[0].set_ylabel("accuracy at the end")
    figure.axes[0].legend(frameon=False)
    return {"settings": figure}


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """The knob that was turned and its value, or the centre."""
    turned = [(knob, row[knob]) for knob in CURVES if row[knob] != CENTRE[knob]]
    return turned[0] if turned else ("centre",)
