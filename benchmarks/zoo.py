"""What is proved, refused or wrong of networks as people have them: by family and by cause.

    OMP_NUM_THREADS=1 python benchmarks/zoo.py [--out docs/results/zoo.md]

**libraries**: networks of torchvision, timm and transformers (`library_networks.py`), each in a process of its own with
a limit of processor seconds and of memory. The libraries are no dependency: run it with a Python that has them beside
the package's dependencies. Networks whose library is missing are left out.

**small**: networks as people write them.

Two members of each network of `small_networks.py`, with initial values of their own and norms shaken, go through the
proof, a census on 40 samples and an assembly at full width. Then the assembly's own forward pass is compared, in double
precision,

- with the mean of the members' own forward passes; where a tail that is not affine follows the pooled outputs, with
  `Ensemble`, which applies the tail to the mean;
- of a population that has one member twice, with that member: this holds with any tail and norm.

*Wrong* is a difference above 1e-4 of the spread of the outputs over samples. Norms over units that are no module of
their own take the units of all members together, so that only the second holds; a warning says so. *Kept apart* are
networks that are proved and cannot be merged. A *foreign* error is one that is not the package's.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import Part, arguments, run, table
from library_networks import LIMIT, UNCHECKED
from library_networks import NETWORKS as PUBLIC
from small_networks import NETWORKS, Small
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import consilience as cs
from consilience.baselines import Ensemble
from consilience.errors import ConsilienceError
from consilience.units.outputs import outputs_in
from consilience.units.precision import exact

WRONG = 1e-4  # of the spread over samples
N_QUICK = 2  # networks of each family


def shaken(module: nn.Module) -> nn.Module:
    """Give norms scales and statistics that are not their initial ones."""
    for part in module.modules():
        for name in ("running_mean", "running_var"):
            if isinstance(value := getattr(part, name, None), Tensor):
                value.add_(0.3 * torch.rand_like(value))
        if "norm" in type(part).__name__.lower() and isinstance(getattr(part, "weight", None), Tensor):
            with torch.no_grad():
                part.weight.add_(0.3 * torch.randn_like(part.weight))
    return module.eval()


def tried(small: Small) -> tuple[str, str]:
    """Return what becomes of a network, and why."""
    torch.manual_seed(0)
    modules, x = [shaken(small.build()) for _ in range(2)], small.inputs(40)
    step = "refused"
    try:
        population = cs.Population.from_modules(modules, x[:16], output=small.output)
        step = "kept apart"
        error = _error(population, x, small.output)
        twice = cs.Population.from_modules(modules[:1] * 2, x[:16], output=small.output)
        own = _error(twice, x, small.output, alone=True)
    except ConsilienceError as refusal:
        return step, str(refusal)
    except Exception as failure:
        return "foreign", f"{type(failure).__name__}: {failure}"
    mixes = any(norm.module is None for norm in population.architecture.statistics)
    error = own if mixes else max(own, error)
    return ("proved", "") if error <= WRONG else ("wrong", f"{error:.1e} of the spread")


def _error(population: cs.Population, x: Tensor, output: str | int | None, *, alone: bool = False) -> float:
    """The largest difference between an assembly at full width and what it should be, as a share of the spread."""
    full = cs.assemble(cs.Census(n_resamples=0).fit(population, x), width="full")
    members = [member.module for member in population][: 1 if alone else None]
    if population.architecture.program.is_bent and not alone:
        with torch.no_grad():
            expected = Ensemble(population)(x)
            ours = outputs_in(full(x), "full", output)
        return float((ours - expected).abs().max() / expected.std(0).max())
    with torch.no_grad():
        ours, *theirs = (flat(copy.deepcopy(m).double()(exact(x)), output) for m in (full, *members))
    means = [torch.stack(each).mean(0) for each in zip(*theirs, strict=True)]
    return max(float((a - b).abs().max() / b.std(0).max()) for a, b in zip(ours, means, strict=True))


def flat(outputs: Any, output: str | int | None) -> list[Tensor]:
    """Return the tensors that a network returns, or the one asked for."""
    return tree_flatten(outputs if output is None else outputs[output])[0]


def public_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each network of the libraries that are installed."""
    counts, names = Counter[str](), list[str]()
    for name, public in PUBLIC.items():
        counts[public.library] += 1
        if (options.only and name not in options.only) or (options.quick and counts[public.library] > 1):
            continue
        if importlib.util.find_spec(public.library) is not None:
            names.append(name)
    words = [sys.executable, str(Path(__file__).with_name("library_networks.py")), str(options.seconds), *names]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        told = dict[str, Any]()
        for line in process.stdout:
            step = json.loads(line) if line.startswith("{") else {}
            if "ended" not in step:
                told = step or told
                continue
            yield _row(step["name"], told, step["ended"], options.seconds)
            told = {}


