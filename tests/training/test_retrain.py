"""Retraining the last layer takes the cue out of the decision, and says how it went about it."""

import copy
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from firstcue.batch import Batch, balanced_rows
from firstcue.forward import seeded
from firstcue.layers import features_and_outputs, find_head, predict, with_head
from firstcue.training.balance import halves, worst_accuracy
from firstcue.training.logistic import Readout, Space, fit_readout
from firstcue.training.loop import minibatches, train
from firstcue.training.methods import METHODS
from firstcue.training.retrain import fit_head, retrain_head, retrain_last_layer
from firstcue.training.selective import select


def planted(sizes=(190, 10, 10, 190), d=20, k=2, noise=1.0, seed=0):
    """Orthogonal features: 0 holds the core, 1 the cue (cleaner, hence preferred), the rest noise."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    y, a = group // k, group % k
    x = torch.randn(len(group), d, generator=generator)
    x[:, 0] = (2 * y - 1) + noise * x[:, 0]
    x[:, 1] = (2 * a - 1) + 0.3 * x[:, 1]
    return x, y, group


def many_classes(n=600, k=4, d=12, agree=0.9, seed=0):
    """One feature per class holds the core, one per value the cue, which agrees with the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    other = (y + 1 + torch.randint(k - 1, (n,), generator=generator)) % k
    a = torch.where(torch.rand(n, generator=generator) < agree, y, other)
    x = torch.randn(n, d, generator=generator)
    rows = torch.arange(n)
    x[rows, y] += 3.0
    x[rows, k + a] += 4.0
    return x, y, k * y + a


def worst(fit, x, y, group):
    return worst_accuracy(fit(x).argmax(1) == y, group)


def test_the_scaler_is_folded_in_exactly():
    x, y, _ = planted()
    x = x * torch.logspace(-2, 2, 20) + 5
    space = Space.of(x.numpy())
    readout = fit_readout(space(x.numpy()), y.numpy(), 2)

    folded = space.fold(readout)

    np.testing.assert_allclose(
        x.double().numpy() @ folded.weight.T + folded.bias,
        space(x.numpy()) @ readout.weight.T + readout.bias,
        rtol=1e-9,
        atol=1e-9,
    )


def test_principal_directions_are_folded_in_exactly():
    x, y, _ = many_classes(d=200)
    space = Space.of(x.numpy(), 16)
    readout = fit_readout(space(x.numpy()), y.numpy(), 4)

    folded = space.fold(readout)

    assert space(x.numpy()).shape == (600, 16)
    np.testing.assert_allclose(
        x.double().numpy() @ folded.weight.T + folded.bias,
        space(x.numpy()) @ readout.weight.T + readout.bias,
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_repaired_model_gives_the_logits_of_the_fit(outputs):
    x, y, group = planted()
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(32, outputs)).train()
    held = Batch(x, y, attribute=group % 2, values=("0", "1"))
    before = predict(model, x)

    repaired = retrain_last_layer(model, held)
    head, fit = fit_head(model, held)
    features, _ = features_and_outputs(model, x)

    assert head.name == "3" and repaired.state_dict().keys() == model.state_dict().keys()
    assert_close(predict(repaired, x).diff(dim=1), fit(features).diff(dim=1), rtol=1e-5, atol=1e-5)
    assert_close(predict(model, x), before, rtol=0, atol=0)
    assert_close(find_head(repaired, x).weight.diff(dim=0), fit.weight.float().diff(dim=0))


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), size=st.none() | st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_balancing_takes_as_many_of_each_group_as_the_smallest_has_and_never_more(sizes, size):
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))

    rows = balanced_rows(group, torch.Generator().manual_seed(0), size)

    expected = min(sizes) if size is None else min(size, *sizes)
    assert group[rows].bincount(minlength=len(sizes)).tolist() == [expected] * len(sizes)
    assert len(rows.unique()) == len(rows)


