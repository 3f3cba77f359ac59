"""Two streams: the result goes to stdout, progress and complaints to stderr; nobody's pipe is polluted."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from firstcue._progress import Progress, bar, silent

if TYPE_CHECKING:  # pydantic is not loaded for `--help`
    from firstcue.finding import Report

_LONGEST = 2000  # characters of a complaint: a label of 10,000 characters must not bury the remedy of the next line


def show(text: str) -> None:
    """Print a result; a reader that has left (`firstcue ... | head`) does not change how the command ends."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives until the process ends
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)


def show_json(value: Mapping[str, Any]) -> None:
    """Print a result as the one JSON object of `--json`; what is no number becomes null."""
    show(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def show_report(report: "Report") -> None:
    """Print a report, in colour on a terminal."""
    if not sys.stdout.isatty():
        show(report.summary().rstrip())
        return
    from rich.console import Console

    from firstcue.report.text import render

    render(report, Console())


def complain(text: str) -> None:
    """Say in one line on stderr what went wrong; control characters of hostile labels stay visible and harmless."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    print(line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ...", file=sys.stderr, flush=True)


def note(text: str, *, quiet: bool) -> None:
    """A passing remark for somebody who watches; silent where nobody does."""
    if _watched(quiet):
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr while somebody watches, else silence."""
    if quiet:
        yield silent
        return
    with bar() as shown:
        yield shown


def _watched(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()
