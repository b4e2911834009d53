"""Assemblies: the anchor (full width is the ensemble), invariance, widths, corrections, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import inputs, random_population
from consilience.agreement import softened_errors, spread_of
from consilience.assembly import CORRECTIONS, Assembler, assemble, elastic, select
from consilience.assembly.distillation import distill
from consilience.baselines import Ensemble
from consilience.bases.grounding import Groups, basis_of_groups
from consilience.census.census import Census
from consilience.data import Data
from consilience.errors import InputError
from consilience.evaluation import evaluate
from consilience.nets import ACTIVATIONS, MLP
from consilience.population import Population
from consilience.signals.held_out import held_out
from consilience.units.symmetry import SYMMETRIES
from test_census import scrambled_population

pytestmark = pytest.mark.numerical

X, FRESH = inputs(300, seed=1), inputs(200, seed=2)
WIDTHS = st.lists(st.lists(st.integers(2, 6), min_size=2, max_size=2), min_size=1, max_size=4)


def outputs(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


def assert_same_function(first: nn.Module, second: nn.Module, x: Tensor, tolerance: float) -> None:
    a, b = outputs(first, x), outputs(second, x)
    assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@settings(max_examples=20)
@given(
    widths=WIDTHS,
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
    grounding=st.sampled_from(["weights", "activations"]),
    correction=st.sampled_from(CORRECTIONS),
    seed=st.integers(0, 10**6),
)
def test_full_width_is_the_ensemble(
    widths: list[list[int]], activation: str, bias: bool, grounding: str, correction: str, seed: int
) -> None:
    """The anchor of the design, for every activation, members of any widths, both groundings and all corrections."""
    population = random_population(widths, activation, bias=bias, seed=seed)
    try:
        census = Census(grounding, n_resamples=0).fit(population, X)
    except InputError as error:
        assume("every unit is dead" not in str(error))
        raise
    network = assemble(census, "full", correction=correction)
    assert network.config.widths == tuple(sum(w) for w in zip(*widths, strict=True))
    assert_same_function(network, Ensemble(population), FRESH, 1e-5)


@pytest.mark.parametrize("grounding", ["weights", "activations"])
def test_networks_in_double_precision_stay_in_it(grounding: str) -> None:
    nets = [member.module.double() for member in random_population([[5, 4], [4, 4]])]
    population = Population.from_modules(nets, X[:8].double())
    for census in (
        Census(grounding, n_resamples=0).fit(population, X.double()),
        Census("weights", "l2").fit(population),
    ):
        network = assemble(census, "full", correction="least-squares" if census.calibration_ is not None else "none")
        assert next(network.parameters()).dtype == torch.float64
        assert_same_function(network, Ensemble(population), FRESH.double(), 1e-13)


def test_full_width_without_data_is_the_ensemble() -> None:
    population = random_population([[5, 4], [3, 6]])
    census = Census("weights", "cosine", n_resamples=0).fit(population)
    assert_same_function(assemble(census, "full", correction="none"), Ensemble(population), FRESH, 1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("grounding", ["weights", "activations"])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_copies_of_one_network_become_that_network_at_its_own_width(
    activation: str, grounding: str, correction: str
) -> None:
    """Scrambled copies have 4 units per layer between them: nothing is lost, at 4 units."""
    planted = random_population([[4, 4]], activation)
    copies = scrambled_population(Population.from_modules([planted.members[0].module] * 3, X[:8]), seed=7)
    census = Census(grounding, "activation", n_clusters=4, n_resamples=0).fit(copies, X)
    network = assemble(census, 4, correction=correction)
    assert_same_function(network, planted.members[0].module, FRESH, 2e-4)


@settings(max_examples=12)
@given(
    activation=st.sampled_from(["relu", "tanh"]),
    geometry=st.sampled_from([("activations", "activation"), ("weights", "cosine")]),
    correction=st.sampled_from(["none", "moments", "least-squares"]),
    width=st.sampled_from(["1x", "2x"]),
    seed=st.integers(0, 10**6),
)
def test_numbering_scale_and_sign_of_members_change_no_prediction(
    activation: str, geometry: tuple[str, str], correction: str, width: str, seed: int
) -> None:
    population = random_population([[6, 5], [5, 5], [7, 4]], activation, seed=seed)
    networks = [
        assemble(Census(*geometry, n_resamples=0).fit(p, X), width, correction=correction)
        for p in (population, scrambled_population(population, seed))
    ]
    assert_same_function(networks[0], networks[1], FRESH, 2e-3)
    assert torch.equal(outputs(networks[0], FRESH).argmax(1), outputs(networks[1], FRESH).argmax(1))


def test_every_width_comes_from_one_census(
    population: Population, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    monkeypatch.setattr("consilience.clustering.clusterers.linkage", None)
    for width, expected in ((13, (13, 13)), ("0.5x", (10, 8)), ("2x", (40, 32)), ({"hidden.1": 5}, (20, 5))):
        assert assemble(census, width).config.widths == expected


def test_corrections_help_in_their_order_and_width_helps(population: Population, digits: Data) -> None:
    """On real members, measured by the error against the ensemble on data not used for calibration."""
    census = Census("weights", "cosine", n_resamples=0).fit(population, digits.calibration.x)

    def error(width: str, correction: str) -> float:
        network = assemble(census, width, correction=correction)
        return evaluate(network, digits.test.x, reference=population).error

    at_one = {correction: error("1x", correction) for correction in CORRECTIONS}
    assert at_one["none"] > at_one["moments"] > at_one["least-squares"] > at_one["distill"]
    assert error("1x", "least-squares") > error("2x", "least-squares") > error("4x", "least-squares")


def test_readouts_of_classes_are_fitted_to_the_class_probabilities(population: Population, digits: Data) -> None:
    x, errors = digits.calibration.x, []
    reference = outputs(Ensemble(population), x)
    for task in ("classification", None):
        census = Census(n_resamples=0).fit(replace(population, task=task), x)
        net = assemble(census, 12, choice="cut")
        errors.append(softened_errors(outputs(net, x), reference, "classification", spread_of(reference)).mean())
    assert errors[0] < 0.9 * errors[1]


def test_twice_the_width_is_nearly_the_ensemble(population: Population, digits: Data) -> None:
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    network, ensemble = assemble(census, "2x"), Ensemble(population)
    assert evaluate(network, digits.test).accuracy > evaluate(ensemble, digits.test).accuracy - 0.02


def test_moments_are_those_of_the_members_units(population: Population, digits: Data) -> None:
    census = Census("weights", "cosine", n_resamples=0).fit(population, digits.calibration.x)
    fitted = held_out(len(digits.calibration))[0]
    x = digits.calibration.x[fitted].flatten(1)
    network = assemble(census, 5, correction="moments")
    labels = select(census, 5)["hidden.0"].labels
    responses = census.responses_.subset(fitted).written("hidden.0")
    points = torch.cat([z.T for z in responses])
    alive = census.layers_["hidden.0"].alive
    basis = basis_of_groups(points, Groups.of_labels(labels), population.widths("hidden.0"), SYMMETRIES["relu"], alive)
    scaled = [z[:, u] * a[u].max() for z, a in zip(responses, basis.mixing, strict=True) for u in range(z.shape[1])]
    owner = torch.from_numpy(labels)
    z = outputs(network.hidden[0], x)
    for c in range(5):  # a relu unit's own scale is free: mean and spread are compared in units of the spread
        units = [s for s, label in zip(scaled, owner, strict=True) if label == c]
        mean, spread = torch.stack(units).sum(0).mean(), torch.stack([u.std() for u in units]).sum()
        torch.testing.assert_close(z[:, c].mean() / z[:, c].std(), mean / spread, rtol=1e-3, atol=1e-4)
        assert torch.stack(units).sum(0).std() < 0.99 * spread  # there is a spread to restore


def test_units_left_out_are_not_just_lost() -> None:
    """A flat census cut to fewer clusters: the units of the others still feed the next layer."""
    population = random_population([[6], [6], [6]], "gelu")
    census = Census(clusterer="kmeans", n_clusters=12, n_resamples=0).fit(population, X)
    kept = assemble(census, 6)
    labels = select(census, 6)["hidden.0"].labels
    assert (labels < 0).sum() > 0
    lost = copy.deepcopy(census)
    for k, network in enumerate(lost.networks_):
        left_out = torch.from_numpy(labels[6 * k : 6 * k + 6] < 0)
        network.state["readout.weight"][:, left_out] = 0
    expected = outputs(Ensemble(population), FRESH)
    errors = [float((outputs(n, FRESH) - expected).square().mean()) for n in (kept, assemble(lost, 6))]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("x", [None, X])
def test_what_a_dead_unit_adds_is_kept_as_a_constant(x: Tensor | None) -> None:
    """A unit without incoming weights outputs f(b) whatever the input; the next layer's bias takes it."""
    population = random_population([[5]], "gelu")
    with torch.no_grad():
        net = population.members[0].module
        net.hidden[0].weight[1] = 0
        net.hidden[0].bias[1] = 3.0
    census = Census("weights", "cosine", n_resamples=0).fit(population, x)
    assert census.layers_["hidden.0"].n_dead_ == 1
    assert_same_function(assemble(census, 4, correction="none"), net, FRESH, 1e-5)


