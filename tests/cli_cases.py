"""A small world for the command line: a model that leans on a cue, its data in several forms, and everything that can be wrong."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

MODELS = """
import torch
from torch import nn


def good():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def raises():
    raise RuntimeError("no licence found")


def not_a_model():
    return 3


class Stumbles(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        raise RuntimeError("shapes do not agree")


class ReturnsDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return {"left": self.head(x), "right": self.head(-x)}


class HasNoHead(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], dim=1)


class YieldsNan(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x) / 0 * 0


def nothing():
    return []


def rows():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(5))
    return [(x, (x[:, 0] > 0).long(), (x[:, 1] > 0).long())]
"""


def leaning() -> nn.Module:
    """A model whose decisions follow the second feature, the cue, far more than the first, the core."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for unit, (feature, sign) in enumerate([(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)]):
            model[0].weight[unit, feature] = sign
        for unit, weight in enumerate([0.5, -0.5, 1.5, -1.5]):
            model[2].weight[0, unit], model[2].weight[1, unit] = -weight, weight
    return model


def rows(n: int, agree: float, seed: int) -> dict[str, np.ndarray]:
    """A core and a cue of equal size, the cue agreeing with the label in a fraction of the rows."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    cue = np.where(rng.random(n) < agree, y, 1 - y)
    x = rng.normal(0, 0.5, (n, 4)).astype(np.float32)
    x[:, 0] += 2 * y - 1
    x[:, 1] += 2 * cue - 1
    return {"x": x, "y": y, "cue": np.array(["sea", "land"])[cue], "noise": np.arange(n) // 2 % 2}


def make_world(folder: Path) -> Path:
    """Write models, weights, data, gates, and their broken relatives into `folder`."""
    (folder / "cli_models.py").write_text(MODELS)
    save_file(leaning().state_dict(), folder / "w.safetensors")
    train, held = rows(600, 0.9, seed=0), rows(500, 0.5, seed=1)
    np.savez(folder / "train.npz", **train)
    np.savez(folder / "held.npz", **held)
    np.savez(folder / "few.npz", **rows(60, 0.5, seed=2))
    np.savez(folder / "one_class.npz", **(train | {"y": np.zeros(600, dtype=int)}))
    np.savez(folder / "nan.npz", **(train | {"x": np.where(np.arange(2400).reshape(600, 4) == 9, np.nan, train["x"])}))
    np.savez(folder / "target.npz", **(train | {"y": train["x"][:, 0]}))
    hostile = np.array(["<script>alert(1)</script>", "\x1b[31m\"'&" + "长" * 10_000])
    np.savez(folder / "hostile.npz", **(train | {"cue": hostile[np.arange(600) // 2 % 2], "y": hostile[train["y"]]}))
    whole = (folder / "train.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.save(folder / "X.npy", train["x"])
    np.save(folder / "Y.npy", train["y"])
    np.save(folder / "cue.npy", train["cue"])
    np.save(folder / "noise.npy", train["noise"])
    np.save(folder / "short.npy", train["cue"][:10])
    with torch.no_grad():
        for name, part in (("F", train), ("G", held)):
            np.save(folder / f"{name}.npy", leaning()(torch.from_numpy(part["x"])).numpy())
    np.save(folder / "pickled.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    lines = ["a,b,c,d,y", *(",".join(map(str, [*x, y])) for x, y in zip(train["x"], train["y"], strict=True))]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "strict.toml").write_text("min_worst_group = 0.99\n")
    (folder / "lax.toml").write_text('allow_shortcut = true\ninconclusive = "pass"\n')
    (folder / "misspelt.toml").write_text("min_worst_gruop = 0.9\n")
    (folder / "broken.toml").write_text("min_worst_group = \n")
    (folder / "a_file").write_text("in the way")
    return folder


def only_object(text: str) -> dict:
    """The one JSON object that `text` is."""
    found = json.loads(text)
    assert isinstance(found, dict)
    return found
