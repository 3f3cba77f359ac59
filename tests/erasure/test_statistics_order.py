import pytest
import torch
from torch import nn

from cases import generator
from firstcue import Batch, log_spaced, order_of_statistics, surrogates
from firstcue.training.checkpoints import checkpoints


def planted(n=2000, seed=0):
    """Two classes with a weak difference of means and a strong one of variances."""
    g = generator(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 10, generator=g) * torch.where(y[:, None] == 1, 2.0, 0.7)
    x[:, 0] += 1.2 * (2 * y - 1)
    return Batch.of(x, y)


class Reads(nn.Module):
    """A network that reads the mean of feature 0, or the variance."""

    def __init__(self, variance):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(float(variance)))

    def forward(self, x):
        return self.share * (x[:, 1:].square().mean(dim=1) - 1.7) + (1 - self.share) * x[:, 0]


def test_a_network_is_right_where_the_statistics_it_reads_are_kept():
    real = planted()
    sets = {
        "real": real,
        "shift": surrogates.shift(real, box=None),
        "gaussian": surrogates.gaussian(real),
    }
    order = order_of_statistics([(0, Reads(0.0)), (10, Reads(1.0))], sets)
    means, variances = ({name: order.curve(name)[i][1] for name in sets} for i in (0, 1))

    assert means["real"] > 0.75 and means["gaussian"] > 0.75 and means["shift"] > 0.6
    assert variances["real"] > 0.9 and variances["gaussian"] > 0.9
    assert variances["shift"] < 0.1  # the variance tells the class the row came from
    assert order.peaks()["shift"] == {"step": 0.0, "accuracy": means["shift"], "final": variances["shift"]}


def test_accuracy_interval_and_baseline_are_those_of_the_rows():
    g = generator(3)
    batch = Batch(torch.randn(400, 3, generator=g), (torch.rand(400, generator=g) < 0.2).long())
    model = nn.Linear(3, 2)
    (row,) = order_of_statistics([(7, model)], {"real": batch}).rows
    right = (model(batch.x).argmax(dim=1) == batch.y).double().mean()

    assert row["step"] == 7 and row["n"] == 400
    assert row["accuracy"] == pytest.approx(float(right))
    assert row["baseline"] == pytest.approx(float((batch.y == 0).double().mean()))
    assert row["ci_low"] < row["accuracy"] < row["ci_high"]
    assert row["ci_high"] - row["ci_low"] == pytest.approx(4 * float((right * (1 - right) / 400) ** 0.5), rel=0.05)


def test_saved_checkpoints_give_the_same_curve_as_the_models_themselves(tmp_path):
    real = planted(200)
    model = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2))
    saver, kept = checkpoints(tmp_path, every={0, 1, 4, 16}), []
    for step in range(17):
        with torch.no_grad():
            model[0].weight.mul_(0.9)
        saver.step(model, step)
        if step in (0, 1, 4, 16):
            kept.append((step, {name: value.clone() for name, value in model.state_dict().items()}))
    before = model[0].weight.clone()

    def models():
        for step, state in kept:
            other = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2))
            other.load_state_dict(state)
            yield step, other

    heard = []
    saved = order_of_statistics(tmp_path, {"real": real}, model=model, progress=lambda _, done: heard.append(done))
    assert saved.rows == order_of_statistics(models(), {"real": real}).rows
    assert heard == [0.25, 0.5, 0.75, 1.0]
    assert torch.equal(model[0].weight, before)


def test_the_figure_has_a_curve_per_data_set():
    real = planted(100)
    order = order_of_statistics(
        [(0, Reads(0.0)), (4, Reads(0.5)), (64, Reads(1.0))], {"real": real, "made": surrogates.gaussian(real)}
    )
    (axes,) = order.figure().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["real", "made"]
    assert [tuple(line.get_xdata()) for line in axes.lines[:2]] == [(0, 4, 64)] * 2


@pytest.mark.science
def test_a_network_in_training_uses_means_before_variances():
    real, held_out = planted(4000), planted(4000, seed=1)
    sets = {"real": held_out, "shift": surrogates.shift(held_out, box=None)}
    generated = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generated) * 0.1)
    optimizer, steps, rows = torch.optim.SGD(model.parameters(), lr=0.1), log_spaced(2000, 14), []
    for step in range(2001):
        if step in steps:
            rows += order_of_statistics([(step, model)], sets).rows
        some = torch.randint(len(real), (128,), generator=generated)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(real.x[some]), real.y[some]).backward()
        optimizer.step()
    shift = {row["step"]: row["accuracy"] for row in rows if row["data"] == "shift"}
    real_curve = {row["step"]: row["accuracy"] for row in rows if row["data"] == "real"}
    assert max(shift.values()) > 0.6 > 0.5 > shift[2000]
    assert real_curve[2000] > real_curve[max(shift, key=lambda s: shift[s])] + 0.05


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"surrogates": {}}, "no data set"),
        ({"checkpoints": []}, "yields none"),
        ({"checkpoints": [(0, "weights.safetensors")]}, "together with `model`"),
        ({"checkpoints": [(0, nn.Linear(10, 2))], "surrogates": {"real": Batch(torch.zeros(3, 10), torch.tensor([0, 1, 5]))}}, "class id 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_with_the_way_out(given, message):
    with pytest.raises(ValueError, match=message):
        order_of_statistics(**({"checkpoints": [(0, nn.Linear(10, 2))], "surrogates": {"real": planted(20)}} | given))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="evaluated: real"):
        order_of_statistics([(0, Reads(0.0))], {"real": planted(20)}).curve("gaussian")
