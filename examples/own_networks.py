"""Merge residual networks of your own class, from a folder of checkpoints: census, one network, and how good it is.

    python examples/own_networks.py

Nothing tells consilience what a residual connection or a batch norm is to this class: its layers are found by tracing,
and proved on its own forward pass. `consilience inspect examples.own_networks:Net --example-shape 1,8,8` shows them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs


class Net(nn.Module):
    """A small residual network for images of one channel."""

    def __init__(self, width: int = 8, inner: int = 8) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.norm1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.out = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        inner = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(x + self.norm2(self.conv2(inner)))
        return self.out(functional.adaptive_max_pool2d(x, 2).flatten(1))


def train_one(seed: int, data: cs.Data) -> Net:
    """Stands for the training you have already done, however you did it."""
    torch.manual_seed(seed)
    net = Net(width=8 + 2 * (seed % 3), inner=6 + 2 * (seed % 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(100):
        rows = torch.randint(len(data.train), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(net(data.train.x[rows]), data.train.y[rows]).backward()
        optimizer.step()
    return net


def main() -> dict[str, float]:
    """Return the test accuracy of the members, their ensemble and three assemblies."""
    data = cs.load_data("digits")
    with TemporaryDirectory() as folder:
        for seed in range(4):
            torch.save(train_one(seed, data).state_dict(), Path(folder, f"{seed}.pt"))
        population = cs.Population.from_directory(folder, Net, example_input=data.train.x[:16])
    census = cs.Census().fit(population, data.calibration.x)
    for name, layer in census.layers_.items():
        print(f"{name}: {len(layer.member)} units, most frequent cluster in {layer.frequency_[0]:.0%} of the members")

    members = [cs.evaluate(member.module, data.test).accuracy for member in population]
    accuracy = {
        "mean member": sum(members) / len(members),
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
