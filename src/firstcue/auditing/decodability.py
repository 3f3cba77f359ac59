"""What can be read from each layer: the class and the cue, by probes of three strengths, beside what nothing would give.

A decodable cue is not a used one: every finding here says so.
"""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.auditing.splits import some_rows
from firstcue.batch import Batch
from firstcue.finding import Finding, Interval
from firstcue.layers import activations, features_and_outputs, find_head, predict, unwrap
from firstcue.probes import ProbeResult, held_out_accuracy

MAX_ROWS = 1000
"""Held-out rows probed per layer."""
MAX_LAYERS = 5
"""Layers probed besides the penultimate one, spread evenly over depth."""
KINDS: tuple[Literal["linear", "quadratic", "strong"], ...] = ("linear", "quadratic", "strong")
PENULTIMATE = "penultimate"


def layers_to_probe(model: nn.Module, head: str | None) -> list[str]:
    """At most `MAX_LAYERS` layers with weight matrices, in order of depth, without the head."""
    names = [
        name
        for name, module in unwrap(model).named_modules()
        if name and name != head and any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]
    if len(names) <= MAX_LAYERS:
        return names
    step = (len(names) - 1) / (MAX_LAYERS - 1)
    return [names[round(i * step)] for i in range(MAX_LAYERS)]


def layer_activations(model: nn.Module, layers: Sequence[str], x: Tensor, batch_size: int) -> dict[str, Tensor]:
    """`(n, d)` activations of each layer, averaged over positions; of a layer that runs twice, the last call."""
    collected: dict[str, list[Tensor]] = {name: [] for name in layers}
    for part in x.split(batch_size):
        with activations(model, list(layers)) as seen:
            predict(model, part, batch_size=len(part))
        for name in layers:
            if seen[name]:
                collected[name].append(seen[name][-1])
    return {name: torch.cat(parts) for name, parts in collected.items() if parts}


def untrained_copy(model: nn.Module, seed: int) -> nn.Module | None:
    """A copy with freshly initialised weights, or None if some parameters know no initialisation."""
    fresh, known = copy.deepcopy(model), set()
    with torch.random.fork_rng():  # layers draw their weights from the global generator
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                known |= {id(p) for p in module.parameters(recurse=False)}
    return fresh if all(id(p) in known for p in fresh.parameters()) else None


def probe_layers(
    model: nn.Module,
    head: str | None,
    features: Tensor | None,
    held: Batch,
    *,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> list[Finding]:
    """A finding per layer, target (class, cue) and probe.

    Args:
        model: The audited model.
        head: Name of its head.
        features: `(n, d)` what the head reads, if known: the layer called "penultimate".
        held: Held-out rows.
        seed: Of splits and shuffles.
        batch_size: Rows per call.
        progress: Told the fraction done.
    """
    rows = some_rows(len(held), MAX_ROWS, seed)
    part = held.rows(rows)
    depth = layer_activations(model, layers_to_probe(model, head), part.x, batch_size)
    if features is not None:
        depth = depth | {PENULTIMATE: features[rows]}
    untrained = _untrained(model, list(depth), head, part.x, seed, batch_size)
    targets = {"class": part.y} | ({part.cue: part.attribute} if part.attribute is not None else {})
    said, total = [], len(depth) * len(targets) * len(KINDS)
    for layer, x in depth.items():
        for cue, z in targets.items():
            base = held_out_accuracy("linear", untrained[layer], z, seed=seed) if layer in untrained else None
            for kind in KINDS:
                said.append(decodability_finding(layer, cue, held_out_accuracy(kind, x, z, seed=seed), base, held))
                progress("probing layers", len(said) / total)
    return said


def _untrained(
    model: nn.Module, layers: list[str], head: str | None, x: Tensor, seed: int, batch_size: int
) -> dict[str, Tensor]:
    fresh = untrained_copy(model, seed)
    if fresh is None:
        return {}
    found = layer_activations(fresh, [name for name in layers if name != PENULTIMATE], x, batch_size)
    if PENULTIMATE in layers and head is not None:
        found[PENULTIMATE] = features_and_outputs(fresh, x, batch_size=batch_size, head=find_head(fresh, x))[0]
    return found


def as_interval(p: ProbeResult) -> Interval:
    """What a probe read, with its interval and what it read of shuffled labels."""
    return Interval(
        value=p.accuracy, ci_low=p.ci_low, ci_high=p.ci_high, n=p.n, baseline=p.baseline, baseline_kind=p.baseline_kind
    )


def decodability_finding(layer: str, cue: str, p: ProbeResult, untrained: ProbeResult | None, held: Batch) -> Finding:
    """What one probe read from one layer, as a finding that accuses nobody."""
    what = "the class" if cue == "class" else cue
    start = "" if untrained is None else f", {untrained.accuracy:.0%} from the untrained network by a linear probe"
    return Finding(
        id=f"decodability/{cue}/{layer}/{p.kind}",
        cue=cue,
        kind="decodability",
        layer=layer,
        status="no shortcut found",
        encoded=as_interval(p),
        value=p.accuracy,
        unit="held-out balanced accuracy, a fraction",
        ci_low=p.ci_low,
        ci_high=p.ci_high,
        n=p.n,
        baseline=p.baseline,
        meaning=f"A {p.kind} probe reads {what} from {layer} with {p.accuracy:.0%} ({p.baseline:.0%} with shuffled labels{start}). Decodable is not used.",
        source="Closed-form probes from class moments; boosted trees and logistic regression of scikit-learn",
        details={
            "untrained_linear": None if untrained is None else untrained.accuracy,
            "chance": 1 / (held.num_classes if cue == "class" else held.num_values),
        },
    )
