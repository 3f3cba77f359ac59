"""Two processes that share the rows train as one process that has them all."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

import firstcue as fc
from firstcue.batch import Batch
from firstcue.moments import Moments
from firstcue.training import distributed
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import Recorder, group_accuracy

SCRIPT = "from test_distributed import main; main()"


def rows():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (61,), generator=generator)
    x = torch.randn(61, 4, generator=generator) + y[:, None]
    return Batch(x, y, group=(torch.arange(61) % 7) // 2, classes=("a", "b", "c"))


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ).double()


RULES = {
    "mean": fc.mean_gradient,
    "mask": partial(fc.and_mask, threshold=0.6),
    "geometric": fc.geometric_mean,
    "sand": fc.sand_mask,
}


def trained(rule, batches, seed=0):
    """Parameters after training, the loss of every step and what a recorder saw; the last batch has one row."""
    model = network(seed + distributed.rank())  # every process begins elsewhere: the first one's model counts
    recorder = Recorder([group_accuracy(in_double(rows()))], every=3)
    train(
        model, distributed.shared(batches), torch.optim.Adam(model.parameters(), 0.01), rule=rule, recorders=[recorder]
    )
    return {
        "parameters": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
        "recorded": recorder.rows,
    }


def in_double(batch):
    return Batch(batch.x.double(), batch.y, batch.group)


def batches(least=1):
    """Five batches of 12 rows and one of a single row, which leaves one process without any; twice."""
    return [batch for batch in minibatches(in_double(rows()), 12, epochs=2, seed=1) if len(batch) >= least]


def batches_for(rule):
    return batches(least=2 if rule == "sand" else 1)  # a variance needs two environments


def described(moments):
    return {
        "classes": moments.classes,
        **{name: getattr(moments, name).tolist() for name in ("count", "mean", "scatter", "rows")},
    }


def refused(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def by_name(batch):
    """Groups by name: what each process lacks has to be found in the others."""
    return Moments.of_groups(batch.x, [batch.classes[i] for i in batch.y])


def main():
    """What each process does; the first writes down what it found, the second checks that it is the same."""
    torch.set_num_threads(1)
    with distributed.joined() as count:
        found = {"count": count, "rank": distributed.rank()}
        found |= {name: trained(rule, batches_for(name)) for name, rule in RULES.items()}
        mine = next(distributed.shared([rows()]))
        found["moments"] = described(distributed.merged(by_name(mine if distributed.rank() else mine.rows(mine.y > 0))))
        found["plain"] = described(distributed.merged(Moments.of(mine.x)))
        optimizer = partial(torch.optim.SGD, lr=0.1)
        model = network()
        uneven = batches()[: 2 + distributed.rank()]
        found["uneven"] = refused(lambda: train(model, uneven, optimizer(model.parameters())))
        damaged = torch.full((2, 4), float("nan") if distributed.rank() else 1.0).double()
        bad = [Batch(damaged, torch.tensor([0, 1]))]
        found["diverged"] = refused(lambda: train(model, bad, optimizer(model.parameters(), lr=0.1)))
        found["weighting"] = refused(
            lambda: train(
                model, batches(), optimizer(model.parameters()), weighting=lambda losses, outputs, batch: losses * 0 + 1
            )
        )
    with open(os.path.join(os.environ["FOUND"], f"{found['rank']}.json"), "w") as file:
        json.dump(found, file)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes under torchrun found."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "FOUND": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(folder / "script.py")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{i}.json").read_text()) for i in (0, 1)]


@pytest.mark.parametrize("rule", RULES)
def test_two_processes_take_the_steps_of_one(found, rule):
    alone = trained(RULES[rule], batches_for(rule))
    for process in found:
        assert process["count"] == 2
        torch.testing.assert_close(
            torch.tensor(process[rule]["parameters"]), torch.tensor(alone["parameters"]), rtol=1e-9, atol=1e-11
        )
        for one, other in zip(process[rule]["recorded"], alone["recorded"], strict=True):
            assert one.keys() == other.keys()
            assert [v or 0.0 for v in one.values()] == pytest.approx(
                [v or 0.0 for v in other.values()], rel=1e-9, abs=1e-11
            )


def test_moments_of_all_rows_are_the_same_in_every_process(found):
    batch = rows()
    kept = (torch.arange(61) % 2 == 1) | (batch.y > 0)  # the first process leaves its rows of class 0 out
    expected = described(by_name(batch.rows(kept)))
    for process in found:
        assert process["moments"]["classes"] == list(expected["classes"])
        assert process["moments"]["rows"] == expected["rows"]
        for name in ("mean", "scatter"):
            torch.testing.assert_close(
                torch.tensor(process["moments"][name]), torch.tensor(expected[name]), rtol=1e-5, atol=1e-5
            )
        whole = Moments.of(batch.x, precision="float64")
        torch.testing.assert_close(
            torch.tensor(process["plain"]["scatter"]).double(), whole.scatter, rtol=1e-5, atol=1e-4
        )
    assert found[0]["moments"] == found[1]["moments"]


def test_what_would_hang_or_differ_is_refused_by_every_process(found):
    for process in found:
        assert "1 of 2 processes have another batch" in process["uneven"]
        assert "the loss is" in process["diverged"]
        assert "train in one process" in process["weighting"]


def test_alone_everything_is_as_it_was():
    with distributed.joined() as count:
        assert count == 1
    assert distributed.processes() == 1
    batch = rows()
    assert next(distributed.shared([batch])) is batch
    moments = Moments.of(batch.x)
    assert distributed.merged(moments) is moments
