"""The ladder says of what order the statistics are that carry a cue."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.auditing.ladder import RUNGS, climb, ladder
from firstcue.batch import Batch

N = 3000


def features(kind: str, z: torch.Tensor, d: int = 6, seed: int = 0) -> torch.Tensor:
    """Standard normal features in which `z` shows in means, in a spread, in a third moment, or not at all."""
    x = torch.randn(len(z), d, generator=torch.Generator().manual_seed(seed))
    if kind == "means":
        x[:, 0] += 1.5 * z
    if kind == "covariances":
        x[:, 0] *= 1 + 2 * z
    if kind == "higher orders":  # an exponential distribution, standardised, and its mirror image
        e = torch.empty(len(z)).exponential_(generator=torch.Generator().manual_seed(seed + 1)) - 1
        x[:, 0] = torch.where(z == 1, e, -e)
    return x


@pytest.mark.parametrize("kind", ["means", "covariances", "higher orders", "not encoded"])
def test_what_was_planted_is_named(kind):
    z = torch.arange(N) % 2
    assert ladder(features(kind, z), z, "cue", seed=0).order == kind


def test_many_features_are_looked_at_through_their_widest_directions_and_those_between_means():
    z = torch.arange(N) % 2
    x = torch.cat([features("means", z), 10 * torch.randn(N, 200, generator=torch.Generator().manual_seed(5))], dim=1)
    found = ladder(x, z, "cue", seed=0)
    assert found.directions == 2000 // 50
    assert found.order == "means"  # although its feature is among the narrowest


def test_values_with_too_few_rows_are_not_climbed():
    z = torch.zeros(200, dtype=torch.int64)
    z[:5] = 1
    assert ladder(torch.randn(200, 3), z, "cue", seed=0) is None


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([torch.float32, torch.float16, torch.float64]))
def test_every_rung_has_every_probe_with_its_baseline(seed, k, dtype):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(k, (400,), generator=generator)
    x = (torch.randn(400, 5, generator=generator) + 1e2).to(dtype)
    batch = Batch.of(x, z)
    said = climb(x, batch, "penultimate", seed)
    assert len(said) == 1 + 3 * len(RUNGS)
    assert all(f.n and f.baseline is not None and f.ci_low <= f.value <= f.ci_high for f in said)
    assert not any(f.judges for f in said)


def test_the_sentence_names_the_order_and_every_accuracy():
    z = torch.arange(N) % 2
    x = features("covariances", z)
    first = climb(x, Batch.of(x, z), "penultimate", 0)[0]
    assert first.meaning.startswith(
        "Means and covariances carry the class, nothing beyond them: the best probe reads it"
    )
    assert first.details["carried_by"] == "covariances"


def test_means_that_are_equal_leave_a_linear_probe_at_chance_on_other_rows():
    z = torch.arange(1000) % 2
    x = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.01, 64)
    x[:, 3] += 3 * z
    x[:, 60] = 0.0
    x[900, 60] = 1.0  # all but constant: scaled to unit variance it would swamp the rest
    found = ladder(x, z, "cue", seed=0)
    assert found.order == "means"
    assert found.read["means", "linear"].ci_low < 0.5 + 0.03
