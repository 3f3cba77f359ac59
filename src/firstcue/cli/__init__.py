"""The command line: every command parses its options, calls one function of the library, and prints what it returns.

`commands.py` names the commands, `settings.py` holds the options that work everywhere, `outcomes.py` the exit codes, and `screen.py`
what goes to the two output streams. Nothing heavier than typer is imported before a command runs.
"""

import sys
from collections.abc import Sequence

from firstcue.cli.commands import app
from firstcue.cli.completion import answer_the_shell

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
    answer_the_shell()
    try:
        app(args=words, prog_name="firstcue", obj={"words": words})
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
