"""Assemblies of transformers, against their members, published ways to merge them, and distillation.

    OMP_NUM_THREADS=1 python benchmarks/transformer_nets.py --data mnist.npz --text TRAIN.txt TEST.txt [--cache DIR]

Members trained apart: a ViT on images, a GPT and a Llama-like network on characters. Calibration inputs are
unlabelled, and new to the members unless there are fewer than 20,000 images: 1,500 images, or 400 windows of the end of
the test text, of which the first 800 windows are the test. Accuracies in %, cross-entropies in nats. "clusters" takes
the census's own clusters; "assembly" is what `assemble` returns, whole members among its candidates. Nothing is chosen
on test rows. "large" measures the time and memory of networks of the size of GPT-2 small, drawn at random
(`pip install 'consilience[hf]'`).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from harness import Part, arguments, mean_with_error, measured, met, resident, run, table
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
    seconds: float = math.nan  # of a member or the ensemble, which are there already


def images(file: Path, quick: bool) -> Task:
    """A ViT with 16 patches, of 7 × 7 for grey images of 28 × 28."""
    stored = np.load(file)
    given = [torch.tensor(stored[f"x_{part}"]) for part in ("train", "test")]
    if given[0].dim() == 4 and given[0].shape[-1] in (1, 3):
        given = [part.movedim(-1, 1) for part in given]
    channels = given[0].shape[1] if given[0].dim() == 4 else 1
    size = math.isqrt(given[0][0].numel() // channels)
    x, test = (
        part.reshape(-1, channels, size, size).float() / (1 if part.is_floating_point() else 255) for part in given
    )
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


def populations(options: argparse.Namespace, n: int, *, same_start: bool) -> Iterator[tuple[Contest, Iterator[Row]]]:
    """Yield each population with the rows of its members and their ensemble."""
    if not options.data and "vit" in options.kinds:
        raise SystemExit("--data is needed for vit")
    if not options.text and {*options.kinds} - {"vit"}:
        raise SystemExit(f"--text is needed for {' and '.join(kind for kind in options.kinds if kind != 'vit')}")
    for kind in options.kinds:
        task = images(options.data, options.quick) if kind == "vit" else tokens(options.text, kind, options.quick)
        for number in range(options.seeds):
            name = "-".join([kind, str(number), *["same"] * same_start, *[str(n)] * (n != 4)])
            members = trained(task, number, options.cache and options.cache / name, n, same_start=same_start)
            contest = Contest(kind, number, task, members)
            yield contest, contest.references()


@dataclass(frozen=True)
class Contest:
    """All methods on one population."""

    kind: str
    seed: int
    task: Task
    members: Sequence[nn.Module]

    @cached_property
    def population(self) -> cs.Population:
        """The members."""
        return cs.Population.from_modules(self.members, self.task.calibration[:4], task=self.task.task)

    @cached_property
    def assembler(self) -> tuple[cs.Assembler, float]:
        """What assembles, and the seconds of its census."""
        census, seconds, _ = measured(partial(cs.Census(n_resamples=0).fit, self.population, self.task.calibration))
        return cs.Assembler(census), seconds

    def references(self) -> Iterator[Row]:
        """The members and their ensemble."""
        each = [outputs(member, self.task.test_x) for member in self.members]
        alone, size = [self.row(MEMBER, "1x", out) for out in each], n_parameters(self.members[0])
        mean = [statistics.mean(getattr(one, name) for one in alone) for name in ("accuracy", "loss")]
        yield Row(self.kind, self.seed, MEMBER, "1x", *mean, size, np.nan)
        best = min(alone, key=lambda one: one.loss)
        yield Row(self.kind, self.seed, BEST, "1x", best.accuracy, best.loss, size, np.nan)
        yield self.row(ENSEMBLE, "full", torch.stack(each).mean(0), len(each) * size)

    def closed_form(self) -> Iterator[Row]:
        """Networks without gradient steps."""
        seen = {"calibration": self.task.calibration}
        yield self.made("parameter average", "1x", partial(cs.parameter_average, self.population))
        for name, method in (
            ("activation matching", baselines.activation_matching),
            ("orthogonal matching", baselines.orthogonal_matching),
        ):
            make = partial(method, self.population, **seen)
            yield self.made(name, "1x", make)
            yield self.made(f"{name}, our least squares", "1x", partial(make, correction="least-squares"))
        transport = partial(baselines.transport_fusion, self.population, ground="activations", **seen)
        yield self.made("transport", "1x", transport)
        assembler, before = self.assembler
        for width in ("1x", "2x"):
            yield self.made("clusters", width, partial(assembler.assemble, width, choice="cut"), before)
            yield self.made("assembly", width, partial(assembler.assemble, width), before)
        yield self.made("assembly, full", "full", partial(assembler.assemble, "full"), before)

    def stepped(self, steps: int) -> Iterator[Row]:
        """Networks after gradient steps."""
        assembler, before = self.assembler
        start = partial(baselines.distil, self.population, start="member", calibration=self.task.calibration)
        yield self.made("distilled member", "1x", partial(start, steps=steps))
        for width in ("1x", "2x"):
            make = partial(assembler.assemble, width, correction="distill", steps=steps)
            yield self.made("assembly, distilled", width, make, before)

    def made(self, method: str, width: str, make: Callable[[], nn.Module], before: float = 0.0) -> Row:
        """Make a network, and score it."""
        network, seconds, _ = measured(make)
        return self.row(method, width, outputs(network, self.task.test_x), n_parameters(network), before + seconds)

    def row(self, method: str, width: str, out: Tensor, size: float = np.nan, seconds: float = np.nan) -> Row:
        """Score outputs."""
        loss = float(functional.cross_entropy(out.flatten(0, -2), self.task.test_y.flatten()))
        accuracy = 100 * float((out.argmax(-1) == self.task.test_y).double().mean())
        return Row(self.kind, self.seed, method, width, accuracy, loss, size, seconds)


def n_parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def without_steps(options: argparse.Namespace, n: int = 4, *, same_start: bool = False) -> Iterator[Row]:
    """Members, ensembles and networks made of them in closed form."""
    for contest, references in populations(options, n, same_start=same_start):
        yield from references
        yield from contest.closed_form()


def with_steps(options: argparse.Namespace) -> Iterator[Row]:
    """Members, ensembles and networks after gradient steps."""
    for contest, references in populations(options, 4, same_start=False):
        yield from references
        yield from contest.stepped(5 if options.quick else STEPS)


def text(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each kind of network."""
    heads = ["method", "width", "accuracy", "to the ensemble", "loss", "to the ensemble", "parameters", "seconds"]
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        ensemble = {row.seed: row for row in own if row.method == ENSEMBLE}
        cells = []
        for key in dict.fromkeys((row.method, row.width) for row in own):
            group = [row for row in own if (row.method, row.width) == key]
            gap = statistics.mean(row.loss - ensemble[row.seed].loss for row in group)
            points = mean_with_error([row.accuracy - ensemble[row.seed].accuracy for row in group], "+")
            seconds = statistics.median(row.seconds for row in group)
            shown = "" if np.isnan(seconds) else f"{seconds:.0f}"
            accuracy, loss = (mean_with_error([getattr(row, name) for row in group]) for name in ("accuracy", "loss"))
            cells.append([*key, accuracy, points, loss, f"{gap:+.3f}", f"{group[0].parameters:,.0f}", shown])
        n = len(ensemble)
        yield from [f"### {KINDS[kind]}: {n} population{'s' * (n > 1)}", "", *table(heads, cells, 2), ""]


