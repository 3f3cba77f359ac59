"""Two spirals that hold everywhere, beside a signature that gives the label away but differs in every environment."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstcue.batch import Batch

TEST_SEED = 2**32 - 1
HELD_OUT_SEED = 500
"""Offset of the random seeds of environments that nobody trains on."""


@dataclass(frozen=True)
class Preset:
    """How large the data is.

    Args:
        environments: Number of training environments, each with a signature of its own.
        rows: Examples of each.
        signature: Dimension of the signatures.
        std: Standard deviation of their components; the mechanism's columns have 1.
        rotations: Of each spiral.
    """

    environments: int
    rows: int
    signature: int
    std: float = 1.0
    rotations: int = 3


PRESETS = {
    "paper": Preset(32, 1280, 32, std=0.1**0.5),
    "readme": Preset(16, 1024, 16),
    "code": Preset(16, 1024, 8),
}
"""The sizes of the paper's text, of the README of its code, and the defaults of its code. The text draws signatures from
N(0, 0.1), read here as a variance."""


def spirals(preset: Preset, *, seed: int = 0, first: int = 0, environments: int | None = None) -> Batch:
    """Training data: column 0 and 1 are the spiral, the others the signature times the label's sign.

    Args:
        preset: Sizes.
        seed: Seed 0 gives the numbers of the authors' code; others share no draw with it.
        first: Offset of the environments' random seeds: environments from another offset are new ones.
        environments: Number of environments; those of the preset when None.

    Returns:
        Rows sorted by environment, equally many of each; `group` is the environment.

    Example:
        >>> spirals(Preset(2, 5, 3)).x.shape
        torch.Size([10, 5])
    """
    count = preset.environments if environments is None else environments
    x, y = zip(*(_environment(preset, e, count, 1000 * seed + first + e) for e in range(count)), strict=True)
    group = torch.arange(count).repeat_interleave(preset.rows)
    return Batch(torch.cat(x), torch.cat(y), group)


def spirals_for_testing(preset: Preset, rows: int = 2000) -> Batch:
    """The same spirals beside signatures drawn anew for every example, which tell nothing."""
    rng = np.random.RandomState(TEST_SEED)
    rng.randn(preset.environments, preset.signature)
    mechanism, y = _mechanism(rng, rows, preset.rotations)
    return _batch(mechanism, rng.randn(rows, preset.signature) * preset.std, y)


def _environment(preset: Preset, e: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.RandomState(seed)
    signature = rng.randn(count, preset.signature)[e] * preset.std
    mechanism, y = _mechanism(rng, preset.rows, preset.rotations)
    part = _batch(mechanism, signature * (2 * y - 1)[:, None], y)
    return part.x, part.y


def _mechanism(rng: np.random.RandomState, rows: int, rotations: int) -> tuple[np.ndarray, np.ndarray]:
    radius = rng.uniform(0.08, 1, rows)
    angle = 2 * rotations * np.pi * radius
    y = rng.randint(0, 2, rows)
    angle = angle + np.pi * y
    radius = radius + rng.uniform(-0.02, 0.02, rows)
    mechanism = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1)
    return mechanism / mechanism.std(axis=0), y


def _batch(mechanism: np.ndarray, signature: np.ndarray, y: np.ndarray) -> Batch:
    x = np.hstack([mechanism, signature]).astype(np.float32)
    return Batch(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)))
