"""The command ``compare``: which networks behave alike, at which layers, and from which epoch on?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

import consilience as cs
from consilience.errors import InputError
from consilience.names import ActivationMeasure, ClusteringMeasure, Positions, Reduction, SampleClusterer
from consilience.studies.request import (
    INPUT,
    POSITIONAL,
    InputShape,
    Options,
    Output,
    OwnNetworks,
    Reading,
    argument,
    arguments,
)
from consilience.studies.result import Result, obtained, run_paged

KIND, FILE = "comparison", "comparison.json"
CLUSTERS_OF_NUMBERS = 10  # of samples whose targets are no classes


@dataclass(frozen=True, kw_only=True)
class Request(InputShape, OwnNetworks, Reading, Options, Output):
    """Measure which networks behave alike, at which layers, and from which epoch on. Networks of any kinds are compared
    by how they cluster the same samples. Writes comparison.json and report.html.

    Example: consilience compare population others --out compared
    """

    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")] = field(
        metadata=POSITIONAL
    )
    """Populations, networks, or folders of checkpoints, with at least two networks in total."""
    data: str | None = field(default=None, metadata=INPUT)
    """Labeled data; by default the data that the first population was trained on."""
    samples: int = 1000
    """Largest number of test samples; with tokens as rows, of tokens."""
    measure: ClusteringMeasure | ActivationMeasure = "adjusted_rand"
    """The first four compare clusterings, the others activations."""
    layers: tuple[str, ...] = ()
    """Names or globs of modules; by default all that have weights, except the readout, matched by name or by depth."""
    clusters: int | None = field(default=None, metadata=argument("n_clusters"))
    """Clusters of the samples; by default as many as classes, and 10 for a regression or several labels."""
    clusterer: SampleClusterer = "kmeans"
    """Clustering method for the samples."""
    reduction: Reduction = "pca"
    """Reduction of the activations before clustering."""
    positions: Positions = "flatten"
    """Positions of convolutions: one coordinate for each, or their mean. Positions of a text are rows: its tokens."""
    epochs: tuple[int, ...] = ()
    """Snapshots to compare (train --checkpoint-epochs); by default all."""
    barriers: bool = False
    """Also measure loss barriers between networks of equal shapes."""


def run(request: Request) -> Result:
    """Return the similarities within and between populations, and what they say."""
    from consilience.comparison import loss_barriers
    from consilience.report.comparison import render_comparison
    from consilience.store import check_destination
    from consilience.studies.comparison_result import found_text, run_comparison
    from consilience.studies.networks import names_of, open_networks, parse_shape
    from consilience.studies.progress import stages
    from consilience.studies.samples import packed, unseen_samples, unseen_source

    check_destination(request.out, KIND)
    shape, seed = parse_shape(request.example_shape), request.seed
    populations = {
        name: open_networks(source, request.module, shape, seed, request.key, request.output)
        for name, source in zip(names_of(request.sources, "compare"), request.sources, strict=True)
    }
    source = unseen_source(request.sources, request.data, seed, request)
    fingerprints = {
        name: [part.fingerprint[:16] for part in (population, *population.snapshots.values())]
        for name, population in populations.items()
    }

    def make() -> tuple[str, str]:
        samples = unseen_samples(request.sources, source, seed, request.samples)
        samples = packed(next(iter(populations.values())), samples)
        if samples.task == "next-token" and request.positions == "rows":
            samples = samples.sample(max(2, request.samples // samples.x.shape[1]), seed)
        elif samples.task == "next-token":
            message = f"--positions must be rows to compare networks on a text, got {request.positions}"
            raise InputError(message, cure="each token is then a sample")
        settings = {**arguments(request, cs.ModelComparison), "layers": list(request.layers) or None}
        if samples.y.is_floating_point() and request.clusters is None:
            settings["n_clusters"] = CLUSTERS_OF_NUMBERS
        barriers = None
        with stages("comparing") as progress:
            if request.barriers:
                progress("loss barriers")
                barriers = loss_barriers(populations, samples.x, samples.y, random_state=seed)
            progress("activations and clusterings")
            comparison, origin = cs.ModelComparison(**settings), obtained(request)
            result = run_comparison(comparison, populations, samples, request.epochs, barriers, origin)
        return found_text(result), render_comparison(result)

    return run_paged(request, KIND, FILE, {"networks": fingerprints, **source.entries(request.data)}, make)
