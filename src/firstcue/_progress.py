"""How long-running work says where it is: a function of the stage's name and the fraction of the whole that is done."""

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(stage: str, done: float) -> None:
    """Say nothing."""


def within(progress: Progress, start: float, end: float) -> Progress:
    """The same listener for one part of the work, which takes the whole from `start` to `end`.

    Example:
        >>> within(lambda stage, done: print(stage, done), 0.5, 1.0)("probing", 0.5)
        probing 0.75
    """
    return lambda stage, done: progress(stage, start + (end - start) * done)
