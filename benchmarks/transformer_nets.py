"""Assemblies of transformers, against their members, published ways to merge them, and distillation.

    OMP_NUM_THREADS=1 python benchmarks/transformer_nets.py --data mnist.npz --text TRAIN.txt TEST.txt [--cache DIR]

Four members each, trained apart: a ViT on images, a GPT and a Llama-like network on characters. Calibration inputs are
unlabelled, and new to the members unless there are fewer than 20,000 images: 1,500 images, or 400 windows of the end of
the test text, of which the first 800 windows are the test. Accuracies in %, cross-entropies in nats. "clusters" takes
the census's own clusters; "assembly" is what `assemble` returns, whole members among its candidates. Nothing is chosen
on test rows.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import arguments, command, mean_with_error, measured, parse, publish, table
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs
from consilience import baselines
from consilience.seeds import INITIALISATION, seed
from consilience.training import Run, Training, fit_members
from consilience.training.fresh import initialise

POSITIONS, VOCABULARY, STEPS = 64, 80, 400
KINDS = {"vit": "ViT, images", "gpt": "GPT, characters", "llama": "Llama-like, characters"}
MEMBER, BEST, ENSEMBLE = "mean member", "best member", "ensemble"


@dataclass(frozen=True)
class Task:
    """A network to train, and rows."""

    net: nn.Module
    x: Tensor
    y: Tensor
    calibration: Tensor
    test_x: Tensor
    test_y: Tensor
    training: Training
    max_steps: int | None
    task: str


@dataclass(frozen=True)
class Row:
    """One network of one population."""

    kind: str
    seed: int
    method: str
    width: str
    accuracy: float
    loss: float
    parameters: float
    seconds: float


def images(file: Path, quick: bool) -> Task:
    """A ViT with 16 patches, of 7 × 7 for grey images of 28 × 28."""
    stored = np.load(file)
    given = [torch.tensor(stored[f"x_{part}"]) for part in ("train", "test")]
    channels = given[0].shape[1] if given[0].dim() == 4 and given[0].shape[1] in (1, 3) else 1
    size = math.isqrt(given[0][0].numel() // channels)
    x, test = (part.view(-1, channels, size, size).float() / (1 if part.is_floating_point() else 255) for part in given)
    y, test_y = (torch.tensor(stored[f"y_{part}"]).long() for part in ("train", "test"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    n, n_patches, sizes = 20_000, 4, {"width": 48, "heads": (4, 4), "mlp_widths": (128, 128)}
    if quick:
        n, n_patches, sizes = 150, 2, {"width": 8, "heads": (2,), "mlp_widths": (8,)}
    x, y, rest = x[order[:n]], y[order[:n]], x[order[n:] if len(x) > n else order][: 50 if quick else 1500]
    net = cs.ViT(channels, size, size // n_patches, 10, **sizes)
    training = Training(epochs=1 if quick else 5, batch_size=64, learning_rate=3e-3, schedule="cosine")
    return Task(net, x, y, rest, test, test_y, training, None, "classification")


def tokens(files: Sequence[Path], kind: str, quick: bool) -> Task:
    """A network for the next character, of the 79 commonest and one for all others."""
    texts = [file.read_text(encoding="utf-8") for file in files]
    numbers = {c: i + 1 for i, c in enumerate(sorted(c for c, _ in Counter(texts[0]).most_common(VOCABULARY - 1)))}
    windows = []
    for text in texts:
        ids = torch.tensor([numbers.get(c, 0) for c in text])
        m = (len(ids) - 1) // POSITIONS
        windows.append((ids[: m * POSITIONS].view(m, POSITIONS), ids[1 : m * POSITIONS + 1].view(m, POSITIONS)))
    (x, y), (test_x, test_y) = windows
    new = test_x[1000:] if len(test_x) > 1400 else x
    calibration = new[torch.randperm(len(new), generator=torch.Generator().manual_seed(5))[:400]]
    sizes = {"width": 64, "heads": (4, 4), "mlp_widths": (192, 192) if kind == "gpt" else (128, 128)}
    net = (cs.GPT if kind == "gpt" else cs.Llama)(VOCABULARY, POSITIONS, **sizes)
    steps = 20 if quick else {"gpt": 1200, "llama": 1480}[kind]
    training = Training(batch_size=16, learning_rate=4e-3, schedule="cosine")
    return Task(net, x, y, calibration, test_x[:800], test_y[:800], training, steps, "next-token")


def trained(task: Task, number: int, folder: Path | None, n: int = 4, *, same_start: bool = False) -> list[nn.Module]:
    """The members, from the folder if they are there."""
    if folder is not None and folder.exists():
        return [cs.load_network(folder / f"member-{k}") for k in range(n)]
    modules = [initialise(task.net, seed(number, INITIALISATION, 0 if same_start else k)) for k in range(n)]
    fitted = fit_members(modules, task.x, task.y, Run(task.training, number, task=task.task, max_steps=task.max_steps))
    for k, module in enumerate(modules):
        module.load_state_dict(fitted.states[k])
        if folder is not None:
            cs.save_network(module, folder / f"member-{k}")
    return [module.eval() for module in modules]


def outputs(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Outputs in batches."""
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(400)])


