"""Gradient rules as aggregators of TorchJD; the other way needs nothing: its aggregators are rules as they are."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from firstcue._extras import require_extra
from firstcue.agreement.rules import Rule, scope_of


def aggregator(rule: Rule, parameters: Iterable[Tensor] | None = None) -> Any:
    """A TorchJD aggregator that combines the rows of a Jacobian by a rule.

    The other way round, `train(rule=torchjd.aggregation.UPGrad())` and `apply_rule` take TorchJD's aggregators unchanged:
    a rule without `scope` sees the whole model's gradient, as they want it.

    Args:
        rule: `(e, p) -> (p,)`, for example `functools.partial(and_mask, threshold=0.8)`.
        parameters: The parameters in the order of the Jacobian's columns. A rule of scope "tensor" is applied to each
            alone; without them, the whole row counts as one.

    Returns:
        A `torchjd.aggregation.Aggregator`, `(m, n) -> (n,)`.

    Raises:
        MissingExtra: If TorchJD is not installed.
        ValueError: When called, if the Jacobian's columns are not those of `parameters`.

    Source:
        Quinton and Rey, "Jacobian descent for multi-objective optimization" (2024), https://arxiv.org/abs/2406.16232.
    """
    base = require_extra("torchjd.aggregation", "torchjd", "an aggregator for TorchJD").Aggregator
    widths = None if parameters is None or scope_of(rule) == "model" else [p.numel() for p in parameters]

    class Combining(base):  # type: ignore[misc,valid-type]
        def forward(self, matrix: Tensor, /) -> Tensor:
            if widths is None:
                return rule(matrix)
            if matrix.shape[1] != sum(widths):
                raise ValueError(
                    f"the Jacobian has {matrix.shape[1]} columns, but `parameters` have {sum(widths)} components; hand over "
                    f"the same parameters, in the same order."
                )
            return torch.cat([rule(part) for part in matrix.split(widths, dim=1)])

        def __str__(self) -> str:
            return f"{getattr(rule, '__name__', 'rule')}"

    return Combining()
