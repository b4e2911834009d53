"""How much faster is one vectorised pass than a plain loop over members?

    OMP_NUM_THREADS=1 python benchmarks/training.py

The loop is what one would write without this package: an `nn.Sequential` and a default `torch.optim.Adam` for each
member, data in memory, the same batches. Both train the same members for the same number of steps, in turn, in one
process on one thread; the table has medians. The last column is the largest difference between the parameters of a
member at the end, for the median member: Adam's first step is the sign of the gradient, so in float32 a gradient at
rounding level now and then sends a member another way (in float64 the largest difference of all is 5e-14).
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from harness import arguments, parse
from torch import Tensor, nn
from torch.nn import functional

from consilience.training import Run, Training, fit_members
from consilience.training.sampling import epoch_order


@dataclass(frozen=True)
class Case:
    members: int
    sizes: tuple[int, ...]
    shuffle: str
    steps: int
    target: float | None


CASES = (
    Case(32, (784, 32, 32, 10), "shared", 60, 2.0),
    Case(32, (784, 32, 32, 10), "independent", 60, None),
    Case(64, (2, 16, 2), "shared", 60, 8.0),
    Case(64, (2, 16, 2), "independent", 60, 8.0),
)
SAMPLES = 128 * 30  # of which one epoch is 30 steps


def make_net(sizes: Sequence[int]) -> nn.Sequential:
    layers = [part for i, o in pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def plain_loop(nets: list[nn.Module], x: Tensor, y: Tensor, training: Training, steps: int) -> None:
    rows = torch.arange(len(x))
    for member, net in enumerate(nets):
        optimizer = torch.optim.Adam(net.parameters())
        done = epoch = 0
        while done < steps:
            order = epoch_order(rows, epoch, member, training.shuffle, 0, len(x))
            for batch in order.split(training.batch_size)[: steps - done]:
                optimizer.zero_grad()
                functional.cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()
                done += 1
            epoch += 1


def measure(case: Case, repeats: int) -> tuple[float, float, float]:
    """Return seconds of the loop, seconds of the vectorised pass, and how far apart they end."""
    torch.manual_seed(0)
    x, y = torch.randn(SAMPLES, case.sizes[0]), torch.randint(0, case.sizes[-1], (SAMPLES,))
    nets: list[nn.Module] = [make_net(case.sizes) for _ in range(case.members)]
    training = Training(batch_size=128, shuffle=case.shuffle)
    loop, together, differences = [], [], []
    for _ in range(repeats):
        copies = copy.deepcopy(nets)
        start = time.perf_counter()
        plain_loop(copies, x, y, training, case.steps)
        middle = time.perf_counter()
        trained = fit_members(nets, x, y, Run(training, max_steps=case.steps))
        loop.append(middle - start)
        together.append(time.perf_counter() - middle)
        for net, state in zip(copies, trained.states, strict=True):
            differences.append(
                max(float((state[name] - value).abs().max()) for name, value in net.state_dict().items())
            )
    return statistics.median(loop), statistics.median(together), statistics.median(differences)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parse(parser)
    repeats = 1 if options.quick else options.repeats
    fit_members([make_net((2, 2, 2))], torch.randn(4, 2), torch.arange(4) % 2, Run(Training()))  # imports
    print(f"torch {torch.__version__}, 1 thread, batch 128, Adam, float32, median of {repeats}")
    print("members x sizes           batches       loop ms/step   vectorised     ratio   target   difference")
    for case in (replace(case, steps=2) for case in CASES) if options.quick else CASES:
        loop, together, difference = measure(case, repeats)
        name = f"{case.members} x {'-'.join(map(str, case.sizes))}"
        target = "" if case.target is None else f">= {case.target:g}"
        print(
            f"{name:<26}{case.shuffle:<14}{loop / case.steps * 1e3:>12.2f}{together / case.steps * 1e3:>13.2f}"
            f"{loop / together:>10.1f}{target:>9}{difference:>13.1e}"
        )


if __name__ == "__main__":
    main()
