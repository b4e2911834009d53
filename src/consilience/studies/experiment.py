"""Is the assembly any good? A census's assemblies against what a user would do instead, on one data set."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any, TypeVar

from torch import Tensor, nn

from consilience.assembly import Assembler
from consilience.assembly.distillation import Distillation
from consilience.baselines import Ensemble, best_member, distil, merge_many, parameter_average
from consilience.census import Census, LayerCensus, Significance
from consilience.checks import resolve_width
from consilience.data import Data
from consilience.errors import InputError, TrainingError
from consilience.evaluation import (
    AnyScore,
    Closeness,
    EnsembleOutputs,
    Score,
    evaluate,
    mean_score,
    paired_error,
    scored,
)
from consilience.population.population import Population
from consilience.report.results import ChanceSummary, Experiment, HeadsSummary, LayerSummary, LearningPoint, Role, Row
from consilience.schema import read_object
from consilience.studies.heads import heads_summary, output_names
from consilience.studies.portraits import CHANNELS, kernel_shape, portraits
from consilience.studies.samples import fitted
from consilience.studies.significance import measured_significance
from consilience.training import Run, Trained, Training, fit_members
from consilience.training.fresh import initialise

WIDTHS = ("1x", "2x", "4x")
CORRECTIONS = ("none", "least-squares", "second-order", "distill")
TRAINED_WIDTH = "2x"  # the width at which fine-tuning and training from scratch are compared
N_POINTS = 20  # of a curve where training does not measure the score
LAST, LAST_RATE = 5, 0.1  # one step in this many is taken last, at this share of the rate
N_CENTROIDS = 64
COMPARED_WITH = {Role.ASSEMBLY: Role.ENSEMBLE, Role.FINE_TUNED: Role.SCRATCH}  # in the summary
GROUPS = ("members", "alternative", "assembly")
T = TypeVar("T")


@dataclass(frozen=True)
class _Contest:
    """What every row of the table is made from, and the rows so far."""

    census: Census
    data: Data
    random_state: int
    rows: list[Row] = field(default_factory=list)
    added: dict[Role, Tensor] = field(default_factory=dict)  # by the first row of a role, what test samples add

    @cached_property
    def ensemble(self) -> EnsembleOutputs:
        """What networks are compared with on test samples."""
        return EnsembleOutputs(self.population, self.data.test)

    @property
    def population(self) -> Population:
        return self.census.population_

    @property
    def training(self) -> Training:
        """How the members were trained; networks trained for comparison are trained the same way."""
        return read_object(Training, self.population.provenance.get("training", {}), "training of the population")

    @property
    def steps(self) -> int:
        """Gradient steps that each member took."""
        steps = [record["steps"] for record in self.population.metrics if "steps" in record]
        return max(steps, default=self.training.epochs * math.ceil(len(self.data.train) / self.training.batch_size))

    @property
    def equal_widths(self) -> bool:
        """Whether all members have the same widths."""
        return all(len(set(self.population.widths(own.name))) == 1 for own in self.population.architecture.hidden)

    @property
    def untrainable(self) -> str:
        """Why no networks like the members are trained for comparison; empty if they are."""
        if self.population.output is not None:
            return "networks that return more than their outputs are not trained here"
        try:
            initialise(self.population.members[0].module, self.random_state)
        except InputError as error:
            return error.message
        return ""

    def exists(self, width: str) -> bool:
        """Return whether the census has enough clusters for a multiple of the median widths; a few members may not."""
        return all(
            resolve_width(width, self.population.median_width(name), "widths") <= layer.n_available
            for name, layer in self.census.layers_.items()
        )

    def add(self, method: str, role: Role, width: str, network: nn.Module, steps: int = 0, seconds: float = 0) -> None:
        """Score a network and add its row."""
        size = sum(parameter.numel() for parameter in network.parameters())
        output = self.population.output
        test, added = scored(network, self.data.test, output=output)
        validation = evaluate(network, self.data.validation, output=output)
        reference = self.added.get(COMPARED_WITH[role]) if role in COMPARED_WITH else None
        error = None if reference is None else paired_error(added, reference)
        self.added.setdefault(role, added)
        near = None if role is Role.ENSEMBLE else self.ensemble.closeness(network)
        self.rows.append(Row(method, role, width, size, test, validation, steps, seconds, error, near))

    def add_members(self) -> None:
        """Add the members, their ensemble, and what can be made of them without a census."""
        population, data = self.population, self.data
        test, validation = (
            mean_score([evaluate(member.module, part, output=population.output) for member in population])
            for part in (data.test, data.validation)
        )
        size = sum(parameter.numel() for parameter in population.members[0].module.parameters())
        error = self.ensemble.member_error
        near = Closeness(error, None, 1.0, error, len(data.test))
        self.rows.append(Row("mean member", Role.MEAN_MEMBER, "", size, test, validation, 0, 0.0, closeness=near))
        best = best_member(population, data.validation)
        self.add("best member on validation", Role.BEST_MEMBER, "", best)
        self.add("ensemble of the members", Role.ENSEMBLE, "", Ensemble(population))
        if not self.equal_widths:
            return
        for method, make in (("average of parameters", parameter_average), ("MergeMany", merge_many)):
            network, seconds = _timed(partial(make, population))
            self.add(method, Role.ALTERNATIVE, "1x", network, 0, seconds)

    def add_trained(self, width: str, networks: Mapping[Role, nn.Module]) -> dict[str, list[LearningPoint]]:
        """Train networks of one architecture, add their rows, and return their test scores along the way.

        They take as many steps as a member, on the same samples in the same order, in the same way but for the last
        fifth: its rate is a tenth, without which a start near the end is at a disadvantage. Each has its share of the
        seconds.
        """
        train, test, n, steps = self.data.train, self.data.test, len(networks), self.steps
        curves = {role.value: [LearningPoint(0, evaluate(network, test))] for role, network in networks.items()}
        seconds, done = 0.0, 0
        for n_steps, share in ((steps - steps // LAST, 1.0), (steps // LAST, LAST_RATE)):
            if n_steps == 0:
                continue
            rate = self.training.learning_rate * share
            training = replace(self.training, shuffle="independent", subset="full", learning_rate=rate)
            run = Run(training, self.random_state, (test.x, test.y), n_steps, members=(0,) * n, n_members=1)
            if self.data.task != "classification":
                last = math.ceil(n_steps / math.ceil(len(train) / training.batch_size))
                run = replace(run, snapshot_epochs=[*range(1, last, 1 + last // N_POINTS), last])
            run = replace(run, task=self.data.task)
            trained, took = _timed(partial(fit_members, [*networks.values()], train.x, train.y, run))
            if trained.failed:
                why = next(iter(trained.failed.values()))
                raise TrainingError(f"a network trained for comparison failed: {why}")
            for network, state in zip(networks.values(), trained.states, strict=True):
                network.load_state_dict(state)
            for step, role, score in self._scores_of(trained, networks):
                curves[role].append(LearningPoint(done + step, score))
            seconds, done = seconds + took, done + n_steps
        for role, network in networks.items():
            self.add(role, role, width, network, steps, seconds / n)
        return curves

    def _scores_of(self, trained: Trained, networks: Mapping[Role, nn.Module]) -> Iterator[tuple[int, Role, AnyScore]]:
        """Test scores after epochs: after each, which training measures, or after those of its snapshots."""
        if not trained.snapshots:
            for record, role in zip(trained.metrics, cycle(networks)):
                p, n = record["validation_accuracy"], len(self.data.test)
                yield record["steps"], role, Score(p, math.sqrt(p * (1 - p) / n), record["validation_loss"], n)
        steps = {record["epoch"]: record["steps"] for record in trained.metrics}
        for epoch, states in trained.snapshots.items():
            for (role, network), state in zip(networks.items(), states, strict=True):
                then = copy.deepcopy(network)
                then.load_state_dict(state)
                yield steps[epoch], role, evaluate(then, self.data.test)

    def add_distilled(self) -> None:
        """Add the assembly's rivals: the ensemble distilled into a member and, of equal widths, into one made wider."""
        x, architecture = self.census.calibration_, self.population.architecture
        assert x is not None
        starts = {"distilled member": ("1x" if self.equal_widths else "", "member")}
        if self.equal_widths and all(m.fitted for m in architecture.maps):  # copies change statistics of layer norms
            starts["distilled member, widened"] = (TRAINED_WIDTH, "net2wider")
        for method, (width, start) in starts.items():
            wide = {"width": width} if start == "net2wider" else {}
            make = partial(distil, self.population, x, start=start, random_state=self.random_state, **wide)
            network, seconds = _timed(make)
            self.add(method, Role.ALTERNATIVE, width, network, Distillation().steps, seconds)


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
    """Score a census's assemblies and their alternatives on the data that its population was trained on.

    Multiples wider than the number of clusters are left out, and so are corrections that need calibration data if there
    is none. ``obtained`` says on the page how to get these numbers again.
    """
    data = fitted(census.population_, data)
    contest = _Contest(census, data, random_state)
    population = contest.population
    progress("members and their ensemble")
    contest.add_members()
    usable = [c for c in corrections if census.calibration_ is not None or c == "none"]
    possible = [width for width in widths if contest.exists(width)]
    trained_width = TRAINED_WIDTH if contest.exists(TRAINED_WIDTH) else "full"
    best = "least-squares" if "least-squares" in usable else "none"
    assembler, start = Assembler(census), None
    for correction in usable:
        for width in (*possible, "full") if correction == "none" else possible:
            progress(f"assembly {width}, {correction}")
            build = partial(assembler.assemble, width, correction=correction, random_state=random_state)
            network, seconds = _timed(build)
            steps = Distillation().steps if correction == "distill" else 0
            contest.add(f"assembly, {correction}", Role.ASSEMBLY, width, network, steps, seconds)
            start = network if (width, correction) == (trained_width, best) else start
    if "distill" in usable:
        progress("the ensemble distilled into members")
        contest.add_distilled()
    if "least-squares" in usable and len(possible) > 1:
        progress("elastic assembly")
        networks, seconds = _timed(partial(assembler.elastic, possible))
        for width in possible:
            network = networks.at_width(width)
            contest.add("assembly, elastic", Role.ASSEMBLY, width, network, 0, seconds / len(possible))

    learning, left_out = dict[str, list[LearningPoint]](), contest.untrainable
    if not left_out:
        progress(f"training from scratch and from the assembly, {trained_width}")
        start = start or assembler.assemble(trained_width, correction=best)
        learning = contest.add_trained(
            trained_width, {Role.SCRATCH: initialise(start, random_state), Role.FINE_TUNED: start}
        )
    progress("chance levels")
    significance, _ = measured_significance(census)
    progress("what heads attend to and write")
    roles, effects = census.head_roles(), census.head_effects()
    outputs = output_names(population.architecture.n_outputs, data.vocabulary, data.classes)
    heads = {name: heads_summary(own, effects.get(name), outputs) for name, own in roles.items()}
    progress("what excites the clusters")
    pictures = (data.image_shape or (0,))[0] in CHANNELS
    x = data.calibration.x if census.calibration_ is None else census.calibration_
    return Experiment(
        title=f"{len(population)} networks and one built from them: {data.name}",
        data=_describe_data(data),
        population=_describe_population(population),
        census=_describe_census(census),
        table=sorted(contest.rows, key=lambda row: GROUPS.index(row.role.group)),
        learning=learning,
        layers=[
            _summary(layer, population, significance.get(name), heads.get(name))
            for name, layer in census.layers_.items()
        ],
        centroids=_centroid_images(census, data),
        atlas=portraits(census, x, significance=significance) if pictures else [],
        obtained=dict(obtained or {}),
        left_out={f"{Role.SCRATCH} and {Role.FINE_TUNED}": left_out} if left_out else {},
    )


