"""Your own training loop with a recorder: one row of numbers at steps that are denser where order is decided."""

import torch
from torch import nn

import firstcue as fc
from firstcue.data import garment_dominoes
from firstcue.training.recorder import group_accuracy

train, held_out = garment_dominoes(0.95).rows(slice(0, 2000)), garment_dominoes(0.95, "held-out")
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 32), nn.ReLU(), nn.Linear(32, 2)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def weight_norm(step):
    """A measure is any function of a step; this one watches the last layer."""
    return {"norm/head": float(step.model[-1].weight.norm())}


total = 6 * len(train) // 64
recorder = fc.Recorder([group_accuracy(held_out), weight_norm], every=fc.log_spaced(total, 8))
recorder.step(model, 0)
for number in range(1, total + 1):
    rows = torch.randint(len(train), (64,))
    loss = nn.functional.cross_entropy(model(train.x[rows]), train.y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    recorder.step(model, number, loss)  # does nothing at steps that are not due

names = [f"{c} under {v}" for c in held_out.classes for v in held_out.values]
print(f"{'step':>5}  " + "  ".join(f"{name:>16}" for name in names) + "  norm of the head")
for row in recorder.rows:
    groups = "  ".join(f"{row[f'accuracy/{g}']:16.2f}" for g in range(len(names)))
    print(f"{row['step']:5}  {groups}  {row['norm/head']:16.2f}")
