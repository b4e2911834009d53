"""One network from a basis per layer: from the inputs up, construct and correct each map on those built below.

Nothing here knows where the bases come from: clusters of a census, or the matchings and plans of the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from consilience.assembly.distillation import Distillation, Teacher, distill
from consilience.assembly.draft import Draft
from consilience.assembly.gauss_newton import gauss_newton
from consilience.assembly.heads import with_fitted_heads
from consilience.assembly.layerwise import carried, least_squares, moments
from consilience.assembly.norms import with_statistics
from consilience.assembly.pooling import Pooled, output_bases, pooled
from consilience.assembly.scores import with_merged_scores
from consilience.bases.construction import construct
from consilience.bases.grounding import Basis, by_index
from consilience.bases.hyperplanes import Projection
from consilience.checks import check_choice
from consilience.errors import InputError
from consilience.population.checks import warn_of_few
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.tasks import OF_CLASSES
from consilience.units.architecture import TracedNetwork, read_state, write_state
from consilience.units.axes import Axis
from consilience.units.configs import set_config
from consilience.units.grouped import group_norms
from consilience.units.maps import Map, Weights
from consilience.units.proof import prove
from consilience.units.resize import resize
from consilience.units.symmetry import balanced
from consilience.units.written_out import let_train

# What each correction does to a map right after its construction. "second-order" and "distill" go on from there.
LAYERWISE: dict[str, Callable[[Draft, Map], Weights] | None] = {
    "none": None,
    "moments": moments,
    "least-squares": least_squares,
    "second-order": least_squares,
    "distill": least_squares,
}
CORRECTIONS = tuple(LAYERWISE)
FITTED = tuple(name for name, correct in LAYERWISE.items() if correct is least_squares)  # weights are fitted to data


class Plan(Protocol):
    """Where the bases come from, layer by layer."""

    def basis(self, draft: Draft, layer: str) -> Basis:
        """Return the basis of a hidden layer, before it is built."""

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return the members' projections on a layer as it has been built, in a place where it is read."""


def check_correction(correction: str, has_data: bool, allowed: Sequence[str] = CORRECTIONS) -> None:
    """Raise unless the correction is one of those allowed, and there is calibration data if it needs any."""
    check_choice("correction", correction, allowed)
    if not has_data and correction != "none":
        or_none = ', or use correction="none"' if "none" in allowed else ""
        raise InputError(f"correction={correction!r} needs calibration data", cure=f"pass unlabelled inputs{or_none}")


