"""Weightings do what their definitions say, state which labels they need, and refuse what they cannot weigh."""

import copy
import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.testing import assert_close

import firstcue as fc
from firstcue.batch import Batch
from firstcue.forward import seeded
from firstcue.training.failure import _Averages, generalised_cross_entropy, lff
from firstcue.training.features import _coral, _mmd, coral, mmd
from firstcue.training.loop import minibatches, train
from firstcue.training.mixing import lisa, mixup
from firstcue.training.references import cnc, contrast, jtt, spare, spare_weights
from firstcue.training.sampling import balanced, cut, drawn
from firstcue.training.weighting import (
    by_size,
    class_weights,
    cvar_dro,
    effective_number_weights,
    focal,
    group_dro,
    group_weights,
)


def data(n=120, seed=0):
    """Unequal groups: a label of the first column, a cue of the second that agrees with it in most rows."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=generator)
    cue = torch.where(torch.rand(n, generator=generator) < 0.85, y, 1 - y)
    x = torch.randn(n, 4, generator=generator)
    x[:, 0] += y
    x[:, 1] += 3 * cue
    return Batch(x, y, group=2 * y + cue, attribute=cue, index=torch.arange(n))


def network(seed=0, double=True):
    with seeded(seed):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return model.double() if double else model


def doubled(batch):
    return Batch(batch.x.double(), batch.y, batch.group, batch.attribute, batch.index)


def trained(weighting, batch, model=None, epochs=2, seed=0):
    model = network() if model is None else model
    steps = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return train(model, minibatches(doubled(batch), 16, epochs, seed=seed), steps, weighting=weighting)


def same(a, b):
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert_close(one, other, atol=1e-12, rtol=1e-10)


def weigh(weighting, losses, group=None, y=None):
    n = len(losses)
    y = torch.zeros(n).long() if y is None else torch.tensor(y)
    group = None if group is None else torch.tensor(group)
    return weighting(
        torch.tensor(losses), torch.zeros(n, 2), Batch(torch.zeros(n, 1), y, group=group, index=torch.arange(n))
    )


# group DRO -----------------------------------------------------------------------------------------------------------


def test_with_one_group_group_dro_is_plain_training_step_by_step():
    batch = data()
    one = Batch(batch.x, batch.y, torch.zeros_like(batch.y))
    same(trained(group_dro(0.1), one), trained(None, one))


def test_without_speed_group_dro_is_the_mean_of_group_means():
    losses, group = [1.0, 2.0, 3.0, 10.0], [0, 0, 0, 1]
    weights = weigh(group_dro(0.0), losses, group)
    assert float((weights * torch.tensor(losses)).mean()) == pytest.approx((2.0 + 10.0) / 2)


def test_an_adjustment_raises_the_weight_of_small_groups():
    counts = torch.tensor([100, 0, 4])
    weighting = group_dro(1.0, adjustment=2.0, counts=counts)
    weigh(weighting, [1.0, 1.0], [0, 2])
    assert weighting.weights[2] / weighting.weights[0] == pytest.approx(math.exp(2 / 2 - 2 / 10))
    with pytest.raises(ValueError, match="group 1 turns up in training but has no rows in `counts`"):
        weigh(weighting, [1.0], [1])


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1e4)), min_size=1, max_size=20))
def test_group_weights_stay_on_the_simplex(rows):
    weighting = group_dro(0.5)
    weigh(weighting, [loss for _, loss in rows], [group for group, _ in rows])
    found = weighting.weights
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) >= 0
    means = {g: sum(v for h, v in rows if h == g) / sum(h == g for h, _ in rows) for g in found}
    assert found[max(means, key=means.get)] == max(found.values())


def test_a_thousand_groups_are_weighed_in_little_time():
    weighting = group_dro(0.1)
    group = torch.arange(4000) % 1000
    batch = Batch(torch.zeros(4000, 1), torch.zeros(4000).long(), group=group)
    began = time.process_time()
    for _ in range(20):
        weights = weighting(torch.rand(4000, generator=torch.Generator().manual_seed(0)), torch.zeros(4000), batch)
    assert time.process_time() - began < 2
    assert len(weighting.weights) == 1000 and float(weights.mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("make", [group_dro, lambda: group_weights([1, 1])], ids=["group_dro", "group_weights"])
def test_overlapping_groups_are_refused_with_the_way_out(make):
    batch = Batch(torch.zeros(3, 1), torch.zeros(3).long(), group=torch.tensor([[1, 0], [1, 1], [0, 1]]))
    with pytest.raises(ValueError, match=r"giving each combination an id: group.unique\(dim=0, return_inverse=True\)"):
        make()(torch.zeros(3), torch.zeros(3), batch)
    ids = batch.group.unique(dim=0, return_inverse=True)[1]
    assert group_dro()(torch.ones(3), torch.zeros(3), Batch(batch.x, batch.y, group=ids)).tolist() == [1.0] * 3


# fixed weights and sampling ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.sampled_from([0.0, 0.5, 1.0]))
def test_weights_by_size_average_to_one_over_the_rows_and_ignore_empty_groups(counts, power):
    n, weights = torch.tensor(counts).double(), by_size(counts, power)
    assert float((n * weights).sum() / n.sum()) == pytest.approx(1)
    assert bool((weights[n == 0] == 0).all())
    if power == 1.0:
        assert_close((n * weights)[n > 0], (n.sum() / (n > 0).sum()).expand(int((n > 0).sum())))


def test_a_group_or_class_that_was_not_counted_is_refused():
    with pytest.raises(ValueError, match="a group turns up in training that has no rows in `counts`"):
        weigh(group_weights([3, 0, 1]), [1.0], [1])
    with pytest.raises(ValueError, match="a class turns up in training"):
        weigh(class_weights([3]), [1.0], y=[1])
    with pytest.raises(ValueError, match="number of rows of each group"):
        group_weights([0, 0])


def test_weighting_groups_and_cutting_them_train_towards_the_same_optimum():
    batch = doubled(data(4000))
    head = [nn.Linear(4, 2).double() for _ in range(2)]
    for model in head:
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    rows = cut(batch.group)
    for model, part, weighting in (
        (head[0], batch, group_weights(batch.group.bincount())),
        (head[1], batch.rows(rows), None),
    ):
        steps = torch.optim.SGD(model.parameters(), lr=0.5)
        train(model, [part] * 300, steps, weighting=weighting)
    assert_close(head[0].weight, head[1].weight, atol=0.25, rtol=0)


def test_sampled_groups_are_equally_frequent_within_four_standard_errors():
    group = data(2000).group
    rows = torch.cat([balanced(group)(torch.Generator().manual_seed(s)) for s in range(20)])
    share = group[rows].bincount().double() / len(rows)
    assert bool(((share - 0.25).abs() < 4 * math.sqrt(0.25 * 0.75 / len(rows))).all())


def test_drawing_follows_the_weights_and_a_cut_leaves_equal_groups():
    weights = torch.tensor([1.0, 0.0, 3.0])
    rows = drawn(weights, 40_000)(torch.Generator().manual_seed(0))
    share = rows.bincount(minlength=3).double() / len(rows)
    assert share[1] == 0 and abs(float(share[2]) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 40_000)
    group = data(500).group
    assert group[cut(group)].bincount().unique().tolist() == [int(group.bincount().min())]
    for bad in (torch.tensor([-1.0, 1.0]), torch.zeros(2), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="finite numbers of at least 0"):
            drawn(bad)


def test_effective_numbers_lie_between_no_weights_and_inverse_sizes():
    counts = torch.tensor([1000, 10])
    flat, middle, inverse = (effective_number_weights(counts, beta)._weights for beta in (0.0, 0.99, 1 - 1e-9))
    assert_close(flat, torch.ones(2).double())
    assert_close(inverse, by_size(counts, 1.0), atol=1e-3, rtol=1e-3)
    assert flat[1] < middle[1] < inverse[1]


# losses ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_cvar_is_the_mean_of_the_worst_share(losses, alpha):
    values = torch.tensor(losses, dtype=torch.float64)
    weights = cvar_dro(alpha)(
        values, torch.zeros(len(losses)), Batch(torch.zeros(len(losses), 1), torch.zeros(len(losses)).long())
    )
    # the dual: the least over t of t + E max(loss - t, 0) / alpha, attained at one of the losses
    dual = min(float(t + (values - t).clamp(min=0).mean() / alpha) for t in values)
    assert float((weights * values).mean()) == pytest.approx(dual, rel=1e-6, abs=1e-6)


def test_the_focal_loss_is_its_formula_with_its_own_gradient():
    outputs = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    y = torch.arange(6) % 3
    losses = cross_entropy(outputs, y, reduction="none")
    mine = (focal(2.0)(losses, outputs, Batch(torch.zeros(6, 1), y)) * losses).mean()
    p = outputs.softmax(1).gather(1, y[:, None])[:, 0]
    formula = (-((1 - p) ** 2) * p.log()).mean()
    assert_close(mine, formula)
    assert_close(torch.autograd.grad(mine, outputs)[0], torch.autograd.grad(formula, outputs)[0])


@pytest.mark.parametrize(
    "weighting",
    [focal(0.0), cvar_dro(1.0), class_weights([5, 5]), effective_number_weights([9, 9])],
    ids=["focal", "cvar", "class", "effective"],
)
def test_at_their_neutral_setting_weightings_are_plain_training(weighting):
    same(trained(weighting, data()), trained(None, data()))


# two networks ----------------------------------------------------------------------------------------------------------


def test_just_train_twice_without_upweighting_is_plain_training():
    same(trained(jtt(network(5), up=1.0), data()), trained(None, data()))


def test_just_train_twice_counts_errors_of_the_reference_so_often():
    reference, batch = network(5), doubled(data())
    weights = jtt(reference, up=7.0)(torch.ones(len(batch)).double(), None, batch)
    wrong = reference(batch.x).argmax(1) != batch.y
    assert weights.mean() == pytest.approx(1) and 0 < int(wrong.sum()) < len(batch)
    assert_close(weights[wrong].unique() / weights[~wrong].unique(), torch.tensor([7.0]).double())


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_the_gradient_of_the_biased_network_has_the_factor_q(q):
    outputs = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    y = torch.tensor([0, 1, 2, 0, 1])
    p = outputs.detach().softmax(1).gather(1, y[:, None])
    (mine,) = torch.autograd.grad(generalised_cross_entropy(outputs, y, q).sum(), outputs)
    assert_close(mine, q * p**q * (outputs.detach().softmax(1) - one_hot(y, 3)))
    plain = ((1 - outputs.softmax(1).gather(1, y[:, None]) ** q) / q).sum()  # the loss as published lacks that factor
    assert_close(mine, q * torch.autograd.grad(plain, outputs)[0])


def test_the_first_average_is_the_loss_and_later_ones_move():
    averages = _Averages(0.7)
    rows = Batch(torch.zeros(3, 1), torch.tensor([0, 0, 1]), index=torch.tensor([4, 2, 0]))
    assert averages.relative(torch.tensor([2.0, 4.0, 5.0]), rows).tolist() == [0.5, 1.0, 1.0]
    again = averages.relative(torch.tensor([12.0, 4.0, 0.0]), rows)
    assert_close(again, torch.tensor([1.0, 4.0 / 5.0, 1.0]).double())  # 0.7 * 2 + 0.3 * 12 = 5


def test_learning_from_failure_weighs_between_zero_and_one_and_wants_numbered_rows():
    biased, batch = network(3), doubled(data())
    weighting = lff(biased, torch.optim.SGD(biased.parameters(), lr=0.1))
    before = copy.deepcopy(biased.state_dict())
    for part in minibatches(batch, 16):
        own = cross_entropy(network()(part.x), part.y, reduction="none").detach()
        weights = weighting(own, None, part)
        assert 0 <= float(weights.min()) <= float(weights.max()) <= 1
    assert any(not torch.equal(before[name], value) for name, value in biased.state_dict().items())
    with pytest.raises(ValueError, match="give a Batch with index"):
        weighting(own, None, Batch(part.x, part.y))


def test_the_biased_network_is_trained_by_its_own_loss():
    biased, other, batch = network(3), network(3), doubled(data())
    lff(biased, torch.optim.SGD(biased.parameters(), lr=0.1))(torch.ones(len(batch)).double(), None, batch)
    steps = torch.optim.SGD(other.parameters(), lr=0.1)
    generalised_cross_entropy(other(batch.x), batch.y, 0.7).mean().backward()
    steps.step()
    same(biased, other)


def test_the_contrast_is_its_sum_written_out():
    generator = torch.Generator().manual_seed(0)
    f = nn.functional.normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=1)
    y, answers = torch.randint(0, 2, (9,), generator=generator), torch.randint(0, 2, (9,), generator=generator)
    sums = []
    for i in range(9):
        positives = [j for j in range(9) if y[j] == y[i] and answers[j] != answers[i]]
        negatives = [j for j in range(9) if y[j] != y[i] and answers[j] == answers[i]]
        e = {j: math.exp(float(f[i] @ f[j]) / 0.5) for j in range(9)}
        if positives and negatives:
            below = sum(e[j] for j in negatives)
            sums.append(sum(-math.log(e[j] / (e[j] + below)) for j in positives) / len(positives))
    assert sums and float(contrast(f, y, answers, 0.5)) == pytest.approx(sum(sums) / len(sums))
    assert float(contrast(f, y, y, 0.5)) == 0  # a reference that is always right leaves nothing to contrast
    hot = f.clone().requires_grad_(True)
    contrast(hot, y, answers, 0.5).backward()
    assert bool(torch.isfinite(hot.grad).all())


def test_spare_draws_every_class_equally_often_and_small_clusters_more():
    batch, first = data(400), network(2, double=False)
    with torch.no_grad():
        first[2].weight.copy_(torch.stack([-first[0].weight[:, 1], first[0].weight[:, 1]]))  # answers by the cue
    grouped = spare(first, batch)
    weights = spare_weights(first, grouped)
    mass = [float(weights[batch.y == label].sum()) for label in (0, 1)]
    assert mass[0] == pytest.approx(mass[1]) and float(weights.mean()) == pytest.approx(1)
    for label in (0, 1):
        rows = batch.y == label
        sizes = grouped.group.bincount()[grouped.group]
        assert weights[rows][sizes[rows].argmin()] == weights[rows].max()


# features --------------------------------------------------------------------------------------------------------------


def test_coral_and_mmd_are_their_pairwise_sums():
    generator = torch.Generator().manual_seed(0)
    parts = [k + torch.randn(5 + k, 3, generator=generator, dtype=torch.float64) for k in range(3)]
    pairs = [(parts[i], parts[j]) for i in range(3) for j in range(i)]
    slow = sum(
        (a.mean(0) - b.mean(0)).square().mean() + (a.T.cov() - b.T.cov()).square().mean() for a, b in pairs
    ) / len(pairs)
    assert_close(_coral(parts), slow)

    def kernel(a, b):
        apart = torch.cdist(a, b).square()
        return sum((-g * apart).exp() for g in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)).mean()

    slow = sum(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b) for a, b in pairs) / len(pairs)
    assert_close(_mmd(parts), slow)
    assert float(_coral([parts[0], parts[0]])) == pytest.approx(0, abs=1e-12)
    assert float(_mmd([parts[0], parts[0]])) == pytest.approx(0, abs=1e-12)
    assert math.isfinite(float(_coral([parts[0], parts[1][:1]])))  # one row has no covariance


@pytest.mark.parametrize("make", [coral, mmd])
def test_matching_features_brings_environments_together(make):
    batch = doubled(data(200))
    batch = Batch(batch.x, batch.y, batch.attribute)

    def apart(strength):
        model = network()
        weighting = make(model[2], strength)
        trained(weighting, batch, model, epochs=8)
        weighting.remove()
        features = model[:2](batch.x).detach()
        return float((features[batch.group == 0].mean(0) - features[batch.group == 1].mean(0)).norm())

    assert apart(20.0) < 0.7 * apart(0.0)


@pytest.mark.parametrize("make", [coral, mmd, lambda head: cnc(network(1), head)], ids=["coral", "mmd", "cnc"])
def test_a_head_that_is_not_the_models_is_refused_and_hooks_come_off(make):
    weighting = make(nn.Linear(8, 2))
    with pytest.raises(ValueError, match="hand over the model's own head"):
        trained(weighting, data())
    model = network()
    weighting = make(model[2])
    weighting.remove()
    assert not model[2]._forward_pre_hooks


# mixing ----------------------------------------------------------------------------------------------------------------


def test_mixed_rows_lie_between_two_rows_with_labels_in_the_same_share():
    x = torch.eye(6, dtype=torch.float64)
    y = torch.arange(6) % 3
    (mixed,) = mixup([Batch(x, y)], 3, alpha=1.0, seed=1)
    assert_close(mixed.x.sum(1), torch.ones(6).double())
    assert_close(mixed.y, mixed.x @ one_hot(y, 3).double())  # an identity of inputs carries the shares
    assert bool(((mixed.x > 0).sum(1) <= 2).all()) and bool((mixed.x.diagonal() >= 0).all())


@pytest.mark.parametrize("select", [0.0, 1.0])
def test_selective_mixing_keeps_the_class_or_the_attribute(select):
    batch = data(60)
    cells = one_hot(2 * batch.y + batch.attribute, 4).double()
    marked = Batch(cells, batch.y, attribute=batch.attribute)
    (mixed,) = lisa([marked], 2, select=select)
    for row, y, a in zip(mixed.x, batch.y.tolist(), batch.attribute.tolist(), strict=True):
        partner = 2 * y + (1 - a) if select else 2 * (1 - y) + a
        assert set(row.nonzero()[:, 0].tolist()) <= {2 * y + a, partner}
    assert bool(((mixed.x > 0).sum(1) == 2).all())


def test_mixing_refuses_what_it_cannot_mix():
    with pytest.raises(ValueError, match="the batch has none; give `attribute`"):
        list(lisa([Batch(torch.zeros(2, 1), torch.tensor([0, 1]))], 2))
    with pytest.raises(ValueError, match="cannot be mixed; floating numbers"):
        list(mixup([Batch(torch.zeros(2, 1).long(), torch.tensor([0, 1]))], 2))
    with pytest.raises(ValueError, match="`alpha` is positive"):
        list(mixup([], 2, alpha=0.0))


# state -----------------------------------------------------------------------------------------------------------------

STATEFUL = {
    "group_dro": lambda: group_dro(0.3),
    "irm": lambda: fc.irm(5.0, anneal=10),
    "vrex": lambda: fc.vrex(5.0, anneal=10),
    "lff": lambda: (lambda net: lff(net, torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)))(network(9)),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_training_that_is_stored_and_goes_on_equals_one_in_one_go(name, tmp_path):
    batch = data()

    def epochs(model, optimizer, weighting, seeds):
        for seed in seeds:
            train(model, minibatches(doubled(batch), 16, seed=seed), optimizer, weighting=weighting)

    def start():
        model = network()
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), STATEFUL[name]()

    whole = start()
    epochs(*whole, (1, 2, 3))
    first = start()
    epochs(*first, (1,))
    stored = [copy.deepcopy(part.state_dict()) for part in first]
    epochs(*first, (7,))  # what happens to the first one afterwards does not change what was stored
    second = start()
    for part, state in zip(second, stored, strict=True):
        part.load_state_dict(state)
    epochs(*second, (2, 3))
    same(second[0], whole[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_dro(-0.1), "`eta` is a speed of at least 0"),
        (lambda: group_dro(adjustment=1.0), "counts=batch.group.bincount"),
        (lambda: group_dro(adjustment=-1.0), "`adjustment` is at least 0"),
        (lambda: cvar_dro(0.0), "above 0 and at most 1"),
        (lambda: jtt(nn.Linear(1, 2), 0.5), "`up` is at least 1"),
        (lambda: lff(network(), torch.optim.SGD(network().parameters(), lr=0.1), q=2.0), "`q` is from 0 to 1"),
        (lambda: focal(-1.0), "at least 0"),
        (lambda: effective_number_weights([1], 1.0), "below 1"),
        (lambda: cnc(nn.Linear(1, 2), nn.Linear(1, 2), temperature=0.0), "`temperature` positive"),
        (lambda: coral(nn.Linear(1, 2), -1.0), "`strength`"),
    ],
    ids=["eta", "counts", "adjustment", "alpha", "up", "q", "gamma", "beta", "temperature", "strength"],
)
def test_settings_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
