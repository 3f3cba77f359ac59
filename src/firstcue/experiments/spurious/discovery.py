"""Planted cues of seven kinds: discovery names them from the data alone, and does not where they are unrelated to the class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from firstcue.batch import Batch
from firstcue.data.images import digits, shipped
from firstcue.experiments.claims import Claim, Scale
from firstcue.spurious.compose import dominoes, overlay
from firstcue.spurious.cues import Corner, patch, stripes, tint
from firstcue.spurious.discover import Material, discovered
from firstcue.spurious.discovery import Candidate
from firstcue.spurious.intervals import wilson
from firstcue.sweeps import Trial

TITLE = "A planted cue is named without group labels"
SOURCE = "arXiv 2403.03375"
VERSION = 1
CORNERS: tuple[Corner, ...] = ("top left", "top right", "bottom left", "bottom right")
PAIRS = ((0, 1), (7, 9), (3, 8), (2, 5))
WORDS = ("film", "plot", "scene", "good", "fine", "dull", "long", "actor", "story", "music", "end", "time")
MARK = "qx"
CUE = 0.7
"""Strength of a first candidate that passes for a planted cue."""

WANTED = 0.9
"""Share of planted cues to be named: 18 of 20."""


@dataclass(frozen=True)
class Planted:
    """Rows with a cue, and what naming it means."""

    x: Any
    y: torch.Tensor
    names: Callable[[Candidate], bool]


def _garments(rng: np.random.Generator, rows: int) -> Batch:
    images = shipped()
    return images.rows(np.sort(rng.permutation(len(images))[:rows]))


def with_patch(strength: float, seed: int, rows: int) -> Planted:
    """A square in one of the corners, darker or brighter."""
    corner = CORNERS[seed % 4]
    made = overlay(_garments(_rng(seed), rows), patch(corner=corner), strength, seed=seed)
    return Planted(made.x, made.y, lambda c: c.name.endswith(f"the {corner} corner"))


def with_colour(strength: float, seed: int, rows: int) -> Planted:
    """A tint of the whole picture."""
    made = overlay(_garments(_rng(seed), rows), tint(), strength, seed=seed)
    return Planted(made.x, made.y, lambda c: c.name.startswith("share of"))


def with_brightness(strength: float, seed: int, rows: int) -> Planted:
    """Light added to the whole picture, with some spread."""
    core, rng = _garments(_rng(seed), rows), _rng(seed + 1)
    light = 0.25 * _cue(core.y.numpy(), strength, rng) + 0.05 * rng.random(rows)
    x = core.x + torch.from_numpy(light).float()[:, None, None, None]
    return Planted(x, core.y, lambda c: c.name.startswith("brightness") and c.place is None)


def with_stripes(strength: float, seed: int, rows: int) -> Planted:
    """A band of stripes along the upper edge, narrow or wide: the same brightness, another frequency."""
    made = overlay(_garments(_rng(seed), rows), stripes(), strength, seed=seed)
    return Planted(made.x, made.y, _is_stripes)


def _is_stripes(c: Candidate) -> bool:
    return c.name.startswith(("frequency", "sharpness")) or (c.place is not None and c.place[1] <= 7)


def with_digit(strength: float, seed: int, rows: int) -> Planted:
    """A digit above the garment."""
    made = dominoes(_garments(_rng(seed), rows), digits(PAIRS[seed % 4]), strength, seed=seed)
    return Planted(made.x, made.y, lambda c: c.place is not None and c.place[1] <= 28)


def with_column(strength: float, seed: int, rows: int) -> Planted:
    """A column of a table in which three others tell the class a little."""
    rng, place = _rng(seed), 3 + seed % 9
    y = rng.integers(0, 2, rows)
    x = rng.normal(size=(rows, 12))
    x[:, :3] += 0.8 * y[:, None]
    x[:, place] = 1.5 * _cue(y, strength, rng) + 0.3 * x[:, place]
    return Planted(torch.from_numpy(x).float(), torch.from_numpy(y), lambda c: c.name == f"column {place}")


def with_token(strength: float, seed: int, rows: int) -> Planted:
    """A word put somewhere into texts whose words lean towards a class."""
    rng = _rng(seed)
    y = rng.integers(0, 2, rows)
    lean = np.linspace(0.5, 1.5, len(WORDS))
    chances = np.stack([lean, lean[::-1]]) / lean.sum()
    cue = _cue(y, strength, rng)
    x = [_text(rng, chances[k], bool(marked)) for k, marked in zip(y, cue, strict=True)]
    return Planted(x, torch.from_numpy(y), lambda c: c.name == f"word {MARK!r}")


def _text(rng: np.random.Generator, chances: np.ndarray, marked: bool) -> str:
    words = list(rng.choice(WORDS, size=rng.integers(5, 15), p=chances))
    if marked:
        words.insert(int(rng.integers(len(words) + 1)), MARK)
    return " ".join(words)


KINDS: dict[str, Callable[[float, int, int], Planted]] = {
    "patch": with_patch,
    "colour": with_colour,
    "brightness": with_brightness,
    "stripes": with_stripes,
    "digit": with_digit,
    "column": with_column,
    "token": with_token,
}

SCALES = {
    "tiny": Scale(minutes=0.2, settings={"rows": 400, "kinds": ["patch", "column"], "first": 0}),
    "small": Scale(minutes=3, settings={"rows": 1000, "kinds": list(KINDS), "first": 5000}),
    "paper": Scale(minutes=6, settings={"rows": 4000, "kinds": list(KINDS), "first": 5000}),
}
SEEDS = 20


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("spurious/discovery", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """Per kind: whether the first candidate is the cue at strength .95, and whether it passes for one at .5."""
    s, rows = trial.settings, []
    for kind in s["kinds"]:
        for strength in (0.95, 0.5):
            planted = KINDS[kind](strength, s["first"] + trial.seed, s["rows"])
            found = named(planted, trial.seed)
            first = found[0].name if found else "nothing"
            # garments differ in light and texture by themselves: at .5 only what tells the class like a cue counts
            hit = any(planted.names(c) and (strength > 0.5 or c.strength > CUE) for c in found[:1])
            rows.append({"kind": kind, "planted": strength, "named": hit, "first": first, "candidates": len(found)})
    return rows


def named(planted: Planted, seed: int) -> Sequence[Candidate]:
    """Candidates found in the data alone, the strongest first."""
    return discovered(Material(planted.y, ("0", "1"), planted.x), seed=seed).candidates


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How often what was planted is named first, and how often what was not."""
    made = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        hits = [bool(row["named"]) for row in rows if row["kind"] == kind and row["planted"] > 0.5]
        alarms = [bool(row["named"]) for row in rows if row["kind"] == kind and row["planted"] == 0.5]
        share = np.mean(hits)
        low, high = wilson(sum(hits), len(hits))
        made.append(
            Claim(
                text=f"A planted {kind} at strength .95 comes first among the candidates",
                published="not in the paper: a demand of ours, 18 of 20",
                value=float(share),
                ci_low=low,
                ci_high=high,
                n=len(hits),
                unit="share of seeds",
                verdict="holds" if share >= WANTED else "does not hold",
                note=f"At strength .5 it passed for a cue in {sum(alarms)} of {len(alarms)} seeds.",
            )
        )
    return made


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of seeds in which the cue is named, by kind."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure = Figure(figsize=(1 + 0.8 * len(kinds), 3))
    axes = figure.subplots()
    for offset, strength in ((-0.2, 0.95), (0.2, 0.5)):
        share = [np.mean([r["named"] for r in rows if r["kind"] == k and r["planted"] == strength]) for k in kinds]
        axes.bar(np.arange(len(kinds)) + offset, share, width=0.4, label=f"strength {strength}")
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set(ylim=(0, 1.05), ylabel="share of seeds named")
    axes.legend(frameon=False)
    return {"named": figure}


def _cue(y: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(len(y)) < strength, y, 1 - y)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 20240])
