"""What can be read from each layer: the class and the cue, by probes of three strengths, beside what nothing would give.

A decodable cue is not a used one: every finding here says so.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.batch import Batch
from firstcue.finding import Finding, Interval
from firstcue.layers import unwrap
from firstcue.probes import ProbeResult, held_out_accuracy

KINDS: tuple[Literal["linear", "quadratic", "strong"], ...] = ("linear", "quadratic", "strong")
PENULTIMATE = "penultimate"


def layers_to_probe(model: nn.Module, head: str | None, most: int) -> list[str]:
    """At most so many layers with weight matrices, evenly spread over depth and in its order, without the head."""
    names = [
        name
        for name, module in unwrap(model).named_modules()
        if name and name != head and any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]
    if len(names) <= most:
        return names
    step = (len(names) - 1) / max(most - 1, 1)
    return [names[round(i * step)] for i in range(most)]


def probe_layers(
    depth: Mapping[str, Tensor], untrained: Mapping[str, Tensor], part: Batch, *, seed: int, progress: Progress
) -> list[Finding]:
    """A finding per layer, target (class, cue) and probe.

    Args:
        depth: `(n, d)` activations by layer, in order of depth; what the head reads is called "penultimate".
        untrained: The same of the network with fresh weights, where there is one.
        part: The rows.
        seed: Of splits and shuffles.
        progress: Told the fraction done.
    """
    targets = {"class": part.y} | ({part.cue: part.attribute} if part.attribute is not None else {})
    said, total = [], len(depth) * len(targets) * len(KINDS)
    for layer, x in depth.items():
        for cue, z in targets.items():
            base = held_out_accuracy("linear", untrained[layer], z, seed=seed) if layer in untrained else None
            for kind in KINDS:
                said.append(decodability_finding(layer, cue, held_out_accuracy(kind, x, z, seed=seed), base, part))
                progress("probing layers", len(said) / total)
    return said


def as_interval(p: ProbeResult) -> Interval:
    """What a probe read, with its interval and what it read of shuffled labels."""
    return Interval(
        value=p.accuracy, ci_low=p.ci_low, ci_high=p.ci_high, n=p.n, baseline=p.baseline, baseline_kind=p.baseline_kind
    )


def as_told(p: ProbeResult) -> dict[str, Any]:
    """The fields of a finding whose value is what a probe read."""
    return {
        "status": "no shortcut found",
        "encoded": as_interval(p),
        "value": p.accuracy,
        "unit": "held-out balanced accuracy, a fraction",
        "ci_low": p.ci_low,
        "ci_high": p.ci_high,
        "n": p.n,
        "baseline": p.baseline,
    }


def decodability_finding(layer: str, cue: str, p: ProbeResult, untrained: ProbeResult | None, held: Batch) -> Finding:
    """What one probe read from one layer, as a finding that accuses nobody."""
    what = "the class" if cue == "class" else cue
    start = "" if untrained is None else f", {untrained.accuracy:.0%} from the untrained network by a linear probe"
    return Finding(
        id=f"decodability/{cue}/{layer}/{p.kind}",
        cue=cue,
        kind="decodability",
        layer=layer,
        **as_told(p),
        meaning=f"A {p.kind} probe reads {what} from {layer} with {p.accuracy:.0%} ({p.baseline:.0%} with shuffled labels{start}). Decodable is not used.",
        source="Closed-form probes from class moments; boosted trees and logistic regression of scikit-learn",
        details={
            "untrained_linear": None if untrained is None else untrained.accuracy,
            "chance": 1 / (held.num_classes if cue == "class" else held.num_values),
        },
    )
