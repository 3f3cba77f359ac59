"""Agreement over training: measures for a Recorder, and what their rows warn of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from firstcue.agreement.coherence import measure_agreement
from firstcue.agreement.gradients import Loss
from firstcue.agreement.noise import example_coherence
from firstcue.batch import Batch

Measure = Callable[[Any], Mapping[str, float]]
"""From a step of training, whose `.model` is measured, to numbers by name."""


def agreement_measure(
    loss: Loss,
    batch: Batch | tuple[Any, Any],
    environment: Any = None,
    *,
    threshold: float | int = 1.0,
    layers: bool = False,
    name: str = "agreement",
    seed: int = 0,
) -> Measure:
    """A measure for `Recorder`: kept share, alignment and conflict of environments, with their controls.

    Args:
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: Rows on which gradients are taken; the same at every step.
        environment: `(n,)` labels, or None for `batch.group`.
        threshold: Of the AND-mask.
        layers: Also the kept share of every parameter, `agreement/kept/<parameter>`.
        name: Prefix of the numbers.
        seed: Of the random groups.

    Example:
        >>> import torch
        >>> from firstcue.training.recorder import Step
        >>> batch = (torch.randn(8, 2), torch.randn(8, 1))
        >>> measure = agreement_measure(torch.nn.functional.mse_loss, batch, [0, 0, 1, 1, 2, 2, 3, 3])
        >>> sorted(measure(Step(0, torch.nn.Linear(2, 1))))[:3]
        ['agreement/alignment', 'agreement/conflicting', 'agreement/expected']
    """

    def measure(step: Any) -> dict[str, float]:
        found = measure_agreement(step.model, loss, batch, environment, threshold=threshold, seed=seed)
        drawn = found.random_groups
        numbers = {
            "kept": found.kept,
            "expected": found.expected,
            "alignment": found.alignment,
            "conflicting": found.conflicting,
            "only_one_group": found.only_one_group,
            "norm_ratio": found.norm_ratio,
        }
        if drawn is not None:
            numbers |= {"random_groups/kept": drawn.kept, "random_groups/alignment": drawn.alignment}
        if layers:
            numbers |= {f"kept/{layer}": value.kept for layer, value in found.layers.items()}
        return {f"{name}/{key}": value for key, value in numbers.items()}

    return measure


def coherence_measure(loss: Loss, batch: Batch | tuple[Any, Any], *, name: str = "coherence") -> Measure:
    """A measure for `Recorder`: coherence of single examples and the gradient noise scale.

    Args:
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: Rows on which gradients are taken; the same at every step.
        name: Prefix of the numbers.

    Example:
        >>> import torch
        >>> from firstcue.training.recorder import Step
        >>> measure = coherence_measure(torch.nn.functional.mse_loss, (torch.randn(8, 2), torch.randn(8, 1)))
        >>> sorted(measure(Step(0, torch.nn.Linear(2, 1))))
        ['coherence/agreement', 'coherence/m_coherence', 'coherence/noise_scale', 'coherence/random_signs']
    """

    def measure(step: Any) -> dict[str, float]:
        found = example_coherence(step.model, loss, batch)
        return {
            f"{name}/m_coherence": found.m_coherence,
            f"{name}/noise_scale": found.noise_scale,
            f"{name}/agreement": found.whole.mean,
            f"{name}/random_signs": found.whole.null_mean,
        }

    return measure


def agreement_warnings(rows: Sequence[Mapping[str, Any]], *, name: str = "agreement", patience: int = 3) -> list[str]:
    """What recorded agreement warns of: a mask that lets nothing but chance pass, row after row.

    Args:
        rows: Of a `Recorder` with `agreement_measure`.
        name: Its prefix.
        patience: Consecutive rows at the level of random signs before it is said.

    Returns:
        Sentences; none if all is well.

    Example:
        >>> silent = [{"step": s, "agreement/kept": 1e-5, "agreement/expected": 3e-5} for s in range(3)]
        >>> agreement_warnings(silent)[0][:56]
        'steps 0 to 2: no more is kept than of random signs (0.00'
    """
    notes: list[str] = []
    silent: list[Mapping[str, Any]] = []
    measured = [row for row in rows if f"{name}/kept" in row]
    for row in [*measured, None]:
        if row is not None and row[f"{name}/kept"] <= 1.5 * row[f"{name}/expected"]:
            silent.append(row)
            continue
        if len(silent) >= patience:
            first, last = silent[0], silent[-1]
            notes.append(
                f"steps {first['step']} to {last['step']}: no more is kept than of random signs "
                f"({last[f'{name}/kept']:.4%} against {last[f'{name}/expected']:.4%}). No shared signal, or a threshold "
                f"that is too strict; weight decay is then all that moves the masked weights."
            )
        silent = []
    return notes
