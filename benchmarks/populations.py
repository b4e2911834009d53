"""The populations that the benchmarks on images build on, trained once and kept as artefacts.

- A: N = 8, hidden layers 128-64, 5 epochs;
- B: N = 32, 64-32, 3 epochs: many narrow members;
- C: N = 10, 100, 10 epochs, each on its share of a Dirichlet(0.5) label skew (batch 32: shares are small);
- D: N = 12 of mixed widths, {48, 64, 96, 128} × {32, 48, 64}, 5 epochs;
- E: as A, with tanh.

All with Adam at 3e-3 and batches of 128 but for C. The seed splits the data, draws initial values and orders batches.

`CONVOLUTIONAL` has networks with convolutions and batch norm, for images in colour and for grey ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

import consilience as cs
from consilience.seeds import INITIALISATION
from consilience.seeds import seed as first_values
from consilience.training import Run, fit_members
from consilience.training.fresh import initialise
from consilience.training.train import N_EXAMPLES


@dataclass(frozen=True)
class Recipe:
    """How a population is trained.

    Attributes
    ----------
    widths : hidden layers of each member; one entry where all are alike.
    n_members, training, activation : as in `consilience.train_population`.
    """

    widths: Sequence[Sequence[int]]
    n_members: int
    training: cs.Training
    activation: str = "relu"


MIXED = [(first, second) for second in (32, 48, 64) for first in (48, 64, 96, 128)]
FIVE_EPOCHS = cs.Training(epochs=5, learning_rate=3e-3)
RECIPES = {
    "A": Recipe([(128, 64)], 8, FIVE_EPOCHS),
    "B": Recipe([(64, 32)], 32, cs.Training(epochs=3, learning_rate=3e-3)),
    "C": Recipe([(100,)], 10, cs.Training(epochs=10, learning_rate=3e-3, batch_size=32, subset="dirichlet")),
    "D": Recipe(MIXED, 12, FIVE_EPOCHS),
    "E": Recipe([(128, 64)], 8, FIVE_EPOCHS, "tanh"),
}


@dataclass(frozen=True)
class Convolutional:
    """How a population of networks with convolutions is trained.

    Attributes
    ----------
    depth : blocks per stage of a `consilience.ResNet`; 0 for a `consilience.ConvNet`.
    widths : channels of each convolution or stage.
    epochs : with batches of 64, at the rate and then at a tenth of it; without the second part, members are noisy.
    rate : learning rate of Adam.
    n_members : how many.
    """

    depth: int
    widths: tuple[int, ...]
    epochs: tuple[int, int]
    rate: float = 1e-3
    n_members: int = 8

    def net(self, n_channels: int, n_classes: int) -> nn.Module:
        """Return a network."""
        if self.depth:
            return cs.ResNet(n_channels, self.widths, n_classes, blocks_per_stage=self.depth)
        return cs.ConvNet(n_channels, self.widths, n_classes, batch_norm=True)


CACHE = Path("runs/populations")  # where trained populations are kept by default
COLOUR, GREY = "colour", "grey"
CONVOLUTIONAL = {
    ("ConvNet", COLOUR): Convolutional(0, (16, 32, 64), (12, 3)),
    ("ResNet-8", COLOUR): Convolutional(1, (8, 16, 32), (8, 2)),
    ("ResNet-14", COLOUR): Convolutional(2, (8, 16, 32), (8, 2)),
    ("ConvNet", GREY): Convolutional(0, (8, 16, 32), (1, 1), rate=3e-3),
    ("ResNet-8", GREY): Convolutional(1, (8, 16, 32), (1, 1), rate=3e-3),
    ("ResNet-14", GREY): Convolutional(2, (8, 16, 32), (1, 1), rate=3e-3),
}


def obtain(name: str, data: cs.Data, seed: int, cache: Path, quick: bool = False) -> cs.Population:
    """Return a population, trained now or, where the cache has it, before.

    Parameters
    ----------
    name : of a recipe.
    data : training data; its name goes into the artefact's.
    seed : of the training.
    cache : directory of the artefacts.
    quick : five narrow members and one epoch.
    """
    recipe, n_inputs = RECIPES[name], data.train.x[0].numel()
    if quick:
        narrow = [tuple(max(4, width // 8) for width in widths) for widths in recipe.widths]
        recipe = replace(recipe, widths=narrow, n_members=5, training=replace(recipe.training, epochs=1))
    nets = [cs.MLP(n_inputs, widths, data.n_classes, activation=recipe.activation) for widths in recipe.widths]
    return _kept(
        cache / f"{Path(data.name).stem}-{name}{seed}{'-quick' * quick}",
        lambda: cs.train_population(nets, data.train, recipe.n_members, training=recipe.training, random_state=seed),
    )


def obtain_convolutional(
    name: str, recipe: Convolutional, data: cs.Data, seed: int, cache: Path, device: str = "cpu"
) -> cs.Population:
    """Return a population, trained now or, where the cache has it, before.

    Parameters
    ----------
    name : of the recipe; with its widths, epochs, rate and members, a part of the artefact's.
    recipe : how it is trained.
    data, seed, cache : as in `obtain`.
    device : where members are trained; all else is on the CPU.
    """
    net = recipe.net(data.image_shape[0], data.n_classes)
    stages = [
        cs.Training(epochs=epochs, batch_size=64, learning_rate=rate)
        for epochs, rate in zip(recipe.epochs, (recipe.rate, recipe.rate / 10), strict=True)
    ]

    def train() -> cs.Population:
        modules = [initialise(net, first_values(seed, INITIALISATION, k)).to(device) for k in range(recipe.n_members)]
        for training in stages:
            trained = fit_members(modules, data.train.x, data.train.y, Run(training, seed))
            for module, state in zip(modules, trained.states, strict=True):
                module.load_state_dict(state)
        return cs.Population.from_modules(
            [module.cpu() for module in modules], data.train.x[:N_EXAMPLES], metrics=trained.metrics,
            task="classification",
            provenance={"random_state": seed, "training": [asdict(training) for training in stages]},
        )  # fmt: skip

    widths, epochs = "x".join(map(str, recipe.widths)), "+".join(map(str, recipe.epochs))
    parts = Path(data.name).stem, name, widths, f"{epochs}epochs", f"{recipe.rate:g}", recipe.n_members, f"seed{seed}"
    return _kept(cache / "-".join(map(str, parts)), train)


def _kept(directory: Path, train: Callable[[], cs.Population]) -> cs.Population:
    if directory.exists():
        return cs.Population.load(directory)
    population = train()
    population.save(directory)
    return population
