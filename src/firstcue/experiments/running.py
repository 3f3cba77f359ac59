"""Run an experiment at a scale and write down what it found: rows, figures, claims."""

from pathlib import Path
from typing import Any

from firstcue._progress import Progress, silent
from firstcue._values import Value
from firstcue._whole import written_whole
from firstcue.experiments.catalogue import Experiment, trials_of
from firstcue.experiments.claims import Claim
from firstcue.sweeps import Store, sweep
from firstcue.sweeps.table import write_rows


class Outcome(Value):
    """An experiment that was run: its claims, and where its rows and figures are."""

    experiment: str
    title: str
    source: str
    scale: str
    seeds: int
    minutes: float
    """Minutes of all trials one after the other, on the clock, those of earlier calls included."""

    failed: int
    """Trials that ended in an error."""

    claims: list[Claim]
    figures: dict[str, str]
    """SVG file by the figure's name, relative to the folder of the results."""


def reproduce(
    experiment: Experiment,
    out: str | Path,
    *,
    scale: str = "tiny",
    seeds: int | None = None,
    backend: str = "loky",
    workers: int | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Run what is missing of an experiment and judge its claims.

    Args:
        experiment: From `find`.
        out: Folder of the results: `trials/`, `<name>.csv`, `<name>.json` and `<name>-<figure>.svg`. A call that was
            interrupted is continued.
        scale: One of the experiment's scales.
        seeds: Number of seeds; the experiment's own when None.
        backend: As in `sweep`, as are the next four.
        workers: Processes.
        scheduler: Address of a running dask scheduler.
        retry_failed: Run failed trials again.
        progress: Told how many are done.

    Raises:
        ValueError: If the experiment has no such scale, its data is not on this machine, or `out` cannot be written.
    """
    count = experiment.seeds if seeds is None else seeds
    trials = trials_of(experiment, scale, count)
    store = Store(Path(out) / "trials")
    rows = sweep(
        trials,
        experiment.run,
        store,
        backend,
        workers=workers,
        scheduler=scheduler,
        retry_failed=retry_failed,
        progress=progress,
    )
    results = [store.read(trial) or store.read(trial, failed=True) for trial in trials]
    stem = f"{experiment.name.replace('/', '-')}-{scale}"
    write_rows(rows, Path(out) / f"{stem}.csv")
    outcome = Outcome(
        experiment=experiment.name,
        title=experiment.title,
        source=experiment.source,
        scale=scale,
        seeds=count,
        minutes=sum(r.seconds for r in results if r is not None) / 60,
        failed=sum(r is None or r.error is not None for r in results),
        claims=experiment.claims(rows) if rows else [],
        figures=_write_figures(experiment.figures(rows) if rows else {}, Path(out), stem),
    )
    with written_whole(Path(out) / f"{stem}.json") as path:
        path.write_text(outcome.model_dump_json(indent=2), encoding="utf-8")
    return outcome


def _write_figures(figures: dict[str, Any], folder: Path, stem: str) -> dict[str, str]:
    names = {}
    for name, figure in figures.items():
        names[name] = f"{stem}-{name}.svg"
        with written_whole(folder / names[name]) as path:
            figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    return names
