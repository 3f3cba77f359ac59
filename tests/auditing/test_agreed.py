"""Groups that want different things of a model are told apart from groups drawn at random."""

import pytest
import torch
from torch import nn

from firstcue.auditing.agreed import agreement_findings, agreement_summary, measure_groups, row_loss
from firstcue.batch import Batch
from firstcue.layers import features_and_outputs, find_head


def rows(opposed: bool, n: int = 600) -> Batch:
    """Two groups; the second feature tells the class, in one group the other way round if they are opposed."""
    generator = torch.Generator().manual_seed(0)
    y, a = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    x = torch.randn(n, 4, generator=generator)
    sign = torch.where(a == 1, -1.0, 1.0) if opposed else torch.ones(n)
    x[:, 1] += 2 * sign * (2 * y - 1)
    return Batch.of(x, y, attribute=a)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


def measured(opposed: bool):
    batch, model = rows(opposed), network()
    head = find_head(model, batch.x)
    features, _ = features_and_outputs(model, batch.x, head=head)
    return measure_groups(model, batch, features, head, seed=0)


def test_opposed_groups_agree_less_than_random_groups_and_alike_groups_do_not():
    apart, alike = measured(True), measured(False)
    assert apart.whole.kept < apart.whole.random_groups.kept - 0.1
    assert alike.whole.kept > alike.whole.random_groups.kept - 0.1
    assert apart.whole.alignment < 0.7 < alike.whole.alignment


def test_findings_carry_their_control_and_accuse_nobody():
    found = measured(True)
    said = agreement_findings(found)
    assert [f.id.rpartition("/")[2] for f in said] == ["kept", "only-one-group", "inconsistency"]
    assert all(f.baseline is not None and f.n == 500 and not f.judges for f in said)
    assert "agree less than random groups do" in said[0].meaning
    assert agreement_summary(found)["kept"]["random_groups"] == said[0].baseline


def test_a_single_group_cannot_be_compared():
    batch = rows(False)
    assert (
        measure_groups(network(), Batch.of(batch.x, batch.y, attribute=torch.zeros(600).long()), None, None, 0) is None
    )


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2)])
def test_the_loss_reads_whatever_a_classifier_returns(shape):
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.arange(5) % 2
    if outputs.numel() == 5:
        expected = nn.functional.binary_cross_entropy_with_logits(outputs.reshape(5), y.float())
    else:
        expected = nn.functional.cross_entropy(outputs, y)
    assert torch.allclose(row_loss(outputs, y), expected)