@dataclass(frozen=True)
class Cost:
    """What one step with large networks took."""

    step: str
    seconds: float  # of the processor
    gigabytes: float  # of resident memory, at the peak
    most_seconds: float = math.nan  # marks
    most_gigabytes: float = math.nan


def large(options: argparse.Namespace) -> Iterator[Cost]:
    """Trace, proof and census of networks of the size of GPT-2 small."""
    import transformers

    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 50} if options.quick else {}
    nets = list[nn.Module]()
    for number in range(2):
        torch.manual_seed(number)
        nets.append(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval())
    x = torch.randint(sizes.get("vocab_size", 50257), (256, 16))

    def cost(step: str, make: Callable[[], object], *marks: float) -> Cost:
        nonlocal made
        made, seconds, _ = measured(make)
        return Cost(step, seconds, resident("VmHWM") / 1024, *marks)

    made: object = None
    members = partial(cs.Population.from_modules, example_input=x[:4], output="logits", task="next-token")
    yield cost("trace and proof of one", partial(members, nets[:1]), 60, 6)
    made = None
    yield cost("trace and proof of two", partial(members, nets))
    yield cost("census of two, 4,096 tokens", partial(cs.Census().fit, made, x), 600)
    assert isinstance(made, cs.Census)
    census = made
    yield cost("what their heads attend to", census.head_roles)
    yield cost("what their heads write", census.head_effects)


def costs(rows: Sequence[Cost]) -> Iterator[str]:
    """A table of the costs, with marks."""
    cells = []
    for row in rows:
        marks = [(row.seconds, row.most_seconds, "s"), (row.gigabytes, row.most_gigabytes, "GB")]
        fine = [f"≤ {most:.0f} {unit}, {met(value <= most)}" for value, most, unit in marks if not math.isnan(most)]
        cells.append([row.step, f"{row.seconds:.0f}", f"{row.gigabytes:.1f}", "; ".join(fine)])
    yield from [*table(["step", "seconds", "GB at the peak", "marks"], cells), ""]


def introduction(rows: object) -> list[str]:
    """What the tables show."""
    return (__doc__ or "").split("\n\n", 2)[2].splitlines()


def main() -> None:
    parser = arguments(__doc__ or "", data=False, seeds=3)
    parser.add_argument("--text", type=Path, nargs=2, metavar=("TRAIN", "TEST"), help="two texts, for tokens")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--cache", type=Path, help="where trained members are kept")
    parts = {
        "four": Part("Four members", without_steps, text, row=Row),
        "steps": Part(f"Four members, {STEPS} gradient steps", with_steps, text, row=Row),
        "two": Part("Two members", partial(without_steps, n=2), text, row=Row),
        "eight": Part("Eight members", partial(without_steps, n=8), text, row=Row),
        "same": Part("Two members of one initialisation", partial(without_steps, n=2, same_start=True), text, row=Row),
        "large": Part("Networks of the size of GPT-2 small", large, costs, row=Cost),
    }
    run("Assemblies of transformers", parts, parser, introduction=introduction)


if __name__ == "__main__":
    main()