def _row(name: str, told: dict[str, Any], ended: int, seconds: int) -> dict[str, Any]:
    """What became of a network, from the last that was told of it and how its process ended."""
    public = PUBLIC[name]
    row = {"library": public.library, "family": public.family, "network": name.partition(" ")[2], "size": public.size}
    row |= told or {"outcome": LIMIT, "cause": ""}
    if ended:
        row["cause"] = f"more than {seconds} s"
    return row


def public_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Counts by family and by cause, then each network."""
    outcomes = ("proved", UNCHECKED, "kept apart", "refused", LIMIT, "foreign", "wrong")
    families = [*dict.fromkeys((row["library"], row["family"]) for row in rows), ("all", "")]
    counts = []
    for library, family in families:
        of = [
            row["outcome"] for row in rows if library == "all" or (row["library"], row["family"]) == (library, family)
        ]
        counts.append([library, family, str(len(of)), *(str(of.count(outcome)) for outcome in outcomes)])
    causes = Counter(_kind(row["cause"]) for row in rows if row["outcome"] in ("kept apart", "refused"))
    lines = table(["library", "family", "networks", *outcomes], counts, n_labels=2)
    if causes:
        lines += ["", *table(["cause", "networks"], [[cause, str(n)] for cause, n in causes.most_common()])]
    shown = [
        [
            f"{r['library']} {r['network']}",
            r["size"],
            f"{r['parameters'] / 1e6:.1f}" if "parameters" in r else "",
            f"{r['seconds']:.1f}" if "seconds" in r else "",
            f"{r['memory'] / 1e9:.2f}" if "memory" in r else "",
            r["outcome"],
            r["cause"].partition(chr(10))[0].replace("|", "\\|"),
        ]
        for r in rows
    ]
    head = ["network", "sample", "million parameters", "seconds", "GB", "outcome", "cause"]
    tried = {f"{row['library']} {row['network']}" for row in rows}
    left = [name for name in PUBLIC if name not in tried]
    more = ["", f"Not tried here: {', '.join(left)}."] if left else []
    return [*lines, "", *table(head, shown, n_labels=2), *more, ""]


def _kind(cause: str) -> str:
    """The cause of a refusal without the places and names in it."""
    kind = re.sub(r"'[^']*'", "…", cause.partition(chr(10))[0])
    kind = re.sub(r"(: aten\.[\w.]+)? in (… \(\w+\)|[A-Z]\w*)(, .*)?$", r"\1", kind)
    return re.sub(r"^[A-Z]\w+ |, got .*", "", kind).replace(" that takes", "")


def rows(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """One row for each network."""
    warnings.simplefilter("ignore")
    counts = Counter[str]()
    for name, small in NETWORKS.items():
        counts[small.family] += 1
        if (options.only and name not in options.only) or (options.quick and counts[small.family] > N_QUICK):
            continue
        outcome, cause = tried(small)
        yield {"family": small.family, "network": name, "outcome": outcome, "cause": cause}


def text(rows: Sequence[dict[str, str]]) -> list[str]:
    """Counts by family, then each network that was not proved with its cause."""
    outcomes = ("proved", "kept apart", "refused", "foreign", "wrong")
    families = [*dict.fromkeys(row["family"] for row in rows), "all"]
    of = {f: [row["outcome"] for row in rows if f in (row["family"], "all")] for f in families}
    counts = table(["family", *outcomes], ([f, *(str(of[f].count(o)) for o in outcomes)] for f in families))
    left = [
        [r["network"], r["outcome"], r["cause"].partition(chr(10))[0].replace("|", "\\|")]
        for r in rows
        if r["outcome"] != "proved"
    ]
    return [*counts, "", *table(["network", "outcome", "cause"], left, n_labels=3)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", help="names of networks")
    parser.add_argument("--seconds", type=int, default=25, help="limit for each network of a library, 25 by default")
    parts = {
        "libraries": Part("Networks of torchvision, timm and transformers", public_rows, public_text),
        "small": Part("Small networks as people write them", rows, text),
    }
    run(
        "Networks as people write them",
        parts,
        parser,
        line=lambda r: f"{r['outcome']:<11}{r['network']}: {r['cause'].partition(chr(10))[0]}",
    )


if __name__ == "__main__":
    main()