def test_ways_to_write_a_width(population: Population, digits: Data) -> None:
    census = Census(n_clusters="2x", n_resamples=0).fit(population, digits.calibration.x)
    frequent = assemble(census, "frequency>=0.5").config.widths
    layers = list(census.layers_.values())
    assert frequent == tuple(int((layer.frequency_ >= 0.5).sum()) for layer in layers)
    for budget in (500, 3000, 20000):
        network = assemble(census, f"parameters<={budget}")
        size = sum(p.numel() for p in network.parameters())
        assert size <= budget
        wider = {name: w + 2 for name, w in zip(census.layers_, network.config.widths, strict=True)}
        if all(w <= census.layers_[name].n_available for name, w in wider.items()):
            assert sum(p.numel() for p in assemble(census, wider, correction="none").parameters()) > budget


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be a positive int or a multiple"),
        ({"width": "wide"}, "width must be a positive int or a multiple such as \"2x\", got 'wide'"),
        ({"width": {"hidden.9": 4}}, "width must name layers among hidden.0, hidden.1, got 'hidden.9'"),
        ({"width": "frequency>=1.5"}, "width must be at most frequency>=.* in layer 'hidden.0', got frequency>=1.5"),
        ({"width": "parameters<=3"}, "width must allow >= .* parameters, one unit a layer, got 3"),
        ({"correction": "repair"}, "correction must be one of 'none', .*, got 'repair'"),
        ({"calibration": X[:, :4]}, r"calibration must have shape \(n, 6\)"),
        ({"calibration": X * torch.nan}, "calibration must be finite"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_work(arguments: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [4, 4]]), X)
    monkeypatch.setattr("consilience.assembly.assembler.Responses", None)  # the first step of the work
    with pytest.raises(InputError, match=message):
        assemble(census, **{"width": "1x", **arguments})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="census must be fitted"):
        assemble(Census())
    census = Census("weights", "cosine", n_resamples=0).fit(random_population([[5], [4]]))
    with pytest.raises(InputError, match="correction='moments' needs calibration data"):
        assemble(census, 4, correction="moments")
    assert assemble(census, 4, correction="moments", calibration=X).config.widths == (4,)


