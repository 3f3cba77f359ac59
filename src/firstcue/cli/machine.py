"""`data` and `doctor`: what is on this machine, and how to get what is not."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstcue.cli.files import writable_folder
from firstcue.cli.outcomes import Outcome, WrongUsage, as_wrong_usage
from firstcue.cli.screen import show, show_json
from firstcue.cli.settings import Settings

if TYPE_CHECKING:  # torch is not loaded for `--help`
    from firstcue.batch import Batch

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def doctor(
    settings: Settings,
    sizes: Annotated[
        list[str] | None, typer.Argument(metavar="[n=1e9 d=4096 ...]", help="With --plan: sizes, as NAME=NUMBER.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what work of these sizes would cost.")] = False,
    as_json: AsJson = False,
) -> int:
    """Say whether this machine is ready: versions, device, extras, data; exit 0 when firstcue is usable."""
    if plan:
        return _plan(sizes or [], as_json)
    if sizes:
        raise WrongUsage(f"{sizes[0]}: sizes are for --plan: firstcue doctor --plan {' '.join(sizes)}")
    from firstcue.doctor import examine, usable

    settings.prepare_torch()
    checks = examine()
    ready = usable(checks)
    outcome = Outcome.DONE if ready else Outcome.MISSING_EXTRA
    if as_json:
        show_json({"ready": ready, "checks": [asdict(check) for check in checks]})
        return outcome
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok" if check.ok else "!!" if check.needed else "--"
        remedy = "" if check.ok or not check.remedy else f"   {check.remedy}"
        show(f"{mark} {check.name:<{width}}  {check.found}{remedy}")
    show(
        "firstcue is ready." if ready else "Something that firstcue needs is missing: see the lines that begin with !!."
    )
    return outcome


def _plan(words: list[str], as_json: bool) -> int:
    """A line for every method: operations, bytes, memory, time, and the number that limits it."""
    from firstcue.planning import plan

    with as_wrong_usage("--plan"):
        costs, machine = plan(dict(_size(word) for word in words))
    if as_json:
        more = [{"seconds": cost.seconds(machine), "limit": cost.limit(machine)} for cost in costs]
        methods = [asdict(cost) | extra for cost, extra in zip(costs, more, strict=True)]
        show_json({"machine": asdict(machine), "methods": methods})
        return Outcome.DONE
    show(
        f"for {machine.workers:g} workers on {machine.machines:g} machines: {machine.flops:.3g} operations and {machine.memory:.3g} bytes "
        f"of memory each, {machine.read:.3g} bytes a second read by a machine"
    )
    show(f"{'':<22} {'operations':>10} {'read':>9} {'written':>9} {'memory':>9} {'time':>9}  limited by")
    for cost in costs:
        numbers = " ".join(f"{value:>9.2g}" for value in (cost.bytes_read, cost.bytes_written, cost.memory))
        show(f"{cost.name:<22} {cost.flops:>10.2g} {numbers} {_time(cost.seconds(machine)):>9}  {cost.limit(machine)}")
    return Outcome.DONE


def _size(word: str) -> tuple[str, float]:
    name, _, number = word.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(f"{word!r} is no size; write NAME=NUMBER, such as n=1e9.") from None


def _time(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def list_data(settings: Settings, as_json: AsJson = False) -> int:
    """What data is on this machine, and the line that provides what is not."""
    from firstcue.data import available

    if as_json:
        show_json({"data": [asdict(entry) for entry in available()]})
        return Outcome.DONE
    for entry in available():
        show(f"{'ok' if entry.present else '--'} {entry.name:<14} {_count(entry.rows):>6} rows  {entry.content}")
        if not entry.present:
            show(f"   {'':<14} {entry.how_to_get}")
    show("Name the first kind as builtin:NAME; `firstcue data info NAME` says more.")
    return Outcome.DONE


def _count(rows: int | None) -> str:
    return "?" if rows is None else f"{rows:,}"


def data_info(settings: Settings, name: Annotated[str, typer.Argument(metavar="NAME")], as_json: AsJson = False) -> int:
    """Rows, shape, classes, licence and origin of one data set."""
    from firstcue.data import entry, read

    found = entry(name)
    if as_json:
        show_json(
            asdict(found) | (_contents(read(f"builtin:{name.removeprefix('builtin:')}")) if found.present else {})
        )
        return Outcome.DONE
    show(
        f"{found.name}: {found.content}\nlicence: {found.licence}\nhere: {'yes' if found.present else 'no'}; {found.how_to_get}"
    )
    if found.present:
        batch = read(f"builtin:{name.removeprefix('builtin:')}")
        show(
            f"x {tuple(batch.x.shape)} {str(batch.x.dtype).removeprefix('torch.')}, classes {', '.join(batch.classes)}"
        )
        if batch.attribute is not None:
            show(
                f"attribute {batch.cue!r} with the values {', '.join(batch.values)}; groups {batch.groups().bincount().tolist()}"
            )
    return Outcome.DONE


def _contents(batch: "Batch") -> dict[str, Any]:
    """Shape, classes and groups as plain values."""
    return {
        "shape": list(batch.x.shape),
        "dtype": str(batch.x.dtype).removeprefix("torch."),
        "classes": list(batch.classes),
        "attribute": None if batch.attribute is None else batch.cue,
        "values": list(batch.values),
        "groups": batch.groups().bincount().tolist(),
    }


def prepare_data(
    settings: Settings,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in builtin:NAME.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the .npz files.")] = Path("data"),
    as_json: AsJson = False,
) -> int:
    """Write a built-in data set as .npz files that any tool can read."""
    writable_folder(out)
    from firstcue.data import prepare

    paths = [str(path) for path in prepare(name, out)]
    if as_json:
        show_json({"files": paths})
    else:
        show("\n".join(paths))
    return Outcome.DONE
