"""Rules keep what environments agree on, whatever their order, number and scale."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from firstcue import and_mask, geometric_mean, mean_gradient, sand_mask, train
from firstcue.agreement.rules import least_agreeing, scope_of
from firstcue.batch import Batch

some = settings(max_examples=50, deadline=None)
SEEDS = st.integers(0, 2**31)
THRESHOLDS = st.floats(0, 1)


def gradients(seed, e=6, p=40, zeros=0.1):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(e, p, generator=generator, dtype=torch.float64) + torch.randn(p, generator=generator).double()
    return torch.where(torch.rand(e, p, generator=generator) < zeros, 0.0, g)


@some
@given(SEEDS)
def test_without_a_threshold_every_rule_of_the_mask_is_the_mean(seed):
    g = gradients(seed)

    assert_close(and_mask(g, 0.0), g.mean(dim=0))
    assert_close(mean_gradient(g), g.mean(dim=0))


@some
@given(SEEDS, THRESHOLDS)
def test_opposite_gradients_cancel_and_equal_ones_stay(seed, threshold):
    g = gradients(seed, e=1, zeros=0.0)

    assert torch.equal(and_mask(torch.cat([g, -g])), torch.zeros_like(g[0]))
    assert torch.equal(geometric_mean(torch.cat([g, -2 * g])), torch.zeros_like(g[0]))
    assert_close(and_mask(g.repeat(5, 1), threshold), g[0])
    assert_close(geometric_mean(g.repeat(5, 1), threshold), g[0], rtol=1e-6, atol=1e-9)
    assert_close(sand_mask(g.repeat(5, 1)), g[0], rtol=1e-6, atol=1e-9)


@some
@given(SEEDS, THRESHOLDS, THRESHOLDS)
def test_a_higher_threshold_keeps_a_subset(seed, a, b):
    low, high = sorted((a, b))
    g = gradients(seed, zeros=0.0)

    assert bool(((and_mask(g, high) != 0) <= (and_mask(g, low) != 0)).all())


RULES = [
    mean_gradient,
    partial(and_mask, threshold=0.4),
    partial(and_mask, threshold=0.4, zeros="abstain"),
    partial(and_mask, threshold=0.4, scale="tensor"),
    partial(and_mask, threshold=0.4, scale="sqrt", clip=1.5),
    partial(and_mask, threshold=0.4, scale="norm"),
    partial(geometric_mean, threshold=0.4),
    partial(sand_mask, threshold=0.4),
]


@pytest.mark.parametrize("rule", RULES)
@some
@given(seed=SEEDS, order=st.permutations(range(6)))
def test_the_order_of_environments_is_irrelevant(rule, seed, order):
    g = gradients(seed)

    assert_close(rule(g[list(order)]), rule(g))


@pytest.mark.parametrize("rule", RULES[:-1])
@some
@given(seed=SEEDS)
def test_duplicating_all_environments_changes_nothing(rule, seed):
    g = gradients(seed)

    assert_close(rule(torch.cat([g, g])), rule(g))


@some
@given(SEEDS, st.floats(1e-3, 1e3))
def test_masks_follow_the_unit_of_the_loss(seed, c):
    g = gradients(seed)

    for scale in ("none", "tensor", "sqrt", "norm"):
        assert_close(and_mask(c * g, 0.4, scale=scale), c * and_mask(g, 0.4, scale=scale))
        assert_close(and_mask(-g, 0.4, scale=scale), -and_mask(g, 0.4, scale=scale))
    assert_close(sand_mask(c * g, 0.2, normalize=True), c * sand_mask(g, 0.2, normalize=True), rtol=1e-6, atol=1e-12)


@some
@given(SEEDS, st.lists(st.floats(0.1, 10), min_size=6, max_size=6))
def test_positive_factors_of_environments_leave_the_mask(seed, factors):
    g, c = gradients(seed, zeros=0.0), torch.tensor(factors, dtype=torch.float64)

    assert torch.equal(and_mask(c[:, None] * g, 1.0) != 0, and_mask(g, 1.0) != 0)
    scaled = c.log().mean().exp() * geometric_mean(g, floor=0.0)
    assert_close(geometric_mean(c[:, None] * g, floor=0.0), scaled, rtol=1e-9, atol=0.0)


@some
@given(SEEDS, THRESHOLDS)
def test_the_geometric_mean_is_at_most_the_mean_magnitude(seed, threshold):
    g = gradients(seed)

    assert bool((geometric_mean(g, threshold).abs() <= g.abs().mean(dim=0) + 2e-10).all())


def test_an_exact_zero_shrinks_the_geometric_mean_with_a_floor_and_ends_it_without():
    g = torch.full((16, 1), 1e-3, dtype=torch.float64)
    g[0] = 0.0

    shrunk = float(geometric_mean(g, 0.8) / 1e-3)

    assert shrunk == pytest.approx((1e-10 / 1e-3) ** (1 / 16), rel=1e-3)
    assert float(geometric_mean(g, 0.8, floor=0.0)) == 0.0
    assert float(geometric_mean(g, 1.0)) == 0.0  # a zero agrees with nobody


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_exactly_enough_agreeing_signs_are_kept(dtype):
    """For every number of environments and every agreement that occurs, in integers."""
    for e in range(1, 41):
        signs = torch.ones(e, e + 1, dtype=dtype)
        for negative in range(e + 1):
            signs[:negative, negative] = -1.0
        agreement = torch.arange(e, -1, -1) - torch.arange(e + 1)
        for j in range(e + 1):
            kept = and_mask(signs, j / e) != 0
            wanted = (agreement.abs() >= j) & (agreement != 0)
            assert torch.equal(kept, wanted), f"{e} environments, threshold {j}/{e}"
            assert least_agreeing(j / e, e) == next(t for t in range(e + 1) if 2 * t - e >= j)


@pytest.mark.parametrize(
    "e, threshold, formula",
    [(4, 1.0, 0.125), (8, 0.8, 0.00781), (16, 0.5, 0.0768), (80, 0.2, 0.0929), (80, 0.05, 0.7376)],
)
def test_random_signs_are_kept_as_often_as_the_binomial_says(e, threshold, formula):
    least = least_agreeing(threshold, e)
    expected = 2 * sum(math.comb(e, k) for k in range(least, e + 1)) / 2**e
    assert expected == pytest.approx(formula, rel=2e-3)
    n = 100_000
    g = torch.randn(e, n, generator=torch.Generator().manual_seed(0))

    kept = float((and_mask(g, threshold) != 0).float().mean())

    assert abs(kept - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_what_the_mask_lets_through_of_noise_falls_fast_with_the_number_of_environments():
    generator = torch.Generator().manual_seed(0)

    passed = [float(and_mask(torch.randn(e, 50_000, generator=generator), 0.8).square().mean()) * e for e in (4, 8, 16)]

    assert passed[0] > 2 * passed[1] > 8 * passed[2], f"energy beside that of the mean: {passed}"


def test_scales_make_up_for_what_is_dropped():
    g = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, -2.0, -1.0, -4.0]])

    assert_close(and_mask(g, scale="tensor"), torch.tensor([4.0, 0, 0, 0]))
    assert_close(and_mask(g, scale="sqrt"), torch.tensor([2.0, 0, 0, 0]))
    assert_close(and_mask(g, scale="tensor", clip=3.0), torch.tensor([3.0, 0, 0, 0]))
    assert_close(and_mask(g, scale="norm"), torch.tensor([math.sqrt(2.0), 0, 0, 0]))


@pytest.mark.parametrize("scale", ["none", "tensor", "sqrt", "norm"])
def test_where_nobody_agrees_nothing_moves(scale):
    g = torch.tensor([[1.0, 2.0], [-1.0, -1.0]])

    assert torch.equal(and_mask(g, scale=scale), torch.zeros(2))


def test_an_absent_environment_disagrees_or_abstains():
    g = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 0.0, -1.0], [3.0, 4.0, 0.0, 0.0]])

    assert torch.equal(and_mask(g), torch.tensor([2.0, 0, 0, 0]))
    assert torch.equal(and_mask(g, zeros="abstain"), torch.tensor([2.0, 2.0, 0, 0]))


def test_one_environment_agrees_with_itself():
    g = torch.randn(1, 5)

    assert torch.equal(and_mask(g), g[0])
    with pytest.raises(ValueError, match="it needs two of them"):
        sand_mask(g)


@some
@given(SEEDS, st.floats(0, 0.99), st.floats(0.01, 1e3))
def test_the_smooth_mask_is_between_zero_and_one_and_follows_its_formula(seed, threshold, k):
    g = gradients(seed)
    agreement, variance = g.sign().mean(dim=0).abs(), g.var(dim=0)
    mask = torch.tanh(k * (agreement - threshold) / variance).clamp(min=0)

    found = sand_mask(g, threshold, k=k)

    assert bool(((mask >= 0) & (mask <= 1)).all())
    assert_close(found, mask * g.mean(dim=0) / (1e-10 + mask.mean()), rtol=1e-6, atol=1e-12)


@some
@given(SEEDS)
def test_a_steep_smooth_mask_is_the_and_mask(seed):
    g = gradients(seed, e=5, zeros=0.0)  # agreement is 0.2, 0.6 or 1

    kept = (sand_mask(g, 0.5, k=1e9) != 0).double()

    assert torch.equal(kept != 0, g.sign().mean(dim=0).abs() > 0.5)
    assert_close(sand_mask(g, 0.5, k=1e9), kept * g.mean(dim=0) / (1e-10 + kept.mean()))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: and_mask(g, 1.1), "between 0 .* and 1 .*; got 1.1"),
        (lambda g: and_mask(g, -0.1), "between 0"),
        (lambda g: and_mask(g, math.nan), "between 0"),
        (lambda g: geometric_mean(g, 2.0), "between 0"),
        (lambda g: sand_mask(g, 1.0), "below 1; got 1.0. No agreement exceeds 1"),
        (lambda g: sand_mask(g, 0.5, k=0.0), "positive steepness"),
        (lambda g: and_mask(g, scale="layer"), '"none", "tensor", "sqrt" or "norm"'),
        (lambda g: and_mask(g, scale="tensor", clip=0.0), "positive number"),
        (lambda g: and_mask(g, zeros="ignore"), '"disagree" or "abstain"'),
        (lambda g: and_mask(g[:0]), "at least one"),
        (lambda g: mean_gradient(g[:0]), "at least one"),
        (lambda g: and_mask(torch.where(g == g[1, 0], torch.nan, g)), r"1 of 3 environments are NaN .*rows \[1\]"),
        (lambda g: geometric_mean(g / 0.0 * 0.0), "3 of 3 environments are NaN"),
    ],
)
def test_what_no_rule_can_use_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))


def test_a_configured_rule_keeps_its_scope():
    class Callable:
        def __call__(self, stack):
            return stack[0]

    assert scope_of(partial(partial(and_mask, threshold=0.5), scale="norm")) == "tensor"
    assert scope_of(mean_gradient) == "element"
    assert scope_of(Callable()) == scope_of(lambda stack: stack[0]) == "model"
    rule = partial(and_mask, threshold=0.5)
    rule.scope = "element"
    assert scope_of(rule) == "element"
    rule.scope = "layer"
    with pytest.raises(ValueError, match="this one says 'layer'"):
        scope_of(rule)


def linear_regression(rule, seed):
    """Four environments of one row each; only the last weight serves all. Two to train on, two to test on."""
    x = 3 * torch.cat([torch.eye(4), torch.full((4, 1), 0.1)], dim=1)
    start = 0.1 * torch.randn(5, generator=torch.Generator().manual_seed(seed))
    held = torch.randperm(4, generator=torch.Generator().manual_seed(seed + 100))
    own, other = x[held[:2]], x[held[2:]]
    theta, rate = start.clone(), 0.3
    for _ in range(1000):
        rate *= 0.9995
        theta = theta - rate * rule((own @ theta - 1)[:, None] * own)
        theta = theta - 0.01 * rate * theta
    return theta, float(0.5 * (other @ theta - 1).square().mean())


def test_masks_find_the_weight_that_serves_every_environment():
    """The paper's linear example: the mean learns one weight for each row it saw, and fails on others."""
    losses = {"mean": [], "and": [], "geometric": []}
    for seed in range(2):
        for name, rule in (("mean", mean_gradient), ("and", and_mask), ("geometric", geometric_mean)):
            theta, loss = linear_regression(rule, seed)
            losses[name].append(loss)
            if name == "mean":
                assert sorted(theta.abs().tolist())[3:] == pytest.approx([0.326, 0.326], abs=5e-3)
            else:
                assert float(theta[-1]) == pytest.approx(3.0, abs=0.25)
                assert float(theta[:4].abs().max()) < 0.05

    assert min(losses["mean"]) > 0.4
    assert max(losses["and"] + losses["geometric"]) < 0.02


