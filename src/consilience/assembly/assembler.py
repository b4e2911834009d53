"""Networks of any width and correction from one census, without repeated work.

An `Assembler` keeps the members' responses to the calibration data, the clusters chosen at each width, and the networks
built layer by layer from them. "least-squares", "second-order" and "distill" at one width share the choice and the
layers, and so does an elastic assembly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from consilience.assembly.build import FITTED, LAYERWISE, Builder, check_correction
from consilience.assembly.choice import CensusPlan, Choice, choice_of, cut_at
from consilience.assembly.contest import Contest, Entry, best_of
from consilience.assembly.directions import with_directions
from consilience.assembly.distillation import Distillation, distillation_of
from consilience.assembly.elastic import ELASTIC_CORRECTIONS, Elastic, share_inputs
from consilience.assembly.nearness import nearest
from consilience.assembly.norms import check_foldable, without_norms
from consilience.assembly.pooling import POOLINGS, check_pooling
from consilience.assembly.reconstruction import reconstruct
from consilience.assembly.record import Assembled, layer_records
from consilience.assembly.widths import HasClusters, Selection, of_motifs, resolve, select
from consilience.census.census import Census, check_fitted
from consilience.checks import Width, check_choice, check_seed
from consilience.clustering.clusters import Clusters
from consilience.errors import InputError, warn
from consilience.population.checks import calibration_inputs
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.units.architecture import TracedNetwork
from consilience.units.forward import outputs_of
from consilience.units.grouped import group_norms

CHOICES = ("cut", "reconstruction")
BATCH_NORMS = ("kept", "folded")
WHOLE = "leave them out, because nothing is fitted there; or choose a smaller width"
SEVERAL_LAYERS = ("second-order", "distill")
NORMS_DEVIATE = 0.01  # of the outputs, with something else in place of what is taken for a norm
N_REFINED = 2  # how many of the nearest networks get second-order steps


class Assembler:
    """Build networks of the members' class from the clusters of a census.

    Any width comes from the same census; nothing is clustered again. With ``width="full"`` the result is the ensemble
    of the members (their outputs, pooled).

    Parameters
    ----------
    census : a fitted census.
    calibration : inputs (n, ...) without labels; by default those of the census.
    pooling : of the members' outputs: "mean", the ensemble, or "class-share", for members that know different classes.
    """

    def __init__(self, census: Census, *, calibration: Tensor | None = None, pooling: str = "mean") -> None:
        check_fitted(census)
        self.has_data = calibration is not None or census.calibration_ is not None
        check_pooling(pooling, self.has_data)
        if calibration is not None:
            calibration = calibration_inputs(census.population_, calibration, "calibration")
        self.census, self.calibration, self.pooling = census, calibration, pooling
        self._fitted = census.layers_
        self._choices: dict[Hashable, Choice] = {}
        self._layers: dict[Hashable, TracedNetwork] = {}
        self._entries: dict[Hashable, list[Entry]] = {}
        self._second: dict[Hashable, list[Entry]] = {}

    @cached_property
    def responses(self) -> Responses:
        """Responses of the members to the calibration data; without any, to one input of zeros."""
        if self.calibration is None:
            return self.census.responses_
        return Responses(self.census.networks_, self.calibration, self.census.population_.kind)

    @cached_property
    def builder(self) -> Builder:
        """Builds networks of the members' class that pool the members' outputs."""
        return Builder(self.census.population_, self.responses, POOLINGS[self.pooling](self.responses))

    @cached_property
    def _whole(self) -> Builder:
        """Builds the members side by side, without data, with norms that keep them apart."""
        population, groups = self.census.population_, None
        norms = population.architecture.statistics
        others = [norm for norm in norms if norm.module is None]
        if norms and not others and not _are_norms(population):
            others = list(norms)
        mixed = sorted({f"'{layer}'" for norm in others for layer in norm.layers})
        if mixed:
            message = (
                f"width 'full' should be the ensemble, got norms or means over units of {', '.join(mixed)} that mix "
                "the members' units: give each norm a module of its own, and take no other means over units"
            )
            warn(message)
        elif norms:
            groups = {name: population.widths(name) for name in self.census.layers_}
        responses = Responses.without_data(self.census.networks_, population.example_input)
        return Builder(population, responses, self.builder.pooling, groups=groups)

    @cached_property
    def _contest(self) -> Contest:
        return Contest(self.census, self.responses, self.builder.pooling)

    def assemble(
        self,
        width: Selection = "2x",
        *,
        correction: str = "least-squares",
        choice: str | None = None,
        motifs: Sequence[HasClusters] | None = None,
        batch_norm: str = "kept",
        random_state: int = 0,
        **distillation: Any,
    ) -> nn.Module:
        """Return one network: a plain ``nn.Module`` in eval mode, a resized copy of the first member.

        Parameters
        ----------
        width : an int, "2x", a dict by layer or, of transformers, by "heads", "stream" and "mlp", "frequency>=0.5",
            "parameters<=100000" or "full".
        correction : in order of cost, "none", "moments" (REPAIR), "least-squares" (closed form, layer by layer),
            "second-order" (least squares, then Gauss–Newton steps on all layers above the first) or "distill" (these,
            then a few hundred gradient steps on all layers). All but "none" need calibration data; none needs
            labels. What was corrected is kept if it is nearer to the ensemble on held-out calibration rows.
        choice : of clusters: "cut", the census's tree cut at the width, or the most frequent clusters; or
            "reconstruction", clusters of any height that best reconstruct the ensemble's outputs. By default the
            latter wherever weights are fitted to calibration data and the width is a number.
        motifs : of `consilience.motifs`: their clusters make the network, whatever the width, with all clusters of
            layers in which they have none.
        batch_norm : "kept", with statistics of the calibration data, or "folded" into the weights before them.
        random_state : seed of the distillation.
        **distillation : with "distill": ``steps``, ``batch_size``, ``learning_rate``, ``batches`` (any iterable),
            ``augmentation`` and ``progress``; see `consilience.assembly.distillation.Distillation`.

        Raises
        ------
        InputError : also if there are fewer clusters than units, or calibration data is missing.
        """
        self._check_current()
        check_correction(correction, self.has_data)
        options = distillation_of(correction, distillation)
        if choice is not None:
            check_choice("choice", choice, CHOICES)
        check_choice("batch_norm", batch_norm, BATCH_NORMS)
        check_seed("random_state", random_state)
        population = self.census.population_
        if batch_norm == "folded":
            check_foldable(population.members[0].module, population.architecture)
        if motifs is not None:
            chosen = of_motifs(self.census, motifs)
            network = self._of_groups(("motifs", _key(chosen)), choice_of(chosen), correction, random_state, options)
            return network if batch_norm == "kept" else without_norms(network, population.architecture)
        numbers = resolve(self.census, width)
        if choice == "reconstruction" and not self.has_data:
            raise InputError("choice='reconstruction' needs calibration data", cure='use choice="cut"')
        if choice == "reconstruction" and numbers is None:
            raise InputError(
                f'width must be a number or a multiple such as "2x" with choice="reconstruction", got {width!r}',
                cure='use choice="cut"',
            )
        layers = self.census.layers_
        everything = numbers is not None and all(layers[name].n_units == n for name, n in numbers.items())
        if everything or (isinstance(width, str) and width.strip() == "full"):
            if distillation:
                got = f"{', '.join(distillation)} at width {width!r}"
                raise InputError(f"options of distill must be left out where every unit is kept, got {got}", cure=WHOLE)
            network = self._full()
        elif numbers is not None and (choice or ("reconstruction" if correction in FITTED else "cut")) != "cut":
            network = self._nearest(numbers, correction, random_state, options)
        else:
            network = self._of_clusters(width, numbers, correction, random_state, options)
        return network if batch_norm == "kept" else without_norms(network, population.architecture)

    def _full(self) -> nn.Module:
        """The members side by side, which are the ensemble: nothing is fitted, and no data is looked at."""
        census, choice = self.census, choice_of(select(self.census, "full"))
        if "full" not in self._layers:
            widths = {name: layer.n_units for name, layer in census.layers_.items()}
            self._layers["full"] = self._whole.layers(widths, CensusPlan(census, choice), "none")
        network = self._whole.finish(self._layers["full"], "none")
        return _recorded(network, Assembled("all units", "none", layer_records(census, choice.groups)))

    def _of_clusters(
        self,
        width: Selection,
        numbers: Mapping[str, int] | None,
        correction: str,
        random_state: int,
        options: Distillation | None,
    ) -> nn.Module:
        """The network of the census's clusters."""
        if numbers is None:
            key: Hashable = width
            chosen = choice_of(select(self.census, width))
        else:
            key, chosen = ("cut", *numbers.items()), cut_at(self.census, numbers)
            if self.has_data:
                chosen = with_directions(chosen, self.responses, numbers)
        return self._of_groups(key, chosen, correction, random_state, options)

    def _of_groups(
        self, key: Hashable, chosen: Choice, correction: str, random_state: int, options: Distillation | None
    ) -> nn.Module:
        """The network of chosen clusters: corrected, if that is nearer to the ensemble on held-out rows."""
        if correction == "none":
            network = self.builder.finish(self._built(key, chosen, correction), correction)
            return _recorded(network, Assembled("cut", correction, layer_records(self.census, chosen.groups)))
        entries = self._compared(key, correction, lambda first: self._contest.of_choice(chosen, first))
        return self._kept(key, entries, correction, random_state, options)

    def _nearest(
        self, numbers: Mapping[str, int], correction: str, random_state: int, options: Distillation | None
    ) -> nn.Module:
        """The network nearest to the ensemble on held-out rows, of several choices of clusters."""
        key = tuple(numbers.items())
        entries = self._compared(key, correction, lambda first: self._contest.entries(numbers, first))
        return self._kept(key, entries, correction, random_state, options)

    def _compared(self, key: Hashable, correction: str, compare: Callable[[str], list[Entry]]) -> list[Entry]:
        """The networks compared before the corrections of several layers together, which share them."""
        first = "least-squares" if correction in FITTED else correction
        if (key, first) not in self._entries:
            self._entries[key, first] = compare(first)
        return self._entries[key, first]

    def _kept(
        self,
        key: Hashable,
        entries: Sequence[Entry],
        correction: str,
        random_state: int,
        options: Distillation | None,
    ) -> nn.Module:
        """The nearest of networks and of what the corrections of several layers make of the nearest of them."""
        contest, distilled = self._contest, None
        if correction in SEVERAL_LAYERS and not contest.few:
            entries = [*entries, *self._refined(key, entries)]
        network: nn.Module | None = None
        if options is not None and (options.batches is not None or not contest.few):
            start = entries[nearest([entry.record.error for entry in entries])]
            network = contest.finisher.finish(start.network, correction, random_state, options)
            distilled = getattr(network, "distillation_", None)
            entries = [*entries, contest.taught(start, correction, network)]
        best = entries[best_of(entries)]
        if network is None or best is not entries[-1]:
            network = contest.builder.finish(best.network, "none")
        layers, records = layer_records(self.census, best.groups), tuple(entry.record for entry in entries)
        return _recorded(network, Assembled(best.record.choice, best.record.correction, layers, records, distilled))

    def _refined(self, key: Hashable, entries: Sequence[Entry]) -> list[Entry]:
        """The nearest of some networks after second-order steps; "second-order" and "distill" share them."""
        if key not in self._second:
            nearest_ones = [entries[i] for i in self._contest.near(entries)[:N_REFINED]]
            self._second[key] = [self._contest.refined(entry) for entry in nearest_ones]
        return self._second[key]

    def elastic(self, widths: Sequence[Width] = ("1x", "2x", "4x"), *, correction: str = "least-squares") -> Elastic:
        """Build one network that can be taken at several widths.

        The clusters of the widest are chosen by reconstruction, and taken in their order of choice.

        Parameters
        ----------
        widths : ints or multiples such as "2x".
        correction : "least-squares" or "second-order".
        """
        self._check_current()
        check_correction(correction, self.has_data, allowed=ELASTIC_CORRECTIONS)
        widths = tuple(widths) if isinstance(widths, Iterable) and not isinstance(widths, str | Tensor) else ()
        if not widths:
            raise InputError('widths must be a sequence of one width or more, such as ("1x", "2x")')
        sizes: dict[str, dict[str, int]] = {}
        for width in widths:
            numbers = resolve(self.census, width)
            if numbers is None:
                raise InputError(f'widths must be ints or multiples such as "2x", got {width!r}')
            sizes[str(width)] = numbers
        ordered = sorted(sizes, key=lambda width: tuple(sizes[width].values()))
        for narrow, wide in pairwise(ordered):
            if any(sizes[narrow][name] > sizes[wide][name] for name in sizes[wide]):
                raise InputError(
                    "one of two widths must be the narrower in every layer, got "
                    f"{narrow}: {sizes[narrow]} and {wide}: {sizes[wide]}",
                    cure="use multiples, such as 1x and 2x",
                )
        widest = sizes[ordered[-1]]
        self.builder.check_rows(widest, correction)
        networks: dict[str, nn.Module] = {}
        for width in ordered:
            key: Hashable = tuple(widest.items())
            chosen = self._chosen(widest)
            if sizes[width] != widest:
                key, chosen = (key, *sizes[width].items()), chosen.prefix(sizes[width])
            networks[width] = self.builder.finish(self._built(key, chosen, correction), correction)
        return share_inputs(networks, self.census.population_.architecture, self.responses.x)

    def _check_current(self) -> None:
        if self.census.layers_ is not self._fitted:
            raise InputError("census must be as it was, got one fitted again", cure="make a new Assembler")

    def _chosen(self, numbers: Mapping[str, int]) -> Choice:
        key = tuple(numbers.items())
        if key not in self._choices:
            self._choices[key] = reconstruct(self.census, self.responses, numbers, self.builder.pooling)
        return self._choices[key]

    def _built(self, key: Hashable, choice: Choice, correction: str) -> TracedNetwork:
        """The network of the clusters chosen, built layer by layer; one for each choice (``key``) and correction."""
        key = key, LAYERWISE[correction]
        if key not in self._layers:
            widths = {name: groups.n_clusters for name, groups in choice.groups.items()}
            self._layers[key] = self.builder.layers(widths, CensusPlan(self.census, choice), correction)
        return self._layers[key]


