"""`fix` by simplification: the same architecture comes back, judged on originals, with fewer bits in what it was trained on."""

import copy

import pytest
import torch
from torch import nn

from firstcue.auditing.fixing import fix
from firstcue.batch import Batch
from firstcue.data import garment_dominoes
from firstcue.forward import seeded


def network(channels: int = 1):
    with seeded(0):
        return nn.Sequential(nn.Conv2d(channels, 4, 5, stride=4), nn.ELU(), nn.Flatten(), nn.Linear(4 * 13 * 6, 2))


def rows(part: str, scale: float = 1.0) -> Batch:
    batch = garment_dominoes(0.9, part).rows(slice(0, 400))
    return Batch(**{**vars(batch), "x": scale * batch.x, "edit": None})


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_model_is_trained_on_beside_a_simplifier_whatever_the_range_of_its_images(scale):
    model = network()
    before = copy.deepcopy(model.state_dict())

    fixed = fix(model, rows("train", scale), "simplify", rows("held-out", scale), lam=2.0, steps=12)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert fixed.model.state_dict().keys() == before.keys()
    assert any(not torch.equal(before[name], value) for name, value in fixed.model.state_dict().items())
    assert fixed.changes["density"] == "dct" and fixed.after.overall.n == fixed.before.overall.n
    assert "bits instead of" in fixed.note and fixed.needs == ()
    assert ("rescaled" in fixed.note) is (scale == 255.0)


def test_a_table_has_no_bits_to_take():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    table = Batch.of(x, (x[:, 0] > 0).long(), (x[:, 1] > 0).long())
    with seeded(0):
        model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="takes bits from images"):
        fix(model, table, "simplify")
