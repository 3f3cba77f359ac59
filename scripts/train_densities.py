"""Train the densities that firstcue ships: gray28 and gray28-glow, from a fixed seed, within 15 minutes of one core each.

Needs `sudo apt-get install dataset-fashion-mnist`. Every image is drawn anew from

    garments    Fashion-MNIST's training file without the 6,000 pullovers and coats that firstcue ships (MIT licence)
    digits      the first 70 % of scikit-learn's handwritten digits, enlarged (CC BY 4.0)
    photographs the left 70 % of scikit-learn's two photographs, in patches (CC BY 2.0)
    synthetic   constants, ramps, noise of every contrast

with contrasts lowered towards the background, inversions and blurs among them, so that a low number of bits means simple
and not merely familiar. In a second phase the learning rate falls, and garments and digits are moved by up to two pixels: enlarged digits always
sit alike on the grid, and a flow may learn that. The weights that did best on 500 held-out draws are stored in 16 bits, with a card that says what they
were made of, and the answers of `release_gate`; the script ends with 1 if a demand of the gate is not met.

    python scripts/train_densities.py gray28 [--checkpoint FILE]
    python scripts/train_densities.py gray28-glow
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from firstcue.data.garments import fashion_mnist
from firstcue.data.images import shipped
from firstcue.simplicity import _pictures as pictures
from firstcue.simplicity import loading
from firstcue.simplicity._fit_network import Plan, State, fit_network
from firstcue.simplicity.autoregressive import PixelAR
from firstcue.simplicity.density import bits
from firstcue.simplicity.gates import Gate, release_gate
from firstcue.simplicity.glow import ImageGlow
from firstcue.simplicity.loading import load_density, save_density

SEED = 20211
SIZE = pictures.SIZE
WEIGHTS = Path(loading.__file__).parent / "weights"


def garments_to_learn() -> Tensor:
    """Fashion-MNIST's training images except those that firstcue ships."""
    data = fashion_mnist("train")
    ours = {row.tobytes() for row in (shipped().x * 255).round().byte().numpy()}
    grey = (data.x * 255).round().byte().numpy() if float(data.x.max()) <= 1 else data.x.byte().numpy()
    kept = torch.tensor([row.tobytes() not in ours for row in grey])
    return torch.from_numpy(grey)[kept]


