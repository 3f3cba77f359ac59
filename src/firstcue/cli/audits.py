"""`demo`, `audit` and `audit-embeddings`: a model or arrays go in, a report comes out."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstcue.cli.files import save_report, writable_file, writable_folder
from firstcue.cli.inputs import Attributes, Data, HeldOut, Label, Model, Weights, attributes_for_audit, read_rows
from firstcue.cli.outcomes import Outcome, WrongUsage, as_wrong_usage
from firstcue.cli.reports import Interactive, foresee_interactive
from firstcue.cli.runs import Backend, Chosen, Scheduler, Workers
from firstcue.cli.screen import complain, note, progress, show, show_report
from firstcue.cli.settings import Settings

if TYPE_CHECKING:  # pydantic is not loaded for `--help`
    from firstcue.finding import Gate, Report

Out = Annotated[Path | None, typer.Option("--out", help="Folder for report.html, report.json and model-card.md.")]
GateFile = Annotated[
    Path | None, typer.Option("--gate", help="TOML file of demands; exit 1 when the report breaks one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]
Fast = Annotated[
    bool, typer.Option("--fast", help="The verdict, the groups and the commonest remedies; the model is not described.")
]
Thorough = Annotated[bool, typer.Option("--thorough", help="More rows, layers, draws and explained decisions.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML to this file.")]


def demo(
    settings: Settings,
    out: Annotated[Path, typer.Option("--out", help="Folder for the report, the data and both models.")] = Path(
        "firstcue-demo"
    ),
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="A smaller run that only shows that everything works.")] = False,
    interactive: Interactive = False,
    as_json: AsJson = False,
) -> int:
    """Train a small network on shipped images, catch it taking a shortcut, and repair it; offline, half a minute."""
    writable_folder(out)
    foresee_interactive(interactive, out)
    note(f"Training and auditing a small network; everything is written to {out}.", quiet=settings.quiet)
    settings.prepare_torch()
    from firstcue.demo import run

    with progress(quiet=settings.quiet) as tell:
        report = run(out, seed=settings.seed, fast=fast, progress=tell)
    if interactive:
        report.save_html(out / "report.html", interactive=True)
    if as_json:
        show(report.to_json())
    else:
        show_report(report)
        show(f"Report: {out / 'report.html'}")
    if open_page:
        import webbrowser

        webbrowser.open((out / "report.html").resolve().as_uri())
    return Outcome.DONE


def audit(
    settings: Settings,
    model: Model,
    data: Data,
    weights: Weights = None,
    attribute: Attributes = None,
    held_out: HeldOut = None,
    label: Label = None,
    checkpoints: Annotated[
        str | None, typer.Option("--checkpoints", help="Glob of checkpoints, for the order of learning.")
    ] = None,
    fast: Fast = False,
    thorough: Thorough = False,
    out: Out = None,
    gate: GateFile = None,
    as_json: AsJson = False,
    junit: Junit = None,
    interactive: Interactive = False,
) -> int:
    """Does this model rely on a shortcut, which, since when, and what would repair it?"""
    effort = _effort(fast, thorough)
    demands = _prepare(settings, out, gate, junit, interactive)
    from firstcue import audit as audit_model
    from firstcue.models import load_model

    with progress(quiet=settings.quiet) as tell:
        tell("loading the model", 0.0)
        network = load_model(model, weights)
        tell("reading the data", 0.0)
        rows, unseen = (read_rows(part, attribute, label, network) for part in (data, held_out))
        report = audit_model(
            network,
            rows,
            attribute=attributes_for_audit(attribute),
            held_out=unseen,
            checkpoints=checkpoints,
            effort=effort,
            seed=settings.seed,
            device=settings.device,
            batch_size=settings.batch_size,
            command=settings.command,
            progress=tell,
            announce=partial(note, quiet=settings.quiet),
        )
    return _deliver(report, out, demands, as_json, junit, interactive)


def audit_embeddings(
    settings: Settings,
    x: Annotated[
        Path,
        typer.Argument(metavar="X.npy|'SHARDS/*.npy'", help="Embeddings, one row per example; or a pattern of shards."),
    ],
    y: Annotated[
        Path | None, typer.Argument(metavar="[Y.npy|COL]", help="Labels; for shards their column. [default: y]")
    ] = None,
    attribute: Annotated[
        list[Path] | None,
        typer.Option("--attribute", help="A.npy (for shards a column) that may be a shortcut; may be repeated."),
    ] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(
            "--outputs", help="F.npy (for shards a column), the logits; linear in X they allow the intervention."
        ),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="An .npz with x, y and the attributes under the same names.")
    ] = None,
    held_out_outputs: Annotated[
        Path | None, typer.Option("--held-out-outputs", help="G.npy, the model's logits of the held-out rows.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=100, help="Of shards: rows of the sample. [default: 20000]")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Of shards: folder that keeps what is measured, to continue from.")
    ] = None,
    backend: Chosen = Backend.LOKY,
    workers: Workers = None,
    scheduler: Scheduler = None,
    fast: Fast = False,
    thorough: Thorough = False,
    out: Out = None,
    gate: GateFile = None,
    as_json: AsJson = False,
    junit: Junit = None,
    interactive: Interactive = False,
) -> int:
    """The same question asked of embeddings, labels and perhaps an attribute and the model's outputs."""
    effort, foretold = _effort(fast, thorough), partial(note, quiet=settings.quiet)
    if _names_shards(x):
        if held_out is not None or held_out_outputs is not None:
            raise WrongUsage("--held-out: shards take none; audit the held-out rows as shards of their own.")
        if store is not None:
            writable_folder(store, "--store")
        demands = _prepare(settings, out, gate, junit, interactive)
        from firstcue.auditing.sharded import SAMPLE, audit_shards

        with progress(quiet=settings.quiet) as tell:
            report = audit_shards(
                str(x),
                str(y or "y"),
                tuple(str(name) for name in attribute or ()),
                None if outputs is None else str(outputs),
                rows=rows or SAMPLE,
                store=store,
                backend=str(backend),
                workers=workers,
                scheduler=scheduler,
                effort=effort,
                seed=settings.seed,
                command=settings.command,
                progress=tell,
                announce=foretold,
            )
        return _deliver(report, out, demands, as_json, junit, interactive)
    if y is None:
        raise WrongUsage("Y.npy: one array of embeddings needs its labels; shards are named by a pattern in quotes.")
    demands = _prepare(settings, out, gate, junit, interactive)
    from firstcue import audit_embeddings as audit_arrays
    from firstcue.cli.arrays import read_arrays

    with progress(quiet=settings.quiet) as tell:
        tell("reading the data", 0.0)
        arrays = read_arrays(x, y, attribute or [], outputs, held_out, held_out_outputs)
        report = audit_arrays(
            arrays.x,
            arrays.y,
            arrays.attribute,
            arrays.outputs,
            arrays.held_out,
            effort=effort,
            seed=settings.seed,
            command=settings.command,
            progress=tell,
            announce=foretold,
        )
    return _deliver(report, out, demands, as_json, junit, interactive)


