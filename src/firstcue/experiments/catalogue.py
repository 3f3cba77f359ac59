"""Which experiments there are: the modules of this package, by the names that people type."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from firstcue.experiments.claims import Claim, Scale
from firstcue.sweeps import Trial

PAPERS = ("erasure", "agreement", "richness", "simplicity", "spurious")


@dataclass(frozen=True)
class Experiment:
    """What a module of this package offers."""

    name: str
    title: str
    source: str
    version: int
    seeds: int
    scales: Mapping[str, Scale]
    trials: Callable[[str, int], list[Trial]]
    run: Callable[[Trial], Any]
    claims: Callable[[list[dict[str, Any]]], list[Claim]]
    figures: Callable[[list[dict[str, Any]]], dict[str, Any]]


def names() -> list[str]:
    """All experiments, as in `erasure/learning-speed`.

    Example:
        >>> all("/" in name for name in names())
        True
    """
    here = Path(__file__).parent
    return [
        f"{paper}/{module.name.replace('_', '-')}"
        for paper in PAPERS
        for module in sorted(pkgutil.iter_modules([str(here / paper)]), key=lambda m: m.name)
        if not module.name.startswith("_")
    ]


def find(wanted: str) -> list[Experiment]:
    """The experiment of that name, or all of a paper.

    Raises:
        ValueError: If there is none, with the names that come near.
    """
    known = names()
    chosen = [name for name in known if name == wanted or name.split("/")[0] == wanted.rstrip("/")]
    if not chosen:
        near = get_close_matches(wanted, [*known, *PAPERS], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"papers: {', '.join(PAPERS)}."
        raise ValueError(f"there is no experiment {wanted!r}; {hint} `firstcue reproduce list` names all.")
    return [_load(name) for name in chosen]


def trials_of(experiment: Experiment, scale: str, seeds: int) -> Sequence[Trial]:
    """The experiment's trials at one scale, carrying its version.

    Raises:
        ValueError: If it has no such scale, or `seeds` is below one.
    """
    if scale not in experiment.scales:
        raise ValueError(f"{experiment.name} has no scale {scale!r}; it has {', '.join(experiment.scales)}.")
    if seeds < 1:
        raise ValueError(f"`seeds` is at least 1; got {seeds}.")
    return [
        Trial(experiment.name, trial.settings, trial.seed, experiment.version)
        for trial in experiment.trials(scale, seeds)
    ]


def _load(name: str) -> Experiment:
    module = import_module(f"firstcue.experiments.{name.replace('/', '.').replace('-', '_')}")
    return Experiment(
        name=name,
        title=module.TITLE,
        source=module.SOURCE,
        version=module.VERSION,
        seeds=module.SEEDS,
        scales=module.SCALES,
        trials=module.trials,
        run=module.run,
        claims=module.claims,
        figures=module.figures,
    )
