"""`fix`: a model that leans on a shortcut goes in; a repaired one and its groups before and after come out.

A remedy is one row of `REPAIRS`: its command, its name in the library and a sentence. Its kind says which options it has.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstcue.cli.files import writable_folder
from firstcue.cli.inputs import Attributes, Data, HeldOut, Label, Model, Weights, attributes_for_audit, read_rows
from firstcue.cli.outcomes import Outcome
from firstcue.cli.screen import progress, show
from firstcue.cli.settings import Settings, command

if TYPE_CHECKING:  # torch and pydantic are not loaded for `--help`
    from firstcue.auditing.fixing import Fixed

Folder = Annotated[Path, typer.Option("--out", help="Folder for weights.safetensors, model.json and fix.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what fix.json holds.")]


class Erased(StrEnum):
    """What `fix erase` makes equal between the values of the attribute."""

    LEACE = "leace"
    ALF_QLEACE = "alf-qleace"


class Choice(StrEnum):
    """What chooses the learning rate and the epoch."""

    WORST_GROUP = "worst-group"
    WORST_CLASS = "worst-class"
    AVERAGE = "average"
    LAST = "last"


ERASED = {Erased.LEACE: "erase", Erased.ALF_QLEACE: "erase means and covariances"}

COMMON: Mapping[str, Any] = {
    "model": Model,
    "data": Data,
    "out": Folder,
    "weights": (Weights, None),
    "attribute": (Attributes, None),
    "held_out": (HeldOut, None),
    "label": (Label, None),
    "as_json": (AsJson, False),
}
"""Options of every remedy: annotation, and default where there is one."""

Rates = Annotated[
    list[float] | None, typer.Option("--rate", min=0, help="Learning rate to try; may be repeated. [default: four]")
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Passes over DATA at each rate.")]
RowsPerStep = Annotated[int, typer.Option("--rows-per-step", min=1, help="Rows of a training step.")]
Select = Annotated[
    Choice | None,
    typer.Option("--select", help="What chooses rate and epoch. [default: worst-group; worst-class without groups]"),
]
TRAINING: Mapping[str, Any] = {
    "rates": (Rates, None),
    "epochs": (Epochs, 8),
    "rows_per_step": (RowsPerStep, 64),
    "selection": (Select, None),
}
ERASING: Mapping[str, Any] = {
    "method": (
        Annotated[Erased, typer.Option("--method", help="leace: class means; alf-qleace: covariances too.")],
        Erased.LEACE,
    )
}
SIMPLIFYING: Mapping[str, Any] = {
    "density": (
        Annotated[
            str | None,
            typer.Option("--density", help="What counts bits: gray28, dct or a file. [default: by the images]"),
        ],
        None,
    ),
    "share": (Annotated[float, typer.Option("--share", min=0, max=1, help="Share of the bits to arrive at.")], 0.7),
    "steps": (Annotated[int, typer.Option("--steps", min=1, help="Steps of training.")], 500),
}
EARLY: Mapping[str, Any] = {
    "early": Annotated[Path, typer.Option("--early", help="Weights of an earlier checkpoint, a .safetensors file.")]
}


@dataclass(frozen=True)
class Repair:
    """One command of `fix`."""

    command: str
    remedy: str
    help: str
    own: Mapping[str, Any]
    """Options beside the common ones."""


def _head(name: str, remedy: str, text: str, own: Mapping[str, Any] | None = None) -> Repair:
    return Repair(name, remedy, text, own or {})


def _anew(remedy: str, text: str) -> Repair:
    return Repair(remedy.replace(", ", "-").replace(" ", "-"), remedy, f"Train again, {text}", TRAINING)


REPAIRS = (
    _head("last-layer", "last-layer", "Retrain the last layer on held-out rows, balanced over groups."),
    _head("last-layer-train", "last-layer on training rows", "Retrain the last layer on training rows, balanced."),
    _head("last-layer-classes", "last-layer, class-balanced", "Retrain the last layer, balanced over classes only."),
    _head("self", "last-layer, disagreement", "Finetune the last layer where an early network disagrees.", EARLY),
    _head("erase", "erase", "Erase the attribute in front of the last layer and fold the eraser into it.", ERASING),
    _head(
        "and-mask",
        "and-mask",
        "Go on training the last layer only where all values of the attribute agree on the gradient's sign.",
    ),
    _head("simplify", "simplify", "Go on training on images from which a simplifier takes bits.", SIMPLIFYING),
    _anew("erm", "plainly: held-out rows choose rate and epoch."),
    _anew("class sampling", "with classes drawn equally often."),
    _anew("class weighting", "with classes weighed alike."),
    _anew("class weighting, square root", "with classes weighed by the root of their inverse size."),
    _anew("class subsampling", "on equally many rows of every class."),
    _anew("group sampling", "with groups drawn equally often."),
    _anew("group weighting", "with groups weighed alike."),
    _anew("group weighting, square root", "with groups weighed by the root of their inverse size."),
    _anew("group subsampling", "on equally many rows of every group."),
    _anew("group-dro", "with weight on the groups of high loss."),
    _anew("cvar-dro", "on the worst tenth of each batch."),
    _anew("jtt", "with rows counted 20 times that a first network gets wrong."),
    _anew("lff", "beside a network that takes every shortcut; what that one finds hard counts."),
    _anew("eiil", "with group DRO on groups inferred from an early network's losses."),
    _anew("spare", "with clusters of an early network's outputs drawn equally often."),
    _anew("george", "with group DRO on clusters of an early network's features."),
    _anew("cnc", "with features pulled together that an early network answers differently."),
    _anew("irm", "with one best scale of the outputs for all values of the attribute."),
    _anew("vrex", "with a penalty on the variance of the loss over values of the attribute."),
    _anew("and-mask, all layers", "where all values of the attribute agree on the gradient's sign."),
    _anew("spectral decoupling", "with a penalty on the size of the outputs."),
    _anew("coral", "with equal means and covariances of features for all values of the attribute."),
    _anew("mmd", "with equal distributions of features for all values of the attribute."),
    _anew("focal loss", "with less weight on what is known."),
    _anew("class-balanced loss", "with classes weighed by their effective number of rows."),
    _anew("mixup", "on mixed rows."),
    _anew("lisa", "on rows mixed within a class or a value of the attribute."),
)
"""The commands, in the order of the help."""


def add_repairs(app: typer.Typer) -> None:
    """Give `app` one command for every row of the table."""
    for repair in REPAIRS:
        command(app, repair.command)(_function(repair))


def _function(repair: Repair) -> Callable[..., int]:
    """A function with the options of the row as its signature, which is what typer reads."""

    def run(settings: Settings, **options: Any) -> int:
        return _repair(repair.remedy, settings, **options)

    parameters = [inspect.Parameter("settings", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Settings)]
    for name, option in {**COMMON, **repair.own}.items():
        annotation, default = option if isinstance(option, tuple) else (option, inspect.Parameter.empty)
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = repair.help
    return run


def _repair(
    remedy: str,
    settings: Settings,
    *,
    model: str,
    data: str,
    out: Path,
    weights: Path | None,
    attribute: list[str] | None,
    held_out: str | None,
    label: str | None,
    as_json: bool,
    **own: Any,
) -> Outcome:
    writable_folder(out)
    settings.prepare_torch()
    from firstcue import fix
    from firstcue.models import load_model, save_model

    remedy = ERASED[own.pop("method")] if "method" in own else remedy
    with progress(quiet=settings.quiet) as tell:
        tell("loading the model", 0.0)
        network = load_model(model, weights)
        own = _as_arguments(own, model, weights)
        tell("reading the data", 0.1)
        rows, unseen = (read_rows(part, attribute, label, network) for part in (data, held_out))
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
            progress=tell,
            **own,
        )
    save_model(fixed.model, out, factory=_factory(model), changes=dict(fixed.changes))
    text = json.dumps(_as_plain(fixed, settings), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "fix.json").write_text(text + "\n", encoding="utf-8")
    show(text if as_json else _as_text(fixed, out))
    return Outcome.DONE


def _as_arguments(own: Mapping[str, Any], model: str, weights: Path | None) -> dict[str, Any]:
    """Options as `fix` takes them. Where weights are apart from the factory, the factory builds what is trained anew."""
    from firstcue.models import load_model

    taken = {name: value for name, value in own.items() if value is not None}
    if "early" in taken:
        taken["early"] = load_model(_factory(model), taken["early"])
    if "selection" in taken:
        taken["selection"] = str(taken["selection"]).replace("-", " ")
    if "epochs" in own and (weights is not None or Path(model).is_dir()):
        taken["network"] = lambda: load_model(_factory(model))
    return taken


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
