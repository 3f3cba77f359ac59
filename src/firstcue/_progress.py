"""How long-running work says where it is: a function of the stage's name and the fraction of the whole that is done."""

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(stage: str, done: float) -> None:
    """Say nothing."""
