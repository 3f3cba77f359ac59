"""A Hugging Face model, built from a configuration: nothing is downloaded."""

import torch
from transformers import ViTConfig, ViTForImageClassification

import firstcue as fc
from firstcue.data import garment_dominoes
from firstcue.training.loop import minibatches

train, held_out = garment_dominoes(0.95).rows(slice(0, 1500)), garment_dominoes(0.95, "held-out")
torch.manual_seed(0)
model = ViTForImageClassification(
    ViTConfig(
        image_size=(56, 28), patch_size=(14, 14), num_channels=1, num_labels=2,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    )
)  # fmt: skip

optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
model.train()
for batch in minibatches(train, 64, epochs=4):
    optimizer.zero_grad()
    model(pixel_values=batch.x, labels=batch.y).loss.backward()
    optimizer.step()

report = fc.audit(model, train, held_out=held_out, remedies=("erase",), effort="fast")
print(report.summary())