@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_halves_are_disjoint_cover_all_rows_and_hold_every_group(sizes, seed):
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))

    score, fit = halves(group, torch.Generator().manual_seed(seed))

    assert sorted(torch.cat([score, fit]).tolist()) == list(range(len(group)))
    assert len(group[score].unique()) == len(group[fit].unique()) == len(sizes)


def test_the_final_fits_use_all_held_out_rows():
    x, y, group = planted()

    fit = retrain_head(x, y, group)

    # ten of each group are all that the smallest group has; a half would leave five
    assert fit.rows_per_group == 10 and fit.fits == 20
    assert fit.counts == {"0": 190, "1": 10, "2": 10, "3": 190}
    assert (
        fit.balanced == "group"
        and fit.penalty == "l1"
        and fit.inverse_strength in (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
    )


def test_the_retrained_head_ignores_the_cue_that_an_ordinary_head_leans_on():
    x, y, group = planted(sizes=(950, 50, 50, 950))
    fresh, fresh_y, fresh_group = planted(sizes=(500, 500, 500, 500), seed=1)

    dfr, erm = retrain_head(x, y, group), retrain_head(x, y, group, method="erm")
    ratio = [float(f.weight.diff(dim=0).abs()[0, 1] / f.weight.diff(dim=0).abs()[0, 0]) for f in (dfr, erm)]

    assert ratio[0] < 0.05 < 0.5 < ratio[1]
    assert worst(dfr, fresh, fresh_y, fresh_group) > worst(erm, fresh, fresh_y, fresh_group) + 0.3


@pytest.mark.parametrize("method", ["dfr", "group-balanced"])
def test_several_classes_are_retrained_too(method):
    x, y, group = many_classes(n=2400)
    fresh, fresh_y, fresh_group = many_classes(n=2000, agree=0.25, seed=1)

    fit, erm = retrain_head(x, y, group, method=method), retrain_head(x, y, group, method="erm")

    assert fit.balanced == "group"
    assert worst(fit, fresh, fresh_y, fresh_group) > worst(erm, fresh, fresh_y, fresh_group) + 0.04


def test_both_solvers_of_l1_agree_on_two_classes():
    """liblinear with its intercept all but free, saga with a free one."""
    x, y, _ = planted(sizes=(60, 60, 60, 60), noise=2.0)
    fresh, fresh_y, fresh_group = planted(sizes=(500, 500, 500, 500), noise=2.0, seed=1)
    x, fresh = x + 3, fresh + 3
    space = Space.of(x.numpy())
    rows = torch.cat([torch.arange(120), torch.arange(180, 240)])  # unequal classes: the intercept matters

    for strength in (1.0, 0.1, 0.03):
        two = fit_readout(space(x.numpy())[rows], y.numpy()[rows], 2, inverse_strength=strength)
        third = np.append(y.numpy()[rows], 2)  # a third class far away makes it a matter for saga
        far = np.concatenate([space(x.numpy())[rows], np.full((1, 20), 0.0)])
        from sklearn.linear_model import LogisticRegression

        saga = LogisticRegression(solver="saga", l1_ratio=1.0, C=strength, tol=1e-5, max_iter=5000, random_state=0).fit(
            far[:-1], third[:-1]
        )
        scores = [
            worst_accuracy(torch.from_numpy(predicted) == fresh_y, fresh_group)
            for predicted in (two.predict(space(fresh.numpy())), saga.predict(space(fresh.numpy())))
        ]
        assert abs(scores[0] - scores[1]) <= 0.02
        np.testing.assert_allclose(two.bias[1] - two.bias[0], saga.intercept_[0], atol=0.05)


def test_the_path_for_several_classes_agrees_with_that_for_two():
    """A third class that is trivially told apart leaves the worst of the other groups where it was."""
    x, y, group = planted(sizes=(300, 100, 100, 300))
    fresh, fresh_y, fresh_group = planted(sizes=(500, 500, 500, 500), seed=1)
    extra = torch.randn(200, 20, generator=torch.Generator().manual_seed(2))
    extra[:, 2] += 30

    two = retrain_head(x, y, group)
    three = retrain_head(
        torch.cat([x, extra]),
        torch.cat([y, torch.full((200,), 2)]),
        torch.cat([group, torch.arange(200) % 2 + 4]),
    )

    assert abs(worst(two, fresh, fresh_y, fresh_group) - worst(three, fresh, fresh_y, fresh_group)) <= 0.03


@pytest.mark.parametrize("method", ["dfr", "class-balanced", "group-balanced"])
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(method):
    x, y, group = planted(sizes=(400, 100, 100, 400))
    fresh, fresh_y, fresh_group = planted(sizes=(500, 500, 500, 500), seed=1)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(3))
    measured = fresh_y if method == "class-balanced" else fresh_group

    plain = retrain_head(x, y, group, method=method)
    shuffled = retrain_head(x[order], y[order], group[order], method=method)
    renamed = retrain_head(x, y, ["dbca"[g] for g in group], method=method)

    tolerance = 0.02 if method == "class-balanced" else 0.01  # the strength may be chosen otherwise on other halves
    reference = worst(plain, fresh, fresh_y, measured)
    assert abs(worst(shuffled, fresh, fresh_y, measured) - reference) <= tolerance
    assert abs(worst(renamed, fresh, fresh_y, measured) - reference) <= tolerance


