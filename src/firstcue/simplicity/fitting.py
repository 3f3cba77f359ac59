"""The loop in which a simplifier learns: fewer bits wherever the gate is open, and the classifier's step beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from firstcue._allocator import keep_freed
from firstcue._progress import Progress
from firstcue.simplicity._feeding import Pair, endless
from firstcue.simplicity._outputs import NORMS, evaluating, replaying, training_without_batches
from firstcue.simplicity.density import Density
from firstcue.simplicity.gating import PercentileClip, Pressure, automatic_tolerance
from firstcue.simplicity.quantising import SharedNoise, dequantised
from firstcue.simplicity.strategies import STRATEGIES, Setting, Views

TRIED = 8
"""Batches from which the tolerance is taken when bits are switched on."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""From images and a source of randomness to images; called with the same draws for an image and its simplification."""


@dataclass(frozen=True)
class Plan:
    """How to fit; the fields are described at `Simplifier.fit`."""

    strategy: str
    lam: float
    tau: float | None
    d_max: float
    bits_target: float | None
    warmup: int
    steps: int
    ramp: int
    frozen: bool
    augment: Augment | None
    batch_size: int
    rate: float
    classifier_rate: float
    virtual_rate: float
    seed: int


@dataclass
class Run:
    """A fit under way."""

    net: nn.Module
    classifier: nn.Module | None
    density: Density | None
    plan: Plan
    pressure: Pressure
    tau: float
    optimizer: torch.optim.Optimizer
    classifier_optimizer: torch.optim.Optimizer | None
    noisy: bool = False
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    clip: PercentileClip = field(default_factory=PercentileClip)
    classifier_clip: PercentileClip = field(default_factory=PercentileClip)


def fit(
    net: nn.Module,
    classifier: nn.Module | None,
    density: Density | None,
    batches: Any,
    plan: Plan,
    progress: Progress,
) -> Run:
    """Warm the classifier up, set the tolerance, then simplify; both modules are changed in place."""
    keep_freed()
    like = _first_floating(classifier, net)
    net.to(like.device, like.dtype)
    stream = endless(batches, density, like, plan.warmup + plan.steps, batch_size=plan.batch_size, seed=plan.seed)
    x, y = next(stream)
    target = None if plan.bits_target is None else plan.bits_target / x[0].numel()
    run = Run(
        net,
        classifier,
        density,
        plan,
        Pressure(plan.lam, target, plan.ramp),
        plan.tau if plan.tau is not None else float("nan"),
        torch.optim.Adam(net.parameters(), lr=plan.rate, betas=(0.5, 0.99), weight_decay=5e-5),
        None if classifier is None or plan.frozen else _optimizer(classifier, plan.classifier_rate),
    )
    total = plan.warmup + plan.steps
    if classifier is not None and run.classifier_optimizer is not None and plan.warmup:
        _warm_up(run, classifier, stream, lambda done: progress("warming up", done * plan.warmup / total))
    mode = evaluating if plan.frozen else training_without_batches
    with mode(classifier if classifier is not None else nn.Identity()):
        run.notes += _unseen_norms(classifier)
        run.noisy = plan.lam > 0 and density is not None and _takes_noise(density, x)
        if plan.tau is None and plan.strategy == "lookahead":
            run.tau = _tolerance(run, [(x, y), *(next(stream) for _ in range(min(TRIED, plan.steps) - 1))])
        for number in range(plan.steps):
            run.history.append(_step(run, number, x, y))
            progress("simplifying", (plan.warmup + number + 1) / total)
            if number + 1 < plan.steps:
                x, y = next(stream)
    return run


def _step(run: Run, number: int, x: Tensor, y: Tensor | None) -> dict[str, Any]:
    """Change the simplifier, then the classifier; what happened, as a row of the history."""
    plan, weight = run.plan, run.pressure.at(number) if run.plan.lam > 0 else 0.0
    simplified = run.net(x)
    kept = STRATEGIES[plan.strategy](_setting(run), _views(run, number, x, simplified, y))
    bits, measured = _weighed_bits(run, number, simplified, kept.gate) if weight > 0 else (None, None)
    if measured is not None:
        weight = 0.0 if run.pressure.arrived(measured) else weight
        run.pressure.heard(measured)
    objective = kept.loss if bits is None or weight == 0 else kept.loss + weight * bits
    skipped = not _changed(run, objective)
    run.skipped += skipped
    if run.classifier is not None and run.classifier_optimizer is not None:
        _move_classifier(run, run.classifier, kept.gradients)
    return {
        "phase": "simplify",
        "step": number,
        "loss": float(objective.detach()),
        "lam": weight,
        "gate": float(kept.gate.mean()),
        "bits_per_pixel": measured,
        **kept.numbers,
        "skipped": skipped,
    }


def _setting(run: Run) -> Setting:
    plan = run.plan
    trained = run.classifier_optimizer is not None
    return Setting(run.classifier, run.tau, plan.d_max, plan.virtual_rate, trained)