def rows_of(kind: str, number: int, task: Task, options: argparse.Namespace) -> Iterator[Row]:
    """Everything on one population."""
    n, same = options.members, options.same_start
    folder = options.cache and options.cache / "-".join([kind, str(number), *["same"] * same, *[str(n)] * (n != 4)])
    members = trained(task, number, folder, n, same_start=same)
    steps = {"steps": 5 if options.quick else STEPS}

    def row(method: str, width: str, out: Tensor, size: float = np.nan, seconds: float = np.nan) -> Row:
        loss = float(functional.cross_entropy(out.flatten(0, -2), task.test_y.flatten()))
        accuracy = 100 * float((out.argmax(-1) == task.test_y).double().mean())
        return Row(kind, number, method, width, accuracy, loss, size, seconds)

    def made(method: str, width: str, make: Callable[[], nn.Module], before: float = 0.0) -> Row:
        network, seconds, _ = measured(make)
        size = sum(parameter.numel() for parameter in network.parameters())
        return row(method, width, outputs(network, task.test_x), size, before + seconds)

    each = [outputs(member, task.test_x) for member in members]
    alone = [row(MEMBER, "1x", out) for out in each]
    size = sum(parameter.numel() for parameter in members[0].parameters())
    mean = [statistics.mean(getattr(one, name) for one in alone) for name in ("accuracy", "loss")]
    yield Row(kind, number, MEMBER, "1x", *mean, size, np.nan)
    best = min(alone, key=lambda one: one.loss)
    yield Row(kind, number, BEST, "1x", best.accuracy, best.loss, size, np.nan)
    yield row(ENSEMBLE, "full", torch.stack(each).mean(0), n * size)
    population = cs.Population.from_modules(members, task.calibration[:4], task=task.task)
    seen = {"calibration": task.calibration}
    yield made("parameter average", "1x", partial(cs.parameter_average, population))
    for name, method in (
        ("activation matching", baselines.activation_matching),
        ("orthogonal matching", baselines.orthogonal_matching),
    ):
        yield made(name, "1x", partial(method, population, **seen))
        yield made(f"{name}, our least squares", "1x", partial(method, population, correction="least-squares", **seen))
    transport = partial(baselines.transport_fusion, population, ground="activations", **seen)
    yield made("transport", "1x", partial(transport, correction="none"))
    fit = partial(cs.Census(n_resamples=0).fit, population, task.calibration)
    census, before, _ = measured(fit)
    assembler = cs.Assembler(census)
    for width in ("1x", "2x"):
        yield made("clusters", width, partial(assembler.assemble, width, choice="cut"), before)
        yield made("assembly", width, partial(assembler.assemble, width), before)
    yield made("assembly, full", "full", partial(assembler.assemble, "full"), before)
    if not options.no_steps:
        yield made("distilled member", "1x", partial(baselines.distil, population, start="member", **seen, **steps))
        for width in ("1x", "2x"):
            make = partial(assembler.assemble, width, correction="distill", **steps)
            yield made("assembly, distilled", width, make, before)


def main() -> None:
    parser = arguments(__doc__, data=True, seeds=3)
    parser.add_argument("--text", type=Path, nargs=2, metavar=("TRAIN", "TEST"), help="two texts, for tokens")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--cache", type=Path, help="where trained members are kept")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--same-start", action="store_true", help="members of one initialisation")
    parser.add_argument("--no-steps", action="store_true", help="no rows with gradient steps")
    options = parse(parser)
    rows: list[Row] = []
    for kind in options.kinds:
        if kind != "vit" and not options.text:
            parser.error(f"--text is needed for {kind}")
        task = images(options.data, options.quick) if kind == "vit" else tokens(options.text, kind, options.quick)
        for number in range(1 if options.quick else options.seeds):
            for row in rows_of(kind, number, task, options):
                rows.append(row)
                print(f"{kind} {number} {row.method} {row.width}: {row.accuracy:.2f} {row.loss:.4f} {row.seconds:.1f}")
    lines = [f"`{command(parser, options)}`", ""]
    for kind in options.kinds:
        own = [row for row in rows if row.kind == kind]
        ensemble = {row.seed: row for row in own if row.method == ENSEMBLE}
        cells = []
        for key in dict.fromkeys((row.method, row.width) for row in own):
            group = [row for row in own if (row.method, row.width) == key]
            gaps = [row.loss - ensemble[row.seed].loss for row in group]
            points = [row.accuracy - ensemble[row.seed].accuracy for row in group]
            seconds = statistics.median(row.seconds for row in group)
            shown = "" if np.isnan(seconds) else f"{seconds:.0f}"
            accuracy, loss = (mean_with_error([getattr(row, name) for row in group]) for name in ("accuracy", "loss"))
            gap = f"{statistics.mean(gaps):+.3f}"
            cells.append(
                [*key, accuracy, mean_with_error(points, "+"), loss, gap, f"{group[0].parameters:,.0f}", shown]
            )
        heads = ["method", "width", "accuracy", "to the ensemble", "loss", "to the ensemble", "parameters", "seconds"]
        lines += [f"## {KINDS[kind]}", "", *table(heads, cells, 2), ""]
    head = "# Assemblies of transformers\n\n" + __doc__.split("\n\n", 2)[2]
    publish(options, head, lines, rows)


if __name__ == "__main__":
    main()