@pytest.mark.parametrize("method", ["dfr", "dfr-train", "class-balanced", "group-balanced", "erm"])
@pytest.mark.parametrize("make", [planted, many_classes])
def test_no_method_warns_or_touches_the_random_state_and_the_seed_decides(method, make):
    x, y, group = make()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = [retrain_head(x, y, group, method=method, train=(x, y, group), seed=s) for s in (0, 0)]

    assert_close(fits[0].weight, fits[1].weight, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), torch_state) and torch.get_num_threads() == threads
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_training_rows_set_the_scale_and_are_what_dfr_train_fits():
    x, y, group = planted(sizes=(950, 50, 50, 950))
    held, held_y, held_group = planted(sizes=(190, 10, 10, 190), seed=1)

    scaled = retrain_head(held, held_y, held_group, train=(x, y, group))
    fit = retrain_head(held, held_y, held_group, method="dfr-train", train=(x, y, group))
    alone = retrain_head(held, held_y, held_group)

    assert fit.rows_per_group == 50 and fit.fits == 10 and fit.counts["0"] == 950
    assert "scaled by held-out rows" in alone.note and "scaled" not in scaled.note
    assert not torch.equal(alone.weight, scaled.weight)


def test_an_absent_group_is_named_and_classes_are_balanced_instead():
    x, y, group = planted(sizes=(190, 0, 10, 190))
    other = planted()

    for fit in (
        retrain_head(x, y, group, num_groups=4),
        retrain_head(x, y, group, train=other),
        fit_head(nn.Linear(20, 2), Batch(x, y, attribute=group % 2, values=("sea", "land")))[1],
    ):
        assert fit.balanced == "class" and fit.counts == {"0": 190, "1": 200} and fit.rows_per_group == 190
        assert "groups absent or with one row: 1 (0 rows); classes are balanced instead" in fit.note


def test_a_group_of_one_row_is_named_too():
    x, y, group = planted(sizes=(190, 1, 10, 190))

    fit = retrain_head(x, y, group)

    assert fit.balanced == "class" and "1 (1 rows)" in fit.note


def test_few_rows_are_said():
    x, y, group = planted(sizes=(40, 3, 3, 40))

    assert "only 3 rows per group in each fit" in retrain_head(x, y, group).note


def test_groups_that_mix_classes_are_crossed_with_them():
    x, y, group = planted()

    crossed, given_ = retrain_head(x, y, group % 2), retrain_head(x, y, group)

    assert crossed.counts == {"y=0, 0": 190, "y=0, 1": 10, "y=1, 0": 10, "y=1, 1": 190}
    assert_close(crossed.weight, given_.weight)


