"""Many networks of one hidden ReLU layer in one tensor, trained by plain gradient descent all at once.

A small network spends its time in overhead rather than arithmetic, so thirty of them side by side cost little more than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class TwoLayers:
    """r networks f(x) = outgoing . relu(weight x + bias) + offset; the bias is the last column of `incoming`.

    Networks that read fewer columns than others have zeros where their inputs are zeros too.
    """

    incoming: Float[Tensor, "r h k1"]
    """`(r, h, k + 1)` input weights and bias."""
    outgoing: Float[Tensor, "r h"]
    offset: Float[Tensor, " r"]
    columns: tuple[int, ...]
    """Columns each network reads, the constant one apart."""

    @classmethod
    def untrained(cls, columns: Sequence[int], seeds: Sequence[int], width: int) -> "TwoLayers":
        """Networks with the initial weights that `torch.nn.Linear` draws: uniform within 1 / sqrt(fan-in).

        Networks of one seed and the same columns start alike.
        """
        most = max(columns)
        incoming, outgoing = torch.zeros(len(columns), width, most + 1), torch.empty(len(columns), width)
        offset = torch.empty(len(columns))
        for i, (k, seed) in enumerate(zip(columns, seeds, strict=True)):
            generator = torch.Generator().manual_seed(seed)

            def uniform(*shape: int, fan_in: int, source: torch.Generator = generator) -> Tensor:
                return (2 * torch.rand(*shape, generator=source) - 1) / fan_in**0.5

            incoming[i, :, :k] = uniform(width, k, fan_in=k)
            incoming[i, :, -1] = uniform(width, fan_in=k)
            outgoing[i] = uniform(width, fan_in=width)
            offset[i] = uniform(1, fan_in=width)[0]
        return cls(incoming, outgoing, offset, tuple(columns))

    def hidden(self, x: Float[Tensor, "r n k1"]) -> Float[Tensor, "r n h"]:
        """Activations of the hidden layer for rows whose last column is 1."""
        return torch.bmm(x, self.incoming.mT).relu_()

    def read_out(self, hidden: Float[Tensor, "r n h"]) -> Float[Tensor, "r n"]:
        """Outputs from hidden activations."""
        return torch.bmm(hidden, self.outgoing[..., None])[..., 0] + self.offset[:, None]

    def descend(self, x: Float[Tensor, "r b k1"], sign: Float[Tensor, "r b"], rate: float) -> None:
        """One step of gradient descent on the mean of log(1 + exp(-y f)), for every network on its own rows."""
        hidden = self.hidden(x)
        output = self.read_out(hidden)
        slope = -sign * torch.sigmoid(-sign * output) / sign.shape[1]  # of each row's loss in its output
        by_neuron = torch.bmm(slope[:, None, :], hidden)[:, 0]
        active = hidden.sign_()
        by_weight = torch.bmm(active.mT, slope[..., None] * x) * self.outgoing[..., None]
        self.incoming.sub_(by_weight, alpha=rate)
        self.outgoing.sub_(by_neuron, alpha=rate)
        self.offset.sub_(slope.sum(dim=1), alpha=rate)

    def chosen(self, ids: Tensor) -> "TwoLayers":
        """A copy of some networks."""
        columns = tuple(self.columns[i] for i in ids.tolist())
        return TwoLayers(self.incoming[ids], self.outgoing[ids], self.offset[ids], columns)

    def put(self, ids: Tensor, others: "TwoLayers") -> None:
        """Overwrite the networks `ids` by others."""
        self.incoming[ids], self.outgoing[ids], self.offset[ids] = others.incoming, others.outgoing, others.offset

    def module(self, i: int) -> nn.Sequential:
        """Network i as an ordinary module with one output: `Sequential(Linear, ReLU, Linear)`."""
        k = self.columns[i]
        width = self.incoming.shape[1]
        first, last = nn.utils.skip_init(nn.Linear, k, width), nn.utils.skip_init(nn.Linear, width, 1)
        with torch.no_grad():
            first.weight.copy_(self.incoming[i, :, :k])
            first.bias.copy_(self.incoming[i, :, -1])
            last.weight.copy_(self.outgoing[i, None])
            last.bias.copy_(self.offset[i, None])
        return nn.Sequential(first, nn.ReLU(), last)