def _timed(make: Callable[[], T]) -> tuple[T, float]:
    """Return what a function returns, and the seconds that it took."""
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began


def _summary(
    layer: LayerCensus, population: Population, significance: Significance | None, heads: HeadsSummary | None
) -> LayerSummary:
    return LayerSummary(
        name=layer.name,
        n_units=len(layer.member),
        n_dead=layer.n_dead_,
        median_width=population.median_width(layer.name),
        frequency=layer.frequency_.tolist(),
        size=layer.size_.tolist(),
        stability=layer.stability_.tolist(),
        chance=None if significance is None else _chance(significance),
        heads=heads,
    )


def _chance(significance: Significance) -> ChanceSummary:
    excess = significance.excess
    return ChanceSummary(
        q=significance.q.tolist(),
        recurrence=significance.recurrence.tolist(),
        recurrence_by_chance=significance.chance.tolist(),
        share=excess.share,
        share_by_chance=excess.chance,
        interval=list(excess.interval),
        z=excess.z,
        radius=significance.radius,
        frequency=significance.turned.frequency.tolist(),
        stability=significance.turned.stability.tolist(),
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
    image_shape = data.image_shape and list(data.image_shape)
    kind = {"n_classes": data.n_classes} if data.n_classes else {"task": data.task, "n_outputs": data.n_outputs}
    return {"name": data.name, **sizes, **kind, "image_shape": image_shape}


def _describe_population(population: Population) -> dict[str, Any]:
    hidden = population.architecture.hidden
    return {
        "n_members": len(population),
        "class": type(population.members[0].module).__name__,
        "widths": {layer.name: sorted(set(population.widths(layer.name))) for layer in hidden},
        "activations": {layer.name: ", ".join(layer.activations) for layer in hidden},
        "failed": {str(k): why for k, why in population.failed.items()},
        **population.provenance,
    }


def _describe_census(census: Census) -> dict[str, Any]:
    names = ("grounding", "distance", "clusterer", "n_clusters", "n_resamples", "random_state")
    return {name: getattr(census, name) for name in names}