def test_attribute_ids_of_training_rows_are_matched_by_name():
    """Training rows know a value that comes first in the alphabet and that held-out rows lack."""
    x, y, group = planted()
    held = Batch.of(x, y, ["land" if g % 2 else "sea" for g in group])
    names = ["air" if i % 50 == 0 else "land" if g % 2 else "sea" for i, g in enumerate(group.tolist())]
    model = nn.Linear(20, 2)

    fit = fit_head(model, held, train=Batch.of(x, y, names))[1]
    same = fit_head(model, held, train=Batch.of(x, y, ["land" if g % 2 else "sea" for g in group]))[1]

    assert "groups absent" in fit.note and fit.balanced == "class"
    assert same.balanced == "group" and same.counts == {"0": 10, "1": 190, "2": 190, "3": 10}
    with pytest.raises(ValueError, match="`train` has the classes a, b"):
        fit_head(model, held, train=Batch.of(x, ["ab"[i] for i in y], names))


def test_constant_and_duplicated_features_and_fewer_rows_than_features_are_harmless():
    x, y, group = planted(sizes=(20, 6, 6, 20))
    wide = torch.cat([x, x[:, :1], torch.full((52, 1), 1e6), torch.zeros(52, 60)], dim=1)

    fit = retrain_head(wide, y, group)

    assert bool(torch.isfinite(fit.weight).all())
    assert float((fit(wide).argmax(1) == y).double().mean()) > 0.7


@pytest.mark.parametrize("convert", [lambda x: x.half(), lambda x: x.double(), lambda x: x.numpy()])
def test_features_of_any_type_give_the_same_head(convert):
    x, y, group = planted(sizes=(95, 30, 30, 95))
    x = x.half().float()

    assert_close(retrain_head(convert(x), y, group).weight, retrain_head(x, y, group).weight, rtol=1e-3, atol=1e-3)


def test_l2_takes_over_where_l1_is_too_much_work(monkeypatch):
    from firstcue.training import methods

    x, y, group = many_classes(n=200, d=160)
    small = retrain_head(x, y, group, method="class-balanced")
    monkeypatch.setattr(methods, "MOST_WORK", 1)
    large = retrain_head(x, y, group, method="class-balanced")

    assert small.penalty == "l1" and "l1 on 128 principal directions" in small.note
    assert large.penalty == "l2" and "l2 instead of l1" in large.note


