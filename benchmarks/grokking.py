"""Modular addition, grokked by a one-layer transformer, plain and with the loss of cross-cluster modularity.

    OMP_NUM_THREADS=1 python benchmarks/grokking.py --out docs/results/grokking.md

- Inputs are ``a b =``, targets ``(a + b) mod p``; all p² pairs, of which a share is trained on. The stream has 128
  numbers; 4 heads of 32, 128 relu units, no norms, no biases of attention (Nanda et al. 2023; Golechha et al. 2025).
- Module i is head i, the ith quarter of the stream and of the MLP units. The loss is the mean enmeshment of the six
  matrices Q, K, V, O, W_in and W_out. The embeddings and the readout are free.
- A module is removed where nothing reads its part of the stream, its head and its MLP units; alone, where the others
  are removed.
- ``--parts small`` has p = 53, which takes a minute for each network; ``--parts published`` has p = 113.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from harness import Part, arguments, mean_with_error, met, run, table
from torch import Tensor, nn

from consilience.modularity import MatrixClusterLoss, Penalty, contiguous, matrix_modularity
from consilience.nets.blocks import Attention, Block, FeedForward, Positions
from consilience.seeds import generator, global_seed
from consilience.training import Run, Training, fit_members

WIDTH, HEADS, MLP = 128, 4, 128
QUARTERS = contiguous(WIDTH, HEADS)
SIX = {f"block.attention.{part}.weight": (QUARTERS, QUARTERS) for part in "qkvo"} | {
    "block.mlp.up.weight": (contiguous(MLP, HEADS), QUARTERS),
    "block.mlp.down.weight": (QUARTERS, contiguous(MLP, HEADS)),
}
NAMES = ("Q", "K", "V", "O", "W_in", "W_out")
PLAIN, MODULAR = "plain", "with the loss"
GROKKED = 0.99  # test accuracy
UNUSED = 0.5  # points that a network may lose without a module that it does not use
ACCURACIES = """Accuracy in %, on the pairs held out and on all p²; the first step, of every 100, at which 99 % of those
held out are right; C of each matrix."""
MODULES = """Accuracy on all pairs with module 0, 1, 2 or 3 removed, and with it alone; the strongest frequency of each
module's part of the embedding, with its share of the power. Published for one network with the loss, p = 113:
33.0 / 71.5 / 40.7 / 75.0 removed, 9.4 / 1.9 / 8.1 / 4.5 alone, C = 1.0000, 99.99 % of all pairs."""


class Adder(nn.Module):
    """One block on three positions; the last one is read."""

    def __init__(self, p: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(p + 1, WIDTH)
        self.positions = Positions(3, WIDTH)
        attention = Attention(WIDTH, HEADS, WIDTH // HEADS, causal=True, bias=False)
        self.block = Block((nn.Identity(), nn.Identity()), attention, FeedForward(WIDTH, MLP, "relu"))
        self.readout = nn.Linear(WIDTH, p, bias=False)
        nn.init.normal_(self.tokens.weight, std=WIDTH**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.readout(self.block(self.positions(self.tokens(x)))[:, -1])
        return outputs


class TableAdder(Adder):
    """The same function, with keys and values of each token computed once, not for each pair: 7 times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        attention, places = self.block.attention, torch.arange(3)
        stream = self.tokens.weight[:, None] + self.positions.weight  # (p + 1, 3, d): each token at each position
        query = attention.q(stream[-1, 2]).view(HEADS, -1)
        keys, values = (part(stream).unflatten(-1, (HEADS, -1)) for part in (attention.k, attention.v))
        scores = (keys * query).sum(-1) / math.sqrt(WIDTH // HEADS)
        weights = scores[x, places].softmax(1)  # (n, 3, h)
        last = stream[-1, 2] + attention.o((weights.unsqueeze(-1) * values[x, places]).sum(1).flatten(1))
        outputs: Tensor = self.readout(last + self.block.mlp(last))
        return outputs


@dataclass(frozen=True)
class Row:
    """One network; accuracies in %."""

    training: str
    p: int
    seed: int
    steps: int  # the first, of every 100, at which 99 % of the test pairs were right; 0 for never
    test: float
    all_pairs: float
    loss: float  # on all pairs
    c: tuple[float, ...]  # of the six matrices
    c_free: tuple[float, ...]  # of embedding and readout, whose columns have clusters alone
    removed: tuple[float, ...]  # all pairs, without module i
    alone: tuple[float, ...]
    frequencies: tuple[int, ...]  # strongest of each module's part of the embedding
    shares: tuple[float, ...]  # of that frequency in the power of the part
    seconds: float  # for all networks of this training, divided by their number


def pairs(p: int) -> tuple[Tensor, Tensor]:
    """All inputs (p², 3) and sums (p²,)."""
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    return torch.stack([a, b, torch.full_like(a, p)], 1), (a + b) % p


def without(net: nn.Module, modules: Sequence[int]) -> nn.Module:
    """A copy of which nothing reads what belongs to these modules."""
    net = copy.deepcopy(net)
    off = {name: np.isin(columns, modules) for name, (_, columns) in SIX.items()}
    off["readout.weight"] = np.isin(QUARTERS, modules)
    with torch.no_grad():
        for name, columns in off.items():
            net.get_parameter(name)[:, torch.from_numpy(columns)] = 0
    return net


def percent(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((net(x).argmax(1) == y).double().mean())


def strongest(embedding: Tensor) -> tuple[int, float]:
    """The strongest frequency of an embedding (p, d), and its share of the power."""
    power = np.square(np.abs(np.fft.rfft(embedding.detach().double().numpy(), axis=0)[1:])).sum(1)
    return 1 + int(power.argmax()), float(power.max() / power.sum())


@dataclass(frozen=True)
class Size:
    """A problem, and how long it is trained on."""

    p: int
    share: float  # of the pairs that are trained on
    steps: int
    interval: int = 100


SIZES = {"small": Size(53, 0.5, 2500), "published": Size(113, 0.3, 4000)}


def rows(size: Size, options: argparse.Namespace) -> Iterator[Row]:
    size = Size(11, 0.5, 20, 10) if options.quick else size
    p, steps = size.p, size.steps
    x, y = pairs(p)
    for kind in (PLAIN, MODULAR):
        for seed in range(options.seeds):
            order = torch.randperm(len(x), generator=generator(seed))
            trained, held_out = order.tensor_split([round(size.share * len(x))])
            with global_seed(seed):
                net, fast = Adder(p), TableAdder(p)
            fast.load_state_dict(net.state_dict())
            callbacks = [Penalty(MatrixClusterLoss(SIX), options.strength)] if kind == MODULAR else []
            training = Training(
                batch_size=len(trained),
                optimizer="adamw",
                learning_rate=options.learning_rate,
                weight_decay=options.weight_decay,
            )
            epochs = tuple(range(size.interval, steps + 1, size.interval))
            recipe = Run(training, seed, max_steps=steps, callbacks=callbacks, snapshot_epochs=epochs)
            began = time.perf_counter()
            result = fit_members([fast], x[trained], y[trained], recipe)
            seconds = time.perf_counter() - began
            curve = {}
            for epoch, states in {**result.snapshots, steps: result.states}.items():
                net.load_state_dict(states[0])
                curve[epoch] = percent(net, x[held_out], y[held_out])
            yield measure(net, Found(kind, p, seed, curve, seconds), x, y)


@dataclass(frozen=True)
class Found:
    """What is known of a network from its training."""

    training: str
    p: int
    seed: int
    curve: Mapping[int, float]  # step → test accuracy
    seconds: float


def measure(net: nn.Module, found: Found, x: Tensor, y: Tensor) -> Row:
    """The network as it is at the end."""
    grokked = [step for step, accuracy in found.curve.items() if accuracy >= 100 * GROKKED]
    parts = net.get_parameter("tokens.weight")[: found.p].split(WIDTH // HEADS, dim=1)
    frequencies, shares = zip(*map(strongest, parts), strict=True)
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(net(x).double(), y))
    ends = {"tokens.weight": (contiguous(found.p + 1, HEADS), QUARTERS)}
    ends["readout.weight"] = contiguous(found.p, HEADS), QUARTERS
    others = [[other for other in range(HEADS) if other != module] for module in range(HEADS)]
    return Row(
        training=found.training,
        p=found.p,
        seed=found.seed,
        steps=min(grokked, default=0),
        test=list(found.curve.values())[-1],
        all_pairs=percent(net, x, y),
        loss=loss,
        c=tuple(matrix_modularity(net, SIX).values()),
        c_free=tuple(matrix_modularity(net, ends).values()),
        removed=tuple(percent(without(net, [module]), x, y) for module in range(HEADS)),
        alone=tuple(percent(without(net, rest), x, y) for rest in others),
        frequencies=frequencies,
        shares=shares,
        seconds=found.seconds,
    )


def text(rows: Sequence[Row]) -> Iterator[str]:
    yield ACCURACIES
    yield ""
    heads = ("training", "seed", "test", "all pairs", "loss", "99 % at step", *NAMES, "embedding", "readout", "seconds")
    yield from table(heads, [_first(row) for row in rows], 2)
    yield ""
    yield MODULES
    yield ""
    heads = ("training", "seed", "removed", "alone", "frequencies")
    yield from table(heads, [_second(row) for row in rows], 2)
    yield ""
    modular = [row for row in rows if row.training == MODULAR]
    lowest, worst = min(min(row.c) for row in modular), min(row.test for row in modular)
    verdict = met(lowest >= 0.99 and worst >= 99)
    yield f"C ≥ 0.99 on all six matrices at ≥ 99 % accuracy, in all networks with the loss: {verdict}"
    yield f"(lowest C {lowest:.4f}, lowest accuracy on the pairs held out {worst:.2f} %)."
    unused = sum(max(row.removed) >= row.all_pairs - UNUSED for row in modular)
    yield ""
    yield f"Networks with the loss that do not use one of their four modules: {unused} of {len(modular)}."
    for kind in (PLAIN, MODULAR):
        of_kind = [row for row in rows if row.training == kind]
        means = [
            mean_with_error([statistics.mean(getattr(row, name)) for row in of_kind]) for name in ("removed", "alone")
        ]
        yield ""
        yield f"{kind.capitalize()}: mean accuracy {means[0]} % with one module removed, {means[1]} % with one alone."
    yield ""


def _first(row: Row) -> list[str]:
    accuracies = [f"{row.test:.2f}", f"{row.all_pairs:.2f}", f"{row.loss:.1e}", str(row.steps or "never")]
    modularity = [f"{value:.4f}" for value in row.c] + [f"{value:.3f}" for value in row.c_free]
    return [row.training, str(row.seed), *accuracies, *modularity, f"{row.seconds:.0f}"]


def _second(row: Row) -> list[str]:
    removed, alone = (" / ".join(f"{value:.1f}" for value in values) for values in (row.removed, row.alone))
    found = zip(row.frequencies, row.shares, strict=True)
    return [row.training, str(row.seed), removed, alone, ", ".join(f"{k} ({share:.2f})" for k, share in found)]


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--strength", type=float, default=20.0, help="weight of the loss of modularity, 20 by default")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of AdamW, 3e-3 by default")
    parser.add_argument("--weight-decay", type=float, default=1.0, help="of AdamW, 1 by default")
    parts = {
        name: Part(
            f"p = {size.p}, {size.share:.0%} of the pairs, {size.steps} steps", partial(rows, size), text, row=Row
        )
        for name, size in SIZES.items()
    }
    run("Modular addition", parts, parser)


if __name__ == "__main__":
    main()
