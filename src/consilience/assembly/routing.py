"""A wide assembly of which a part is computed for each sample: experts, and routers in closed form.

Layer by layer, from the inputs up, with h (n, i) what the layer reads in the routed network:

- *Experts* are groups of as many units, active on the same samples (`consilience.assembly.experts`).
- *Router.* Without expert e, its units u have the constant activation μ_u, and what reads the layer loses
  ``d_e = V_e (a_e − μ_e)`` (n, j), V the reading weights. The scores are the ridge regression of ``‖d_e‖`` on h, one
  output for each expert, with a strength by generalized cross-validation. The m highest are computed.
- *Constants.* μ_u is the mean of unit u over the samples whose router leaves it out; as it moves what a skipped expert
  costs, the two are found in turns.
- *Refit.* The weights of the layer above are fitted to the wide network's pre-activations by least squares around what
  they were, the readout for classes to the probabilities, as in assemblies.

With ``correction="distill"``, gradient steps on all weights towards the wide network's outputs follow, on unlabelled
inputs; the choice of experts has no gradient, so the routers stay as they are.

Related: mixtures of experts from trained perceptrons (Zhang et al. 2022, MoEfication, ACL Findings), where a router is
trained on each expert's sum of activations.

Axis legend: ``n`` samples, ``i`` units read, ``u`` units, ``e`` experts, ``j`` units that read the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from consilience.agreement import spread_of
from consilience.assembly.chain import Chain, as_chain
from consilience.assembly.distillation import Distillation, Distilled, distill_untraced, distillation_of
from consilience.assembly.experts import coactive_experts, random_experts
from consilience.assembly.gauss_newton import gauss_newton
from consilience.census.census import Census, check_fitted
from consilience.checks import check_choice, check_count, check_number, check_positive, check_seed, describe
from consilience.errors import InputError
from consilience.names import Grouping, RoutedCorrection
from consilience.nets import Routed
from consilience.nets.routed import RoutedLayer
from consilience.population.checks import calibration_inputs
from consilience.signals.moments import Moments, cross_validated
from consilience.tasks import OF_CLASSES
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.follow import find_layers
from consilience.units.modules import plain_copy

ROUNDS = 2  # of routers and constants in turns


@dataclass(frozen=True)
class RoutedLayerRecord:
    """One layer of a routed network.

    Attributes
    ----------
    experts : units of the wide network, by expert.
    explained : share of the variance over samples of what leaving out experts costs that the scores explain, on the
        calibration rows that the router was fitted to.
    used : (E,) share of these rows that each expert is computed for.
    """

    experts: tuple[tuple[int, ...], ...]
    explained: float
    used: tuple[float, ...]


@dataclass(frozen=True)
class RoutedRecord:
    """How a network was routed; it stays with it as ``network.routing_``."""

    layers: tuple[RoutedLayerRecord, ...]
    distillation: Distilled | None = None


def route(
    network: nn.Module,
    census: Census,
    active: float = 0.25,
    *,
    n_experts: int = 16,
    grouping: str = "co-activation",
    correction: str = "least-squares",
    calibration: Tensor | None = None,
    random_state: int = 0,
    **distillation: Any,
) -> Routed:
    """Return a network that computes a part of a wide network's units for each sample.

    Parameters
    ----------
    network : a chain of fully connected layers, such as an assembly of perceptrons at "4x". It stays as it is.
    census : that the network was assembled from: it gives the calibration inputs and the task.
    active : share of the experts of each layer that is computed, above 0 and up to 1; at least one expert is.
    n_experts : E, experts of each layer.
    grouping : of units into experts, "co-activation", or "random" to compare with.
    correction : "none", "least-squares" or "distill", in order of cost.
    calibration : inputs (n, ...) without labels; by default those of the census.
    random_state : seed of random experts and of the distillation.
    **distillation : options of "distill", as of `consilience.assemble`: ``steps``, ``batches`` and others. Each unit
        learns from its share of the samples, so that more of them are needed than without routers.

    Raises
    ------
    InputError : also if there are no calibration inputs, or fewer than units in a layer, or more experts than units.

    Examples
    --------
    >>> import consilience as cs
    >>> members = [cs.MLP(4, [8], 3) for _ in range(2)]
    >>> x = torch.randn(64, 4)
    >>> census = cs.Census(n_resamples=0).fit(cs.Population.from_modules(members, x), x)
    >>> routed = route(cs.assemble(census, "full"), census, active=0.5, n_experts=4)
    >>> routed.config.active, routed.n_products, routed.n_products_of_all
    ((2,), 96, 112)
    """
    check_fitted(census)
    if not isinstance(network, nn.Module):
        raise InputError(f"network must be a module, got {describe(network)}")
    check_number("active", active, least=0, most=1)
    check_positive("active", active)
    check_count("n_experts", n_experts)
    check_choice("grouping", grouping, get_args(Grouping))
    check_choice("correction", correction, get_args(RoutedCorrection))
    check_seed("random_state", random_state)
    options = distillation_of(correction, distillation)
    x, task = _inputs(census, calibration), census.population_.task
    wide = as_chain(plain_copy(network, "network"), x)
    _check_sizes(wide, x, n_experts)
    with torch.no_grad():
        routed, layers = _Routing(wide, n_experts, active, grouping, correction != "none", random_state).of(x)
    if correction != "none" and task in OF_CLASSES:
        _fit_readout(routed, x, wide(x), task)
    distilled = None
    if options is not None:
        routed, distilled = _distilled(routed, x, wide, task, options, random_state)
    object.__setattr__(routed, "routing_", RoutedRecord(layers, distilled))
    return routed.eval()


def _inputs(census: Census, calibration: Tensor | None) -> Tensor:
    if calibration is not None:
        return calibration_inputs(census.population_, calibration, "calibration")
    if census.calibration_ is None:
        message = "calibration must be inputs without labels, got none, and a census that was taken without data"
        raise InputError(message, cure="pass calibration=x, or take the census on data")
    return census.calibration_


def _check_sizes(wide: Chain, x: Tensor, n_experts: int) -> None:
    if n_experts > min(wide.widths):
        got = f"{n_experts} for a layer of {min(wide.widths)} units"
        raise InputError(f"n_experts must be at most the units of each layer, got {got}", cure="choose fewer experts")
    if len(x) < max(wide.widths):
        wanted = f"at least as many rows as a layer has units, {max(wide.widths)}"
        raise InputError(f"calibration must have {wanted}, got {len(x)}", cure="pass more inputs, or route less width")


@dataclass(frozen=True)
class _Routing:
    """How the layers of a wide network are routed."""

    wide: Chain
    n_experts: int
    active: float
    grouping: str
    refit: bool
    random_state: int

    def of(self, x: Tensor) -> tuple[Routed, tuple[RoutedLayerRecord, ...]]:
        """Return the routed network of inputs x (n, ...), and its layers."""
        wide, n_active = self.wide, max(1, round(self.active * self.n_experts))
        sizes = [-(-width // self.n_experts) for width in wide.widths]  # of an expert; the smaller ones are filled up
        routed = Routed(
            wide.weights[0].shape[1],
            [self.n_experts * size for size in sizes],
            len(wide.biases[-1]),
            experts=[self.n_experts] * len(sizes),
            active=[n_active] * len(sizes),
            activation=wide.activation,
        ).to(x.dtype)
        h = exact = x.flatten(1)  # what the layer reads, in the routed and in the wide network
        places = torch.arange(h.shape[1])  # of the units of the layer below in the routed network
        records = []
        for number, size in enumerate(sizes):
            layer = routed.hidden[number]
            assert isinstance(layer, RoutedLayer)
            written = wide.written(number, exact)
            weight, bias = self._fitted(number, h[:, places], written)
            exact = wide.f(written)
            experts = self._experts(exact)
            places_read, places = places, _places(experts, size)
            layer.units.weight.zero_()[places[:, None], places_read] = weight
            layer.units.bias.zero_()[places] = bias
            activations = wide.f(layer.units(h))[:, places]
            router = _router(h, activations, wide.weights[number + 1], experts, n_active)
            layer.router.weight.copy_(router.weight)
            layer.router.bias.copy_(router.bias)
            layer.rest.fill_(float(wide.f(torch.zeros(()))))[places] = router.rest
            h = layer(h)
            records.append(RoutedLayerRecord(tuple(tuple(e.tolist()) for e in experts), router.explained, router.used))
        weight, bias = self._fitted(len(sizes), h[:, places], wide.written(len(sizes), exact))
        routed.readout.weight.zero_()[:, places] = weight
        routed.readout.bias.copy_(bias)
        return routed, tuple(records)

    def _experts(self, activations: Tensor) -> list[Tensor]:
        if self.grouping == "random":
            return random_experts(activations.shape[1], self.n_experts, self.random_state)
        return coactive_experts(activations, self.n_experts)

    def _fitted(self, layer: int, h: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and biases by which h (n, i) becomes what the wide network writes (n, u), fitted around its own."""
        weight, bias = self.wide.weights[layer], self.wide.biases[layer]
        if not self.refit or layer == 0:  # which reads the inputs, as they are
            return weight, bias
        spread = spread_of(written)
        moments = Moments(h.shape[1], len(bias))
        moments.add(h, (written - self.wide.written(layer, h)) / spread)
        change, shift = cross_validated(moments)
        return weight + spread[:, None] * change.to(weight.dtype), bias + spread * shift.to(bias.dtype)