def _views(run: Run, number: int, x: Tensor, simplified: Tensor, y: Tensor | None) -> Views:
    """Originals and simplified images as the classifier sees them: with the same noise and the same augmentation."""
    seed = _seed_of(run.plan, number)

    def seen(images: Tensor) -> Tensor:
        if run.noisy:
            images = dequantised(images, SharedNoise(device=images.device).manual_seed(seed))
        return images if run.plan.augment is None else run.plan.augment(images, torch.Generator().manual_seed(seed))

    return Views(seen(x), seen(simplified), x, simplified, y, seed)


def _weighed_bits(run: Run, number: int, simplified: Tensor, gate: Tensor) -> tuple[Tensor | None, float | None]:
    """Mean of gate times bits per pixel, and the plain mean over the images whose gate is open; those alone are measured."""
    rows = (gate > 0).nonzero()[:, 0]
    if len(rows) == 0 or run.density is None:
        return None, None
    noise = SharedNoise(device=simplified.device).manual_seed(_seed_of(run.plan, number))
    found = run.density.bits(simplified[rows], generator=noise)
    if tuple(found.shape) != (len(rows),):
        raise ValueError(
            f"the density ({type(run.density).__name__}) answered {len(rows)} images with shape {tuple(found.shape)}; "
            f"({len(rows)},) is needed."
        )
    per_pixel = found / simplified[0].numel()
    return (gate[rows] * per_pixel).sum() / len(gate), float(per_pixel.detach().mean())


def _changed(run: Run, objective: Tensor) -> bool:
    """Take the simplifier's step unless something about it is not finite; whether it was taken."""
    if not bool(torch.isfinite(objective.detach())):
        return False
    trained = [p for p in run.net.parameters() if p.requires_grad]
    found = torch.autograd.grad(objective, trained, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
    return _moved(run.optimizer, trained, gradients, run.clip)


def _move_classifier(run: Run, classifier: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    named = dict(classifier.named_parameters())
    _moved(run.classifier_optimizer, [named[name] for name in gradients], list(gradients.values()), run.classifier_clip)


def _moved(
    optimizer: torch.optim.Optimizer | None, trained: Sequence[Tensor], gradients: list[Tensor], clip: PercentileClip
) -> bool:
    if optimizer is None or not all(bool(torch.isfinite(g.sum())) for g in gradients):
        return False
    for parameter, gradient in zip(trained, clip(gradients), strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return True


def _warm_up(run: Run, classifier: nn.Module, stream: Iterator[Pair], progress: Callable[[float], None]) -> None:
    """Plain steps on originals, in train mode: without them the gate stays shut."""
    assert run.classifier_optimizer is not None
    flags = [(module, module.training) for module in classifier.modules()]
    classifier.train()
    for number in range(run.plan.warmup):
        x, y = next(stream)
        seed = _seed_of(run.plan, -1 - number)
        images = x if run.plan.augment is None else run.plan.augment(x, torch.Generator().manual_seed(seed))
        loss = cross_entropy(replaying(classifier, seed)(images), _labels(y))
        if bool(torch.isfinite(loss.detach())):
            run.classifier_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            run.classifier_optimizer.step()
        run.history.append({"phase": "warm-up", "step": number, "loss": float(loss.detach())})
        progress((number + 1) / run.plan.warmup)
    run.classifier_optimizer.zero_grad(set_to_none=True)
    for module, flag in flags:
        module.training = flag


def _tolerance(run: Run, tried: Sequence[Pair]) -> float:
    """From the losses of originals after a virtual step, before any bits were counted."""
    losses = []
    for number, (x, y) in enumerate(tried):
        with torch.no_grad():
            simplified = run.net(x)
        kept = STRATEGIES[run.plan.strategy](_setting(run), _views(run, number, x, simplified, y))
        losses.append(kept.losses)
    return automatic_tolerance(torch.cat(losses))


def _unseen_norms(classifier: nn.Module | None) -> list[str]:
    """A note if batch normalisation will be held at statistics that were never taken."""
    counts = [
        m.num_batches_tracked
        for m in (() if classifier is None else classifier.modules())
        if isinstance(m, NORMS) and m.num_batches_tracked is not None
    ]
    if not any(int(count) == 0 for count in counts):
        return []
    return [
        "the classifier's batch normalisation never saw a batch and is held as it is while images are simplified; train "
        "it first (raise `warmup`)."
    ]


def _labels(y: Tensor | None) -> Tensor:
    if y is None:
        raise ValueError("the classifier is trained, so `batches` must yield labels: (x, y).")
    return y


def _takes_noise(density: Density, x: Tensor) -> bool:
    """Whether a density is one of continuous values, for which images are dequantised."""
    noise = SharedNoise(device=x.device).manual_seed(0)
    before = noise.get_state()
    with torch.no_grad():
        density.bits(x[:1], generator=noise)
    return not torch.equal(before, noise.get_state())


def _seed_of(plan: Plan, number: int) -> int:
    return (1_000_003 * plan.seed + number) % 2**31


def _optimizer(classifier: nn.Module, rate: float) -> torch.optim.Optimizer:
    trained = [p for p in classifier.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 1e-5},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=(0.9, 0.995))


def _first_floating(classifier: nn.Module | None, net: nn.Module) -> Tensor:
    first = next(net.parameters())
    return first if classifier is None else next((p for p in classifier.parameters() if p.is_floating_point()), first)