@dataclass(frozen=True)
class Builder:
    """Networks of a population's class at other widths, from the responses of the networks that are mixed."""

    population: Population  # its first member is the template
    responses: Responses  # on calibration inputs, or `Responses.without_data`
    pooling: Tensor  # weights (k, o) of the members' outputs
    teacher: Teacher | None = None  # of a distillation; by default the networks mixed, pooled
    groups: Mapping[str, Sequence[int]] | None = None  # of units that norms keep apart, by free layer

    def layers(self, widths: Mapping[str, int], plan: Plan, correction: str) -> TracedNetwork:
        """Return the network built map by map, balanced, without the corrections of several layers together.

        ``widths`` are by hidden layer that is tied to none before it.
        """
        return self.with_readout(self.hidden(widths, plan, correction), correction)

    def hidden(self, widths: Mapping[str, int], plan: Plan, correction: str) -> TracedNetwork:
        """Return the network of `layers` without what `with_readout` does."""
        population, responses, correct = self.population, self.responses, LAYERWISE[correction]
        module = self._resized(widths)
        architecture = population.architecture.with_widths(widths)
        if self.groups is not None:
            architecture = architecture.with_groups(self.groups)
        draft = Draft(TracedNetwork(architecture, read_state(module)), responses)
        for m in architecture.maps:
            draft = _with_inputs(draft, m, plan)
            if m.writes not in draft.bases:
                draft = draft.with_basis(m.writes, self._basis(draft, m.writes, plan))
            projections = draft.projections
            if m.per_unit:
                projections = {m.inputs[0]: draft.bases[m.reads[0]].projections}
            basis = draft.bases[m.writes]
            draft = draft.with_weights(m, construct(m, draft.members, basis.mixing, projections, turned=basis.turned))
            if correct is least_squares:
                draft = with_fitted_heads(draft, m)
            if correct is not None:
                draft = draft.with_weights(m, correct(draft, m))
            if correct is least_squares:
                draft = with_merged_scores(draft, m)
            if correct is least_squares and basis.turned and m.output.name in architecture.program.varying:
                draft = carried(draft, m) if not m.per_unit else draft
            if responses.has_data:
                draft = draft.with_values(m)
        return balanced(draft.network)

    def with_readout(self, network: TracedNetwork, correction: str) -> TracedNetwork:
        """Return the network with the maps that write class scores fitted to the pooled class probabilities.

        It is done where weights are fitted, and is convex. For other tasks least squares is that fit.
        """
        architecture = network.architecture
        if correction not in FITTED or self.population.task not in OF_CLASSES:
            return network
        return balanced(
            self._fitted(network, [m for m in architecture.maps if m.writes in architecture.heads and m.reads])
        )

    def refined(self, network: TracedNetwork) -> TracedNetwork:
        """Return the network, balanced, with all layers above the first fitted together ("second-order")."""
        return balanced(self._fitted(network))

    def _fitted(self, network: TracedNetwork, maps: Sequence[Map] | None = None) -> TracedNetwork:
        """The network with some maps, or all that read layers, fitted to the pooled outputs by Gauss–Newton steps."""
        responses, reference = self.responses, pooled(self.responses, self.pooling)
        return gauss_newton(network, responses.x, reference, self.population.task, maps, responses.sampling)

    def finish(
        self,
        network: TracedNetwork,
        correction: str,
        random_state: int = 0,
        distillation: Distillation | None = None,
    ) -> nn.Module:
        """Return the proved module, in eval mode, of a network after the corrections of several layers together."""
        population, responses, x = self.population, self.responses, self.responses.x
        if correction == "second-order":
            network = self.refined(network)
        if responses.has_data:
            network = with_statistics(network, x)
        module = self._resized(network.architecture.widths)
        write_state(module, network.state)
        let_train(module.eval())
        prove(module, network, population.example_input)
        if correction == "distill":
            module = distill(
                module,
                network.architecture,
                x,
                self.teacher or Pooled(responses.networks, self.pooling),
                task=population.task,
                options=distillation or Distillation(),
                random_state=random_state,
            )
        return module

    def _resized(self, widths: Mapping[str, int]) -> nn.Module:
        """A copy of the template with these widths and, where norms keep units apart, such norms."""
        architecture = self.population.architecture
        module = resize(self.population.members[0].module, architecture, widths)
        if self.groups is not None:
            group_norms(module, architecture.groupings(self.groups))
            set_config(module)
        return module

    def check_rows(self, widths: Mapping[str, int], correction: str, x: Tensor | None = None, least: int = 2) -> None:
        """Warn of the map with the most unknowns, if weights are fitted on too few samples for it; once a call.

        ``x`` are all samples, where networks are fitted on a part of them; see `warn_of_few` for ``least``.
        """
        if correction not in FITTED:
            return
        architecture, network = self.population.architecture.with_widths(widths), self.responses.networks[0]
        maps = [m for m in architecture.maps if m.reads and m.fitted]
        unknowns = {}
        for m in maps:
            parts, widths = network.weights(m).parts, architecture.widths
            read = (
                1 if m.per_unit else widths[axis.layer] if axis.layer else len(part[0])
                for part, axis in zip(parts, m.inputs, strict=True)
            )
            positions = max(part.shape[2] for part in parts)
            unknowns[m.name] = positions * sum(read) + m.has_bias
        if unknowns:
            most = max(unknowns, key=unknowns.__getitem__)
            (output,) = (m.output for m in maps if m.name == most)
            n_positions = len(self.responses.at(output)[0]) / len(self.responses.x)
            warn_of_few(self.responses.x if x is None else x, n_positions, unknowns[most], f"'{most}'", least)

    def _basis(self, draft: Draft, layer: str, plan: Plan) -> Basis:
        """The basis of a layer; where units are not interchangeable, cluster i is unit i of all members."""
        written = draft.architecture.layer(layer)
        if written.interchangeable:
            return plan.basis(draft, layer)
        if layer in draft.architecture.heads:
            return output_bases(draft.architecture, self.pooling, self.pooling.dtype)[layer]
        return by_index(len(draft.members), written.width, self.pooling.dtype)


def _with_inputs(draft: Draft, m: Map, plan: Plan) -> Draft:
    """The draft with the members' projections on all that a map reads; a map per unit needs none."""
    for axis in m.inputs if not m.per_unit else ():
        if axis.layer is not None and axis not in draft.projections:
            own: Sequence[Projection] = draft.bases[axis.layer].rows(axis.inside).projections
            if draft.architecture.layer(axis.layer).interchangeable:
                own = plan.express(draft, axis)
            draft = draft.with_projections(axis, own)
    return draft
