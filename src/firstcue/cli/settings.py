"""The options that work everywhere, before or after the command: seed, device, batch size, threads, quiet, version."""

import functools
import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from firstcue import __version__
from firstcue.cli.next_steps import next_steps
from firstcue.cli.outcomes import WrongUsage, outcome_of
from firstcue.cli.screen import show


@dataclass(frozen=True)
class Settings:
    """What the options of every command say."""

    seed: int = 0
    device: str = "auto"
    batch_size: int = 512
    threads: int | None = None
    quiet: bool = False
    command: str = "firstcue"

    def prepare_torch(self) -> None:
        """Set the number of threads and make sure that the device exists.

        Raises:
            WrongUsage: If cuda is asked for and torch cannot use it.
        """
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise WrongUsage(
                "--device cuda: this torch cannot use a GPU; `firstcue doctor` says more. Use --device auto."
            )


def _print_version(asked: bool | None) -> None:
    if asked:
        typer.echo(f"firstcue {__version__}")
        raise typer.Exit


def _known_device(name: str | None) -> str | None:
    if name not in (None, "auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{name!r} is not one of auto, cpu, cuda.")
    return name


_EVERYWHERE: dict[str, Any] = {
    "seed": Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every random choice. [default: 0]")],
    "device": Annotated[
        str | None,
        typer.Option(
            "--device", metavar="auto|cpu|cuda", callback=_known_device, help="Where models run. [default: auto]"
        ),
    ],
    "batch_size": Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows per forward pass. [default: 512]")
    ],
    "threads": Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of torch. [default: torch's choice]")
    ],
    "quiet": Annotated[bool | None, typer.Option("--quiet", help="No progress on stderr.", show_default=False)],
    "version": Annotated[
        bool | None,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version.", show_default=False
        ),
    ],
}
_PARAMETERS = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in _EVERYWHERE.items()
]


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register `function(settings, ...) -> exit code` with the options that work everywhere and the table of outcomes."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def run(context: Any, **arguments: Any) -> None:
            settings = _settings(context, {option: arguments.pop(option) for option in _EVERYWHERE})
            raise typer.Exit(outcome_of(lambda: function(settings, **arguments)))

        _give_signature(run, list(inspect.signature(function).parameters.values())[1:])
        app.command(name)(run)
        return function

    return register


def options_before_the_command(app: typer.Typer) -> None:
    """Let `firstcue --quiet audit` mean `firstcue audit --quiet`, and `firstcue` alone say what comes next."""

    def keep(context: Any, **arguments: Any) -> None:
        context.obj["before"] = arguments
        if context.invoked_subcommand is None:
            show(next_steps(Path()))

    keep.__doc__ = app.info.help
    _give_signature(keep, [])
    app.callback(invoke_without_command=True)(keep)


def _give_signature(function: Any, own: list[inspect.Parameter]) -> None:
    """Typer reads a command's options from its signature: the context, its own, and those that work everywhere."""
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    parameters = [context, *own, *_PARAMETERS]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {p.name: p.annotation for p in parameters}


def _settings(context: Any, given: dict[str, Any]) -> Settings:
    """What was said after the command wins over what was said before it."""
    said = {**context.obj.get("before", {}), **{name: value for name, value in given.items() if value is not None}}
    said = {name: value for name, value in said.items() if value is not None and name != "version"}
    return Settings(command=shlex.join(["firstcue", *context.obj["words"]]), **said)
