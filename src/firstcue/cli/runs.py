"""`reproduce` and `sweep`: many runs, which the same command continues after an interruption."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstcue.cli.files import writable_folder
from firstcue.cli.outcomes import Outcome, WrongUsage, as_wrong_usage
from firstcue.cli.screen import note, progress, show, show_json
from firstcue.cli.settings import Settings

if TYPE_CHECKING:  # pydantic is not loaded for `--help`
    from collections.abc import Callable, Mapping

    from firstcue.experiments.catalogue import Experiment
    from firstcue.sweeps import Result, Store, Trial
    from firstcue.sweeps.plan import Plan


class Scale(StrEnum):
    """How large an experiment runs."""

    TINY = "tiny"
    SMALL = "small"
    PAPER = "paper"


class Backend(StrEnum):
    """What runs the trials."""

    LOKY = "loky"
    DASK = "dask"
    RAY = "ray"
    SERIAL = "serial"


Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes. [default: one per core]")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Of a running dask scheduler.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")]
Chosen = Annotated[Backend, typer.Option("--backend", help="What runs the trials.")]


def reproduce(
    settings: Settings,
    name: Annotated[str, typer.Argument(metavar="list|PAPER|PAPER/CLAIM", help="What to run.")],
    scale: Annotated[Scale, typer.Option("--scale", help="tiny: a minute or two; small: up to an hour.")] = Scale.TINY,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Number of seeds. [default: the claim's own]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of rows, figures and claims.html.")] = Path("claims"),
    backend: Chosen = Backend.LOKY,
    workers: Workers = None,
    scheduler: Scheduler = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Keep what is finished, or run everything again.")
    ] = True,
    retry_failed: Retry = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Run a paper's claims again and say which hold here."""
    from firstcue.experiments import find, names

    if name == "list":
        return _list(names(), as_json)
    with as_wrong_usage("NAME"):
        chosen = find(name)
    writable_folder(out)
    from firstcue.sweeps import Store

    if not resume:
        Store(out / "trials").discard({experiment.name for experiment in chosen})
    from firstcue.experiments import reproduce as run
    from firstcue.report.claims import as_text, write_claims

    outcomes = []
    for experiment in chosen:
        if str(scale) not in experiment.scales:
            note(f"{experiment.name} has no scale {scale}; left out.", quiet=settings.quiet)
            continue
        with progress(quiet=settings.quiet) as tell:
            outcomes.append(
                run(
                    experiment,
                    out,
                    scale=str(scale),
                    seeds=seeds,
                    backend=str(backend),
                    workers=workers,
                    scheduler=scheduler,
                    retry_failed=retry_failed,
                    progress=tell,
                )
            )
        if not as_json:
            show(as_text(outcomes[-1]))
    if not outcomes:
        raise WrongUsage(f"--scale: nothing called {name} has the scale {scale}.")
    page = write_claims(out)
    if as_json:
        show_json({"outcomes": [outcome.model_dump(mode="json") for outcome in outcomes], "page": str(page)})
    else:
        show(f"Claims: {page}")
    return Outcome.DONE


def _list(names: list[str], as_json: bool) -> int:
    from firstcue.experiments import find

    experiments = [find(name)[0] for name in names]
    if as_json:
        told = [
            {"name": e.name, "title": e.title, "minutes": {scale: size.minutes for scale, size in e.scales.items()}}
            for e in experiments
        ]
        show_json({"experiments": told})
        return Outcome.DONE
    for name, experiment in zip(names, experiments, strict=True):
        minutes = ", ".join(f"{scale} {size.minutes:g} min" for scale, size in experiment.scales.items())
        show(f"{name:<34} {experiment.title} ({minutes})")
    return Outcome.DONE


