"""A shortcut is sometimes learned long before the core and sometimes at the same time, so phases need not separate."""

from typing import Any

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.spurious._lab import in_most_seeds, run_of, times
from firstcue.spurious.batched import train_boolean
from firstcue.spurious.batched_metrics import decoded, used
from firstcue.sweeps import Trial

TITLE = "The phases in which shortcut and core are learned are not always separable"
SOURCE = "arXiv 2403.03375"
VERSION = 1
_COMMON = {"core": "parity 4", "noise": 4, "strength": 0.9, "degrees": [1, 3], "rate": 0.1, "batch_size": 64}
SCALES = {
    "tiny": Scale(minutes=0.3, settings=_COMMON | {"steps": 1500, "every": 25, "width": 128, "held_out": 1000}),
    "small": Scale(minutes=1, settings=_COMMON | {"steps": 3000, "every": 10, "width": 128, "held_out": 3000}),
    "paper": Scale(minutes=5, settings=_COMMON | {"steps": 10_000, "every": 10, "width": 512, "held_out": 6000}),
}
SEEDS = 10


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/phases", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Curves of both networks, and when each function was learned."""
    s = trial.settings
    found = train_boolean(
        [run_of([s["core"], f"parity {d}", s["strength"], s["noise"]], trial.seed) for d in s["degrees"]],
        s["steps"],
        width=s["width"],
        rate=s["rate"],
        batch_size=s["batch_size"],
        at=range(0, s["steps"] + 1, s["every"]),
        held_out=s["held_out"],
        measures=[used, decoded],
    )
    names = ("core_correlation", "spurious_correlation", "decoded_core", "decoded_spurious")
    curves = [
        {"kind": "curve", "degree": s["degrees"][row["run"]], "step": row["step"]} | {name: row[name] for name in names}
        for row in found.rows
    ]
    ends = [{"kind": "times", "degree": degree} | times(found, i) for i, degree in enumerate(s["degrees"])]
    return [*curves, *ends]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """When shortcut and core are learned, apart or together."""
    ends = [row for row in rows if row["kind"] == "times"]
    easy, hard = min(row["degree"] for row in ends), max(row["degree"] for row in ends)
    by_degree = {d: [row for row in ends if row["degree"] == d] for d in (easy, hard)}
    return [
        in_most_seeds(
            f"A shortcut of degree {easy} peaks at least 5 times before the core can be decoded",
            [bool(r["decoded_step"]) and 5 * r["peak_step"] <= r["decoded_step"] for r in by_degree[easy]],
            published="phases are separable when the shortcut is much simpler",
            note=_note(by_degree[easy]),
        ),
        in_most_seeds(
            f"A shortcut of degree {hard} peaks while the core is being learned",
            [_overlaps(r) for r in by_degree[hard]],
            published="phases are not always separable",
            note="The peak lies between 2/3 of the step at which the core can be decoded and 3/2 of that at which it is "
            "used. " + _note(by_degree[hard]),
        ),
    ]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Used and decodable, core and shortcut, over steps: one panel per degree, one line per seed."""
    from matplotlib.figure import Figure

    curves = [row for row in rows if row["kind"] == "curve"]
    degrees = sorted({row["degree"] for row in curves})
    figure = Figure(figsize=(4 * len(degrees), 3.2))
    for axes, degree in zip(figure.subplots(1, len(degrees), sharey=True, squeeze=False)[0], degrees, strict=True):
        styles = {
            "core_correlation": "C0-",
            "spurious_correlation": "C3-",
            "decoded_core": "C0:",
            "decoded_spurious": "C3:",
        }
        for seed in sorted({row["seed"] for row in curves}):
            own = [row for row in curves if row["degree"] == degree and row["seed"] == seed]
            for name, style in styles.items():
                label = name.replace("_", " ") if seed == curves[0]["seed"] else None
                axes.plot([r["step"] for r in own], [r[name] for r in own], style, lw=0.8, label=label)
        axes.set(xlabel="step", title=f"shortcut of degree {degree}")
    figure.axes[0].set_ylabel("correlation")
    figure.axes[0].legend(frameon=False, fontsize=7)
    return {"curves": figure}


def _overlaps(row: dict[str, Any]) -> bool:
    if row["decoded_step"] is None or row["core_step"] is None:
        return False
    return row["decoded_step"] / 1.5 <= row["peak_step"] <= 1.5 * row["core_step"]


def _note(rows: list[dict[str, Any]]) -> str:
    """Peak height @ step, decodable and used steps, by seed."""
    each = (f"{r['peak']:.2f} @ {r['peak_step']} / {r['decoded_step']} / {r['core_step']}" for r in rows)
    return "Peak @ step / core decodable / core used, by seed: " + "; ".join(each) + "."
