"""The loop in which a density learns: steps, looks at held-out images, and files to resume from."""

import copy
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstcue._allocator import keep_freed
from firstcue._progress import Progress, silent
from firstcue._whole import written_whole
from firstcue.simplicity.density import bits

Stream = Callable[[int, torch.Generator], Tensor]
"""Draws about that many images."""

WARM_UP = 50
"""Steps over which the learning rate rises; then it falls along a cosine, to a hundredth at the end."""
AVERAGED = 500
"""Steps over which weights are averaged; the average is what is measured and kept."""
LARGEST_NORM = 50.0
"""Gradients are clipped to this norm, in bits per value; a step whose norm is not finite is skipped."""
LOOKS = 40
"""How often the held-out images are measured over the whole run."""
PATIENCE = 10
"""Looks without improvement after which fitting ends."""
FIRST_IMAGES = 256
"""Images from which a flow takes its first scales."""
FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What a run was asked for; a checkpoint of another plan is refused."""

    kind: str
    config: dict[str, Any]
    minutes: float | None
    steps: int | None
    batch_size: int
    lr: float
    seed: int
    falling: float = 1.0
    """Share of the run, at its end, over which the learning rate falls. A run may be made longer until it does."""

    def may_continue(self, noted: Any, state: "State") -> bool:
        """Whether a run that was noted down may go on as this one."""
        mine = json.loads(json.dumps(asdict(self)))
        if noted == mine:
            return True
        lengths = ("steps", "falling")
        if not isinstance(noted, dict) or any(noted.get(k) != v for k, v in mine.items() if k not in lengths):
            return False
        if self.falling < 1 and self.done(state) >= 1:
            return True  # it is longer already
        ends = [(1 - plan["falling"]) * (plan["steps"] or 0) for plan in (mine, noted)]
        return state.step <= min(ends)

    def rate(self, state: "State") -> float:
        """Learning rate of the next step."""
        fallen = (self.done(state) - 1 + self.falling) / self.falling if self.falling else 0.0
        cosine = (1 + math.cos(math.pi * min(1.0, max(0.0, fallen)))) / 2
        return self.lr * min(1.0, (state.step + 1) / WARM_UP) * (0.01 + 0.99 * cosine)

    def done(self, state: "State") -> float:
        """Fraction of the run that lies behind."""
        return state.step / self.steps if self.steps else state.seconds / (60 * (self.minutes or 1))


@dataclass
class State:
    """Where a run is."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    looked: int = 0
    skipped: int = 0
    history: list[list[int | float]] = field(default_factory=list)
    """Step and held-out bits per value at every look."""


def fit_network(
    density: Any,
    stream: Stream,
    held_out: Tensor,
    plan: Plan,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> State:
    """Fit a network in place, to the weights that did best on the held-out images; where the run ended.

    Args:
        density: A module with `bits` and `config`.
        stream: Draws training images from a generator.
        held_out: Images that decide when to stop.
        plan: How long, and from which seed.
        checkpoint: File to resume from if it exists, and to keep the run in.
        progress: Told how far the run is.

    Raises:
        ValueError: If the checkpoint is of another plan, or no checkpoint.
    """
    keep_freed()
    run = _Run(density, copy.deepcopy(density), torch.optim.Adam(density.parameters(), lr=plan.lr), State(), {})
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        _resume(path, plan, run)
    else:
        _begin(run, stream, plan)
    state = run.state
    while plan.done(state) < 1 and not _stuck(state):
        begun = time.perf_counter()
        _step(run, stream, plan)
        due = plan.done(state) * LOOKS >= state.looked + 1
        if due:
            _look(run, held_out, plan)
        state.seconds += time.perf_counter() - begun
        if due:
            _keep(path, plan, run)
            progress(f"{state.step} steps, {state.history[-1][1]:.3f} bits per value", min(1.0, plan.done(state)))
    density.load_state_dict(run.best)
    return state


@dataclass
class _Run:
    """What changes while a density learns."""

    density: Any
    average: Any
    """The same network with the average of the weights over the last steps."""

    optimizer: torch.optim.Optimizer
    state: State
    best: dict[str, Tensor]


def _begin(run: _Run, stream: Stream, plan: Plan) -> None:
    if hasattr(run.density, "initialise"):
        first = torch.Generator().manual_seed(plan.seed)
        run.density.initialise(stream(FIRST_IMAGES, first), first)
    run.average.load_state_dict(run.density.state_dict())
    run.best = _weights(run.density)


def _weights(density: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in density.state_dict().items()}


def _stuck(state: State) -> bool:
    return len(state.history) > PATIENCE and all(value > state.best for _, value in state.history[-PATIENCE:])


def _step(run: _Run, stream: Stream, plan: Plan) -> None:
    """One update; its draws depend on the seed and the step alone, so a resumed run makes the same."""
    density, optimizer, state = run.density, run.optimizer, run.state
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + state.step)
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(state)
    x = stream(plan.batch_size, generator)
    optimizer.zero_grad()
    (density.bits(x, generator=generator).sum() / x.numel()).backward()
    norm = nn.utils.clip_grad_norm_(density.parameters(), LARGEST_NORM)
    if bool(torch.isfinite(norm)):
        optimizer.step()
    else:
        state.skipped += 1
    state.step += 1
    share = max(1 / AVERAGED, 9 / (9 + state.step))
    with torch.no_grad():
        for mean, now in zip(run.average.parameters(), density.parameters(), strict=True):
            mean.lerp_(now, share)


def _look(run: _Run, held_out: Tensor, plan: Plan) -> None:
    """Measure the held-out images, and keep the weights if they were never cheaper."""
    state = run.state
    value = float(bits(run.average, held_out, n_dequant=1, seed=plan.seed).mean()) / held_out[0].numel()
    state.history.append([state.step, value])
    state.looked = int(plan.done(state) * LOOKS)
    if value < state.best:
        state.best, state.best_step = value, state.step
        run.best = _weights(run.average)


def _keep(path: Path | None, plan: Plan, run: _Run) -> None:
    """Write everything that a resumed run needs to one file, whole or not at all."""
    from safetensors.torch import save

    if path is None:
        return
    parts = {"now": _weights(run.density), "average": _weights(run.average), "best": run.best}
    tensors = {f"{part}/{name}": value for part, weights in parts.items() for name, value in weights.items()}
    for index, moments in run.optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": value for name, value in moments.items()}
    note = json.dumps({"format": FORMAT, "plan": asdict(plan), "state": asdict(run.state)})
    content = save({name: value.cpu().contiguous() for name, value in tensors.items()}, {"firstcue": note})
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def _resume(path: Path, plan: Plan, run: _Run) -> None:
    """Set networks, optimiser and state to those of a checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("firstcue", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file, not a dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of fit_density ({error}). Name another file, or delete it."
        ) from None
    state = State(**note.get("state", {}))
    if note.get("format") != FORMAT or not plan.may_continue(note.get("plan"), state):
        raise ValueError(
            f"{path} is of another run ({note.get('plan')}) than this one ({asdict(plan)}). Resume with the same arguments, "
            f"or name another file."
        )
    run.density.load_state_dict(_named(tensors, "now/"))
    run.average.load_state_dict(_named(tensors, "average/"))
    adam = run.optimizer.state_dict()
    for name, value in _named(tensors, "adam/").items():
        index, moment = name.split("/")
        adam["state"].setdefault(int(index), {})[moment] = value
    run.optimizer.load_state_dict(adam)
    run.state, run.best = state, _named(tensors, "best/")
    run.state.looked = int(plan.done(run.state) * LOOKS)


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
