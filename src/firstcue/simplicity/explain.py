"""Which simpler input would the model have answered alike? The bits that vanish are those that the decision ignores."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._progress import Progress, silent, within
from firstcue.forward import left_as_found, unwrap
from firstcue.simplicity.controls import CONTROLS, compared, randomised, warnings_of
from firstcue.simplicity.density import Density, bits, require_differentiable, require_inputs
from firstcue.simplicity.descent import Demand, Descent, denoise, descend
from firstcue.simplicity.explained import Control, SimplifyResult
from firstcue.simplicity.fidelity import Matcher, ToInputs, matcher
from firstcue.simplicity.saved import bits_saved_map
from firstcue.simplicity.starts import coordinates

Controlled = dict[str, Tensor]


def explain_simplify(
    model: nn.Module,
    x: Tensor | np.ndarray,
    density: Density,
    target: Any = None,
    kl_budget: int | float = 0.1,
    *,
    method: str = "act_grad",
    start: str = "pixels",
    steps: int = 100,
    controls: bool | Sequence[str] = True,
    to_inputs: ToInputs | None = None,
    rate: int | float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> SimplifyResult:
    """The simplest images found that a model answers as it answers these.

    The bits of each image are lowered until the model's answer has moved by `kl_budget`; the weight that this takes is found
    for every image within the one run. The answer is kept through the divergence and through what the later half of the
    layers makes of the evidence. It says which simpler input suffices for this decision, not which parts of the image
    caused it, and it depends on the density: look at two.

    Args:
        model: A classifier; it is left bit for bit as found.
        x: `(n, c, h, w)` images in [0, 1].
        density: Gives the bits and their gradient.
        target: `(n,)` class ids or one id: whose evidence is held in the layers; the predicted class when None. The
            divergence is that of all classes in either case.
        kl_budget: Nats that the answer to each image may move.
        method: "act_grad" compares activations weighted by gradients, "scaled_grad" the answers of the weights at a
            random smaller scale (second derivatives, many times slower).
        start: "pixels" begins at the image, "latent" and "latent-zero" move in the latents of a flow, the latter from
            its mode.
        steps: Of the optimisation.
        controls: Whether to run the three controls, or the names of those to run: "no bits", "no task", "random weights".
        to_inputs: Makes the model's inputs of images in [0, 1], such as a standardisation; must be differentiable.
        rate: Step size; one that suits the start when None.
        batch_size: Images optimised at once.
        seed: Of noise and shuffled weights.
        progress: Told the fraction done.

    Returns:
        Images, bits, divergences and controls. `within_budget` is False, with a warning, for images that never kept the
        decision within the budget (possible from "latent-zero" only); those are the nearest that were found.

    Raises:
        ValueError: If images are not in [0, 1] or of another shape than the density knows, the density has no gradient,
            the budget is not positive, or the model cannot be used.

    Source:
        Schirrmeister et al. (2022), "When less is more", https://arxiv.org/abs/2201.05610. The budget and its dual ascent are ours.

    Example:
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> found = explain_simplify(model, torch.rand(2, 1, 8, 8), DCTLaplace(), steps=5, controls=False)
        >>> bool((found.bits_after <= found.bits_before).all()), bool((found.kl <= 0.1).all())
        (True, True)
    """
    images = require_inputs(density, x).detach()
    require_differentiable(density, "explaining by simplification")
    wanted, classes = _wanted(controls), _classes(target, len(images))
    _require_sizes(len(images), kl_budget, steps, batch_size)
    work = images.to(torch.float64 if images.dtype == torch.float64 else torch.float32)
    run = _Run(unwrap(model), density, kl_budget, method, start, steps, rate, to_inputs or _as_they_are)
    found, parts = [], work.split(batch_size)
    for i, part in enumerate(parts):
        own = None if classes is None else classes[i * batch_size : i * batch_size + len(part)]
        tell = within(progress, i / len(parts), (i + 1) / len(parts))
        found.append(run.part(part, own, wanted, seed + i, tell))
    whole = {name: torch.cat([part.arrays[name] for part in found]) for name in found[0].arrays}
    history = {
        name: list(np.average([p.history[name] for p in found], axis=0, weights=[len(p.arrays["kl"]) for p in found]))
        for name in found[0].history
    }
    return _result(run, work, x, whole, history, wanted, sum(p.skipped for p in found), seed)


@dataclass(frozen=True)
class _Part:
    """What the optimisation of one part of the images came to."""

    arrays: Controlled
    history: dict[str, list[float]]
    skipped: int


@dataclass(frozen=True)
class _Run:
    """What all parts have in common."""

    model: nn.Module
    density: Density
    kl_budget: float | int
    method: str
    start: str
    steps: int
    rate: float | int | None
    to_inputs: ToInputs

    def part(self, x: Tensor, target: Tensor | None, controls: Sequence[str], seed: int, progress: Progress) -> _Part:
        """Explain some images, and run the controls on them."""
        share = 1 / (1 + len(controls))
        descent, match, decision = self.descent(self.model, x, target, seed, within(progress, 0.0, share))
        best = descent.best
        arrays = {
            "simplified": best.images, "bits": best.bits, "kl": best.kl, "distance": best.distance,
            "weight": best.weight, "met": best.met, "decision": decision,
        }  # fmt: skip
        for i, name in enumerate(controls):
            tell = within(progress, share * (i + 1), share * (i + 2))
            arrays[name] = self.control(name, x, target, best.bits, seed, tell)
        for name in ("simplified", *controls):
            with left_as_found(self.model):
                now = match(arrays[name])
            arrays[f"{name} kl"], arrays[f"{name} decision"] = now.kl, now.logits.argmax(dim=1)
        return _Part(arrays, descent.history, descent.skipped)

    def descent(
        self, model: nn.Module, x: Tensor, target: Tensor | None, seed: int, progress: Progress, *, bits: bool = True
    ) -> tuple[Descent, Matcher, Tensor]:
        """The optimisation against one model."""
        generator = torch.Generator(device=x.device).manual_seed(seed)
        with left_as_found(model), torch.enable_grad():
            match, logits = matcher(model, x, target, self.method, self.to_inputs, generator)
            places = coordinates(self.start, x, self.density)
            demand = Demand(float(self.kl_budget), logits.argmax(dim=1))
            found = descend(
                places, match, self.density, demand, self.steps,
                rate=self.rate or places.rate, bits_count=bits, generator=generator, progress=progress,
            )  # fmt: skip
        return found, match, demand.decision

    def control(
        self, name: str, x: Tensor, target: Tensor | None, enough: Tensor, seed: int, progress: Progress
    ) -> Tensor:
        """The images that a control ends at."""
        if name == "no bits":
            return self.descent(self.model, x, target, seed, progress, bits=False)[0].last
        if name == "random weights":
            return self.descent(randomised(self.model, seed), x, target, seed, progress)[0].best.images
        generator = torch.Generator(device=x.device).manual_seed(seed)
        with torch.enable_grad():
            places = coordinates(self.start, x, self.density)
            rate = self.rate or places.rate
            return denoise(places, self.density, enough, self.steps, rate=rate, generator=generator)[0]


def _result(
    run: _Run,
    original: Tensor,
    given: Any,
    found: Controlled,
    history: dict[str, list[float]],
    controls: Sequence[str],
    skipped: int,
    seed: int,
) -> SimplifyResult:
    simplified = found["simplified"]
    before, after = bits(run.density, original, seed=seed), bits(run.density, simplified, seed=seed)
    saved = bits_saved_map(run.density, original, simplified, seed=seed)
    controlled = {
        name: compared(
            name, original, simplified, found[name], bits(run.density, found[name], seed=seed),
            found[f"{name} kl"], found[f"{name} decision"] == found["decision"],
        )
        for name in controls
    }  # fmt: skip
    result = SimplifyResult(
        original=original, simplified=simplified, bits_before=before, bits_after=after, bits_map=saved.bits,
        map_kind="tiles" if saved.proxy else "exact", kl=found["simplified kl"], decision_before=found["decision"],
        decision_after=found["simplified decision"], layer_distance=found["distance"], weight=found["weight"],
        within_budget=found["met"], kl_budget=float(run.kl_budget), method=run.method, start=run.start, history=history,
        controls=controlled, warnings=warnings_of(controlled, found["met"], skipped, run.steps),
    )  # fmt: skip
    return _as_given(result, given)


def _as_given(result: SimplifyResult, given: Any) -> SimplifyResult:
    """Arrays in the type that was given, floating numbers in its precision."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            host = value.detach().to(given.dtype) if _narrow(given) and value.is_floating_point() else value.detach()
            return host if isinstance(given, Tensor) else host.cpu().numpy()
        if isinstance(value, Control):
            return replace(value, **{f.name: convert(getattr(value, f.name)) for f in fields(value)})
        return value

    changed = {f.name: convert(getattr(result, f.name)) for f in fields(result)}
    changed["controls"] = {name: convert(control) for name, control in result.controls.items()}
    return SimplifyResult(**changed)


