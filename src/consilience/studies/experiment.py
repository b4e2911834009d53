"""Is the assembly any good? A census's assemblies against what a user would do instead, on one data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from consilience.assembly import Assembler
from consilience.assembly.distillation import STEPS
from consilience.baselines import Ensemble, best_member, merge_many, parameter_average
from consilience.census import Census, LayerCensus
from consilience.checks import resolve_width
from consilience.data import Data
from consilience.errors import InputError
from consilience.evaluation import Score, evaluate, mean_score
from consilience.population.population import Population
from consilience.report.results import Experiment, LayerSummary, LearningPoint, Row
from consilience.studies.atlas import CHANNELS, atlas, kernel_shape
from consilience.training.fit import Training, fit_members
from consilience.training.train import initialise

WIDTHS = ("1x", "2x", "4x")
CORRECTIONS = ("none", "least-squares", "second-order", "distill")
TRAINED_WIDTH = "2x"  # the width at which fine-tuning and training from scratch are compared
N_CENTROIDS = 64
GROUPS = ("members", "alternative", "assembly")


@dataclass(frozen=True)
class _Contest:
    """What every row of the table is made from."""

    census: Census
    data: Data
    random_state: int

    @property
    def population(self) -> Population:
        return self.census.population_

    @property
    def training(self) -> Training:
        """How the members were trained; networks trained for comparison are trained the same way."""
        return Training(**self.population.provenance.get("training", {}))

    @property
    def steps(self) -> int:
        """Gradient steps that each member took."""
        told = [record["steps"] for record in self.population.metrics if "steps" in record]
        return max(told, default=self.training.epochs * math.ceil(len(self.data.train) / self.training.batch_size))

    def row(self, method: str, group: str, width: str, network: nn.Module, steps: int = 0, seconds: float = 0.0) -> Row:
        size = sum(parameter.numel() for parameter in network.parameters())
        test, validation = evaluate(network, self.data.test), evaluate(network, self.data.validation)
        return Row(method, group, width, size, test, validation, steps, seconds)

    def train(self, network: nn.Module) -> tuple[nn.Module, list[LearningPoint], float]:
        """Train one network as a member was trained: it, its test scores by epoch, and the seconds."""
        training = replace(self.training, shuffle="independent", subset="full")
        train, test = self.data.train, self.data.test
        start = evaluate(network, test)
        began = time.perf_counter()
        trained = fit_members(
            [network], train.x, train.y, training, random_state=self.random_state, max_steps=self.steps,
            validation=(test.x, test.y),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        network.load_state_dict(trained.states[0])
        points = [LearningPoint(0, start)]
        for record in trained.metrics:
            p = record["validation_accuracy"]
            score = Score(p, math.sqrt(p * (1 - p) / len(test)), record["validation_loss"], len(test))
            points.append(LearningPoint(record["steps"], score))
        return network, points, seconds


def run_experiment(
    census: Census,
    data: Data,
    *,
    widths: Sequence[str] = WIDTHS,
    corrections: Sequence[str] = CORRECTIONS,
    random_state: int = 0,
    obtained: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Experiment:
    """Score a census's assemblies and their alternatives.

    Parameters
    ----------
    census : a fitted census.
    data : the data its population was trained on.
    widths, corrections : the assemblies to build. Multiples wider than the number of clusters are left out, and so are
        corrections that need calibration data if there is none.
    random_state : seed of what is trained here.
    obtained : how to get these numbers again, for the report.
    progress : called with the name of each stage.

    Raises
    ------
    InputError
        If the data does not fit the population.
    """
    contest = _Contest(census, data, random_state)
    _check_fits(contest.population, data)
    progress("members and their ensemble")
    rows = _alternatives(contest)
    usable = [c for c in corrections if census.calibration_ is not None or c == "none"]
    assembler = Assembler(census)
    built: dict[tuple[str, str], nn.Module] = {}
    possible = [width for width in widths if _exists(census, width)]
    for correction in usable:
        for width in (*possible, "full") if correction == "none" else possible:
            progress(f"assembly {width}, {correction}")
            began = time.perf_counter()
            network = assembler.assemble(width, correction=correction, random_state=random_state)
            built[width, correction] = network
            steps = STEPS if correction == "distill" else 0
            seconds = time.perf_counter() - began
            rows.append(contest.row(f"assembly, {correction}", "assembly", width, network, steps, seconds))

    if "least-squares" in usable and len(possible) > 1:
        progress("elastic assembly")
        began = time.perf_counter()
        several = assembler.elastic(possible)
        seconds = (time.perf_counter() - began) / len(possible)
        for width in possible:
            network = several.at_width(width)
            rows.append(contest.row("assembly, elastic", "assembly", width, network, 0, seconds))

    best = "least-squares" if "least-squares" in usable else "none"
    trained_width = TRAINED_WIDTH if _exists(census, TRAINED_WIDTH) else "full"
    start = built.get((trained_width, best)) or assembler.assemble(trained_width, correction=best)
    contestants = (
        ("from scratch", "alternative", initialise(start, random_state)),
        ("fine-tuned assembly", "assembly", start),
    )
    learning: dict[str, list[LearningPoint]] = {}
    for name, group, network in contestants:
        progress(f"{name}, {trained_width}")
        trained, learning[name], seconds = contest.train(network)
        rows.append(contest.row(name, group, trained_width, trained, contest.steps, seconds))
    progress("what excites the clusters")
    pictures = (data.image_shape or (0,))[0] in CHANNELS
    return Experiment(
        title=f"{len(contest.population)} networks and one built from them: {data.name}",
        data=_describe_data(data), population=_describe_population(contest.population),
        census=_describe_census(census), table=sorted(rows, key=lambda row: GROUPS.index(row.group)), learning=learning,
        layers=[_summary(layer, contest.population) for layer in census.layers_.values()],
        centroids=_centroid_images(census, data), atlas=atlas(census, data.calibration.x) if pictures else [],
        obtained=dict(obtained or {}),
    )  # fmt: skip


def _exists(census: Census, width: str) -> bool:
    """Whether the census has enough clusters for this multiple of the median widths; a few members may not."""
    population = census.population_
    return all(
        resolve_width(width, population.median_width(name), "widths") <= layer.clustering.n_leaves
        for name, layer in census.layers_.items()
    )


def _alternatives(contest: _Contest) -> list[Row]:
    population, data = contest.population, contest.data
    first = population.members[0].module
    test = mean_score([evaluate(member.module, data.test) for member in population])
    validation = mean_score([evaluate(member.module, data.validation) for member in population])
    size = sum(parameter.numel() for parameter in first.parameters())
    rows = [
        Row("mean member", "members", "", size, test, validation, 0, 0.0),
        contest.row("best member on validation", "members", "", best_member(population, data.validation)),
        contest.row("ensemble of the members", "members", "", Ensemble(population)),
    ]
    if all(len(set(population.widths(layer.name))) == 1 for layer in population.architecture.hidden):
        for method, make in (("average of parameters", parameter_average), ("MergeMany", merge_many)):
            began = time.perf_counter()
            network = make(population)
            seconds = time.perf_counter() - began
            rows.append(contest.row(method, "alternative", "1x", network, 0, seconds))
    return rows


def _check_fits(population: Population, data: Data) -> None:
    shape, n_outputs = tuple(data.test.x.shape[1:]), population.architecture.output.width
    if shape != population.architecture.program.input_shape or data.n_classes != n_outputs:
        raise InputError(
            "the data does not fit the population", where=data.name, got=f"inputs {shape}, {data.n_classes} classes",
            expected=f"inputs {population.architecture.program.input_shape}, {n_outputs} classes",
            cure="pass the data the members were trained on",
        )  # fmt: skip


def _summary(layer: LayerCensus, population: Population) -> LayerSummary:
    return LayerSummary(
        name=layer.name,
        n_units=len(layer.member),
        n_dead=layer.n_dead_,
        median_width=population.median_width(layer.name),
        frequency=layer.frequency_.tolist(),
        size=layer.size_.tolist(),
        stability=layer.stability_.tolist(),
    )


def _centroid_images(census: Census, data: Data) -> list[Any]:
    """The most frequent first-layer centroids (bias left out) as images, if these are what the layer reads."""
    layer = next(iter(census.layers_.values()))
    shape = data.image_shape and kernel_shape(census, layer.name, data.image_shape)
    if shape is None:
        return []
    return layer.centroid_[:N_CENTROIDS, :-1].reshape(-1, *shape).tolist()  # type: ignore[no-any-return]


def _describe_data(data: Data) -> dict[str, Any]:
    sizes = {f"n_{part}": len(getattr(data, part)) for part in ("train", "calibration", "validation", "test")}
    return {
        "name": data.name,
        **sizes,
        "n_classes": data.n_classes,
        "image_shape": data.image_shape and list(data.image_shape),
    }


def _describe_population(population: Population) -> dict[str, Any]:
    return {
        "n_members": len(population),
        "class": type(population.members[0].module).__name__,
        "widths": {layer.name: sorted(set(population.widths(layer.name))) for layer in population.architecture.hidden},
        "activations": {layer.name: ", ".join(layer.activations) for layer in population.architecture.hidden},
        "failed": {str(k): why for k, why in population.failed.items()},
        **population.provenance,
    }


def _describe_census(census: Census) -> dict[str, Any]:
    names = ("grounding", "distance", "clusterer", "n_clusters", "n_resamples", "random_state")
    return {name: getattr(census, name) for name in names}
