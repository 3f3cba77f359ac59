"""Many networks at once learn exactly what each would learn alone."""

from itertools import islice

import pytest
import torch
from torch.nn.functional import softplus

from firstcue.spurious.batched import BooleanRun, reached, train_boolean
from firstcue.spurious.batched_metrics import Snapshot, decoded, divided, read_out_correlations, used
from firstcue.spurious.batched_rows import Parts
from firstcue.spurious.boolean import boolean_data, boolean_stream
from firstcue.spurious.curves import convergence_time
from firstcue.spurious.functions import parity, staircase
from firstcue.spurious.slowdown import predicted_slowdown
from firstcue.spurious.two_layer import TwoLayers

RUNS = [
    BooleanRun(parity(3), parity(1), 0.9, noise=2, seed=0),
    BooleanRun(parity(2), staircase(3), 0.7, noise=4, seed=1),
    BooleanRun(parity(3), parity(1), 0.5, noise=2, seed=0),
]


def alone(run, steps, batches, rate=0.1, width=16):
    """One network, trained by autograd."""
    net = TwoLayers.untrained([run.columns], [run.seed], width).module(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    for batch in islice(batches, steps):
        optimizer.zero_grad()
        softplus(-(2 * batch.y - 1) * net(batch.x)[:, 0]).mean().backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("batch_size", [64, 50])
def test_each_network_is_the_one_that_a_plain_loop_trains(batch_size):
    found = train_boolean(RUNS, 120, width=16, batch_size=batch_size, at=[120], held_out=100, measures=[used])
    for i, run in enumerate(RUNS):
        stream = boolean_stream(run.core, run.spurious, run.strength, batch_size, noise=run.noise, seed=run.seed)
        expected = alone(run, 120, stream).state_dict()
        for name, value in found.module(i).state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)


def test_a_network_does_not_depend_on_its_neighbours_or_on_being_watched():
    whole = train_boolean(RUNS, 80, width=16, at=[0, 10, 40, 80], held_out=200)
    single = train_boolean(RUNS[1:2], 80, width=16, at=[80], held_out=200)
    torch.testing.assert_close(whole.module(1)(torch.ones(2, 9)), single.module(0)(torch.ones(2, 9)))
    last = {row["run"]: row for row in whole.rows if row["step"] == 80}
    assert last[1] == pytest.approx(single.rows[0] | {"run": 1}, abs=1e-5)


def test_a_network_that_is_done_stays_as_it_was_when_it_stopped():
    stop = reached("core_correlation", 0.9, patience=1)
    runs = [BooleanRun(parity(1), parity(1), 0.5, noise=1, seed=0), BooleanRun(parity(4), parity(1), 0.9, noise=4)]
    found = train_boolean(runs, 300, width=32, at=range(0, 301, 50), stop=stop, held_out=400)
    steps, curve = found.curve(0, "core_correlation")
    assert steps[-1] < 300 and curve[-1] >= 0.9
    assert found.curve(1, "core_correlation")[0][-1] == 300
    until = train_boolean(runs[:1], steps[-1], width=32, at=[steps[-1]], held_out=400)
    torch.testing.assert_close(until.networks.outgoing[0], found.networks.outgoing[0], atol=1e-5, rtol=1e-5)


def test_runs_of_one_seed_start_alike_as_pytorch_would():
    networks = TwoLayers.untrained([9, 9, 4], [3, 3, 3], 2000)
    assert torch.equal(networks.incoming[0], networks.incoming[1])
    assert float(networks.incoming[2, :, :4].abs().max()) == pytest.approx(0.5, abs=1e-3)
    assert float(networks.incoming[2, :, 4:-1].abs().max()) == 0
    assert float(networks.outgoing.abs().max()) == pytest.approx(2000**-0.5, rel=1e-2)


def test_a_finite_set_is_gone_through_once_in_every_epoch():
    from firstcue.spurious.batched_rows import Finite

    recipes = [run.recipe() for run in RUNS]
    source = Finite(recipes, 9, 30)
    epoch = [source.take(10) for _ in range(3)]
    for i, run in enumerate(RUNS):
        own = boolean_data(run.core, run.spurious, run.strength, 30, noise=run.noise, seed=run.seed)
        rows = torch.cat([part.x[i] for part in epoch])[:, : run.columns]
        assert sorted(rows.tolist()) == sorted(own.x.tolist())
        assert int((torch.cat([p.core[i] for p in epoch]) > 0).sum()) == int(own.y.sum())
    source.keep(torch.tensor([1]))
    assert source.take(45).x.shape == (1, 45, 10)