def _are_norms(population: Population) -> bool:
    """Whether modules of norms compute nothing else: a member with norms in one group in their place is the same.

    What deviates by less is left to the proof of what is built.
    """
    member, x = population.members[0], population.example_input
    architecture, module = member.network.architecture, copy.deepcopy(member.module)
    group_norms(module, architecture.groupings({layer.name: (layer.width,) for layer in architecture.free}))
    with torch.no_grad():
        grouped, own = (outputs_of(each, x, "member 0", output=population.output) for each in (module, member.module))
    return bool((grouped - own).norm() <= NORMS_DEVIATE * own.norm())


def _recorded(network: nn.Module, record: Assembled) -> nn.Module:
    object.__setattr__(network, "assembly_", record)
    return network


def assemble(
    census: Census,
    width: Selection = "2x",
    *,
    correction: str = "least-squares",
    choice: str | None = None,
    motifs: Sequence[HasClusters] | None = None,
    pooling: str = "mean",
    calibration: Tensor | None = None,
    batch_norm: str = "kept",
    random_state: int = 0,
    **distillation: Any,
) -> nn.Module:
    """Build one network of the members' class from the clusters of a census.

    The parameters are those of `Assembler` (``pooling``, ``calibration``) and of `Assembler.assemble`. To build several
    networks from one census, use an `Assembler`, which does nothing twice.
    """
    return Assembler(census, calibration=calibration, pooling=pooling).assemble(
        width,
        correction=correction,
        choice=choice,
        motifs=motifs,
        batch_norm=batch_norm,
        random_state=random_state,
        **distillation,
    )


def _key(clusters: Mapping[str, Clusters]) -> Hashable:
    return tuple((name, layer.labels.tobytes()) for name, layer in clusters.items())


def elastic(
    census: Census,
    widths: Sequence[Width] = ("1x", "2x", "4x"),
    *,
    correction: str = "least-squares",
    pooling: str = "mean",
    calibration: Tensor | None = None,
) -> Elastic:
    """Build one network that can be taken at several widths; see `Assembler` and `Assembler.elastic`."""
    return Assembler(census, calibration=calibration, pooling=pooling).elastic(widths, correction=correction)
