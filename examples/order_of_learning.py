"""What did the network learn first? Save checkpoints on a logarithmic scale, then audit with them."""

import torch

import firstcue as fc
from firstcue.data import garment_dominoes
from firstcue.training.checkpoints import checkpoints
from firstcue.training.loop import minibatches

train, held_out = garment_dominoes(0.95).rows(slice(0, 2000)), garment_dominoes(0.95, "held-out")
with torch.random.fork_rng():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1152, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, 2),
    )  # fmt: skip

optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
every = fc.log_spaced(3 * 32, 6)
fc.train(model, minibatches(train, 64, epochs=3), optimizer, recorders=[checkpoints("run", every)])

report = fc.audit(model, train, held_out=held_out, checkpoints="run/*.safetensors", remedies=())
for entry in report.learning_order:
    print(f"{entry.cue}: readable from step {entry.step_decodable}, used from step {entry.step_used}")
