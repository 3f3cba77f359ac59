"""`explain`: images go in; the simplest images that the model answers alike come out, with what was saved."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstcue.cli.files import writable_folder
from firstcue.cli.inputs import Data, Label, Model, Weights, read_rows
from firstcue.cli.outcomes import Outcome
from firstcue.cli.screen import progress, show
from firstcue.cli.settings import Settings

if TYPE_CHECKING:  # torch is not loaded for `--help`
    from firstcue.simplicity.explained import SimplifyResult

SHOWN = 12
"""Lines of the picture."""


class Method(StrEnum):
    """How the optimisation steps."""

    ACT_GRAD = "act_grad"
    SCALED_GRAD = "scaled_grad"


class Start(StrEnum):
    """Where it starts."""

    PIXELS = "pixels"
    LATENT = "latent"
    LATENT_ZERO = "latent-zero"


def explain(
    settings: Settings,
    model: Model,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for explain.json, explanation.npz, simplified.png and saved.png.")
    ],
    weights: Weights = None,
    label: Label = None,
    density: Annotated[
        str | None, typer.Option("--density", help="gray28, gray28-glow, dct or a file. [default: one that fits]")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows to explain, drawn at random.")] = 16,
    budget: Annotated[
        float, typer.Option("--budget", min=1e-9, help="Nats that the answer to each image may move.")
    ] = 0.1,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the optimisation.")] = 100,
    method: Annotated[Method, typer.Option("--method", help="act_grad or scaled_grad.")] = Method.ACT_GRAD,
    start: Annotated[Start, typer.Option("--start", help="pixels, latent or latent-zero.")] = Start.PIXELS,
    controls: Annotated[bool, typer.Option("--controls/--no-controls", help="Run the three controls as well.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print what explain.json holds.")] = False,
) -> int:
    """What does this model need to see? The simplest images that it answers as it answers the originals."""
    writable_folder(out)
    settings.prepare_torch()
    from firstcue.auditing.splits import some_rows
    from firstcue.models import load_model
    from firstcue.simplicity.explain import explain_simplify
    from firstcue.simplicity.ranges import fitting_density, unit_images

    with progress(quiet=settings.quiet) as tell:
        tell("loading the model", 0.0)
        network = load_model(model, weights)
        tell("reading the data", 0.0)
        batch = read_rows(data, None, label)
        unit = unit_images(batch.x)
        if unit is None:
            raise ValueError(
                f"`{data}` holds rows of shape {tuple(batch.x.shape[1:])}; images (c, h, w) are explained."
            )
        chosen = some_rows(len(batch), rows, settings.seed)
        images = unit.images[chosen]
        measure, name = fitting_density(images, density)
        found = explain_simplify(
            network, images, measure, kl_budget=budget, method=str(method), start=str(start), steps=steps, controls=controls,
            to_inputs=unit.to_inputs, seed=settings.seed, progress=tell,
        )  # fmt: skip
    plain = _as_plain(found, chosen.tolist(), name, unit.note, settings)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    (out / "explain.json").write_text(text + "\n", encoding="utf-8")
    _write_arrays(found, out)
    show(text if as_json else _as_text(plain, out))
    return Outcome.DONE


def _as_plain(found: "SimplifyResult", rows: list[int], density: str, note: str, settings: Settings) -> dict[str, Any]:
    names = ("bits_before", "bits_after", "kl", "decision_before", "decision_after", "within_budget")
    columns = {name: getattr(found, name).tolist() for name in names}
    return {
        "density": density,
        "kl_budget": found.kl_budget,
        "method": found.method,
        "start": found.start,
        "rows": [{"row": row} | {name: columns[name][i] for name in names} for i, row in enumerate(rows)],
        "mean_share_saved": _finite(found.share_saved.nanmean()),
        "same_decision": float((found.decision_before == found.decision_after).double().mean()),
        "controls": {
            c.name: {
                "mean_bits": _finite(c.bits.mean()), "mean_kl": _finite(c.kl.mean()), "same_decision": c.same_decision,
                "correlation": _finite(c.correlation), "meaning": c.meaning,
            }
            for c in found.controls.values()
        },
        "warnings": [*([note] if note else []), *found.warnings],
        "seed": settings.seed,
        "command": settings.command,
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if number - number == 0 else None


def _write_arrays(found: "SimplifyResult", out: Path) -> None:
    import numpy as np

    from firstcue.simplicity.galleries import saved_grid, simplified_grid
    from firstcue.simplicity.saved import SavedMap

    arrays = {name: getattr(found, name).numpy() for name in ("original", "simplified", "bits_map")}
    arrays |= {name.replace(" ", "_"): control.images.numpy() for name, control in found.controls.items()}
    np.savez_compressed(out / "explanation.npz", **arrays)
    grid = simplified_grid(
        found.original, found.simplified, bits_before=found.bits_before, bits_after=found.bits_after, rows=SHOWN
    )
    grid.savefig(out / "simplified.png", dpi=120)
    where = SavedMap(found.bits_map, found.map_kind == "tiles")
    saved_grid(found.original, found.simplified, where, rows=SHOWN).savefig(out / "saved.png", dpi=120)


def _as_text(plain: dict[str, Any], out: Path) -> str:
    rows = plain["rows"]
    before, after = (sum(row[key] for row in rows) / len(rows) for key in ("bits_before", "bits_after"))
    lines = [
        f"{len(rows)} images: {before:.0f} bits each become {after:.0f} under {plain['density']}; "
        f"{100 * plain['same_decision']:.0f} % keep their decision, the answer to each moves by at most {plain['kl_budget']:g} nats."
    ]
    for name, control in plain["controls"].items():
        alike = "–" if control["correlation"] is None else f"{control['correlation']:.2f}"
        lines.append(
            f"Control, {name}: {control['mean_bits']:.0f} bits, {control['mean_kl']:.3g} nats, "
            f"{100 * control['same_decision']:.0f} % decided alike, correlation {alike} with the explanation."
        )
    return "\n".join([*lines, *(f"Note: {w}" for w in plain["warnings"]), f"Written to {out}"])
