"""You have embeddings, labels, an attribute and the model's logits, but not the model."""

import torch

import firstcue as fc

generator = torch.Generator().manual_seed(0)


def hospital(n, agree):
    """Embeddings in which axis 0 shows the disease and axis 1 the scanner, which goes with it in a fraction of the rows."""
    disease = torch.arange(n) % 2
    scanner = torch.where(torch.rand(n, generator=generator) < agree, disease, 1 - disease)
    x = torch.randn(n, 32, generator=generator)
    x[:, 0] += 2 * disease - 1
    x[:, 1] += 4 * scanner - 2
    return x, disease, scanner


weights = torch.zeros(32, 2)
weights[0], weights[1] = torch.tensor([-1.0, 1.0]), torch.tensor([-1.5, 1.5])  # a head that leans on the scanner

x, disease, scanner = hospital(2000, agree=0.9)
new_x, new_disease, new_scanner = hospital(1000, agree=0.5)
report = fc.audit_embeddings(
    x,
    disease,
    {"scanner": scanner},
    outputs=x @ weights,
    held_out=(new_x, new_disease, {"scanner": new_scanner}, new_x @ weights),
    remedies=("last-layer", "erase"),
    effort="fast",
)
print(report.summary())
assert report.verdict == "shortcut"
