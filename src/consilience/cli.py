"""The command ``consilience``. Each command is one recipe; this file turns flags into its arguments.

Importing this file imports neither torch nor scikit-learn, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from consilience.errors import ConsilienceError

Activation = Literal["relu", "leaky_relu", "tanh", "erf", "sigmoid", "softplus", "gelu", "silu", "elu", "identity"]


@dataclass(frozen=True)
class Common:
    """Flags of every command."""

    out: Path
    """Directory to write; must be new, empty, or hold an earlier result of the same command."""
    seed: int = 0
    """Seed of everything random."""
    threads: int = 1
    """Threads of the linear algebra. Small networks are fastest with one; the last bits may depend on it."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Demo(Common):
    """Everything at once on scikit-learn's digits: train, census, assembly, report. Takes under a minute."""

    out: Path = Path("demo")
    """Directory to write: population/, census/, network/ and report/."""


@dataclass(frozen=True)
class Train(Common):
    """Train a population of multilayer perceptrons in one vectorised pass."""

    data: str = "digits"
    """"digits", a .npz file (x_train, y_train, x_test, y_test), a .parquet file, or hf:NAME."""
    hidden: tuple[int, ...] = (32, 32)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while training."""
    members: int = 16
    """Number of networks."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Samples of one step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser, one state per member."""
    learning_rate: float = 1e-3
    """Step size."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 0.0
    """L2 penalty, as in torch.optim."""
    shuffle: Literal["independent", "shared"] = "independent"
    """Whether every member sees its own order of the samples."""
    subset: Literal["full", "bootstrap", "disjoint", "dirichlet"] = "full"
    """Which samples a member learns from."""
    concentration: float = 0.5
    """Of the Dirichlet subsets: small means few classes for each member."""


@dataclass(frozen=True)
class Census(Common):
    """Cluster the units of a population, layer by layer."""

    population: tyro.conf.Positional[Path] = field(kw_only=True)
    """Directory of the population."""
    data: str | None = None
    """Data for calibration; by default what the population was trained on."""
    grounding: Literal["activations", "weights"] = "activations"
    """How deeper layers get into common coordinates; weights needs no data."""
    distance: Literal["activation", "cosine", "l2"] = "activation"
    """Between units; activation needs data."""
    clusterer: Literal["ward", "average", "two-stage", "kmeans", "hdbscan"] = "ward"
    """ward, average and two-stage give assemblies of any width from one census."""
    n_clusters: str = "2x"
    """Clusters per layer: a number, or a multiple of the members' median width."""
    resamples: int = 10
    """Resamples of the members for the clusters' stability."""


@dataclass(frozen=True)
class Assemble(Common):
    """Build one network from a census."""

    census: tyro.conf.Positional[Path] = field(kw_only=True)
    """Directory of the census."""
    width: str = "2x"
    """A number, "2x", "frequency>=0.5", "parameters<=100000" or "full"."""
    correction: Literal["none", "moments", "least-squares", "second-order", "distill"] = "least-squares"
    """What follows construction, in order of cost; all but none need calibration data in the census."""
    pooling: Literal["mean", "class-share"] = "mean"
    """How the members' outputs become one; class-share is for members that know different classes."""


@dataclass(frozen=True)
class Report(Common):
    """Compare a census's assemblies with their alternatives, and write it up as one HTML file."""

    census: tyro.conf.Positional[Path] = field(kw_only=True)
    """Directory of the census."""
    data: str | None = None
    """Labelled data; by default what the population was trained on."""


COMMANDS = {"demo": Demo, "train": Train, "census": Census, "assemble": Assemble, "report": Report}

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Census, tyro.conf.subcommand("census")]
    | Annotated[Assemble, tyro.conf.subcommand("assemble")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a refusal is printed to stderr and ends with status 2."""
    command = tyro.cli(
        Command,
        args=arguments,
        prog="consilience",
        description="Find the features that recur across small networks, and build one larger network out of them.",
    )
    try:
        result = _run(command)
    except ConsilienceError as error:
        print(f"consilience: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(result.as_json, indent=1) if command.json else result.text)


def _run(command: Any) -> Any:
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when torch and NumPy are imported, which has not happened yet
        os.environ[f"{library}_NUM_THREADS"] = str(command.threads)
    from consilience.recipes import commands

    recipe: Callable[[Any], Any] = getattr(commands, type(command).__name__.lower())
    return recipe(command)


if __name__ == "__main__":
    main()