def learned_in_order(sizes, seed):
    """The cue can be read off one feature, the core only off the product of two: networks learn the cue first."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    y, a = group // 2, group % 2
    sign = 2 * torch.randint(2, (len(y),), generator=generator) - 1
    x = torch.randn(len(y), 20, generator=generator)
    x[:, 0] = 2 * sign + 0.5 * x[:, 0]
    x[:, 1] = 2 * sign * (2 * y - 1) + 0.5 * x[:, 1]
    x[:, 2] = 2 * (2 * a - 1) + 0.5 * x[:, 2]
    return x, y, group


def test_many_rows_are_sampled_and_the_note_says_so(monkeypatch):
    from firstcue.training import methods

    x, y, group = planted(sizes=(100, 60, 60, 100))
    monkeypatch.setattr(methods, "MOST_ROWS", 80)

    fit = retrain_head(x, y, group)

    assert fit.rows_per_group == 20 and "each fit to a sample of 20 rows per group, of 60" in fit.note


def early_and_final(seed=1):
    x, y, _ = learned_in_order((990, 10, 10, 990), seed)
    with seeded(seed):
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, minibatches(Batch(x, y), 64, 1, seed=seed), optimizer)
    early = copy.deepcopy(model)
    return early, train(model, minibatches(Batch(x, y), 64, 5, seed=seed + 1), optimizer)


def test_self_mends_the_worst_group_with_a_handful_of_labels_and_no_groups():
    early, model = early_and_final()
    x, y, group = learned_in_order((980, 20, 20, 980), 11)
    fresh, fresh_y, fresh_group = learned_in_order((500,) * 4, 12)

    head, fit = fit_head(model, (x, y), "self", early=early)
    repaired = with_head(model, head.name, fit.weight, fit.bias)
    selected = select(predict(early, x), predict(model, x), y, 2)

    def score(net):
        return worst_accuracy(predict(net, fresh).argmax(1) == fresh_y, fresh_group)

    assert score(repaired) > score(model) + 0.2
    assert f"labels of {len(selected)} of 2000 held-out rows used" in fit.note and len(selected) < 60
    assert float(torch.isin(group[selected], torch.tensor([1, 2])).double().mean()) > 0.8
    assert fit.penalty is None and head.name == "2"


def test_self_says_what_it_lacks():
    x, y, _ = planted()
    head = find_head(nn.Linear(20, 2), x)

    with pytest.raises(ValueError, match="decide alike on every held-out row"):
        retrain_head(x, y, method="self", head=head, early_outputs=head(x))
    with pytest.raises(ValueError, match=r"needs `head` and `early_outputs`"):
        retrain_head(x, y, method="self")
    with pytest.raises(ValueError, match=r"`early_outputs` has shape \(5, 2\)"):
        retrain_head(x, y, method="self", head=head, early_outputs=head(x)[:5])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y, g: {"method": "dfrr"}, "there is no method 'dfrr'; methods: dfr, dfr-train"),
        (lambda x, y, g: {"group": None}, "`group` is None.*class-balanced"),
        (lambda x, y, g: {"method": "dfr-train"}, "give `train`"),
        (lambda x, y, g: {"y": y[:-1]}, "`features` has 400 rows but `y` has 399"),
        (lambda x, y, g: {"group": g[:-1]}, "`features` has 400 rows but `group` has 399"),
        (lambda x, y, g: {"y": torch.zeros_like(y)}, "at least two classes"),
        (lambda x, y, g: {"y": torch.where(torch.arange(400) == 7, 2, y)}, "class 2 has 1"),
        (lambda x, y, g: {"features": torch.where(torch.arange(400)[:, None] == 3, torch.nan, x)}, "NaN"),
        (lambda x, y, g: {"features": x[:, 0]}, r"\(n, d\) is needed"),
        (lambda x, y, g: {"train": (x[:, :5], y, g)}, "20 dimensions, training features 5"),
        (lambda x, y, g: {"num_groups": 3}, "`group` has dtype torch.int64.* values from 0 to 3; ids from 0 to 2"),
    ],
)
def test_what_cannot_be_retrained_on_is_refused(change, message):
    x, y, group = planted()
    given_ = {"features": x, "y": y, "group": group} | change(x, y, group)

    with pytest.raises(ValueError, match=message):
        retrain_head(given_.pop("features"), given_.pop("y"), given_.pop("group"), **given_)


def test_labels_beyond_the_heads_outputs_and_missing_classes_are_refused():
    x, y, group = planted()

    with pytest.raises(ValueError, match="values from 0 to 2; ids from 0 to 1"):
        retrain_last_layer(nn.Linear(20, 2), Batch(x, y + (group == 3), attribute=group % 2))
    with pytest.raises(ValueError, match="class 2 has 0"):
        retrain_last_layer(nn.Linear(20, 3), Batch(x, y, attribute=group % 2))


def test_a_head_used_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Linear(20, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.fc(self.body(x)))

    x, y, group = planted()

    with pytest.raises(ValueError, match="used in a second place"):
        retrain_last_layer(Twice(), Batch(x, y, attribute=group % 2))


def test_the_mean_of_read_outs_is_their_mean_decision():
    from firstcue.training.logistic import average

    x = np.random.default_rng(0).normal(size=(5, 3))
    readouts = [Readout(np.full((2, 3), float(i)), np.full(2, float(i))) for i in range(3)]

    mean = average(readouts)

    np.testing.assert_allclose(
        x @ mean.weight.T + mean.bias, np.mean([x @ r.weight.T + r.bias for r in readouts], axis=0)
    )


def test_every_method_is_described():
    assert all(f'"{name}"' in (retrain_head.__doc__ or "") for name in METHODS)


def test_retraining_500_rows_of_64_features_takes_less_than_three_cpu_seconds():
    x, y, group = planted(sizes=(150, 100, 100, 150), d=64)
    began = time.process_time()

    retrain_head(x, y, group)

    assert time.process_time() - began < 3
