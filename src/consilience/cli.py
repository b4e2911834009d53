"""The command ``consilience``. Each command is one recipe; this file turns flags into its arguments.

Importing this file imports neither torch nor scikit-learn, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import math
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
class Output:
    """Where a command writes."""

    out: Path
    """Directory to write; must be new, empty, or hold an earlier result of the same command."""


@dataclass(frozen=True)
class Common:
    """Flags of every command."""

    seed: int = 0
    """Seed of everything random."""
    threads: int = 1
    """Threads of the linear algebra. Small networks are fastest with one; the last bits may depend on it."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Demo(Common, Output):
    """Everything at once on scikit-learn's digits: train, census, assembly, report. Takes under a minute."""

    out: Path = Path("demo")
    """Directory to write: population/, census/, network/ and report/."""


@dataclass(frozen=True)
class Train(Common, Output):
    """Train a population of networks in one vectorised pass."""

    data: str = "digits"
    """"digits", a .npz file (x_train, y_train, x_test, y_test), a .parquet file, or hf:NAME."""
    net: Literal["mlp", "convnet", "resnet"] = "mlp"
    """What a member is; the last two are for images."""
    hidden: tuple[int, ...] = (32, 32)
    """Units of each hidden layer; channels of each convolution of a convnet, of each stage of a resnet."""
    blocks: int = 1
    """Blocks of each stage of a resnet."""
    batch_norm: bool = True
    """Whether batch normalisation follows the convolutions of a convnet or resnet."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit of an mlp, or a channel before the readout of a convnet."""
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
    checkpoint_epochs: tuple[int, ...] = ()
    """Epochs after which the members are kept as they are then, for compare."""


@dataclass(frozen=True)
class Census(Common, Output):
    """Cluster the units of a population, layer by layer."""

    population: tyro.conf.Positional[Path] = field(kw_only=True)
    """Directory of the population, or a folder of checkpoints."""
    data: str | None = None
    """Data for calibration; by default what the population was trained on."""
    module: str | None = None
    """Class of your own networks, as in package.module:Class, or a function that makes one; it is imported."""
    example_shape: str | None = None
    """Shape of one input of a folder of checkpoints, as in 3,32,32; by default that of the data."""
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
class Assemble(Common, Output):
    """Build one network from a census."""

    census: tyro.conf.Positional[Path] = field(kw_only=True)
    """Directory of the census."""
    width: str = "2x"
    """A number, "2x", "frequency>=0.5", "parameters<=100000" or "full"."""
    correction: Literal["none", "moments", "least-squares", "second-order", "distill"] = "least-squares"
    """What follows construction, in order of cost; all but none need calibration data in the census."""
    pooling: Literal["mean", "class-share"] = "mean"
    """How the members' outputs become one; class-share is for members that know different classes."""
    module: str | None = None
    """Class of your own networks, as for the census."""


@dataclass(frozen=True)
class Report(Common, Output):
    """Compare a census's assemblies with their alternatives, and write it up as one HTML file."""

    census: tyro.conf.Positional[Path] = field(kw_only=True)
    """Directory of the census."""
    data: str | None = None
    """Labelled data; by default what the population was trained on."""
    module: str | None = None
    """Class of your own networks, as for the census. What is trained for comparison is trained as by default."""


