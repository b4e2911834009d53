"""The populations that the benchmarks on images build on, trained once and kept as artefacts.

- A: N = 8, hidden layers 128-64, 5 epochs;
- B: N = 32, 64-32, 3 epochs: many narrow members;
- C: N = 10, 100, 10 epochs, each on its share of a Dirichlet(0.5) label skew (batch 32: shares are small);
- D: N = 12 of mixed widths, {48, 64, 96, 128} × {32, 48, 64}, 5 epochs;
- E: as A, with tanh.

All with Adam at 3e-3 and batches of 128 but for C. The seed splits the data, draws initial values and orders batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import consilience as cs


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


def obtain(name: str, data: cs.Data, seed: int, cache: Path) -> cs.Population:
    """Return a population, trained now or, where the cache has it, before.

    Parameters
    ----------
    name : of a recipe.
    data : training data; its name goes into the artefact's.
    seed : of the training.
    cache : directory of the artefacts.
    """
    directory = cache / f"{Path(data.name).stem}-{name}{seed}"
    if directory.exists():
        return cs.Population.load(directory)
    recipe = RECIPES[name]
    n_inputs = data.train.x[0].numel()
    nets = [cs.MLP(n_inputs, widths, data.n_classes, activation=recipe.activation) for widths in recipe.widths]
    population = cs.train_population(nets, data.train, recipe.n_members, training=recipe.training, random_state=seed)
    population.save(directory)
    return population
