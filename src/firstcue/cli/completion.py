"""`completion`: the script that lets a shell complete commands, options and their values."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from firstcue.cli.outcomes import Outcome
from firstcue.cli.screen import show, show_json
from firstcue.cli.settings import Settings

VARIABLE = "_FIRSTCUE_COMPLETE"
"""Set by the script when it asks this program for completions."""


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    settings: Settings,
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell to print the script for.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Print the script that completes commands and options: `source <(firstcue completion bash)` in ~/.bashrc."""
    from typer.completion import get_completion_script

    script = get_completion_script(prog_name="firstcue", complete_var=VARIABLE, shell=str(shell))
    if as_json:
        show_json({"shell": str(shell), "script": script})
    else:
        show(script)
    return Outcome.DONE


def asked_by_a_shell() -> bool:
    """Whether a shell asks for completions; if so, it will be answered in the form that its script reads."""
    if not os.environ.get(VARIABLE):
        return False
    from typer.completion import completion_init

    completion_init()
    return True
