"""The command line: every command parses its options, calls one function of the library, and prints what it returns.

`commands.py` names the commands, `settings.py` holds the options that work everywhere, `outcomes.py` the exit codes, and `screen.py`
what goes to the two output streams. Nothing heavier than typer is imported before a command runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from firstcue.cli.commands import app
from firstcue.cli.completion import asked_by_a_shell
from firstcue.cli.next_steps import next_steps
from firstcue.cli.screen import show

__all__ = ["app", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The words after `firstcue`; those of the process when None.

    Example:
        >>> main(["--version"])
        firstcue ...
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words and not asked_by_a_shell():
        show(next_steps(Path()))  # at once: nothing is parsed
        return 0
    try:
        app(args=words, prog_name="firstcue", obj={"words": words})
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
