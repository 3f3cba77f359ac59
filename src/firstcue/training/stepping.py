"""One step of training: the loss, its gradients as a rule combines them, and the one place where parameters change."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstcue.agreement._losses import means, row_losses
from firstcue.agreement.apply import apply_to_losses
from firstcue.agreement.rules import Rule, mean_gradient
from firstcue.batch import Batch
from firstcue.forward import NotFinite
from firstcue.training import distributed

Loss = Callable[..., Tensor]
"""`loss(outputs, y)`: a scalar, the mean over its rows."""

Weighting = Callable[[Tensor, Tensor, Batch], Tensor]
"""From losses `(n,)`, outputs `(n, ...)` and the batch: weights `(n,)`, whose products with the losses are averaged, or a
scalar objective. State (group weights, a second model) lives in the object."""


@dataclass(frozen=True)
class Stepping:
    """How every batch of a training is turned into one update."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    rule: Rule
    weighting: Weighting | None

    def __call__(self, batch: Batch, number: int) -> float:
        """Step number `number`; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        if distributed.processes() > 1:
            value = self._backward_together(batch, number)
        elif self.rule is mean_gradient:
            objective = self._objective(batch)
            value = self._finite(objective, number)
            objective.backward()
        else:
            value = self._backward_by_rule(batch, number)
        self.optimizer.step()
        return value

    def require_finite_parameters(self, number: int) -> None:
        """Refuse a model that the last step broke."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not all(bool(torch.isfinite(p).all()) for p in params):
            raise NotFinite(
                f"parameters are NaN or infinite after step {number} (learning rate {_rates(self.optimizer)}): lower the "
                f"learning rate or clip gradients, and train again from a fresh model."
            )

    def _objective(self, batch: Batch) -> Tensor:
        outputs = self.model(batch.x)
        if self.weighting is None:
            return self.loss(outputs, batch.y)
        losses = row_losses(self.loss, outputs, batch.y)
        weights = self.weighting(losses, outputs, batch)
        return weights if weights.ndim == 0 else (weights * losses).mean()

    def _backward_by_rule(self, batch: Batch, number: int) -> float:
        """The mean of the environments' losses; their gradients, combined by the rule, are in `.grad`."""
        rows, sizes = _by_environment(batch)
        value = math.nan

        def losses_of(outputs: Tensor) -> Tensor:
            nonlocal value
            losses = means(self._weighted_rows(outputs, rows), sizes)
            value = self._finite(losses.mean(), number)
            return losses

        apply_to_losses(self.model, rows.x, losses_of, sizes, self._trained(), self.rule)
        return value

    def _backward_together(self, batch: Batch, number: int) -> float:
        """Either of the above, for rows that several processes share."""
        if self.weighting is not None:
            raise ValueError(
                "a weighting looks at all rows of a batch, of which each process has a part; train in one process, or use "
                "a rule."
            )
        if self.rule is mean_gradient:
            value = distributed.mean_backward(
                lambda: self.loss(self.model(batch.x), batch.y), len(batch), self._trained()
            )
            return self._finite(value, number)
        rows, sizes = _by_environment(batch)
        assert rows.group is not None
        values: list[float] = []
        distributed.rule_backward(
            self.model,
            rows.x,
            rows.group,
            lambda outputs: means(row_losses(self.loss, outputs, rows.y), sizes),
            self._trained(),
            self.rule,
            lambda mean: values.append(self._finite(mean, number)),
        )
        return values[0]

    def _weighted_rows(self, outputs: Tensor, batch: Batch) -> Tensor:
        """`(n,)` losses, each times its weight."""
        losses = row_losses(self.loss, outputs, batch.y)
        if self.weighting is None:
            return losses
        weights = self.weighting(losses, outputs, batch)
        if weights.ndim == 0:
            raise ValueError(
                "this weighting makes one objective of the whole batch, which leaves a gradient rule nothing to compare."
            )
        return weights * losses

    def _trained(self) -> dict[str, Tensor]:
        """The parameters that the optimiser steps, by their name in the model."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        return {names.get(id(p), f"parameter {i} of the optimiser"): p for i, p in enumerate(trained)}

    def _finite(self, objective: Tensor, number: int) -> float:
        if objective.ndim:
            raise ValueError(f"the loss has shape {tuple(objective.shape)}; return its mean over rows, one number.")
        value = float(objective.detach())
        if not math.isfinite(value):
            raise NotFinite(
                f"the loss is {value} at step {number} (learning rate {_rates(self.optimizer)}): lower the learning rate, "
                f"clip gradients, or look for NaN in the inputs. The model keeps the parameters from before this step."
            )
        return value


def _by_environment(batch: Batch) -> tuple[Batch, list[int]]:
    """The rows with environments following each other, and how many rows each has."""
    if batch.group is None:
        raise ValueError(
            "a gradient rule compares environments, but the batch has none; yield (x, y, environment) or a Batch with "
            "`group`, or use the default rule."
        )
    if bool((batch.group[1:] < batch.group[:-1]).any()):
        batch = batch.rows(batch.group.argsort(stable=True))
    assert batch.group is not None
    return batch, batch.group.unique_consecutive(return_counts=True)[1].tolist()


def _rates(optimizer: torch.optim.Optimizer) -> str:
    return (
        ", ".join(sorted({f"{float(group['lr']):g}" for group in optimizer.param_groups if "lr" in group})) or "unknown"
    )
