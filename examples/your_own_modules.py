"""Merge networks of your own class, of different widths: population, census, one network, and how good it is.

    python examples/your_own_modules.py

The class below is not known to consilience: its layers are found by tracing, and proved on its own forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs


class Net(nn.Module):
    """Two hidden layers, written by hand."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, first)
        self.second = nn.Linear(first, second)
        self.out = nn.Linear(second, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = functional.gelu(self.first(x))
        x = torch.tanh(self.second(x))
        return self.out(x)


def train_one(seed: int, data: cs.Data) -> Net:
    """Stands for the training you have already done, however you did it."""
    torch.manual_seed(seed)
    net = Net(first=20 + 4 * (seed % 3), second=16 + 2 * (seed % 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        rows = torch.randint(len(data.train), (128,))
        optimizer.zero_grad()
        functional.cross_entropy(net(data.train.x[rows]), data.train.y[rows]).backward()
        optimizer.step()
    return net


def main() -> dict[str, float]:
    """Return the test accuracy of the members, their ensemble and three assemblies."""
    data = cs.load_data("digits")
    nets = [train_one(seed, data) for seed in range(6)]

    population = cs.Population.from_modules(nets, example_input=data.train.x[:16])
    census = cs.Census(n_clusters="2x").fit(population, data.calibration.x)
    for name, layer in census.layers_.items():
        print(f"{name}: {len(layer.member)} units, most frequent cluster in {layer.frequency_[0]:.0%} of the members")

    accuracy = {
        "mean member": sum(cs.evaluate(net, data.test).accuracy for net in nets) / len(nets),
        "ensemble": cs.evaluate(cs.Ensemble(population), data.test).accuracy,
    }
    for width in ("1x", "2x", "full"):
        net = cs.assemble(census, width=width)  # a plain Net
        accuracy[f"assembly {width}"] = cs.evaluate(net, data.test).accuracy
    for name, value in accuracy.items():
        print(f"{name:<14} {100 * value:.2f} %")
    return accuracy


if __name__ == "__main__":
    main()
