"""The networks that `comparison.py` compares: Zhao's six, of two architectures, and thirty of five families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import consilience as cs
from consilience.data import Data, Dataset
from consilience.seeds import INITIALISATION
from consilience.seeds import seed as first_values
from consilience.training import Training
from consilience.training.fresh import initialise

LAYERS = ("conv1", "conv2", "fc1", "fc2")
SHUFFLED = "MLP, shuffled labels"
FAMILIES = ("MLP", "ConvNet", "ConvNet-BN", "tanh MLP", SHUFFLED)


class Net(nn.Module):
    """Two convolutions, each followed by relu and 2×2 max pooling, and two dense layers with relu before the readout.

    Parameters
    ----------
    image : (channels, side, side) of the inputs.
    kernel, padding : of both convolutions.
    widths : channels of the convolutions, then units of the dense layers.
    n_classes : outputs.
    """

    def __init__(
        self, image: tuple[int, int, int], kernel: int, padding: int, widths: tuple[int, int, int, int], n_classes: int
    ) -> None:
        super().__init__()
        channels, side, _ = image
        for _ in range(2):
            side = (side + 2 * padding - kernel + 1) // 2
        self.conv1 = nn.Conv2d(channels, widths[0], kernel, padding=padding)
        self.conv2 = nn.Conv2d(widths[0], widths[1], kernel, padding=padding)
        self.fc1 = nn.Linear(widths[1] * side**2, widths[2])
        self.fc2 = nn.Linear(widths[2], widths[3])
        self.readout = nn.Linear(widths[3], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in (self.conv1, self.conv2):
            x = torch.max_pool2d(torch.relu(convolution(x)), 2)
        x = x.flatten(1)
        for layer in (self.fc1, self.fc2):
            x = torch.relu(layer(x))
        outputs: Tensor = self.readout(x)
        return outputs


@dataclass(frozen=True)
class Group:
    """Networks of Zhao's six that are trained alike, from different initial values."""

    architecture: str
    n: int
    learning_rate: float
    momentum: float


GROUPS = (Group("A", 2, 0.02, 0.9), Group("A", 1, 0.01, 0.9), Group("A", 1, 0.05, 0.5), Group("B", 2, 0.02, 0.9))
ARCHITECTURES: dict[str, tuple[int, int, tuple[int, int, int, int]]] = {  # kernel, padding, widths
    "A": (5, 0, (8, 16, 64, 32)),
    "B": (3, 1, (8, 16, 96, 48)),
}


def source_networks(data: Data, train: Dataset, epochs: tuple[int, ...], seed: int) -> dict[int, list[nn.Module]]:
    """Train the networks and return them after each of these epochs, of which 0 is the first; A come before B."""
    assert data.image_shape is not None
    found: dict[int, list[nn.Module]] = {epoch: [] for epoch in epochs}
    for k, group in enumerate(GROUPS):
        net, own = Net(data.image_shape, *ARCHITECTURES[group.architecture], data.n_classes), 100 * seed + k
        training = Training(
            epochs=epochs[-1], batch_size=64, optimizer="sgd", learning_rate=group.learning_rate,
            momentum=group.momentum,
        )  # fmt: skip
        population = cs.train_population(
            net, train, group.n, training=training, random_state=own, checkpoint_epochs=epochs[1:]
        )
        found[0] += [initialise(net, first_values(own, INITIALISATION, member)) for member in range(group.n)]
        for epoch, snapshot in population.snapshots.items():
            found[epoch] += [member.module for member in snapshot]
    return found


def family_populations(
    data: Data, train: Dataset, epochs: int, n_members: int, seed: int
) -> Iterator[tuple[str, cs.Population]]:
    """Train the networks of each family; all have three hidden layers, hidden.0 to hidden.2, and the same training."""
    assert data.image_shape is not None
    channels, n_inputs, n_classes = data.image_shape[0], train.x[0].numel(), data.n_classes
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    nets: dict[str, nn.Module] = {
        "MLP": cs.MLP(n_inputs, [64, 64, 64], n_classes),
        "ConvNet": cs.ConvNet(channels, [8, 16, 32], n_classes),
        "ConvNet-BN": cs.ConvNet(channels, [8, 16, 32], n_classes, batch_norm=True),
        "tanh MLP": cs.MLP(n_inputs, [64, 64, 64], n_classes, activation="tanh"),
        SHUFFLED: cs.MLP(n_inputs, [64, 64, 64], n_classes),
    }
    for k, family in enumerate(FAMILIES):
        own = replace(train, y=train.y[order]) if family == SHUFFLED else train
        training = Training(epochs=epochs, batch_size=64, learning_rate=2e-3)
        yield (
            family,
            cs.train_population(nets[family], own, n_members, training=training, random_state=100 * seed + 10 + k),
        )
