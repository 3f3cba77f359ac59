"""One measurement that fails is told in a note; the rest of the report stands."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
Errors = tuple[type[Exception], ...]


@overload
def attempt(stage: str, work: Callable[[], T], otherwise: None, mine: Errors = ()) -> tuple[T | None, str]: ...


@overload
def attempt(stage: str, work: Callable[[], T], otherwise: Any, mine: Errors = ()) -> tuple[T, str]: ...


def attempt(stage: str, work: Callable[[], Any], otherwise: Any, mine: Errors = ()) -> tuple[Any, str]:
    """What `work` returns and no note, or `otherwise` and a note that says what happened.

    Args:
        stage: What is attempted, in words.
        work: Does it.
        otherwise: Stands in the place of what could not be measured; None, or an empty value of the type that `work` returns.
        mine: What is raised by the user's own input, and told as an error.

    Example:
        >>> attempt("halving", lambda: 4 // 2, 0)
        (2, '')
        >>> attempt("halving", lambda: 1 // 0, 0)[1]
        'Halving failed (ZeroDivisionError: integer division or modulo by zero); the rest of the report stands.'
    """
    try:
        return work(), ""
    except mine:
        raise
    except Exception as error:  # whatever a library or the user's model raises under hooks; the reader is told
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return otherwise, f"{stage[:1].upper()}{stage[1:]} failed ({said}); the rest of the report stands."
