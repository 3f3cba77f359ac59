"""The AND-mask over time: a parameter moves only where recent gradients agreed on its sign.

One environment per step, and no gradient but the one at hand: the cheap form for large models. It wraps any optimiser.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1e-6
AVERAGE, STEPS = "sign_average", "sign_steps"


class TemporalAndMask(torch.optim.Optimizer):
    """Let `optimizer` step, and undo the step where the moving average of gradient signs is weak.

    With a_t = decay a_{t-1} + (1 - decay) sign(g_t), a component moves where |a_t| >= threshold. The optimiser's own moments
    (momentum, Adam's averages) see every gradient; only the update is masked. Weight decay comes after the mask, as a step
    of its own, theta <- theta - lr weight_decay theta, also for masked components: otherwise what the initialisation put
    there would never leave. Give one environment per batch and cycle through all of them.

    a starts at 0, so |a_t| <= 1 - decay^t: nothing moves before the first t with 1 - decay^t >= threshold, and with
    threshold 1 nothing ever moves.

    Args:
        optimizer: Any torch optimiser that does not evaluate the loss several times per step. Its parameter groups are
            shared: schedulers work on either, and `weight_decay` is read from them.
        threshold: Least |a|, from 0 (the optimiser itself) to 1.
        decay: Of the moving average, at least 0 and below 1; the paper's best runs have 0.65 to 0.86, with thresholds of
            0.36 to 0.47.
        bias_correction: Divide a_t by 1 - decay^t. This opens every mask at the first step, so it is off.

    Raises:
        ValueError: If an argument is out of its range, or in `step` if a gradient is not finite or sparse.

    Source:
        Parascandolo et al. (2020), https://arxiv.org/abs/2009.00329, Algorithm 1.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = TemporalAndMask(torch.optim.Adam(layer.parameters(), weight_decay=0.01), threshold=0.4, decay=0.8)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.kept
        0.0
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, threshold: float, decay: float = 0.8, *, bias_correction: bool = False
    ):
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` is a required |average sign|, between 0 and 1; got {threshold}.")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` of the average is at least 0 and below 1; got {decay}.")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates the loss several times per step, which has no one sign; use Adam or SGD.")
        super().__init__([{"params": group["params"]} for group in optimizer.param_groups], {})
        self.optimizer = optimizer
        self.threshold, self.decay, self.bias_correction = threshold, decay, bias_correction
        self._work: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._kept: list[Tensor] = []
        self._share()

    @property
    def kept(self) -> float:
        """Fraction of the components that moved in the last step; NaN before the first."""
        total = sum(mask.numel() for mask in self._kept)
        return sum(int(mask.sum()) for mask in self._kept) / total if total else float("nan")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimiser, masked, then weight decay; the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            return loss
        gradients = [p.grad for p in params if p.grad is not None]
        _require_usable(gradients)
        memory, self._kept = map(list, zip(*(self._memory(p) for p in params), strict=True))
        averages = self._averages(params, gradients, memory)
        self._mask(params, averages)
        torch._foreach_copy_(memory, params)
        self._step_without_decay()
        for p, average, mask, before in zip(params, averages, self._kept, memory, strict=True):
            torch.lerp(before, p, mask, out=p)  # exact for masks of 0 and 1, and faster than `where`
            # only now: many optimisers initialise their state when they find none, so ours may not be first
            self.state[p] |= {AVERAGE: average, STEPS: self.state[p].get(STEPS, 0) + 1}
        self._decay_weights()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, to the optimiser as well."""
        if hasattr(self, "optimizer"):
            self.optimizer.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict()` gave: the optimiser's state and the averages."""
        self.optimizer.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_work": {}, "_kept": []}

    def _share(self) -> None:
        self.defaults = self.optimizer.defaults
        self.state, self.param_groups = self.optimizer.state, self.optimizer.param_groups

    def _memory(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Work space of the parameter's shape, and for its mask; taken once, since taking it costs more than its use."""
        if p not in self._work:
            self._work[p] = torch.empty_like(p), torch.empty_like(p)
        return self._work[p]

    def _averages(self, params: list[Tensor], gradients: list[Tensor], memory: list[Tensor]) -> list[Tensor]:
        averages = [self.state[p].get(AVERAGE) for p in params]
        averages = [torch.zeros_like(p) if a is None else a for a, p in zip(averages, params, strict=True)]
        for gradient, signs in zip(gradients, memory, strict=True):
            torch.sign(gradient, out=signs)
        torch._foreach_lerp_(averages, memory, 1 - self.decay)
        return averages

    def _mask(self, params: list[Tensor], averages: list[Tensor]) -> None:
        for p, average, mask in zip(params, averages, self._kept, strict=True):
            reached = 1 - self.decay ** (self.state[p].get(STEPS, 0) + 1) if self.bias_correction else 1.0
            torch.abs(average, out=mask)
            torch.ge(mask, self.threshold * reached - _ROUNDING, out=mask)

    def _step_without_decay(self) -> None:
        decays = [group.get("weight_decay") for group in self.param_groups]
        try:
            for group in self.param_groups:
                if "weight_decay" in group:
                    group["weight_decay"] = 0.0
            self.optimizer.step()
        finally:
            for group, value in zip(self.param_groups, decays, strict=True):
                if "weight_decay" in group:
                    group["weight_decay"] = value

    def _decay_weights(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group.get("weight_decay") and params:
                torch._foreach_mul_(params, 1 - float(group["lr"]) * group["weight_decay"])


def _require_usable(gradients: list[Tensor]) -> None:
    if any(g.is_sparse for g in gradients):
        raise ValueError("a gradient is sparse, and its absent components have no sign; use sparse=False.")
    if math.isfinite(sum(float(g.sum()) for g in gradients)):
        return
    for number, g in enumerate(gradients):
        if not bool(torch.isfinite(g).all()):
            raise ValueError(
                f"the gradient of parameter {number} of the optimiser, of shape {tuple(g.shape)}, is NaN or infinite: lower "
                f"the learning rate, clip gradients, or look for NaN in the inputs. No parameter was changed."
            )
