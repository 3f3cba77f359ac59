"""`fix`: a model that leans on a shortcut goes in; a repaired one and its groups before and after come out."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstcue.cli.files import writable_folder
from firstcue.cli.inputs import Attributes, Data, HeldOut, Label, Model, Weights, attributes_for_audit, read_rows
from firstcue.cli.outcomes import Outcome
from firstcue.cli.screen import progress, show
from firstcue.cli.settings import Settings

if TYPE_CHECKING:  # torch and pydantic are not loaded for `--help`
    from firstcue.auditing.fixing import Fixed

Folder = Annotated[Path, typer.Option("--out", help="Folder for weights.safetensors, model.json and fix.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what fix.json holds.")]


class Erased(StrEnum):
    """What `fix erase` makes equal between the values of the attribute."""

    LEACE = "leace"
    ALF_QLEACE = "alf-qleace"


ERASED = {Erased.LEACE: "erase", Erased.ALF_QLEACE: "erase means and covariances"}


def last_layer(
    settings: Settings,
    model: Model,
    data: Data,
    out: Folder,
    weights: Weights = None,
    attribute: Attributes = None,
    held_out: HeldOut = None,
    label: Label = None,
    as_json: AsJson = False,
) -> int:
    """Retrain the last layer on held-out rows, balanced over groups."""
    return _repair("last-layer", settings, model, data, out, weights, attribute, held_out, label, as_json)


def erase(
    settings: Settings,
    model: Model,
    data: Data,
    out: Folder,
    weights: Weights = None,
    attribute: Attributes = None,
    held_out: HeldOut = None,
    label: Label = None,
    method: Annotated[
        Erased, typer.Option("--method", help="leace: class means; alf-qleace: covariances too.")
    ] = Erased.LEACE,
    as_json: AsJson = False,
) -> int:
    """Erase the attribute in front of the last layer and fold the eraser into it."""
    return _repair(ERASED[method], settings, model, data, out, weights, attribute, held_out, label, as_json)


def and_mask(
    settings: Settings,
    model: Model,
    data: Data,
    out: Folder,
    weights: Weights = None,
    attribute: Attributes = None,
    held_out: HeldOut = None,
    label: Label = None,
    as_json: AsJson = False,
) -> int:
    """Go on training the last layer only where all values of the attribute agree on the gradient's sign."""
    return _repair("and-mask", settings, model, data, out, weights, attribute, held_out, label, as_json)


def _repair(
    remedy: str,
    settings: Settings,
    model: str,
    data: str,
    out: Path,
    weights: Path | None,
    attribute: list[str] | None,
    held_out: str | None,
    label: str | None,
    as_json: bool,
) -> Outcome:
    writable_folder(out)
    settings.prepare_torch()
    from firstcue import fix
    from firstcue.models import load_model, save_model

    with progress(quiet=settings.quiet) as tell:
        tell("loading the model", 0.0)
        network = load_model(model, weights)
        tell("reading the data", 0.1)
        rows, unseen = read_rows(data, attribute, label), read_rows(held_out, attribute, label)
        tell("repairing the model", 0.2)
        fixed = fix(
            network,
            rows,
            remedy,
            unseen,
            attribute=attributes_for_audit(attribute),
            seed=settings.seed,
            device=settings.device,
            batch_size=settings.batch_size,
        )
    save_model(fixed.model, out, factory=_factory(model), changes=dict(fixed.changes))
    text = json.dumps(_as_plain(fixed, settings), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "fix.json").write_text(text + "\n", encoding="utf-8")
    show(text if as_json else _as_text(fixed, out))
    return Outcome.DONE


def _factory(model: str) -> str:
    """`module:factory`; of a repaired model, the one that its folder names."""
    from firstcue.models import describe

    return str(describe(model)["factory"]) if Path(model).is_dir() else model


def _as_plain(fixed: "Fixed", settings: Settings) -> dict[str, Any]:
    return {
        "remedy": fixed.remedy,
        "note": fixed.note,
        "seconds": fixed.seconds,
        "changes": dict(fixed.changes),
        "before": fixed.before.model_dump(mode="json"),
        "after": fixed.after.model_dump(mode="json"),
        "seed": settings.seed,
        "command": settings.command,
    }


def _as_text(fixed: "Fixed", out: Path) -> str:
    from firstcue.report.words import accuracy, group_name, percent

    before, after, cue = fixed.before, fixed.after, str(fixed.changes.get("cue") or "")
    lines = [("group", "n", "before", "after")]
    lines += [
        (group_name(b, cue), str(b.n), accuracy(b), accuracy(a))
        for b, a in zip(before.by_group, after.by_group, strict=True)
    ]
    if before.worst_group is not None and after.worst_group is not None:
        lines.append(("worst group", "", accuracy(before.worst_group), accuracy(after.worst_group)))
    lines.append(("group average", "", percent(before.group_average), percent(after.group_average)))
    lines.append(("all rows", str(before.overall.n), accuracy(before.overall), accuracy(after.overall)))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rows = f"Accuracy on {after.split}." if after.split else ""
    note = [fixed.note] if fixed.note else []
    return "\n".join([f"Repaired by {fixed.remedy}. {rows}".rstrip(), *table, *note, f"Model: {out}"])
