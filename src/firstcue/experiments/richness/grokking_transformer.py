"""Grokking as it was published: a transformer of two layers learns addition modulo 97."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._grokking import grokked, grokking_claims, grokking_figure, sums
from firstcue.forward import seeded
from firstcue.sweeps import Trial

TITLE = "D_LR falls when a transformer groks addition modulo 97"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.5, settings={"prime": 11, "steps": 40, "every": 20, "width": 32}),
    "small": Scale(minutes=45, settings={"prime": 97, "steps": 3000, "every": 100, "width": 128}),
    "paper": Scale(minutes=150, settings={"prime": 97, "steps": 10000, "every": 100, "width": 128}),
}
SEEDS = 3


class Layer(nn.Module):
    """Attention and a feed-forward part, each after normalisation and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mixing = nn.LayerNorm(width), nn.LayerNorm(width)
        self.reads, self.writes = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        three = self.reads(self.before_attention(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.writes(scaled_dot_product_attention(*three).transpose(1, 2).reshape(n, t, width))
        return x + self.down(gelu(self.up(self.before_mixing(x))))


class Transformer(nn.Module):
    """Reads the tokens a, b and "="; the features are the normalised stream at "=", the head has no bias."""

    def __init__(self, prime: int, width: int = 128, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(prime + 1, width), nn.Embedding(3, width)
        self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, prime, bias=False)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        equals = torch.full_like(x[:, :1], self.tokens.num_embeddings - 1)
        stream = self.tokens(torch.cat([x, equals], dim=1)) + self.places.weight
        return self.head(self.norm(self.layers(stream)[:, -1]))


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("richness/grokking-transformer", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One transformer; a row for every so many steps."""
    given, seed = trial.settings, trial.seed
    rows, test = sums(given["prime"], 0.5, seed)
    with seeded(seed):
        model = Transformer(given["prime"], given["width"])
    return grokked(
        model, rows, test, steps=given["steps"], every=given["every"], rate=1e-3, batch_size=512, loss="ce", seed=seed
    )  # fmt: skip


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """When accuracy on held-out rows rises, and whether D_LR falls with it."""
    return grokking_claims(rows, "from 0.51 (step 200, 5.2 % held out) to 0.11 (step 3000, 99.8 %)")


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything over training."""
    return {"training": grokking_figure(rows)}
