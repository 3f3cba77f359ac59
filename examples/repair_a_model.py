"""Audit a network, repair it, store the repaired copy, and audit that one on rows that nobody has seen."""

import torch

import firstcue as fc
from firstcue.data import garment_dominoes
from firstcue.models import load_repaired, save_model
from firstcue.training.loop import minibatches


def network():
    """The factory of the model: it builds the architecture, with any weights."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1152, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, 2),
    )  # fmt: skip


train, held_out, fresh = (garment_dominoes(0.95, part) for part in ("train", "held-out", "test"))
with torch.random.fork_rng():
    torch.manual_seed(0)
    model = network()
fc.train(model, minibatches(train, 64, epochs=3), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))

fixed = fc.fix(model, train, "last-layer", held_out)
promised = fixed.after.worst_group
print(f"worst group {fixed.before.worst_group.accuracy:.2f}; promised {promised.ci_low:.2f} to {promised.ci_high:.2f}")

save_model(fixed.model, "repaired", changes=fixed.changes)
again = load_repaired("repaired", factory=network)
report = fc.audit(again, train, held_out=fresh, remedies=())
print(report.summary())
