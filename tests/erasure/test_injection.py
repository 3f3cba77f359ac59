import warnings

import pytest
import torch

from cases import generator, labelled
from firstcue import Moments, injection, leace, oracle_leace, qleace


def lattice(n=8000, seed=1):
    """A feature on a grid of spacing 0.5 that shifts the odds of the label: moving classes apart shows on the grid."""
    g = generator(seed)
    x = torch.randn(n, 2, generator=g, dtype=torch.float64)
    x[:, 0] = (x[:, 0] * 2).round() / 2
    return x, (torch.rand(n, generator=g, dtype=torch.float64) < torch.sigmoid(2 * x[:, 0])).long()


@pytest.mark.parametrize("fit", [oracle_leace, qleace])
def test_erasers_that_know_the_label_write_it_into_a_lattice(fit):
    x, z = lattice()
    with pytest.warns(UserWarning, match="the edit wrote the label into the data"):
        found = injection(x, fit(Moments.of_groups(x, z))(x, z), z)

    assert found["injected"]
    assert found["strong_before"] == pytest.approx(0.764, abs=0.03)
    assert found["strong_after"] > 0.95
    assert found["after_low"] > found["before_high"]
    assert found["rise_low"] < found["strong_after"] - found["strong_before"] < found["rise_high"]


def test_an_eraser_that_does_not_know_the_label_cannot():
    x, z = lattice()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = injection(x, leace(Moments.of_groups(x, z))(x), z)

    assert not found["injected"]
    assert found["after_low"] <= 0.5 <= found["after_high"]


@pytest.mark.science
def test_label_free_edits_are_not_accused():
    accused = 0
    for seed in range(60):
        x, z = labelled(n=(200, 1000, 4000)[seed % 3], d=6, k=2 + seed % 2, seed=seed)
        turn = torch.linalg.qr(torch.randn(6, 6, generator=generator(seed), dtype=x.dtype)).Q
        edited = leace(Moments.of_groups(x, z))(x) if seed % 4 < 2 else x @ turn
        accused += injection(x, edited, z, seed=seed)["injected"]

    assert accused <= 2


def test_the_same_rows_are_neither_better_nor_worse():
    x, z = labelled()
    found = injection(x, x, z)

    assert found["rise"] == 0
    assert found["rise_low"] < 0 < found["rise_high"]
    assert not found["injected"]


def test_the_answer_depends_on_the_seed_alone():
    x, z = labelled()
    state = torch.random.get_rng_state()
    edited = oracle_leace(Moments.of_groups(x, z))(x, z)

    assert injection(x, edited, z, seed=3) == injection(x, edited, z, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_numpy_float16_and_a_class_of_one_row_are_read():
    x, z = labelled(dtype=torch.float16)
    z[5] = 3

    assert injection(x.numpy(), x.numpy(), z.tolist())["n"] == 599


def test_nothing_is_claimed_where_nothing_can_be_measured():
    found = injection(torch.randn(3, 2), torch.randn(3, 2), ["a", "b", "c"])

    assert found["n"] == 0
    assert not found["injected"]
    assert found["strong_after"] != found["strong_after"]


def test_rows_that_do_not_match_are_refused():
    x, z = labelled()

    with pytest.raises(ValueError, match="`x` has 600 rows but `erased` has 599"):
        injection(x, x[1:], z)
    with pytest.raises(ValueError, match="`erased` has NaN"):
        injection(x, x * torch.nan, z)
