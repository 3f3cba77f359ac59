"""The names of the commands; each lives in the module of the question it answers."""

import typer

from firstcue.cli import audits, completion, explanations, machine, repairs, reports, runs
from firstcue.cli.settings import command, options_before_the_command

app = typer.Typer(
    help="What a neural network learned first, what it leans on, and how to repair it.",
    epilog="Exit codes: 0 done or gate passed, 1 gate failed, 2 wrong usage, 3 unusable input, 4 missing extra, "
    "5 inconclusive, 70 internal error, 130 interrupted.",
    add_completion=False,  # `firstcue completion` prints the script, and writes into nobody's home
    rich_markup_mode=None,  # plain help: rich would double the time that `--help` takes
    pretty_exceptions_enable=False,
)
options_before_the_command(app)
command(app)(audits.demo)
command(app)(audits.audit)
command(app, "audit-embeddings")(audits.audit_embeddings)

fix = typer.Typer(help="Repair a model and write it down.", no_args_is_help=True)
repairs.add_repairs(fix)
app.add_typer(fix, name="fix")

command(app)(explanations.explain)
command(app)(runs.reproduce)
command(app)(runs.sweep)

command(app)(reports.compare)
command(app)(reports.view)
command(app)(reports.schema)

data = typer.Typer(help="The data on this machine.", no_args_is_help=True)
command(data, "list")(machine.list_data)
command(data, "info")(machine.data_info)
command(data, "prepare")(machine.prepare_data)
app.add_typer(data, name="data")

command(app)(machine.doctor)
command(app)(completion.completion)