@dataclass(frozen=True)
class _Router:
    weight: Tensor  # (E, i)
    bias: Tensor  # (E,)
    rest: Tensor  # (u,)
    explained: float
    used: tuple[float, ...]


def _router(h: Tensor, activations: Tensor, reading: Tensor, experts: list[Tensor], n_active: int) -> _Router:
    """Return the router of experts with these activations (n, u), which are read with weights (j, u)."""
    rest, n_experts = activations.mean(0), len(experts)
    expert_of = torch.empty(len(rest), dtype=torch.int64)
    for e, units in enumerate(experts):
        expert_of[units] = e
    for _ in range(ROUNDS):
        costs = torch.stack(
            [torch.linalg.vector_norm((activations - rest)[:, e] @ reading[:, e].T, dim=1) for e in experts], dim=1
        )
        moments = Moments(h.shape[1], n_experts)
        moments.add(h, costs)
        weight, bias = cross_validated(moments)
        scores = h.double() @ weight.T + bias
        chosen = torch.zeros(scores.shape, dtype=torch.bool).scatter(1, scores.topk(n_active, dim=1).indices, True)
        skipped = ~chosen[:, expert_of]
        counts = skipped.sum(0)
        means = (activations * skipped).sum(0) / counts.clamp(min=1)
        rest = torch.where(counts > 0, means, rest)
    left = float((costs - scores).square().sum() / (costs - costs.mean(0)).square().sum().clamp(min=1e-300))
    used = tuple(chosen.double().mean(0).tolist())
    return _Router(weight.to(h.dtype), bias.to(h.dtype), rest, 1 - left, used)