@dataclass(frozen=True)
class Inspect(Common):
    """Find the layers of networks, prove them, and show them. Writes nothing."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODULE|DIR")] = field(kw_only=True)
    """package.module:Class, or a function in place of the class; or a directory: a population, a network, or a folder
    of checkpoints."""
    module: str | None = None
    """Class of your own networks in a directory, as in package.module:Class; it is imported."""
    example_shape: str | None = None
    """Shape of one input, as in 3,32,32; needed where the directory does not tell it."""


@dataclass(frozen=True)
class Recover(Common, Output):
    """Recover an unknown network, its size and its weights, from its outputs. Writes network/, recovery.json and
    report.html. Ends with status 0 if what was found explains the outputs as well as the students it was made of do,
    with 1 if not (do not trust it then), with 2 if nothing could be done.
    """

    inputs: Path | None = None
    """Inputs (n, d), a .npy file."""
    outputs: Path | None = None
    """What the unknown network gave for them (n, o), a .npy file."""
    teacher: Path | None = None
    """In place of outputs, the network itself, to see how near the recovery comes: a directory of a saved MLP. Only its
    outputs are used to recover it; its activation is searched for too, unless --activation tells it."""
    samples: int = 600
    """Gaussian inputs for a teacher, if --inputs is not given."""
    units: tuple[int, ...] = ()
    """Units expected of each hidden layer; without it, the smallest number that fits is searched for."""
    layers: int = 1
    """Hidden layers, where --units does not tell."""
    expansion: str = "4"
    """Width of the students over --units: a number, or "auto"."""
    students: int = 20
    """Networks that are trained on the outputs."""
    activation: Literal["auto", Activation] = "auto"
    """Of the unknown network; "auto" tries them all, also with --teacher. Networks of tanh and of sigmoid units are the
    same functions, so that either may be found for the other."""
    coverage: float = 0.8
    """Share of the students that must own a unit."""
    max_angle: float = math.pi / 12
    """Radians within which these units must point."""
    rule: Literal["plateau", "published"] = "plateau"
    """Where the tree of units is cut: in the longest plateau, or as in the paper."""
    noise: float = 0.0
    """Standard deviation of noise on the outputs, as a share of theirs."""


@dataclass(frozen=True)
class Modularity(Common, Output):
    """Do networks split into parts? N-cuts of all of them against shuffled copies; and of one, its parts, what they do,
    and how few weights each class needs. Writes modularity.json and report.html.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")] = field(kw_only=True)
    """A population, a network, or a folder of checkpoints."""
    assembly: Path | None = None
    """A network that was built from the members, to compare with them."""
    member: int = 0
    """The member that is shown in detail."""
    clusters: int = 12
    """Parts, inputs and outputs among them."""
    null: Literal["permute", "permute-nonzero", "degree-preserving"] = "permute"
    """How weights are shuffled: all of a matrix (published), those that are not zero, or so that every unit keeps its
    degree."""
    nulls: int = 50
    """Shuffled copies of each network."""
    circuits: int = 50_000
    """Look for circuits in a network of up to so many weights; 0 for none."""
    data: str | None = None
    """Labelled data for accuracies, lesions and circuits; by default what the population was trained on."""
    module: str | None = None
    """Class of your own networks, as in package.module:Class; it is imported."""
    example_shape: str | None = None
    """Shape of one input, as in 3,32,32, where the directory does not tell it."""


@dataclass(frozen=True)
class Compare(Common, Output):
    """Which networks behave alike, at which layers, and since when? Networks of any kinds, by how they cluster the same
    samples. Writes comparison.json and report.html.
    """

    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")] = field(
        kw_only=True
    )
    """Populations, networks, or folders of checkpoints: two networks or more in all."""
    data: str | None = None
    """Labelled data; by default what the first population was trained on."""
    samples: int = 1000
    """Test samples, at most."""
    measure: Literal[
        "adjusted_rand", "rand", "adjusted_mutual_information", "variation_of_information",
        "cka", "unbiased_cka", "procrustes", "rsa",
    ] = "adjusted_rand"  # fmt: skip
    """The first four compare clusterings, the others activations."""
    layers: tuple[str, ...] = ()
    """Names or globs of modules; by default all with weights but the readout, matched by name or by depth."""
    clusters: int | None = None
    """Of the samples; by default as many as classes."""
    clusterer: Literal["kmeans", "ward", "gmm", "hdbscan", "spectral"] = "kmeans"
    """Of the samples."""
    reduction: Literal["pca", "none", "umap"] = "pca"
    """Before clustering."""
    positions: Literal["flatten", "pool"] = "flatten"
    """Of convolutions: one coordinate for each, or their mean."""
    epochs: tuple[int, ...] = ()
    """Snapshots to look at (train --checkpoint-epochs); by default all that there are."""
    barriers: bool = False
    """Measure loss barriers between networks of equal shapes, too."""
    module: str | None = None
    """Class of your own networks, as in package.module:Class; it is imported."""
    example_shape: str | None = None
    """Shape of one input, as in 3,32,32, where a directory does not tell it."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Census, tyro.conf.subcommand("census")]
    | Annotated[Assemble, tyro.conf.subcommand("assemble")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Recover, tyro.conf.subcommand("recover")]
    | Annotated[Modularity, tyro.conf.subcommand("modularity")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a refusal is printed to stderr and ends with status 2, a result not to be trusted with 1."""
    command = tyro.cli(
        Command,
        args=arguments,
        prog="consilience",
        description="Find the features that recur across small networks, and build one larger network out of them.",
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's module may print; here, stdout is for results
            result = _run(command)
    except ConsilienceError as error:
        print(f"consilience: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    if command.json:
        print(json.dumps(result.as_json, indent=1))
    elif result.table is not None and sys.stdout.isatty():
        from rich import print as show

        show(result.table)
    else:
        print(result.text)
    if result.status:
        raise SystemExit(result.status)


def _run(command: Any) -> Any:
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when torch and NumPy are imported, which has not happened yet
        os.environ[f"{library}_NUM_THREADS"] = str(command.threads)
    from consilience.studies import commands

    recipe: Callable[[Any], Any] = getattr(commands, type(command).__name__.lower())
    return recipe(command)


if __name__ == "__main__":
    main()
