"""The formulas say what the work takes: counted where it can be counted, measured where it cannot."""

import pytest
import torch

from firstcue import planning
from firstcue.moments import Moments
from firstcue.planning import METHODS, Cost, Machine, plan


def test_a_sum_takes_the_bytes_that_its_tensors_take():
    m = Moments.of_groups(torch.randn(50, 64), torch.arange(50) % 10)
    size = sum(t.nbytes for t in (m.scatter, m.mean, m.count, m.rows))
    assert size == pytest.approx(8 * 10 * 64**2, rel=0.03)
    assert planning.merging(d=64, k=10, shards=7).bytes_read == pytest.approx(7 * size, rel=0.03)
    assert planning.merging(d=64, k=10, shards=7).memory == pytest.approx(3 * size, rel=0.03)


def test_the_operations_of_moments_are_those_of_a_symmetric_product(monkeypatch):
    from scipy.linalg import blas

    done = []
    whole = blas.dsyrk

    def counted(alpha, a, **named):
        done.append(a.shape[1] * a.shape[0] ** 2)  # half of the 2 n d^2 of a general product
        return whole(alpha, a, **named)

    monkeypatch.setattr(blas, "dsyrk", counted)
    Moments.of(torch.randn(9000, 32), precision="float64")
    counted_flops = sum(n for n in done if n > 100 * 32**2)
    assert planning.moments(n=9000, d=32).flops == pytest.approx(counted_flops)


def test_a_worker_keeps_within_the_memory_that_the_formula_names():
    import tracemalloc

    import numpy as np

    x = torch.from_numpy(np.random.default_rng(0).standard_normal((20_000, 96), dtype=np.float32))
    y = torch.arange(20_000) % 3
    Moments.of_groups(x[:10], y[:10], 3, precision="float64")
    tracemalloc.start()
    Moments.of_groups(x, y, 3, precision="float64")
    numpys = tracemalloc.get_traced_memory()[1]  # torch's own memory is not traced: the rows it gathers, and the sums
    tracemalloc.stop()
    assert numpys < planning.moments(n=20_000, d=96, k=3).memory


@pytest.mark.parametrize("name", METHODS)
def test_twice_the_rows_and_twice_the_width_cost_what_the_order_says(name):
    sizes = {"n": 1e6, "d": 1024.0, "k": 4.0, "shards": 8.0}
    once, rows, width = (METHODS[name](**{**sizes, **more}) for more in ({}, {"n": 2e6}, {"d": 2048.0}))
    assert rows.flops == pytest.approx(once.flops * (2 if name == "moments" else 1))
    assert 3.9 * once.flops < width.flops < 8.1 * once.flops
    assert 1.9 * once.memory < width.memory < 4.1 * once.memory


def test_the_number_that_limits_is_named():
    machine = Machine(workers=2, flops=1e9, read=1e9, memory=1e6)
    assert Cost("a", 1e10, 1e9, 1).limit(machine) == "processors"
    assert Cost("a", 1e9, 1e10, 1).limit(machine) == "reading"
    assert Cost("a", 1e9, 1e10, 2e6).limit(machine) == "memory"
    assert Cost("a", 1e10, 0, 1).seconds(machine) == 5
    assert Cost("a", 1e10, 0, 1, parallel=False).seconds(machine) == 10


def test_a_plan_names_what_its_sizes_allow():
    assert [c.name for c in plan({"n": 1e9, "d": 4096})[0]] == list(METHODS)
    assert [c.name for c in plan({"trials": 1e5, "seconds": 60})[0]] == ["sweep"]
    costs, machine = plan({"trials": 1e5, "seconds": 60, "workers": 100, "machines": 4})
    assert costs[0].seconds(machine) == pytest.approx(1e5 * 60.005 / 100)
    assert [c.name for c in plan({"n": 1e6, "parameters": 1e7})[0]] == ["environment gradients"]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"rowz": 3}, "no size 'rowz' to plan with; there are n, d"),
        ({"n": -1, "d": 3}, "n has to be a positive number; got -1"),
        ({"n": 3}, "give n and d"),
        ({"n": float("nan"), "d": 2}, "n has to be a positive"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        plan(sizes)


def test_adding_up_gradients_costs_nothing_alone():
    assert planning.all_reduce(parameters=1e6, workers=1).bytes_read == 0
    assert planning.all_reduce(parameters=1e6, workers=2, environments=3).bytes_read == 12e6