def _effort(fast: bool, thorough: bool) -> str:
    """The setting that the options ask for."""
    if fast and thorough:
        raise WrongUsage("--fast and --thorough exclude each other; leave both out for what lies between.")
    return "fast" if fast else "thorough" if thorough else "default"


def _names_shards(x: Path) -> bool:
    """Whether the argument is a pattern, or a file of another kind than one array."""
    return any(sign in str(x) for sign in "*?[") or x.suffix in (".npz", ".parquet", ".safetensors")


def _prepare(
    settings: Settings, out: Path | None, gate: Path | None, junit: Path | None, interactive: bool
) -> "Gate | None":
    """Everything that can be wrong with the command itself is found before the work; returns the gate."""
    if out is not None:
        writable_folder(out)
    if junit is not None:
        writable_file(junit, "--junit")
    foresee_interactive(interactive, out)
    demands = None
    if gate is not None:
        from firstcue.finding import read_gate

        with as_wrong_usage("--gate"):
            demands = read_gate(gate)
    settings.prepare_torch()
    return demands


def _deliver(
    report: "Report", out: Path | None, gate: "Gate | None", as_json: bool, junit: Path | None, interactive: bool
) -> Outcome:
    """Write, print and judge a report."""
    if junit is not None:
        report.to_junit(junit)
    page = None if out is None else save_report(report, out, interactive=interactive)
    if as_json:
        show(report.to_json())
    else:
        show_report(report)
        if page is not None:
            show(f"Report: {page}")
    if gate is None:
        return Outcome.INCONCLUSIVE if report.verdict == "inconclusive" else Outcome.DONE
    broken = gate.failures(report)
    for demand in broken:
        complain(f"gate: {demand}")
    if not as_json:
        show("Gate: failed." if broken else "Gate: passed.")
    return Outcome.GATE_FAILED if broken else Outcome.DONE