def test_same_seed_same_bytes_and_nothing_given_is_changed(population: Population, digits: Data) -> None:
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    before = copy.deepcopy([member.module.state_dict() for member in population])
    first, second = (assemble(census, "1x", correction="distill", random_state=4) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    for state, member in zip(before, population, strict=True):
        assert all(torch.equal(state[name], value) for name, value in member.module.state_dict().items())


def test_an_assembly_of_frozen_members_can_be_trained(population: Population, digits: Data) -> None:
    frozen = [copy.deepcopy(member.module).requires_grad_(False) for member in population]
    census = Census(n_resamples=0).fit(Population.from_modules(frozen, digits.train.x[:8]), digits.calibration.x)
    network = assemble(census, "1x", correction="distill")
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_assembly_is_a_member_like_any_other(population: Population, digits: Data) -> None:
    """Merged networks can be merged again, with members of other widths."""
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    merged = [assemble(census, width) for width in ("1x", "2x")]
    again = Population.from_modules([*merged, population.members[0].module], digits.calibration.x[:8])
    network = assemble(Census(n_resamples=0).fit(again, digits.calibration.x), "full")
    assert_same_function(network, Ensemble(again), digits.test.x, 1e-5)
    assert isinstance(network, MLP)


def test_distillation_never_returns_a_worse_copy_on_what_it_held_out() -> None:
    net = random_population([[5]]).members[0].module
    architecture = random_population([[5]]).architecture
    kept = distill(net, architecture, X, net)  # already perfect: any step would do harm
    assert not kept.distillation_.kept
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), net.parameters(), strict=True))
    student = random_population([[5]], seed=9).members[0].module
    taught = distill(student, architecture, X, net)
    assert taught.distillation_.kept
    assert taught.distillation_.after < taught.distillation_.before
    before, after = ((outputs(n, FRESH) - outputs(net, FRESH)).square().mean() for n in (student, taught))
    assert after < 0.7 * before


def test_an_assembler_gives_what_assemble_and_elastic_give_and_does_nothing_twice(
    population: Population, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    corrections = ("least-squares", "second-order", "distill")
    alone = [assemble(census, "1x", correction=correction) for correction in corrections]
    narrow, wide = (elastic(census, ("0.5x", "1x")).at_width(width) for width in ("0.5x", "1x"))
    assembler = Assembler(census)
    first = assembler.assemble("1x")
    for name in ("assembler.reconstruct", "build.construct"):
        monkeypatch.setattr(f"consilience.assembly.{name}", None)
    shared = [assembler.assemble("1x", correction=correction) for correction in corrections]
    monkeypatch.undo()
    several = assembler.elastic(("0.5x", "1x"))
    nets = [*shared, several.at_width("0.5x"), several.at_width("1x"), first]
    for mine, theirs in zip(nets, [*alone, narrow, wide, alone[0]], strict=True):
        for name, value in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value)
