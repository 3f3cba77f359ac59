"""Boolean functions and the data made of them: exact in distribution, and the same however they are cut."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import firstcue as fc
from firstcue.spurious.boolean import boolean_data, boolean_layout, boolean_stream
from firstcue.spurious.confounding import confounded_density
from firstcue.spurious.fourier import all_signs
from firstcue.spurious.functions import (
    boolean_function,
    leap,
    majority,
    merged_staircase,
    parity,
    polynomial_threshold,
    staircase,
    truth_table,
)
from firstcue.spurious.packed import signs_of, words_of
from firstcue.spurious.sampling import BLOCK


def random_table(arity, seed=0):
    values = np.random.default_rng(seed).choice([-1, 1], 1 << arity)
    return truth_table(values, name=f"random table {seed}")


def rare(arity=6):
    values = np.ones(1 << arity)
    values[[5, 17, 40]] = -1
    return truth_table(values)


PAIRS = {
    "parities": (parity(4), parity(2)),
    "odd staircases": (staircase(5), staircase(3)),
    "even staircases": (staircase(4, ties="plus"), staircase(6, ties="plus")),
    "ties counted as minus": (staircase(3), staircase(4, ties="minus")),
    "ties broken": (staircase(4, ties="random"), staircase(6, ties="random")),
    "random tables": (random_table(5, 1), random_table(4, 2)),
    "a rare value": (parity(3), rare()),
    "majority and threshold": (majority(3), polynomial_threshold([[0], [1, 2], [0, 2]], [0.3, -0.9, 0.5])),
    "irrelevant coordinates": (parity(2, size=4), staircase(2, ties="plus", size=5)),
    "a callable": (boolean_function(lambda x: x[:, 1] * x[:, 2], 4, name="own"), parity(1)),
}


def numbers_of(x):
    """`(n,)` the pattern of each row as an index."""
    return ((x < 0).long() << torch.arange(x.shape[1])).sum(dim=1)


@pytest.mark.parametrize("sampling", ["core-uniform", "mixture"])
@pytest.mark.parametrize("name", PAIRS)
def test_rows_have_exactly_the_distribution_that_is_promised(name, sampling):
    core, spurious = PAIRS[name]
    n = 500_000
    batch = boolean_data(core, spurious, 0.8, n, sampling=sampling, seed=11)
    expected = confounded_density(core, spurious, 0.8, sampling).numpy() * n
    found = numbers_of(batch.x).bincount(minlength=len(expected)).numpy()
    assert found[expected == 0].sum() == 0
    likely = expected > 0
    assert stats.chisquare(found[likely], expected[likely]).pvalue > 1e-4


def test_a_search_finds_the_same_distribution_as_a_table():
    wide = boolean_function(lambda x: torch.where(x[:, :3].sum(dim=1) < -2, -1.0, 1.0), 22, name="all three")
    batch = boolean_data(parity(1), wide, 0.6, 200_000, seed=2)
    seen = numbers_of(torch.cat([batch.x[:, :1], batch.x[:, 1:4]], dim=1)).bincount(minlength=16).numpy()
    table = truth_table([1, 1, 1, 1, 1, 1, 1, -1])
    expected = confounded_density(parity(1), table, 0.6).numpy() * 200_000
    assert stats.chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("sampling", ["core-uniform", "mixture"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("name", ["parities", "even staircases", "random tables"])
def test_functions_agree_as_often_as_asked(name, strength, sampling):
    core, spurious = PAIRS[name]
    batch = boolean_data(core, spurious, strength, 100_000, sampling=sampling, noise=3, seed=5)
    agree = (batch.y == batch.attribute).double().mean()
    assert abs(agree - strength) <= 4 * math.sqrt(strength * (1 - strength) / 100_000)
    layout = boolean_layout(core, spurious, 3)
    assert torch.equal(2 * batch.y - 1, core(batch.x[:, layout.core]).long())
    assert torch.equal(2 * batch.attribute - 1, spurious(batch.x[:, layout.spurious]).long())


def test_at_strength_one_there_is_no_minority_and_still_four_groups():
    batch = boolean_data(parity(3), parity(1), 1.0, 1000)
    assert set(batch.groups().tolist()) == {0, 3}
    assert batch.num_classes * batch.num_values == 4


def test_at_strength_one_half_the_blocks_are_independent():
    x = boolean_data(parity(3), staircase(3), 0.5, 200_000, noise=2, seed=4).x.double()
    across = (x[:, :3].mT @ x[:, 3:]) / len(x)
    assert float(across.abs().max()) < 4 / len(x) ** 0.5
    assert float(x.mean(dim=0).abs().max()) < 4 / len(x) ** 0.5


def test_core_bits_are_uniform_under_core_uniform_and_not_in_a_mixture_with_a_biased_cue():
    core, spurious = staircase(14, ties="plus"), staircase(10, ties="plus")
    share = {}
    for sampling in ("core-uniform", "mixture"):
        batch = boolean_data(core, spurious, 0.9, 200_000, sampling=sampling)
        agree = batch.y == batch.attribute
        share[sampling] = [float(batch.y[rows].double().mean()) for rows in (agree, ~agree)]
    assert share["core-uniform"] == pytest.approx([0.605, 0.605], abs=0.01)
    assert share["mixture"] == pytest.approx([0.717, 0.481], abs=0.01)


@pytest.mark.parametrize(("core", "spurious"), [(staircase(3), staircase(5)), (random_table(3, 5), parity(2))])
def test_an_unbiased_cue_makes_both_samplings_one(core, spurious):
    torch.testing.assert_close(
        confounded_density(core, spurious, 0.9, "core-uniform"), confounded_density(core, spurious, 0.9, "mixture")
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 2 * BLOCK + 5), st.integers(0, 2**40))
def test_rows_do_not_depend_on_how_they_are_cut(batch_size, n, seed):
    recipe = {"noise": 3, "seed": seed}
    whole = boolean_data(parity(3), staircase(2, ties="plus"), 0.9, n, **recipe)
    stream = boolean_stream(parity(3), staircase(2, ties="plus"), 0.9, batch_size, **recipe)
    parts = list(itertools.islice(stream, -(-n // batch_size)))
    assert {len(part) for part in parts} == {batch_size}
    assert torch.equal(torch.cat([p.x for p in parts])[:n], whole.x)
    assert torch.equal(torch.cat([p.y for p in parts])[:n], whole.y)
    assert torch.equal(torch.cat([p.attribute for p in parts])[:n], whole.attribute)


def test_as_many_rows_as_asked_for_come():
    assert [len(boolean_data(parity(2), parity(1), 0.9, n)) for n in (0, 1, 63, 4096, 4097, 60_000)] == [
        0,
        1,
        63,
        4096,
        4097,
        60_000,
    ]


def test_a_seed_shows_the_same_core_at_every_strength():
    weak, strong = (boolean_data(parity(3), parity(2), s, 5000, seed=9) for s in (0.5, 0.95))
    assert torch.equal(weak.x[:, :3], strong.x[:, :3])
    assert not torch.equal(weak.x, boolean_data(parity(3), parity(2), 0.5, 5000, seed=10).x)


@pytest.mark.parametrize("noise", [0, 1, 50, 60, 130])
def test_columns_of_any_number_hold_fair_signs(noise):
    core, spurious = parity(5), staircase(3)
    x = boolean_data(core, spurious, 0.5, 50_000, noise=noise, seed=1).x
    assert x.shape == (50_000, 8 + noise)
    assert x.dtype == torch.float32 and bool((x.abs() == 1).all())
    assert float(x.mean(dim=0).abs().max()) < 5 / 50_000**0.5
    pairs = (x.mT @ x / len(x)).fill_diagonal_(0)
    assert float(pairs.abs().max()) < 5.5 / 50_000**0.5


def test_shuffled_columns_are_where_the_layout_says():
    core, spurious = parity(3), staircase(3)
    layout = boolean_layout(core, spurious, 2, shuffle=3)
    batch = boolean_data(core, spurious, 0.9, 1000, noise=2, layout=layout)
    assert layout.core.tolist() != [0, 1, 2]
    assert torch.equal(core(batch.x[:, layout.core]).long(), 2 * batch.y - 1)
    assert torch.equal(spurious(batch.x[:, layout.spurious]).long(), 2 * batch.attribute - 1)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("value", [0, 1])
def test_the_editor_sets_the_cue_and_keeps_the_core(name, value):
    core, spurious = PAIRS[name]
    layout = boolean_layout(core, spurious, 2, shuffle=1)
    batch = boolean_data(core, spurious, 0.9, 2000, noise=2, layout=layout)
    before = batch.x.clone()
    edited = batch.edit(batch.x, value)
    assert torch.equal(batch.x, before)
    assert bool((spurious(edited[:, layout.spurious]) == 2 * value - 1).all())
    rest = torch.cat([layout.core, layout.noise])
    assert torch.equal(edited[:, rest], batch.x[:, rest])
    same = batch.attribute == value
    assert torch.equal(edited[same], batch.x[same])


def test_a_batch_can_be_sent_to_another_process():
    batch = boolean_data(parity(2), staircase(3), 0.9, 10)
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.edit(again.x, 1), batch.edit(batch.x, 1))


@given(st.integers(1, 64), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_packing_signs_loses_nothing(size, seed):
    x = 1 - 2 * np.random.default_rng(seed).integers(0, 2, (17, size)).astype(np.float32)
    np.testing.assert_array_equal(signs_of(words_of(x), size), x)


@pytest.mark.parametrize("degree", [1, 2, 3, 5, 6, 8])
def test_functions_say_what_their_formulas_say(degree):
    x = all_signs(degree).double()
    products = x.cumprod(dim=1)
    assert torch.equal(parity(degree)(x), products[:, -1])
    plus = torch.where(products.sum(dim=1) >= 0, 1.0, -1.0).double()
    assert torch.equal(staircase(degree, ties="plus")(x), plus)
    minus = torch.where(products.sum(dim=1) > 0, 1.0, -1.0).double()
    assert torch.equal(staircase(degree, ties="minus")(x), minus)
    if degree % 2:
        assert torch.equal(majority(degree)(x), torch.where(x.sum(dim=1) > 0, 1.0, -1.0).double())
    sets = [list(range(j + 1)) for j in range(degree)]
    assert torch.equal(polynomial_threshold(sets)(x), plus)


@pytest.mark.parametrize("degree", [2, 4, 6, 10])
def test_broken_ties_are_fair_fixed_and_touch_nothing_else(degree):
    x = all_signs(degree)
    fair = staircase(degree, ties="random")
    assert fair.positive_share == (fair.table > 0).mean() == 0.5
    assert torch.equal(fair(x), fair(x))
    tied = x.cumprod(dim=1).sum(dim=1) == 0
    assert torch.equal(fair(x)[~tied], staircase(degree, ties="plus")(x)[~tied])
    assert 0 < (fair(x)[tied] > 0).float().mean() < 1


@pytest.mark.parametrize(
    ("degree", "share"),
    [(1, 0.5), (2, 0.75), (3, 0.5), (4, 0.6875), (5, 0.5), (6, 0.65625), (10, 0.6230), (14, 0.6047)],
)
def test_staircases_are_as_biased_as_ties_make_them(degree, share):
    f = staircase(degree, ties="plus")
    assert f.positive_share == pytest.approx(share, abs=5e-5)
    assert (f.table > 0).mean() == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("f", [parity(3), staircase(5), staircase(6, ties="random"), majority(5)], ids=lambda f: f.name)
def test_a_flip_that_is_named_always_changes_the_value(f):
    words = np.arange(1 << f.arity, dtype=np.uint64)
    assert (f.negative(words) != f.negative(words ^ np.uint64(f.flip))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_a_function_answers_in_the_type_it_was_asked(dtype):
    x = all_signs(3).to(dtype)
    assert parity(3)(x).dtype == dtype
    assert isinstance(parity(3)(x.numpy()), np.ndarray)


def test_how_far_steps_leap():
    assert leap([[0], [0, 1], [0, 1, 2]]) == 1
    assert leap([[1, 2, 3], [0], [0, 1]]) == 2
    assert leap([[0, 1, 2]]) == 3
    with pytest.raises(ValueError, match="adds 3 new coordinates"):
        merged_staircase([[0], [1, 2, 3]])


def test_an_even_staircase_warns_of_its_bias_unless_its_ties_are_named():
    with pytest.warns(UserWarning, match=r"0\.6230"):
        staircase(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: staircase(4, ties="odd-only"), "even degree 4"),
        (lambda: majority(4), "odd number"),
        (lambda: parity(70), "at most 64"),
        (lambda: parity(3, size=2), "3 of 2"),
        (lambda: truth_table([1, -1, 1]), "2\\^k"),
        (lambda: truth_table([0, 1]), "1 - 2 b"),
        (lambda: polynomial_threshold([]), "one finite weight"),
        (lambda: polynomial_threshold([[-1]]), "counted from 0"),
        (lambda: parity(2)(torch.zeros(3, 2)), "1 - 2 b"),
        (lambda: parity(2)(torch.ones(3, 3)), "rows of 2 signs"),
        (lambda: boolean_data(parity(2), parity(1), 1.2, 5), "between 0 and 1"),
        (lambda: boolean_data(parity(2), parity(1), 0.9, -1), "number of rows"),
        (lambda: boolean_data(parity(2), parity(1), 0.9, 5, noise=-1), "at least 0"),
        (lambda: boolean_data(parity(2), parity(1), 0.9, 5, sampling="other"), "core-uniform"),
        (lambda: boolean_data(parity(2), parity(0), 0.9, 50), "never -1"),
        (lambda: boolean_stream(parity(2), parity(1), 0.9, 0), "`batch_size`"),
        (
            lambda: boolean_data(parity(2), parity(1), 0.9, 5, layout=boolean_layout(parity(3), parity(1))),
            "other functions",
        ),
        (lambda: boolean_function(lambda x: torch.zeros(len(x)), 2, name="nil").table, "nil has to return one sign"),
        (lambda: boolean_function(lambda x: x, 2, name="wide").table, "shape"),
        (lambda: staircase(24, ties="plus").table, "too large"),
        (
            lambda: boolean_data(
                parity(1), boolean_function(lambda x: torch.ones(len(x)), 30, name="constant"), 0.5, 10
            ),
            "too rare",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_editor_refuses_a_third_value():
    batch = fc.boolean_data(fc.parity(2), fc.parity(1), 0.9, 5)
    with pytest.raises(ValueError, match="values 0"):
        batch.edit(batch.x, 2)


def test_randomness_of_others_is_left_alone():
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    boolean_data(rare(), staircase(4, ties="plus"), 0.9, 100, sampling="mixture")
    assert torch.equal(state, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()  # noqa: NPY002