def _narrow(given: Any) -> bool:
    return isinstance(given, Tensor) and given.dtype in (torch.float16, torch.bfloat16)


def _as_they_are(x: Tensor) -> Tensor:
    return x


def _wanted(controls: bool | Sequence[str]) -> tuple[str, ...]:
    if isinstance(controls, bool):
        return tuple(CONTROLS) if controls else ()
    unknown = [name for name in controls if name not in CONTROLS]
    if unknown or isinstance(controls, str):
        raise ValueError(
            f"`controls` is True, False, or a list of names among {', '.join(CONTROLS)}; got {controls!r}."
        )
    return tuple(controls)


def _classes(target: Any, n: int) -> Tensor | None:
    if target is None:
        return None
    classes = torch.as_tensor(target, dtype=torch.int64).reshape(-1)
    if len(classes) not in (1, n):
        raise ValueError(f"`target` has {len(classes)} class ids for {n} images; one for all, or one each, is needed.")
    return classes.expand(n)


def _require_sizes(n: int, kl_budget: float | int, steps: int, batch_size: int) -> None:
    if n == 0:
        raise ValueError("`x` has no images; there is nothing to explain.")
    if not 0 < kl_budget < float("inf"):
        raise ValueError(f"`kl_budget` is a number of nats above zero; got {kl_budget}.")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"`steps` and `batch_size` are at least 1; got {steps} and {batch_size}.")