def uniform(shape: tuple[int, ...], generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def rows(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return images[torch.randint(0, len(images), (count,), generator=generator)]


def changed(x: Tensor, background: Tensor, generator: torch.Generator) -> Tensor:
    """Half as they are; the rest with less contrast, inverted, brighter or darker, or blurred."""
    n = len(x)
    fate = torch.rand(n, generator=generator).view(-1, 1, 1, 1)
    less = pictures.contrasted(x, uniform((n, 1, 1, 1), generator), background)
    spread = uniform((n, 1, 1, 1), generator)
    moved = x * spread + (1 - spread) * uniform((n, 1, 1, 1), generator)
    x = torch.where(fate < 0.2, less, x)
    x = torch.where((fate >= 0.2) & (fate < 0.3), 1 - x, x)
    x = torch.where((fate >= 0.3) & (fate < 0.4), moved, x)
    blur = int(torch.randint(0, n, (), generator=generator))
    sigma = float(uniform((), generator, 0.3, 3.0))
    count = max(1, n // 5)
    chosen = (torch.arange(count) + blur) % n
    x[chosen] = pictures.blurred(x[chosen], sigma)
    return x


class Mix:
    """Draws training images: the share of every kind is fixed, each batch is shuffled by the loss alone."""

    def __init__(self, moving: bool) -> None:
        self.moving = moving
        self.garments = garments_to_learn()
        self.digits = pictures.smooth_digits("train")

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        share = {name: max(1, round(count * part)) for name, part in SHARES.items()}
        parts = [MAKERS[name](self, share[name], generator) for name in SHARES]
        return torch.cat(parts).clamp(0, 1)

    def some_garments(self, n: int, generator: torch.Generator) -> Tensor:
        x = self.moved(rows(self.garments, n, generator).float() / 255, generator)
        return changed(x, torch.zeros(()), generator)

    def some_digits(self, n: int, generator: torch.Generator) -> Tensor:
        return changed(self.moved(rows(self.digits, n, generator), generator), torch.zeros(()), generator)

    def moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Each image by up to two pixels in both directions."""
        if not self.moving:
            return x
        places = torch.randint(-MOST_MOVED, MOST_MOVED + 1, (len(x), 2), generator=generator).tolist()
        return torch.stack([pictures.shifted(row, *place) for row, place in zip(x, places, strict=True)])

    def some_patches(self, n: int, generator: torch.Generator) -> Tensor:
        x = pictures.patches(n, generator, "train")
        if float(torch.rand((), generator=generator)) < 0.5:
            x = x.flip(3)
        return changed(x, x.mean((1, 2, 3), keepdim=True), generator)

    def some_noise(self, n: int, generator: torch.Generator) -> Tensor:
        contrast = uniform((n, 1, 1, 1), generator) ** 2
        x = pictures.noise(n, generator, SIZE, contrast)
        x[: n // 2] = pictures.noise(n // 2, generator, SIZE)
        room = (1 - contrast) / 2
        x[n // 2 :] += (2 * uniform((n, 1, 1, 1), generator) - 1)[n // 2 :] * room[n // 2 :]
        return x


MOST_MOVED = 2
SHARES = {"garments": 0.3, "digits": 0.1, "patches": 0.32, "constants": 0.06, "ramps": 0.13, "noise": 0.09}
MAKERS: dict[str, Callable[[Mix, int, torch.Generator], Tensor]] = {
    "garments": Mix.some_garments,
    "digits": Mix.some_digits,
    "patches": Mix.some_patches,
    "constants": lambda _, n, generator: pictures.constants(n, generator),
    "ramps": lambda _, n, generator: pictures.ramps(n, generator),
    "noise": Mix.some_noise,
}


@dataclass(frozen=True)
class Recipe:
    """How a density is made."""

    density: Callable[[], PixelAR | ImageGlow]
    lr: float
    about: str


RECIPES = {
    "gray28": Recipe(lambda: PixelAR(seed=SEED), 2e-3, "Autoregressive density of grey images: exact bits, a bits map."),
    "gray28-glow": Recipe(
        lambda: ImageGlow((1, SIZE, SIZE), depth=8, scales=2, hidden=48, seed=SEED), 1e-3,
        "Flow of grey 28 x 28 images: an inverse, bits averaged over dequantisation noise.",
    ),
}  # fmt: skip
BATCH = 32
PHASES = ((3000, 0.0, False), (3900, 0.2, True))
"""Steps at the end of each phase, the share of them over which the learning rate falls, and whether digits and garments move."""
DATA = [
    {
        "name": "Fashion-MNIST, training file without the 6,000 images that firstcue ships",
        "licence": "MIT, Copyright (c) 2017 Zalando SE",
        "source": "https://arxiv.org/abs/1708.07747",
    },
    {
        "name": "Optical Recognition of Handwritten Digits, first 70 % of the 1,797 that scikit-learn ships, enlarged to 28 x 28",
        "licence": "CC BY 4.0, E. Alpaydin and C. Kaynak",
        "source": "https://doi.org/10.24432/C50P49",
    },
    {
        "name": "scikit-learn's sample photographs china.jpg (danielbuechele) and flower.jpg (vultilion), left 70 %, in grey",
        "licence": "CC BY 2.0",
        "source": "https://www.flickr.com/photos/danielbuechele/6061409035, https://www.flickr.com/photos/vultilion/6056698931",
    },
    {"name": "constants, ramps and noise", "licence": "made by the script", "source": "scripts/train_densities.py"},
]


def finished(density: PixelAR | ImageGlow, name: str, state: State) -> Gate:
    """Store the weights in 16 bits with a card of what was measured with the stored weights."""
    path = WEIGHTS / f"{name}.safetensors"
    recipe = RECIPES[name]
    card: dict[str, Any] = {
        "name": name, "about": recipe.about, "data": DATA, "shares": SHARES, "seed": SEED, "steps": state.best_step,
        "batch_size": BATCH, "lr": recipe.lr, "levels": 256, "range": "[0, 1]", "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in density.parameters()),
        "licence": "Apache-2.0, as firstcue", "script": "scripts/train_densities.py",
    }  # fmt: skip
    stored = load_density(save_density(density, path, card, half=True))
    gate = release_gate(stored)
    card["held_out_bits_per_value"] = {kind: round(value, 3) for kind, value in held_out_bits(stored).items()}
    card["gate"] = [{**row, "value": round(row["value"], 4)} for row in gate.to_rows()]
    card["gate_bits_per_value"] = {kind: round(value, 3) for kind, value in gate.bits_per_value.items()}
    card["gate_passed"] = gate.passed
    save_density(density, path, card, half=True)
    return gate


def held_out_bits(density: Any) -> dict[str, float]:
    """Mean bits per value of images that the density has not learnt from."""
    images = {
        "Fashion-MNIST, test file": fashion_mnist("test").x[:1000],
        "digits": pictures.smooth_digits("test"),
        "patches": pictures.patches(500, torch.Generator().manual_seed(SEED + 2), "test"),
    }
    return {kind: float(bits(density, x).mean()) / SIZE**2 for kind, x in images.items()}


def main() -> None:
    """Train, or go on from a checkpoint, and store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--checkpoint", type=Path, help="to go on from, and to keep the run in")
    asked = parser.parse_args()
    recipe, held_out = RECIPES[asked.name], Mix(moving=True)(500, torch.Generator().manual_seed(SEED + 1))
    density = recipe.density()
    with TemporaryDirectory() as folder:
        for steps, falling, moving in PHASES:
            plan = Plan(asked.name, density.config, None, steps, BATCH, recipe.lr, SEED, falling)
            path = asked.checkpoint or Path(folder) / "run.safetensors"
            state = fit_network(density, Mix(moving), held_out, plan, checkpoint=path, progress=told)
    gate = finished(density, asked.name, state)
    print(gate)
    sys.exit(0 if gate.passed else 1)


def told(stage: str, done: float) -> None:
    print(f"{done:.0%} {stage}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
