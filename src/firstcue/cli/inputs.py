"""What every command that takes a model and data asks for, and how the words become rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # torch is not loaded for `--help`
    from firstcue.batch import Batch

TABLES = (".csv", ".tsv", ".parquet", ".pq")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="module:factory, or a folder written by `firstcue fix`.")]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Rows of the training distribution: .npz, X.npy,Y.npy, .csv, .parquet, a folder, module:loader, builtin:NAME.",
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights of the model, a .safetensors file.")]
Attributes = Annotated[
    list[str] | None, typer.Option("--attribute", metavar="COL", help="Column that may be a shortcut; may be repeated.")
]
HeldOut = Annotated[
    str | None, typer.Option("--held-out", metavar="DATA", help="Rows that the model never saw, in any form of DATA.")
]
Label = Annotated[
    str | None, typer.Option("--label", metavar="COL", help="Label column of a table. [default: y or label]")
]


def read_rows(source: str | None, attributes: list[str] | None, label: str | None, model: Any = None) -> Any:
    """The rows that DATA names; None stays None. A model that was fitted on names gets tables with all their columns.

    Raises:
        ValueError: If there is no such data, or it is damaged.
    """
    if source is None:
        return None
    if getattr(model, "names", None) is not None and Path(source).suffix.lower() in TABLES and Path(source).is_file():
        from firstcue.auditing.accepting import read_table

        return read_table(source, label, attributes or ())
    from firstcue.data import read

    batch: Batch = read(source, label=label, attributes=attributes or ())
    return batch


def attributes_for_audit(attributes: list[str] | None) -> Any:
    """None, a name, or several names, as `audit` and `fix` take them."""
    return attributes[0] if attributes and len(attributes) == 1 else attributes or None
