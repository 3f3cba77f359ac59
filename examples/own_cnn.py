"""Your own network and your own loaders: is it the garment that decides, or the mark of the camera?"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import firstcue as fc
from firstcue.data import shipped


class Net(nn.Module):
    """Any module that returns logits; its last linear layer is found by looking."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, stride=2), nn.Conv2d(8, 16, 3, stride=2)
        self.hidden, self.out = nn.Linear(16 * 6 * 6, 32), nn.Linear(32, 2)

    def forward(self, x):
        x = self.conv2(self.conv1(x).relu()).relu().flatten(1)
        return self.out(self.hidden(x).relu())


def set_mark(images, camera):
    """The same images as the other camera would mark them: this is what makes the evidence strong."""
    images = images.clone()
    images[:, :, :3, :3], images[:, :, :3, -3:] = 0, 0
    images[:, :, :3, -3:] = camera
    images[:, :, :3, :3] = 1 - camera
    return images


def marked(images, strength, seed):
    """Camera 0 marks the left corner, camera 1 the right one; it goes with the garment in `strength` of the rows."""
    generator = torch.Generator().manual_seed(seed)
    camera = torch.where(torch.rand(len(images), generator=generator) < strength, images.y, 1 - images.y)
    x = torch.where(camera[:, None, None, None] == 1, set_mark(images.x, 1), set_mark(images.x, 0))
    return TensorDataset(x, images.y, camera)


images = shipped()  # photographs of pullovers and coats, 28 x 28
train = DataLoader(marked(images.rows(slice(0, 2000)), 0.95, seed=0), batch_size=64, shuffle=True)
held_out = DataLoader(marked(images.rows(slice(2000, 3000)), 0.5, seed=1), batch_size=256)

torch.manual_seed(0)
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(3):
    for x, y, _ in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

report = fc.audit(
    model, train, attribute="camera", held_out=held_out, edit=set_mark, remedies=("erase",), effort="fast"
)
print(report.summary())
report.save_html("report.html")