def snapshot_of(core, spurious, decision):
    parts = Parts(torch.zeros(1, len(core), 2), core[None], spurious[None])
    return Snapshot(0, [], TwoLayers.untrained([1], [0], 2), parts, torch.zeros(1, len(core), 2), decision[None])


def test_who_uses_what_is_named_rightly():
    batch = boolean_data(parity(2), parity(1), 0.5, 2000)
    y, a = 2.0 * batch.y - 1, 2.0 * batch.attribute - 1
    independent = float((y * a).mean())
    core = {k: float(v) for k, v in used(snapshot_of(y, a, 3 * y)).items()}
    cue = {k: float(v) for k, v in used(snapshot_of(y, a, 0.1 * a)).items()}
    constant = {k: float(v) for k, v in used(snapshot_of(y, a, torch.ones(2000))).items()}
    assert core == pytest.approx({"core_correlation": 1, "spurious_correlation": independent, "worst_group": 1})
    assert cue == pytest.approx({"core_correlation": independent, "spurious_correlation": 1, "worst_group": 0})
    assert constant["core_correlation"] == pytest.approx(float(y.mean())) and constant["worst_group"] == 0


def test_a_read_out_finds_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4000, 12, generator=generator)
    targets = torch.stack([x[..., 0] + x[..., 1], x[..., 0] * x[..., 1]], dim=2).sign()
    linear, product = read_out_correlations(x * 7 + 100, targets)[0].tolist()
    assert linear > 0.95 and abs(product) < 0.1
    mixed = x[..., torch.randperm(12, generator=generator)]
    torch.testing.assert_close(read_out_correlations(mixed, targets), read_out_correlations(x, targets))
    constant = torch.cat([x, torch.ones(1, 4000, 1)], dim=2)
    torch.testing.assert_close(read_out_correlations(constant, targets), read_out_correlations(x, targets))


def test_all_measures_of_an_untrained_network_are_finite_and_random_features_do_not_read_the_core():
    rows = train_boolean(RUNS, 1, at=[0], held_out=2000, measures=[used, decoded, divided]).rows
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    assert all(abs(row["core_correlation"]) < 0.3 for row in rows)
    assert {"decoded_core", "decoded_spurious", "purity", "weight_correlation"} <= rows[0].keys()


def test_a_rate_that_is_too_high_is_named():
    with pytest.raises(ValueError, match=r"not finite .*Lower `rate`"):
        train_boolean(RUNS, 40, rate=1e20, at=[40], held_out=50, measures=[used])


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "at least 1"),
        (RUNS, {"width": 0}, "at least 1"),
        (RUNS, {"rows": 0}, "at least 1"),
        (RUNS, {"at": [99]}, "from 0 to 5"),
    ],
)
def test_impossible_wishes_are_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        train_boolean(runs, 5, **options)


def test_a_curve_that_was_not_recorded_is_refused_by_name():
    found = train_boolean(RUNS, 1, width=4, at=[0], held_out=20, measures=[used])
    with pytest.raises(ValueError, match="recorded: run, step, core_correlation"):
        found.curve(0, "decoded_core")


@pytest.mark.science
def test_an_easy_cue_delays_the_core_as_the_law_predicts_and_a_hard_one_hardly():
    strengths, seeds = (0.5, 0.9, 0.95), range(3)
    runs = [BooleanRun(parity(4), parity(s), p, noise=4, seed=k) for s in (1, 3) for p in strengths for k in seeds]
    found = train_boolean(runs, 6000, at=range(0, 6001, 50), measures=[used], stop=reached("core_correlation", 0.95))
    steps = torch.tensor([float(convergence_time(*found.curve(i, "core_correlation"))) for i in range(len(runs))])
    ratio = (steps.reshape(2, 3, 3) / steps.reshape(2, 3, 3)[:, :1]).median(dim=2).values
    easy, hard = ratio[0], ratio[1]
    assert 1.8 <= easy[1] <= 4 and 3.5 <= easy[2] <= 8 and hard[2] < 2
    for measured, strength in zip(easy[1:], strengths[1:], strict=True):
        assert 1 / 1.5 < measured / predicted_slowdown(strength) < 1.5