def test_a_weight_that_no_environment_agrees_on_only_decays():
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    batch = Batch(
        torch.ones(4, 1), torch.tensor([[100.0], [100.0], [-100.0], [-100.0]]), group=torch.tensor([0, 0, 1, 1])
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)

    train(model, [batch], optimizer, loss=nn.functional.mse_loss, rule=and_mask)

    assert_close(model.weight.detach(), before * (1 - 0.5 * 0.1))


def test_training_by_a_mask_takes_one_backward_pass_for_all_environments():
    calls = []
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    model[1].register_full_backward_hook(lambda *_: calls.append(1))
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, (x[:, 0] > 0).long(), group=torch.arange(40) % 10)

    train(model, [batch] * 3, torch.optim.Adam(model.parameters()), rule=partial(and_mask, threshold=0.6))

    assert len(calls) <= 3 + 3, f"{len(calls)} backward passes in three steps of ten environments"


def test_torchjd_takes_our_rules_and_we_take_its_aggregators():
    aggregation = pytest.importorskip("torchjd.aggregation")
    from torchjd.autojac import backward, jac_to_grad

    from firstcue import apply_rule
    from firstcue.integrations.torchjd import aggregator

    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    y, environment = (x[:, 0] > 0).long(), torch.arange(12) % 3
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    params = list(model.parameters())
    rule = partial(and_mask, threshold=0.5, scale="tensor")

    def by_torchjd(combine):
        losses = [nn.functional.cross_entropy(model(x[environment == e]), y[environment == e]) for e in range(3)]
        model.zero_grad()
        backward(losses)
        jac_to_grad(params, combine)
        return [p.grad.clone() for p in params]

    apply_rule(model, rule, nn.functional.cross_entropy, (x, y), environment)
    ours = [p.grad.clone() for p in params]
    assert_close(by_torchjd(aggregator(rule, params)), ours)
    for theirs in (aggregation.IMTLG(), aggregation.Mean(), aggregation.PCGrad()):
        apply_rule(model, theirs, nn.functional.cross_entropy, (x, y), environment)
        if not isinstance(theirs, aggregation.PCGrad):  # which projects in a random order
            assert_close([p.grad for p in params], by_torchjd(theirs), rtol=1e-4, atol=1e-6)
    train(model, [Batch(x, y, environment)], torch.optim.SGD(params, lr=0.1), rule=aggregation.IMTLG())
    with pytest.raises(ValueError, match="the same parameters"):
        aggregator(rule, params[:1])(torch.zeros(3, 40))
