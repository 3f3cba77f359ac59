"""Two hundred cases of each kind in which discovery has nothing to accuse: how often it does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.spurious.discovery import with_token
from firstcue.spurious.discover import Material, discovered
from firstcue.spurious.discovery import Candidate
from firstcue.spurious.intervals import wilson
from firstcue.sweeps import Trial

TITLE = "Discovery accuses hardly anything where there is nothing to accuse"
SOURCE = "arXiv 2403.03375"
VERSION = 1
ALLOWED = 0.05
"""What the upper end of Wilson's interval has to stay below."""

CLASSES = ("0", "1")


def permuted_labels(seed: int) -> bool:
    """Ten columns that say nothing of the labels; an alarm is any candidate."""
    x, y = _noise(seed)
    return bool(_found(x, y, seed))


def nine_to_one(seed: int) -> bool:
    """The same with one class in ten rows."""
    x, _ = _noise(seed)
    return bool(_found(x, torch.from_numpy((_rng(seed + 999).random(len(x)) < 0.1).astype(int)), seed))


def random_attribute(seed: int) -> bool:
    """Metadata of four values, drawn by chance."""
    x, y = _noise(seed)
    return bool(_found(None, y, seed, {"attribute": _rng(seed + 999).integers(0, 4, len(x))}))


def patch_at_half(seed: int) -> bool:
    """A bright patch in half of the images of either class."""
    rng = _rng(seed)
    y = torch.from_numpy(rng.integers(0, 2, 120))
    x = torch.from_numpy(rng.random((120, 1, 8, 8))).float()
    x[:, 0, :2, :2] += torch.from_numpy(rng.integers(0, 2, 120)).float()[:, None, None]
    return bool(_found(x, y, seed))


def column_at_half(seed: int) -> bool:
    """A cue of two clear values, independent of the class, beside a core; an alarm names the cue, not the core."""
    x, y, _ = cued_table(seed, 0.5)
    return any(c.name == "column 2" for c in _found(x, y, seed))


def token_at_half(seed: int) -> bool:
    """A word put into half of the texts of either class."""
    planted = with_token(0.5, seed, 300)
    return any(planted.names(c) for c in _found(planted.x, planted.y, seed))


def equal_to_the_label(seed: int) -> bool:
    """Metadata and a column that are the label under other names, and a model that reads the column.

    No data can tell them from the class: an alarm is any other word for them than that.
    """
    x, y, _ = cued_table(seed, 1.0)
    found = _found(x, y, seed, {"leak": np.array(["cat", "dog"])[y.numpy()]}, reading(2.0))
    told = {name: c.standing for c in found for name in (c.name, *c.follows)}
    return {told.get("leak"), told.get("column 2")} != {"equals the label"}


def encoded_but_unused(seed: int) -> bool:
    """A cue that goes with the class in 95 of 100 rows, and a model that reads the core alone."""
    x, y, _ = cued_table(seed, 0.95)
    return any(c.name == "column 2" and c.standing == "relied on" for c in _found(x, y, seed, ask=reading(0.0)))


def harder_rows(seed: int) -> bool:
    """The same, with cores two and a half times as noisy where the cue goes against the class."""
    x, y, _ = cued_table(seed, 0.95, harder=1.5)
    return any(c.name == "column 2" and c.standing == "relied on" for c in _found(x, y, seed, ask=reading(0.0)))


CONTROLS: dict[str, Callable[[int], bool]] = {
    "labels permuted": permuted_labels,
    "labels permuted, nine to one": nine_to_one,
    "random attribute": random_attribute,
    "patch at strength .5": patch_at_half,
    "column at strength .5": column_at_half,
    "word at strength .5": token_at_half,
    "attribute equal to the label": equal_to_the_label,
    "encoded but unused": encoded_but_unused,
    "harder rows": harder_rows,
}

SCALES = {
    "tiny": Scale(minutes=0.5, settings={"cases": 2, "controls": list(CONTROLS)}),
    "small": Scale(minutes=4, settings={"cases": 20, "controls": list(CONTROLS)}),
    "paper": Scale(minutes=20, settings={"cases": 100, "controls": list(CONTROLS)}),
}
SEEDS = 10


def trials(scale: str, seeds: int) -> list[Trial]:
    """Every seed is so many cases of every kind, with seeds of their own."""
    return [Trial("spurious/false-alarms", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Alarms of each kind of case."""
    cases = trial.settings["cases"]
    seeds = range(cases * trial.seed, cases * (trial.seed + 1))
    return [
        {"control": name, "of": cases, "alarms": sum(CONTROLS[name](seed) for seed in seeds)}
        for name in trial.settings["controls"]
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How often each innocent kind of case raises an alarm."""
    made = []
    for name in dict.fromkeys(row["control"] for row in rows):
        alarms, of = (sum(int(row[key]) for row in rows if row["control"] == name) for key in ("alarms", "of"))
        low, high = wilson(alarms, of)
        made.append(
            Claim(
                text=f"{name}: fewer than {ALLOWED:.0%} of the cases raise an alarm",
                published="not in the paper: a demand of ours",
                value=alarms / of,
                ci_low=low,
                ci_high=high,
                n=of,
                unit="share of cases",
                verdict="holds" if high < ALLOWED else "does not hold" if low > ALLOWED else "inconclusive",
                note=f"{alarms} of {of} cases.",
            )
        )
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Nothing to draw: nine shares near zero."""
    return {}


def cued_table(seed: int, strength: float, *, rows: int = 200, harder: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two columns of core, one of a cue, two of noise; labels and the cue."""
    rng = _rng(seed)
    y = np.arange(rows) % 2
    cue = np.where(rng.random(rows) < strength, y, 1 - y)
    x = rng.normal(size=(rows, 5))
    x[:, :2] = 1.5 * (2 * y[:, None] - 1) + x[:, :2] * (1 + harder * (cue != y)[:, None])
    x[:, 2] = 3.0 * cue - 1.5 + 0.3 * x[:, 2]
    return torch.from_numpy(x).float(), torch.from_numpy(y), torch.from_numpy(cue)


def reading(weight: float) -> Callable[[Any], Tensor]:
    """A linear model of the core with some weight on the cue."""

    def model(x: Any) -> Tensor:
        margin = x[:, 0] + x[:, 1] + weight * x[:, 2]
        return torch.stack([-margin, margin], dim=1)

    return model


def _noise(seed: int, rows: int = 300) -> tuple[Tensor, Tensor]:
    rng = _rng(seed)
    return torch.from_numpy(rng.normal(size=(rows, 10))).float(), torch.from_numpy(rng.integers(0, 2, rows))


def _found(x: Any, y: Tensor, seed: int, metadata: Any = None, ask: Any = None) -> tuple[Candidate, ...]:
    return tuple(discovered(Material(y, CLASSES, x, metadata, predict=ask), seed=seed).candidates)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 7])
