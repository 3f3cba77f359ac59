"""The demonstration: real images, a planted shortcut, a network that takes it, and a repaired one that does not.

Garments (pullover or coat) carry the label; a digit above them agrees with it in 95 of 100 training rows. The network has
a choice between a hard feature and an easy one.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from firstcue._progress import Progress, silent, within
from firstcue.auditing.fixing import Fixed, fix
from firstcue.auditing.model import audit
from firstcue.batch import Batch
from firstcue.data import garment_dominoes
from firstcue.finding import Report
from firstcue.training.checkpoints import checkpoints, load_checkpoints
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import log_spaced

STRENGTH = 0.95
EPOCHS = 8
BATCH = 64


class Net(nn.Module):
    """Three strided convolutions and two linear layers for images of 1 x 56 x 28."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(32 * 7 * 4, 64),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, K)` of images `(n, 1, 56, 28)`."""
        return self.head(self.features(x))


def network() -> Net:
    """The factory by which the command line builds the demo's network: `firstcue.demo:network`."""
    return Net()


def trained(
    data: Batch, folder: Path | None, *, seed: int = 0, epochs: int = EPOCHS, progress: Progress = silent
) -> Net:
    """The demo's network after training on `data`, with log-spaced checkpoints in `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = network()
    steps = epochs * -(-len(data) // BATCH)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    recorders = [] if folder is None else [checkpoints(folder, log_spaced(steps, 12))]
    batches = minibatches(data, BATCH, epochs=epochs, seed=seed)

    def watched():  # type: ignore[no-untyped-def]
        for i, batch in enumerate(batches):
            progress("training the network", i / steps)
            yield batch

    train(net, watched(), optimizer, recorders=recorders)
    return net


def run(out: str | Path, *, seed: int = 0, fast: bool = False, progress: Progress = silent) -> Report:
    """Train, audit, repair, and write everything below `out`.

    Args:
        out: Folder for report.html, report.json, model-card.md, model/, repaired/, checkpoints/ and the data as .npz.
        seed: Of data, weights and the audit.
        fast: Fewer epochs, probes and remedies, for a quick look.
        progress: Told the stage and the fraction done.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    progress("composing images", 0.0)
    data = {part: garment_dominoes(STRENGTH, part, seed=seed) for part in ("train", "held-out", "test")}
    net = trained(
        data["train"],
        folder / "checkpoints",
        seed=seed,
        epochs=3 if fast else EPOCHS,
        progress=within(progress, 0.02, 0.25),
    )
    report = audit(
        net,
        data["train"],
        held_out=data["held-out"],
        checkpoints=load_checkpoints(folder / "checkpoints"),
        remedies=("last-layer", "erase") if fast else None,
        seed=seed,
        command=f"firstcue demo --seed {seed}",
        progress=within(progress, 0.25, 0.9),
    )
    chosen = next((r.name for r in report.remedies if r.selected), "last-layer")
    progress("repairing the network", 0.92)
    fixed = fix(net, data["train"], "last-layer" if chosen == "as it is" else chosen, data["held-out"], seed=seed)
    _write(folder, data, net, fixed, report)
    progress("done", 1.0)
    return report


def _write(folder: Path, data: dict[str, Batch], net: Net, fixed: Fixed, report: Report) -> None:
    from firstcue.data import write_npz
    from firstcue.models import save_model

    for name, batch in data.items():
        write_npz(batch, folder / f"{name}.npz")
    save_model(net, folder / "model", factory="firstcue.demo:network", changes={})
    save_model(fixed.model, folder / "repaired", factory="firstcue.demo:network", changes=fixed.changes)
    report.save_html(folder / "report.html")
    report.to_json(folder / "report.json")
    (folder / "model-card.md").write_text(report.to_model_card(), encoding="utf-8")
