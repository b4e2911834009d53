"""Three ensembles as people have them, each as one network: what it is worth beside its members.

    OMP_NUM_THREADS=1 python examples/ensembles.py

- *diabetes*: eight perceptrons of mixed widths for one number, on scikit-learn's table of 442 patients;
- *surrogate*: eight perceptrons for three numbers, in place of a slow function of eight inputs;
- *sequences*: five residual 1-D ConvNets that find which of four motifs a sequence of 64 letters has; the assembly is
  also asked for sequences of 32 and 128 letters, which neither it nor the members have been trained or fitted on.

Errors are to the ensemble on test rows, as shares of its variance (of numbers) or in nats (of classes); *worth* is the
number of members whose mean is as near.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs

Row = tuple[str, str, int, cs.Score | cs.RegressionScore, cs.Closeness | None]
MIXED = ((16, 12), (24, 16), (20, 20), (32, 16))
LENGTHS = (32, 64, 128)


class Residual(nn.Module):
    """A stem and two residual blocks over a sequence (n, 4, length) of any length; the mean over positions is read."""

    def __init__(self, width: int = 24, inner: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, width, 7, padding=3)
        self.blocks = nn.ModuleList()
        for _ in range(2):
            norms = nn.BatchNorm1d(inner), nn.BatchNorm1d(width)
            first, second = nn.Conv1d(width, inner, 5, padding=2), nn.Conv1d(inner, width, 5, padding=2)
            self.blocks.append(nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1]))
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.out(x.mean(2))


def trained(net: nn.Module, data: cs.Dataset, epochs: int, rate: float = 3e-3) -> nn.Module:
    """Stands for the training you have already done."""
    optimizer, n = torch.optim.Adam(net.parameters(), lr=rate), len(data)
    loss = functional.mse_loss if data.y.is_floating_point() else functional.cross_entropy
    for _ in range(epochs):
        for rows in torch.randperm(n).split(64):
            optimizer.zero_grad()
            loss(net(data.x[rows]), data.y[rows]).backward()
            optimizer.step()
    return net.eval()


def perceptron(inputs: int, widths: Sequence[int], outputs: int) -> nn.Module:
    sizes = [inputs, *widths]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))


def parts(x: Tensor, y: Tensor, n_train: int) -> tuple[cs.Dataset, cs.Dataset]:
    ids = torch.arange(len(x))
    return cs.Dataset(x[:n_train], y[:n_train], ids[:n_train]), cs.Dataset(x[n_train:], y[n_train:], ids[n_train:])


def diabetes() -> tuple[cs.Dataset, cs.Dataset]:
    table = load_diabetes()
    order = torch.randperm(len(table.data))
    x, y = (torch.tensor(values, dtype=torch.float32)[order] for values in (table.data, table.target))
    return parts(x / x.std(), ((y - y.mean()) / y.std()).unsqueeze(1), 300)


def surrogate(n: int = 3000) -> tuple[cs.Dataset, cs.Dataset]:
    x = torch.rand(n, 8)
    first = torch.sin(3 * x[:, 0] * x[:, 1]) + x[:, 2] ** 2
    second, third = torch.exp(-x[:, 3]) * torch.cos(4 * x[:, 4]), (x[:, 5] - x[:, 6]).abs() + 0.3 * x[:, 7]
    y = torch.stack([first, second, third], 1)
    return parts(x, (y - y.mean(0)) / y.std(0), n // 2)


def sequences(n: int = 3000, length: int = 64) -> tuple[cs.Dataset, cs.Dataset]:
    """Random letters with one of four motifs of seven letters, two of which are wrong, somewhere in the middle half."""
    motifs = torch.randint(4, (4, 7), generator=torch.Generator().manual_seed(1))
    letters, y = torch.randint(4, (n, length)), torch.randint(4, (n,))
    start = torch.randint(length // 4, 3 * length // 4 - 7, (n,))
    planted = motifs[y].clone()
    planted.scatter_(1, torch.rand(n, 7).argsort(1)[:, :2], torch.randint(4, (n, 2)))
    letters.scatter_(1, start[:, None] + torch.arange(7), planted)
    return parts(functional.one_hot(letters, 4).float().movedim(2, 1), y, 2 * n // 3)


def compared(
    name: str, nets: list[nn.Module], train: cs.Dataset, test: cs.Dataset, task: str, thorough: bool
) -> tuple[list[Row], nn.Module]:
    """The mean member, the ensemble and assemblies of one population, and the narrowest assembly."""
    population = cs.Population.from_modules(nets, train.x[:16], task=task)
    assembler = cs.Assembler(cs.Census(n_resamples=0).fit(population, train.x))
    best = "second-order" if train.x.dim() == 2 else "distill"
    correction = best if thorough else "least-squares"
    made = {width: assembler.assemble(width, correction=correction) for width in ("1x", "2x")}
    made["full"] = assembler.assemble("full")
    scores = [cs.evaluate(net, test) for net in nets]
    typical = sorted(range(len(nets)), key=lambda k: scores[k].quality)[len(nets) // 2]
    networks = {"median member": nets[typical], "ensemble": cs.Ensemble(population)}
    networks |= {f"assembly {width}": net for width, net in made.items()}
    rows = [
        (
            name,
            kind,
            sum(p.numel() for p in net.parameters()),
            cs.evaluate(net, test),
            cs.evaluate(net, test, population),
        )
        for kind, net in networks.items()
    ]
    return rows, made["1x"]


def main(epochs: int = 40, members: int = 8, thorough: bool = True) -> list[Row]:
    """Return and print the table; fewer epochs and members, and weaker corrections, are faster and worse."""
    torch.manual_seed(0)
    rows: list[Row] = []
    for name, (train, test) in (("diabetes", diabetes()), ("surrogate", surrogate())):
        widths = MIXED if name == "diabetes" else ((48, 32),)
        sizes = [widths[k % len(widths)] for k in range(members)]
        nets = [trained(perceptron(train.x.shape[1], size, train.y.shape[1]), train, epochs) for size in sizes]
        rows += compared(name, nets, train, test, "regression", thorough)[0]
    train, test = sequences()
    nets = [trained(Residual(), train, max(1, epochs // 8)) for _ in range(max(2, members - 3))]
    more, assembly = compared("sequences", nets, train, test, "classification", thorough)
    rows += more
    for length in LENGTHS:
        _, other = sequences(1500, length)
        score = cs.evaluate(lambda x: torch.stack([net(x) for net in nets]).mean(0), other)
        rows.append((f"{length} letters", "ensemble", 0, score, None))
        rows.append((f"{length} letters", "assembly 1x", 0, cs.evaluate(assembly, other), None))
    print("| data | network | parameters | R² or accuracy (%) | error to the ensemble | worth (members) |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, kind, size, score, near in rows:
        quality = f"{100 * score.quality:.1f} ± {100 * score.quality_se:.1f}"
        nearness = "| |" if near is None else f"{near.error:.2g} | {near.worth:.1f} |"
        print(f"| {name} | {kind} | {f'{size:,}' if size else ''} | {quality} | {nearness}")
    return rows


if __name__ == "__main__":
    main()
