"""Every way a command can end is one number: the table of exit codes, and the one place where an exception meets it."""

import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from firstcue.cli.screen import complain


class Outcome(IntEnum):
    """Exit codes; the same with and without `--json`."""

    DONE = 0
    GATE_FAILED = 1
    WRONG_USAGE = 2
    UNUSABLE_INPUT = 3
    MISSING_EXTRA = 4
    INCONCLUSIVE = 5
    INTERNAL_ERROR = 70
    INTERRUPTED = 130


class WrongUsage(ValueError):
    """An option, a gate file or an output folder that cannot be used."""


@contextmanager
def as_wrong_usage(option: str) -> Iterator[None]:
    """Blame a ValueError raised inside on `option` instead of the data."""
    try:
        yield
    except ValueError as error:
        raise WrongUsage(f"{option}: {error}") from error


def outcome_of(work: Callable[[], int]) -> int:
    """Run `work` and give the exit code of how it ended; anything but success is said in one line on stderr."""
    from firstcue._extras import MissingExtra

    try:
        return int(work())
    except (typer.Exit, typer.BadParameter):
        raise
    except WrongUsage as error:
        return _fail(Outcome.WRONG_USAGE, str(error))
    except MissingExtra as error:
        return _fail(Outcome.MISSING_EXTRA, str(error))
    except ValueError as error:
        return _fail(Outcome.UNUSABLE_INPUT, str(error))
    except KeyboardInterrupt:
        return _fail(Outcome.INTERRUPTED, "interrupted; the same command starts it again.")
    except Exception as error:  # the outermost boundary: nobody above can say more than the trace does
        kind = type(error).__name__
        return _fail(Outcome.INTERNAL_ERROR, f"internal error ({kind}: {error}); the trace is in {_keep_trace()}")


def _fail(outcome: Outcome, message: str) -> Outcome:
    complain(f"firstcue: {message}")
    return outcome


def _keep_trace() -> str:
    """Write the trace of the exception being handled to the temporary folder; returns the file's name."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="firstcue-trace-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    return file.name