def sweep(
    settings: Settings,
    file: Annotated[
        Path, typer.Argument(metavar="SWEEP.toml", help="experiment, seeds, [settings], [grid], [random], [search].")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("sweep"),
    backend: Annotated[
        Backend | None, typer.Option("--backend", help="What runs the trials. [default: the file's]")
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    retry_failed: Retry = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials and what is left; run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Run an experiment over many settings; the same command continues after an interruption."""
    with as_wrong_usage("SWEEP.toml"):
        plan, experiment, usual = _read(file)
    writable_folder(out)
    from firstcue.sweeps import Store
    from firstcue.sweeps import sweep as run
    from firstcue.sweeps.plan import trials_of_plan

    store = Store(out / "trials")

    def rows_of(trials: "list[Trial]") -> Any:
        with progress(quiet=settings.quiet) as tell:
            return run(
                trials,
                experiment.run,
                store,
                str(backend or plan.backend),
                workers=workers,
                scheduler=scheduler,
                retry_failed=retry_failed,
                time_limit=plan.time_limit,
                table=out / "rows.csv",
                progress=tell,
            )

    if plan.search is not None:
        return _search(plan, usual, experiment.version, store, None if dry_run else rows_of, out, as_json)
    with as_wrong_usage("SWEEP.toml"):
        trials = trials_of_plan(plan, usual, experiment.version)
    if dry_run:
        return _list_trials(trials, store, len(trials), as_json)
    rows = len(rows_of(trials))
    if as_json:
        show_json({"rows": rows, "trials": len(trials), "table": str(out / "rows.csv")})
    else:
        show(f"{rows} rows of {len(trials)} trials: {out / 'rows.csv'}")
    return Outcome.DONE


def _read(file: Path) -> "tuple[Plan, Experiment, Mapping[str, Any]]":
    """The plan, its experiment, and the settings the experiment has at the plan's scale."""
    from firstcue.experiments import find
    from firstcue.experiments.catalogue import trials_of
    from firstcue.sweeps.plan import read_plan

    plan = read_plan(file)
    found = find(plan.experiment)
    if len(found) != 1:
        raise ValueError(f"{plan.experiment} names {len(found)} experiments; name one of them.")
    return plan, found[0], trials_of(found[0], plan.scale, 1)[0].settings


def _search(
    plan: "Plan",
    usual: "Mapping[str, Any]",
    version: int,
    store: "Store",
    rows_of: "Callable[[list[Trial]], Any] | None",
    out: Path,
    as_json: bool,
) -> int:
    """Run a search round by round, or list what it has chosen so far if there is nothing to run with."""
    from firstcue.sweeps.search import Rounds, best, chosen_so_far, rounds, run_search

    assert plan.search is not None

    def blamed() -> Rounds:
        with as_wrong_usage("SWEEP.toml"):
            return (yield from rounds(plan, usual, version))

    if rows_of is None:
        done, waiting, chosen = chosen_so_far(blamed(), store)
        seeds = len(plan.seeds) if isinstance(plan.seeds, list) else plan.seeds
        known = [*done, *waiting]
        return _list_trials(known, store, len(known) + (plan.search.count - chosen) * seeds, as_json)

    def run_round(so_far: "list[Trial]", trials: "list[Trial]") -> "dict[str, Result]":
        rows_of(so_far)
        return {t.key: r for t in trials if (r := store.read(t) or store.read(t, failed=True)) is not None}

    points = run_search(blamed(), run_round)
    winner = best(points, plan.search)
    if as_json:
        found = None if winner is None else {"value": winner.value, "settings": dict(winner.settings)}
        told = {"points": len(points), "measure": plan.search.measure, "best": found, "table": str(out / "rows.csv")}
        show_json(told)
    elif winner is None:
        show(f"None of {len(points)} points has a finite {plan.search.measure}: {out / 'rows.csv'}")
    else:
        show(f"Best of {len(points)} points: {plan.search.measure} {winner.value:.4g} with {winner.settings}")
        show(f"Rows of all: {out / 'rows.csv'}")
    return Outcome.DONE


def _list_trials(trials: "list[Trial]", store: "Store", total: int, as_json: bool) -> int:
    """Every trial that is known already, what the finished ones cost, and what is left of `total`."""
    from firstcue.sweeps.trial import canonical

    spent, done, told = 0.0, 0, []
    for trial in trials:
        result = store.read(trial) or store.read(trial, failed=True)
        state = "to run" if result is None else "failed" if result.error else "finished"
        spent += 0.0 if result is None else result.seconds
        done += result is not None
        told.append({"state": state, "seed": trial.seed, "settings": dict(trial.settings)})
    left = spent / done * (total - done) if done else None
    if as_json:
        show_json({"trials": told, "total": total, "done": done, "seconds": spent, "seconds_left": left})
        return Outcome.DONE
    for each in told:
        show(f"{each['state']:<9} seed {each['seed']} {canonical(each['settings'])}")
    if total > len(trials):
        show(f"and {total - len(trials)} trials that the search has yet to choose")
    guess = "" if left is None else f", about {left:.0f} s of one core left"
    show(f"{done} of {total} trials done in {spent:.0f} s of one core{guess}.")
    return Outcome.DONE
