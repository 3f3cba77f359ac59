"""How long-running work says where it is: a function of the stage's name and the fraction of the whole that is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]


def silent(stage: str, done: float) -> None:
    """Say nothing."""


@contextmanager
def bar() -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal, else silence.

    Example:
        >>> with bar() as progress:
        ...     progress("counting", 0.5)
    """
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=1.0)
        yield lambda stage, done: bars.update(task, description=stage, completed=done)


def within(progress: Progress, start: float, end: float) -> Progress:
    """The same listener for one part of the work, which takes the whole from `start` to `end`.

    Example:
        >>> within(lambda stage, done: print(stage, done), 0.5, 1.0)("probing", 0.5)
        probing 0.75
    """
    return lambda stage, done: progress(stage, start + (end - start) * done)
