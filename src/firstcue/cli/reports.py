"""`compare`, `view` and `schema`: what is done with reports that exist."""

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from firstcue.cli.files import writable_file, writable_folder
from firstcue.cli.outcomes import Outcome, WrongUsage, as_wrong_usage
from firstcue.cli.screen import show, show_json
from firstcue.cli.settings import Settings

Interactive = Annotated[
    bool,
    typer.Option("--interactive", help="Charts with tooltips, one choice for all, and zoom (extra `interactive`)."),
]


def foresee_interactive(interactive: bool, out: Path | None) -> None:
    """Refuse an interactive page that could not be written, before the work that it would show.

    Raises:
        WrongUsage: If it has no place.
        MissingExtra: Without the extra `interactive`.
    """
    if not interactive:
        return
    if out is None:
        raise WrongUsage("--interactive: is about the page; name its folder with --out.")
    from firstcue._extras import require_extra

    require_extra("vl_convert", "interactive", "an interactive page")


class FailOn(StrEnum):
    """When `compare` exits with 1."""

    WORSE = "worse"


def compare(
    settings: Settings,
    before: Annotated[Path, typer.Argument(metavar="A.json", help="The report to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The newer report.")],
    fail_on: Annotated[FailOn | None, typer.Option("--fail-on", help="Exit 1 when B is worse than A.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PAGE.html", help="Also write a page of differences.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """What changed from one report to another."""
    if out is not None:
        writable_file(out, "--out")
    from firstcue.finding import Report
    from firstcue.report.compare import compare as compare_reports

    difference = compare_reports(Report.load(before), Report.load(after))
    if out is not None:
        out.write_text(difference.html(), encoding="utf-8")
    show(difference.to_json() if as_json else difference.summary().rstrip())
    if out is not None and not as_json:
        show(f"Page: {out}")
    return Outcome.GATE_FAILED if fail_on is FailOn.WORSE and difference.worse else Outcome.DONE


def view(
    settings: Settings,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with reports somewhere below it.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 0,
    only_write: Annotated[bool, typer.Option("--only-write", help="Write index.html and stop.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the index in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the index and its address.")] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive", help="First write the page of every report anew, interactive (extra `interactive`)."
        ),
    ] = False,
) -> int:
    """Make an index of every report below a folder and serve it to this machine only, until interrupted."""
    if not folder.is_dir():
        raise WrongUsage(f"{folder} is not a folder; name one with reports below it.")
    writable_folder(folder, "DIR")
    from firstcue.report.index import serve, write_index, write_pages

    if interactive:
        write_pages(folder, interactive=True)
    index = write_index(folder)
    if only_write and as_json:
        show_json({"index": str(index), "address": None})
    elif not as_json:
        show(f"Index: {index}")
    if only_write:
        return Outcome.DONE
    try:
        serve(folder, port, announce=partial(_announce, index=index, open_page=open_page, as_json=as_json))
    except OSError as error:
        raise WrongUsage(f"--port {port}: cannot listen there ({error.strerror}); 0 takes any free port.") from None
    return Outcome.DONE


def _announce(address: str, *, index: Path, open_page: bool, as_json: bool) -> None:
    if as_json:
        show_json({"index": str(index), "address": address})
    else:
        show(f"Serving {address} to this machine only; Ctrl-C ends it.")
    if open_page:
        import webbrowser

        webbrowser.open(address)


def schema(
    settings: Settings,
    name: Annotated[str, typer.Argument(metavar="NAME", help="report, finding, groups, remedy or gate.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same: a schema is JSON.")] = False,
) -> int:
    """Print the JSON schema of what firstcue writes and reads."""
    from firstcue.report.schema import schema as schema_of

    with as_wrong_usage("NAME"):
        text = json.dumps(schema_of(name), indent=2)
    show(text)
    return Outcome.DONE
