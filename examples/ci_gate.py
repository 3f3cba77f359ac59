"""A gate in CI: a stored model is audited by the command line, and the exit code says whether it may go on."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import firstcue as fc
from firstcue.cli import main
from firstcue.data import shipped
from firstcue.models import load_model
from firstcue.training.loop import minibatches

Path("my_code.py").write_text("""
from torch import nn

def make_model():
    return nn.Sequential(nn.Linear(51, 16), nn.ReLU(), nn.Linear(16, 2))
""")
Path("gate.toml").write_text("""
min_worst_group = 0.70
allow_shortcut = false
inconclusive = "pass"
""")

rng = np.random.default_rng(0)
images = shipped()  # pullovers and coats, here as tables: the mean brightness of 49 patches
patches = torch.nn.functional.avg_pool2d(images.x, 4).flatten(1).numpy()


def write(name, rows, agree):
    """A table with two columns that tell the shop, which goes with the garment in a fraction of the rows."""
    y = images.y[rows].numpy()
    shop = np.where(rng.random(len(y)) < agree, y, 1 - y)
    np.savez(name, x=np.column_stack([patches[rows], shop, 1 - shop]).astype(np.float32), y=y, shop=shop)
    return fc.Batch.of(np.load(name)["x"], y)


def run(line):
    """What a CI job runs in a shell: 0 lets the model go on."""
    print(f"$ firstcue {line}", flush=True)
    code = main([*line.split(), "--quiet"])
    print(f"exit code {code}\n", flush=True)
    return code


train = write("train.npz", slice(0, 2000), agree=0.95)
write("held_out.npz", slice(2000, 3000), agree=0.5)
write("fresh.npz", slice(3000, 4000), agree=0.5)

torch.manual_seed(0)
model = load_model("my_code:make_model")
fc.train(model, minibatches(train, 64, epochs=10), torch.optim.Adam(model.parameters(), lr=3e-3))
save_file(model.state_dict(), "model.safetensors")

stored = "my_code:make_model train.npz --weights model.safetensors --attribute shop --held-out held_out.npz"
assert run(f"audit {stored} --gate gate.toml --fast") == 1
assert run(f"fix erase {stored} --out repaired") == 0
assert run("audit repaired train.npz --attribute shop --held-out fresh.npz --gate gate.toml --fast") == 0
