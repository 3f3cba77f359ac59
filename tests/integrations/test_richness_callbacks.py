"""The callbacks record while their libraries train."""

import pytest
import torch
from torch import nn

from firstcue.richness.monitor import RichnessMonitor


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    return x, (x[:, 0] > 0).long()


def test_lightning_records_the_start_and_the_steps_that_are_due(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from firstcue.integrations.lightning import richness_callback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Module()
    monitor = RichnessMonitor(module, data(), every=3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=16)
    trainer = lightning.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[richness_callback(monitor)],
    )
    trainer.fit(module, loader)

    assert [row["step"] for row in monitor.rows] == [0, 3, 6]
    assert monitor.rows[-1]["loss"] > 0 and monitor.rows[-1]["richness/weight_movement"] > 0


def test_hugging_face_records_the_start_and_the_steps_that_are_due():
    transformers = pytest.importorskip("transformers")
    from firstcue.integrations.transformers import richness_callback

    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    monitor = RichnessMonitor(model, data(), every=2)
    callback = richness_callback(monitor)
    state = transformers.TrainerState()
    callback.on_train_begin(None, state, None)
    for step in range(1, 5):
        state.global_step = step
        callback.on_step_end(None, state, None, model=model)

    assert isinstance(callback, transformers.TrainerCallback)
    assert [row["step"] for row in monitor.rows] == [0, 2, 4]


def test_the_heads_of_transformers_models_are_found():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=3,
    )  # fmt: skip
    images = torch.randn(40, 1, 8, 8)
    model = transformers.ViTForImageClassification(config)

    row = RichnessMonitor(model, images).record(0)

    assert 0 <= row["richness/dlr"] <= 1
