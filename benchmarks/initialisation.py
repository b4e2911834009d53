"""As an initialisation: the fine-tuned assembly against a fresh network, Net2Wider and transplantation.

    python benchmarks/initialisation.py --data FILE.npz [--cache DIR] [--seeds 3] [--out docs/results]

- Population A of `populations.py`, one for each seed; all contestants have twice its widths.
- All train on the members' data, each at several constant rates of Adam, in the same batches; the rate is the best on
  validation, for every number of epochs apart. Fresh networks get higher rates than warm starts.
- Equal steps: the same number of epochs for all, the population for free. Equal compute: everything is paid, in
  multiply-adds (parameters × samples × 3, for one step forward and two back), and early stopping is on validation.
- Members were trained at 3e-3 and their assembly goes on at less. A fresh network may do that too: "rate lowered".
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from populations import RECIPES, obtain
from safetensors.torch import load_file
from scipy.stats import t as student
from torch import nn

import consilience as cs
from consilience.baselines import Ensemble, best_member, net2wider, transplantation
from consilience.population.create import initialise
from consilience.population.training import fit_members

TUNED = 5  # epochs of fine-tuning, of the assembly and of all at equal steps
STEPS = (0, 1, 2, TUNED)  # epochs at which contestants are compared at equal steps
FRESH_RATES, WARM_RATES = (3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3)
NOISE = 0.02  # of Net2Wider's copies, relative to their weights
SCRATCH, LOWERED, WIDER, PLAIN = "from scratch", "from scratch, rate lowered", "Net2Wider", "Net2Wider without noise"
TRANSPLANT, LEAST, SECOND = "transplantation", "assembly, least-squares", "assembly, second-order"
Curve = list[tuple[float, float]]  # validation and test accuracy in %, before training and after each epoch


@dataclass(frozen=True)
class Costs:
    """What a network pays, in epochs of a network of the contestants' width."""

    member: float  # training one member
    n_members: int

    @property
    def scratch(self) -> int:
        """Whole epochs that a fresh network may spend for what the fine-tuned assembly costs."""
        return int(self.n_members * self.member + TUNED)

    @property
    def wider(self) -> int:
        """The same for a network that starts from one trained member."""
        return int((self.n_members - 1) * self.member + TUNED)

    def paid(self, members: int, epochs: float) -> float:
        """Multiply-adds relative to one member's training."""
        return members + epochs / self.member


@dataclass(frozen=True)
class Result:
    """A method's accuracies in %, by seed, at the rate that is best on validation."""

    rate: float | None
    validation: list[float]
    test: list[float]

    def cell(self) -> str:
        at = f" at {self.rate:.0e}".replace("e-0", "e-") if self.rate else ""
        return f"{plus_minus(self.test)} / {plus_minus(self.validation)}{at}"


def train(
    starts: dict[str, nn.Module], data: cs.Data, rate: float, epochs: int, seed: int, keep: int = 0
) -> tuple[dict[str, Curve], dict[str, nn.Module], float]:
    """Train networks of one shape side by side: curves, the networks after epoch ``keep``, and seconds.

    `fit_members` scores on one data set only, so its checkpoints are scored here, on two.
    """
    curves: dict[str, Curve] = {name: [score(start, data)] for name, start in starts.items()}
    kept, apart = {}, 0.0
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "training.safetensors"

        def after_epoch(done: int, total: int) -> None:
            nonlocal apart
            if file.exists():
                began = time.process_time()
                stacked = {key.split("parameter.")[1]: v for key, v in load_file(file).items() if "/parameter." in key}
                file.unlink()
                for k, (name, start) in enumerate(starts.items()):
                    network = initialise(start, 0)
                    network.load_state_dict({key: value[k] for key, value in stacked.items()})
                    curves[name].append(score(network, data))
                    if len(curves[name]) == keep + 1:
                        kept[name] = network
                apart += time.process_time() - began

        training = cs.Training(epochs=epochs, learning_rate=rate, shuffle="shared")
        began = time.process_time()
        fit_members(
            list(starts.values()), data.train.x, data.train.y, training, random_state=seed,
            checkpoint=Path(directory), checkpoint_every=0, progress=after_epoch,
        )  # fmt: skip
        seconds = time.process_time() - began - apart
    return curves, kept, seconds


