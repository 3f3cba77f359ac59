"""Remove a concept from embeddings, check that it is gone, and see what a reader that is not linear still finds."""

import torch

import firstcue as fc

generator = torch.Generator().manual_seed(0)
z = torch.arange(3000) % 2
x = torch.randn(3000, 16, generator=generator)
x[:, 0] += 2 * z  # the concept in a mean
x[:, 1] *= 1 + z  # and in a variance

# statistics merge exactly: data may arrive in pieces, from several machines
by_class = fc.Moments.of_groups(x[:1000], z[:1000]).merge(fc.Moments.of_groups(x[1000:], z[1000:]))
eraser = fc.leace(by_class)
print({name: round(value, 4) for name, value in eraser.report(x, z).items() if isinstance(value, float)})

erased = eraser(x)
for name, rows in (("before", x), ("after", erased)):
    probe = fc.linear_probe(fc.Moments.of_groups(rows, z))
    strong = fc.strong_probe(rows, z)
    linear = (probe(rows).argmax(dim=1) == z).float().mean()
    print(f"{name}: linear {linear:.2f}, strong {strong.accuracy:.2f} ({strong.baseline:.2f} with shuffled labels)")

fc.save(eraser, "eraser.safetensors")
assert torch.equal(fc.load("eraser.safetensors")(x), erased)
