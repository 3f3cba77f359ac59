"""Every row is run once: a model that counts its rows is audited, and no subset passes more often than needed."""

from collections import Counter

import pytest
import torch
from planted import case, table
from torch import Tensor, nn

import firstcue as fc
from firstcue.auditing import lenses, stages
from firstcue.auditing.seen import Seen, look_through
from firstcue.layers import find_head

PASSES: Counter[tuple[str, bytes]] = Counter()
"""By the weights that ran (copies of the model have others) and the row."""


class Counting(nn.Module):
    """Two layers that count the rows they are asked for; what is run for a gradient is not an answer and not counted."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        width = head.in_features
        self.first, self.head = nn.Linear(width, width), head
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(width))
            self.first.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            weights = f"{float(self.first.weight.detach().sum()):.6f}"
            PASSES.update((weights, row.numpy().tobytes()) for row in x.detach())
        return self.head(self.first(x))


@pytest.fixture(scope="module")
def counted():
    """A default audit, its closed forms left out: how often each row of each subset was run."""
    c = case(table(0.9), seed=0, n_train=600, n_held=500)
    model = Counting(c.model())
    PASSES.clear()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((stages, "probe_layers"), (lenses, "climb")):
            patch.setattr(module, name, lambda *_, **__: [])
        patch.setattr(stages.repair, "try_all", lambda *_, **__: ())
        report = fc.audit(model, c.train, held_out=c.held)
    assert not any("failed" in note for note in report.notes)
    assert {"richness", "agreement"} <= {f.kind for f in report.findings}
    own = f"{float(c.held.x.shape[1]):.6f}"
    return c, {name: [PASSES[own, r.numpy().tobytes()] for r in x] for name, x in subsets(c).items()}


def subsets(c) -> dict[str, Tensor]:
    edited = [c.held.edit(c.held.x.clone(), value) for value in range(c.held.num_values)]
    return {"held out": c.held.x, "training": c.train.x, "edited 0": edited[0], "edited 1": edited[1]}


def test_held_out_rows_run_once_after_a_few_have_shown_the_head_and_the_speed(counted):
    times = counted[1]["held out"]
    assert set(times[256:]) == {1}  # the head is looked for on 256 rows, and 64 are timed
    assert set(times[64:256]) == {2}
    assert max(times[:64]) <= 4


def test_training_rows_run_once_for_remedies_and_agreement_together(counted):
    times = counted[1]["training"]
    assert set(times[2:]) == {1}  # two rows tell the number of outputs


@pytest.mark.parametrize("value", [0, 1])
def test_edited_rows_run_once_for_reliance_and_remedies_together(counted, value):
    assert set(counted[1][f"edited {value}"]) == {1}


def test_rows_asked_for_again_come_from_what_was_kept_in_the_order_asked():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(20, 3)
    seen, head, ran = Seen(model, 8), find_head(model, x), []

    def inputs(rows: Tensor) -> Tensor:
        ran.extend(rows.tolist())
        return x[rows]

    whole = look_through(model, head, x, ["0"], torch.tensor([1, 5, 19]), 8)
    for rows in (torch.tensor([3, 17, 4]), torch.tensor([4, 0, 3]), torch.arange(20).flip(0), torch.arange(20)):
        features, logits = seen.at("rows", 20, rows, inputs, head)
        assert torch.allclose(features, whole.features[rows], atol=1e-6)
        assert torch.allclose(logits, whole.logits[rows], atol=1e-6)
    assert sorted(ran) == list(range(20))
    assert torch.allclose(whole.depth["0"], model[0](x[[1, 5, 19]]), atol=1e-6)


def test_a_layer_that_cannot_be_read_is_left_out_and_the_pass_stands():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> dict[str, int]:
            return {"rows": len(x)}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.head = Odd(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.odd(x)
            return self.head(x)

    model, x = Net(), torch.randn(10, 3)
    looked = look_through(model, None, x, ["odd", "head"], torch.arange(10), 4)
    assert list(looked.depth) == ["head"]
    assert looked.features is None and torch.equal(looked.logits, model(x).detach())