def score(network: nn.Module, data: cs.Data) -> tuple[float, float]:
    return 100 * cs.evaluate(network, data.validation).accuracy, 100 * cs.evaluate(network, data.test).accuracy


def one_seed(data: cs.Data, population: cs.Population, seed: int, costs: Costs) -> dict[str, dict]:
    """Curves by method and rate, scores of the references, and seconds: of construction, of a network's epoch."""
    built, took = {}, {}

    def timed(name: str, make: Callable[[], nn.Module], before: float = 0.0) -> None:
        began = time.process_time()
        built[name] = make()
        took[name] = time.process_time() - began + before

    best = [member.module for member in population].index(best_member(population, data.validation))
    began = time.process_time()
    census = cs.Census(n_resamples=0).fit(population, data.calibration.x)
    fitting = time.process_time() - began
    timed(LEAST, lambda: cs.assemble(census, "2x", correction="least-squares"), fitting)
    timed(SECOND, lambda: cs.assemble(census, "2x", correction="second-order"), fitting)
    timed(TRANSPLANT, lambda: transplantation(population, "2x"))
    timed(WIDER, lambda: net2wider(population, "2x", member=best, noise=NOISE, random_state=seed))
    timed(PLAIN, lambda: net2wider(population, "2x", member=best, random_state=seed))
    timed(SCRATCH, lambda: initialise(built[LEAST], seed))
    timed(LOWERED, lambda: built[SCRATCH])

    curves: dict[str, dict[float, Curve]] = {name: {} for name in built}
    spent, network_epochs, candidates = 0.0, 0, []

    def run(names: Sequence[str], rate: float, epochs: int, keep: int = 0) -> dict[str, nn.Module]:
        nonlocal spent, network_epochs
        found, kept, seconds = train({name: built[name] for name in names}, data, rate, epochs, seed, keep)
        for name, curve in found.items():
            curves[name][rate] = curve
        spent, network_epochs = spent + seconds, network_epochs + len(names) * epochs
        print(f"seed {seed}, rate {rate:g}: {epochs} epochs of {', '.join(names)}; {seconds:.0f} s", flush=True)
        return kept

    lower = costs.scratch - TUNED  # epochs after which the fresh network lowers its rate
    for rate in FRESH_RATES:
        kept = run([SCRATCH, WIDER] if rate in WARM_RATES else [SCRATCH], rate, costs.scratch, keep=lower)
        candidates.append((curves[SCRATCH][rate][lower][0], kept[SCRATCH]))
    built[LOWERED] = max(candidates, key=lambda candidate: candidate[0])[1]
    for rate in WARM_RATES:
        short = [name for name in (WIDER, PLAIN) if rate not in curves[name]]
        run([LEAST, SECOND, TRANSPLANT, LOWERED, *short], rate, TUNED)
    members = [score(member.module, data) for member in population]
    references = {
        "mean member": [statistics.mean(values) for values in zip(*members, strict=True)],
        "best member on validation": members[best],
        "ensemble of the members": score(Ensemble(population), data),
    }
    return {"curves": curves, "references": references, "built": took, "epoch": spent / network_epochs}


def at(found: list[dict], name: str, epochs: int, *, stopped: bool = False) -> Result:
    """Return a method's accuracies after some epochs, or, ``stopped``, at the best epoch on validation until then."""
    results = []
    for rate in found[0]["curves"][name]:
        curves = [seed["curves"][name][rate][: epochs + 1] for seed in found]
        if len(curves[0]) == epochs + 1:
            points = [max(curve, key=lambda p: p[0]) if stopped else curve[-1] for curve in curves]
            results.append(Result(rate if epochs else None, [p[0] for p in points], [p[1] for p in points]))
    return max(results, key=lambda result: statistics.mean(result.validation))


def standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def plus_minus(values: Sequence[float], sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.2f} ± {standard_error(values):.2f}"


def versus(first: Result, second: Result) -> str:
    """Paired differences on test and validation, and what they amount to (t test at 5 %)."""
    told = []
    for part in ("test", "validation"):
        gaps = [a - b for a, b in zip(getattr(first, part), getattr(second, part), strict=True)]
        noise = student.ppf(0.975, len(gaps) - 1) * standard_error(gaps)
        verdict = "within noise" if abs(statistics.mean(gaps)) <= noise else "beyond noise"
        told.append(f"{plus_minus(gaps, '+')} on {part} ({verdict})")
    return ", ".join(told)


def main() -> None:
    pass
