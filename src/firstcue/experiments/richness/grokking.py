"""Grokking in half a minute: D_LR falls when a small network turns from memorising sums to computing them."""

from typing import Any

import torch
from torch import Tensor, nn

from firstcue.experiments.claims import Claim, Scale
from firstcue.experiments.richness._grokking import grokked, grokking_claims, grokking_figure, sums
from firstcue.forward import seeded
from firstcue.richness.recipes import scaled_initialisation
from firstcue.sweeps import Trial

TITLE = "D_LR falls when a network groks addition"
SOURCE = "arXiv 2410.04264"
VERSION = 1
SCALES = {
    "tiny": Scale(minutes=0.3, settings={"prime": 17, "steps": 300, "every": 50}),
    "small": Scale(minutes=6, settings={"prime": 31, "steps": 3000, "every": 100}),
    "paper": Scale(minutes=60, settings={"prime": 97, "steps": 6000, "every": 100}),
}
SEEDS = 5
START_SCALE = 4.0
"""Initial weights times this: a lazy start, without which features are low-rank from the beginning."""


class Adder(nn.Module):
    """Two embeddings side by side, a ReLU layer, a linear layer to the features, and a linear head."""

    def __init__(self, prime: int, width: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(prime, width), nn.Embedding(prime, width)
        self.hidden = nn.Linear(2 * width, hidden)
        self.features = nn.Linear(hidden, width, bias=False)
        self.head = nn.Linear(width, prime)
        for table in (self.left, self.right):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x[:, 0]), self.right(x[:, 1])], dim=1)
        return self.head(self.features(torch.relu(self.hidden(both))))


def trials(scale: str, seeds: int) -> list[Trial]:
    """One for each seed."""
    return [Trial("richness/grokking", SCALES[scale].settings, seed) for seed in range(seeds)]


def run(trial: Trial) -> list[dict[str, Any]]:
    """One network; a row for every so many steps."""
    given, seed = trial.settings, trial.seed
    rows, test = sums(given["prime"], 0.6, seed)
    with seeded(seed):
        model = scaled_initialisation(Adder(given["prime"]), START_SCALE)
    return grokked(
        model, rows, test, steps=given["steps"], every=given["every"], rate=3e-3, batch_size=len(rows), loss="mse", seed=seed
    )  # fmt: skip


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """When accuracy on held-out rows rises, and whether D_LR falls with it."""
    return grokking_claims(rows, "from 0.51 (step 200) to 0.11 (step 3000), two-layer transformer, mod 97")


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything over training."""
    return {"training": grokking_figure(rows)}