def _places(experts: list[Tensor], size: int) -> Tensor:
    """Return where each unit lies (u,) where every expert has ``size`` places."""
    places = torch.empty(sum(map(len, experts)), dtype=torch.int64)
    for e, units in enumerate(experts):
        places[units] = e * size + torch.arange(len(units))
    return places


def _fit_readout(routed: Routed, x: Tensor, reference: Tensor, task: str | None) -> None:
    """Fit the readout to the class probabilities of the wide network, which is convex."""
    h = x.flatten(1)
    with torch.no_grad():
        for layer in routed.hidden:
            h = layer(h)
    architecture = find_layers(routed.readout, h[:2])
    fitted = gauss_newton(
        TracedNetwork(architecture, read_state(routed.readout)), h, reference, task, maps=architecture.maps
    )
    with torch.no_grad():
        for name, parameter in routed.readout.named_parameters():
            parameter.copy_(fitted.state[name])


def _distilled(
    routed: Routed, x: Tensor, wide: Chain, task: str | None, options: Distillation, random_state: int
) -> tuple[Routed, Distilled]:
    """The network after gradient steps towards the wide one; outputs that are numbers have mean 0 and spread 1 then."""
    reference = wide(x)
    mean, spread = torch.zeros_like(reference[0]), torch.ones_like(reference[0])
    if task not in OF_CLASSES:
        mean, spread = reference.mean(0), spread_of(reference)
    readout = routed.readout
    with torch.no_grad():
        readout.weight.div_(spread[:, None])
        readout.bias.sub_(mean).div_(spread)

    def teacher(batch: Tensor) -> Tensor:
        return (wide(batch) - mean) / spread

    trained, record = distill_untraced(routed, x, teacher, task=task, options=options, random_state=random_state)
    with torch.no_grad():
        trained.readout.weight.mul_(spread[:, None])
        trained.readout.bias.mul_(spread).add_(mean)
    return trained, record
