"""Baselines: planted copies are found, each method does what its formula says, and what is refused."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import conftest
from conftest import inputs, random_mlp
from consilience import baselines
from consilience.assembly import CORRECTIONS
from consilience.assembly.distillation import Distillation, distill
from consilience.assembly.pooling import POOLINGS, class_share, pooled
from consilience.baselines import concatenation, cycle_consistent, matching, probabilistic, transport, widening
from consilience.baselines.fuse import fuse
from consilience.baselines.permutations import Block, assign, average_of, blocks_of
from consilience.errors import InputError
from consilience.population import Population
from consilience.signals.responses import Responses
from consilience.units.symmetry import permute, rescale

pytestmark = pytest.mark.numerical

WIDE = 24  # inputs of planted members: with 6, coordinate descent has local optima in which some copies stay unfound
X = inputs(60, seed=1, n_inputs=WIDE)
SMALL = inputs(80, seed=2)

Method = Callable[..., nn.Module]


@cache
def _random_population(widths: tuple[tuple[int, ...], ...], activation: str, bias: bool, seed: int) -> Population:
    return conftest.random_population([list(w) for w in widths], activation, bias=bias, seed=seed)


def random_population(
    widths: list[list[int]], activation: str = "relu", *, bias: bool = True, seed: int = 0
) -> Population:
    """Tracing takes most of the time here, and no method changes its members: each population is made once."""
    return _random_population(tuple(map(tuple, widths)), activation, bias, seed)


def by_activations(method: Method, **arguments: object) -> Method:
    """A method that needs calibration data, given some that fits."""

    def with_data(population: Population, **more: object) -> nn.Module:
        size, dtype = population.architecture.program.input_shape[0], population.example_input.dtype
        return method(population, **{"calibration": (X if size == WIDE else SMALL).to(dtype), **arguments, **more})

    return with_data


MATCHING: dict[str, Method] = {
    "weight_matching": baselines.weight_matching,
    "merge_many": baselines.merge_many,
    "activation_matching": by_activations(baselines.activation_matching),
    "activation_matching, pre": by_activations(baselines.activation_matching, seen="pre-activations"),
    "orthogonal_matching, activations": by_activations(baselines.orthogonal_matching),
    "transport_fusion": baselines.transport_fusion,
    "transport_fusion, activations": by_activations(baselines.transport_fusion, ground="activations"),
    "cycle_matching": baselines.cycle_matching,
    "probabilistic_matching": baselines.probabilistic_matching,
}
METHODS = {**MATCHING, "transplantation": baselines.transplantation, "net2wider": baselines.net2wider}
ANY_WIDTHS = [
    "transport_fusion",
    "transport_fusion, activations",
    "probabilistic_matching",
    "transplantation",
    "net2wider",
]


def outputs(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)


def assert_same_function(first: nn.Module, second: nn.Module, x: Tensor, tolerance: float = 1e-5) -> None:
    a, b = outputs(first, x), outputs(second, x)
    assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@cache
def planted(activation: str, bias: bool, seed: int) -> Population:
    return permuted_copies(random_mlp([6, 5], activation, bias=bias, seed=seed, n_inputs=WIDE), 3, seed, X[:8])


def permuted_copies(net: nn.Module, n_copies: int, seed: int, x: Tensor) -> Population:
    """The network itself, and copies of it with the units of every hidden layer renumbered."""
    generator = torch.Generator().manual_seed(seed)
    population = Population.from_modules([net] * (1 + n_copies), x)
    for member in population.members[1:]:
        network = member.network
        for layer in network.architecture.hidden:
            network = permute(network, layer.name, torch.randperm(layer.width, generator=generator))
        member.module.load_state_dict(network.state)
    return population


def permutation_matrices(width: int) -> list[Tensor]:
    return [torch.eye(width, dtype=torch.float64)[list(order)] for order in itertools.permutations(range(width))]


def similarity(first: list[Tensor], second: list[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))


def agreement(networks: list[list[Tensor]]) -> float:
    return sum(similarity(a, b) for a, b in itertools.combinations(networks, 2))


# --- what all methods share


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", MATCHING)
def test_permuted_copies_of_a_network_become_that_network(name: str, activation: str, bias: bool) -> None:
    for seed in range(2):
        copies = planted(activation, bias, seed)
        net, fused = copies.members[0].module, MATCHING[name](copies, random_state=seed)
        assert fused.config.widths == (6, 5)
        assert_same_function(fused, net, X)
    averaged = outputs(baselines.parameter_average(copies), X)
    assert not torch.allclose(averaged, outputs(net, X), atol=0.1)  # the copies are not aligned as they are


@cache
def planted_in_double_precision() -> Population:
    return permuted_copies(random_mlp([6, 5], "tanh", n_inputs=WIDE).double(), 2, 0, X[:8].double())


@pytest.mark.parametrize("name", MATCHING)
def test_double_precision_is_kept(name: str) -> None:
    copies = planted_in_double_precision()
    fused = MATCHING[name](copies)
    assert next(fused.parameters()).dtype == torch.float64
    assert_same_function(fused, copies.members[0].module, X.double(), 1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_one_member_stays_what_it_is(name: str) -> None:
    arguments = {"width": "1x"} if name == "transplantation" else {}
    population = random_population([[5, 4]])
    assert_same_function(METHODS[name](population, **arguments), population.members[0].module, SMALL)


@pytest.mark.parametrize("name", ANY_WIDTHS)
def test_members_of_any_widths(name: str) -> None:
    population = random_population([[5, 4], [4, 6], [6, 3]], "tanh")
    assert bool(torch.isfinite(outputs(METHODS[name](population), SMALL)).all())


@pytest.mark.parametrize("name", METHODS)
def test_corrections_follow_every_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """True by construction: moments set the mean outputs; least squares around a readout cannot fit worse than it."""
    one = [random_population([[6], [6], [6]], seed=seed) for seed in (0, 7)]
    for population in (*one, random_population([[6, 5], [6, 5], [6, 5]], "tanh")):
        fused = {c: METHODS[name](population, correction=c, calibration=SMALL) for c in CORRECTIONS[:3]}
        kept = population if name != "net2wider" else Population(population.members[:1], population.example_input)
        target = population.logits(SMALL).mean(0) if kept is population else kept.logits(SMALL).mean(0)
        torch.testing.assert_close(outputs(fused["moments"], SMALL).mean(0), target.mean(0), rtol=1e-4, atol=1e-4)
        errors = {c: float((outputs(net, SMALL) - target).square().mean()) for c, net in fused.items()}
        if population in one:
            assert errors["least-squares"] <= errors["none"] + 1e-9
    monkeypatch.setattr(
        "consilience.assembly.build.distill", lambda *a, **k: distill(*a, **{**k, "options": Distillation(steps=20)})
    )
    distilled = METHODS[name](one[0], correction="distill", calibration=SMALL)
    assert bool(torch.isfinite(outputs(distilled, SMALL)).all())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "net2wider"])
def test_every_method_pools_outputs_as_an_assembly_does(name: str) -> None:
    """Pooling changes the readout alone, and with one hidden layer least squares reproduces the pooled outputs."""
    population = random_population([[5], [5], [5]], "tanh", seed=3)  # tanh: units are not rescaled at the end
    pools = {pooling: METHODS[name](population, pooling=pooling, calibration=SMALL) for pooling in POOLINGS}
    first, second = (net.state_dict() for net in pools.values())
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert changed == {"readout.weight", "readout.bias"}
    responses = Responses(population.networks, SMALL)
    wanted = {pooling: pooled(responses, pool(responses)) for pooling, pool in POOLINGS.items()}
    assert float((wanted["mean"] - wanted["class-share"]).abs().max()) > 0.1
    options = {"correction": "least-squares", "calibration": SMALL}
    for pooling, target in wanted.items():
        fitted, other = (METHODS[name](population, pooling=each, **options) for each in POOLINGS)
        if pooling != "mean":
            fitted, other = other, fitted
        errors = [float((outputs(net, SMALL) - target).square().mean()) for net in (fitted, other)]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bytes_and_nothing_given_is_changed(name: str) -> None:
    population = random_population([[6, 5], [6, 5], [6, 5]])
    before = copy.deepcopy([member.module.state_dict() for member in population])
    torch.manual_seed(1)
    first = METHODS[name](population, random_state=3)
    torch.manual_seed(2)
    second = METHODS[name](population, random_state=3)
    assert type(first) is type(population.members[0].module)
    assert not first.training
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    for state, member in zip(before, population, strict=True):
        assert all(torch.equal(state[key], value) for key, value in member.module.state_dict().items())


# --- matching


@pytest.mark.parametrize("seed", range(3))
def test_weight_matching_is_optimal_for_one_hidden_layer(seed: int) -> None:
    population = random_population([[4]] * 3, seed=seed)
    blocks = blocks_of(population)
    found = matching.weight_orders(population, 1, random_state=0)
    target = [block.values[1] for block in blocks]
    assert found[1]["hidden.0"].tolist() == [0, 1, 2, 3]
    for k in (0, 2):
        best = max(
            similarity(target, matching.reordered(blocks, k, {"hidden.0": torch.tensor(order)}))
            for order in itertools.permutations(range(4))
        )
        assert similarity(target, matching.reordered(blocks, k, found[k])) == pytest.approx(best)


def test_orders_mean_what_units_of_a_network_do() -> None:
    """Reordered blocks are the parameters of the permuted network, and the basis averages just these."""
    population = random_population([[5, 4]] * 2)
    orders = [{"hidden.0": torch.randperm(5), "hidden.1": torch.randperm(4)} for _ in range(2)]
    states = []
    for k, (network, order) in enumerate(zip(population.networks, orders, strict=True)):
        for name, places in order.items():
            network = permute(network, name, places)
        states.append(network.state)
        values = [network.state[name].double().flatten() for name in network.state]
        reordered = matching.reordered(blocks_of(population), k, order)
        assert all(torch.equal(a.flatten(), b) for a, b in zip(reordered, values, strict=True))
    average = copy.deepcopy(population.members[0].module)
    average.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    assert_same_function(fuse(population, average_of(population, orders)), average, SMALL)


def test_coordinate_descent_only_climbs_and_ends_where_no_layer_can_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    population = random_population([[4, 4, 4]] * 2, "tanh", seed=3)
    blocks = blocks_of(population)
    target, member = ([block.values[k] for block in blocks] for k in (0, 1))
    seen = [similarity(target, member)]
    reorder = matching.reorder

    def recorded(*arguments: object) -> list[Tensor]:
        values = reorder(*arguments)
        seen.append(similarity(target, values))
        return values

    monkeypatch.setattr(matching, "reorder", recorded)
    found = matching.weight_orders(population, 0, random_state=0)[1]
    monkeypatch.undo()
    assert len(seen) > 2
    assert all(after > before for before, after in itertools.pairwise(seen))
    ended = matching.reordered(blocks, 1, found)
    assert similarity(target, ended) == pytest.approx(seen[-1])
    for layer in population.architecture.hidden:
        for order in itertools.permutations(range(4)):
            assert similarity(target, reorder(blocks, ended, layer.name, torch.tensor(order))) <= seen[-1] + 1e-9


def test_merge_many_ends_where_every_member_matches_the_mean_of_the_others() -> None:
    population = random_population([[4, 4]] * 4, seed=5)
    blocks = blocks_of(population)
    found = matching.merging_orders(population, random_state=0)
    placed = [matching.reordered(blocks, k, orders) for k, orders in enumerate(found)]

    assert agreement(placed) > agreement([[block.values[k] for block in blocks] for k in range(4)])
    for k in range(4):
        for layer in population.architecture.hidden:
            for order in itertools.permutations(range(4)):
                moved = matching.reorder(blocks, placed[k], layer.name, torch.tensor(order))
                assert agreement([*placed[:k], moved, *placed[k + 1 :]]) <= agreement(placed) + 1e-9


@pytest.mark.parametrize("seen", matching.SEEN)
def test_activation_matching_maximises_the_sum_of_correlations(seen: str) -> None:
    population = random_population([[4]] * 2)
    values = [net.hidden[0](SMALL).detach() for net in (member.module for member in population)]
    values = [v.relu() if seen == "activations" else v for v in values]
    correlation = np.corrcoef(values[0].T, values[1].T)[:4, 4:]
    best = max(itertools.permutations(range(4)), key=lambda order: correlation[range(4), order].sum())
    assert best == {"activations": (3, 1, 2, 0), "pre-activations": (0, 1, 3, 2)}[seen]  # they differ, here
    (_, orders) = matching.activation_orders(population, SMALL, 0, seen)
    assert tuple(orders["hidden.0"].tolist()) == best


def test_activation_matching_sees_no_scale_and_takes_constant_units() -> None:
    population = conftest.random_population([[5, 4]] * 2, seed=2)
    before = matching.activation_orders(population, SMALL, 0, "activations")[1]
    factors = torch.tensor([0.1, 3.0, 20.0, 1.0, 0.5])
    state = rescale(population.networks[1], "hidden.0", factors).state
    population.members[1].module.load_state_dict(state)
    after = matching.activation_orders(population, SMALL, 0, "activations")[1]
    assert torch.equal(before["hidden.0"], after["hidden.0"])
    with torch.no_grad():
        population.members[1].module.hidden[0].weight[2] = 0
    (_, orders) = matching.activation_orders(population, SMALL, 0, "activations")
    assert sorted(orders["hidden.0"].tolist()) == [0, 1, 2, 3, 4]


# --- transport


@settings(max_examples=25)
@given(sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 10**6))
def test_a_plan_has_uniform_marginals_and_the_smallest_cost(sizes: tuple[int, int], seed: int) -> None:
    n_units, n_anchor = sizes
    cost = torch.rand(sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    plan = transport.transport(cost)
    assert bool((plan >= 0).all())
    torch.testing.assert_close(plan.sum(1), torch.full((n_units,), 1 / n_units, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((n_anchor,), 1 / n_anchor, dtype=torch.float64))
    # Equal masses by repetition: transport becomes an assignment.
    repeated = cost.repeat_interleave(n_anchor, 0).repeat_interleave(n_units, 1)
    rows, columns = linear_sum_assignment(repeated)
    assert float((plan * cost).sum()) == pytest.approx(float(repeated[rows, columns].mean()))
    if n_units == n_anchor:
        best = min(float((p * cost).sum()) / n_units for p in permutation_matrices(n_units))
        assert float((plan * cost).sum()) == pytest.approx(best)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_transport_onto_a_network_with_each_unit_twice_changes_nothing(order: list[int]) -> None:
    """Unequal widths: what a unit reads is a mean of the units that stand for it, so rows of P sum to 1."""
    net = random_mlp([4, 3], "tanh", n_inputs=6)
    alone = Population.from_modules([net], inputs(8))
    twice = {
        name: widening.replicated_basis(torch.arange(width).repeat(2), width, torch.float32)
        for name, width in (("hidden.0", 4), ("hidden.1", 3))
    }
    doubled = fuse(alone, twice)
    assert_same_function(doubled, net, SMALL)
    both = Population.from_modules([[net, doubled][k] for k in order], inputs(8))
    for ground in transport.GROUNDS:
        fused = baselines.transport_fusion(both, ground=ground, calibration=SMALL)
        assert fused.config.widths == (8, 6)  # the widest is the anchor
        assert_same_function(fused, net, SMALL)
        onto_small = baselines.transport_fusion(both, reference=order.index(0), ground=ground, calibration=SMALL)
        assert onto_small.config.widths == (4, 3)
        assert_same_function(onto_small, net, SMALL)


def test_transport_bases_are_plans_with_columns_and_rows_normalised() -> None:
    population = random_population([[5, 4], [3, 6], [5, 4]])
    for x in (None, SMALL):
        for name, basis in transport.transport_bases(population, 0, x).items():
            assert basis.width == population.widths(name)[0]
            for k, (mixing, projection) in enumerate(zip(basis.mixing, basis.projections, strict=True)):
                width = population.widths(name)[k]
                torch.testing.assert_close(mixing.sum(0) * 3, torch.ones(basis.width))
                torch.testing.assert_close(projection.matrix.sum(1), torch.ones(width))
                torch.testing.assert_close(mixing * 3 / basis.width, projection.matrix / width)
            assert torch.equal(basis.projections[0].matrix, torch.eye(basis.width))


# --- cycles


def soft_case(seed: int) -> tuple[list[Block], cycle_consistent.Soft, cycle_consistent.Soft]:
    """Random members, and two random points among doubly stochastic matrices."""
    blocks = blocks_of(random_population([[4, 3]] * 3, seed=seed))
    rng = np.random.default_rng(seed)

    def doubly_stochastic(shares: np.ndarray, u: int) -> Tensor:
        return sum(share * torch.eye(u, dtype=torch.float64)[rng.permutation(u)] for share in shares)

    def random_soft() -> cycle_consistent.Soft:
        shares = rng.dirichlet(np.ones(5), size=3)
        widths = {"hidden.0": 4, "hidden.1": 3}
        return {name: torch.stack([doubly_stochastic(row, u) for row in shares]) for name, u in widths.items()}

    return blocks, random_soft(), random_soft()


def pairwise(blocks: list[Block], soft: cycle_consistent.Soft) -> Tensor:
    """The objective by its definition: a term for each pair of members and each parameter."""
    total = torch.zeros((), dtype=torch.float64)
    for block in blocks:
        sides = zip((block.writes, block.reads), block.values.shape[1:3], strict=True)
        left, right = (soft.get(name or "", [torch.eye(n, dtype=torch.float64)] * 3) for name, n in sides)
        placed = [left[k].T @ block.values[k, :, :, 0] @ right[k] for k in range(3)]
        total = total + sum((a * b).sum() for a, b in itertools.combinations(placed, 2))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_universe_objective_its_gradient_and_its_line_are_those_of_the_pairwise_sum(seed: int) -> None:
    blocks, soft, other = soft_case(seed)
    placed = [cycle_consistent.into_universe(block, soft) for block in blocks]
    expected = pairwise(blocks, soft)
    assert cycle_consistent.pairs(placed, placed) == pytest.approx(float(expected))

    leaves = {name: p.clone().requires_grad_() for name, p in soft.items()}
    pairwise(blocks, leaves).backward()
    slopes = cycle_consistent.gradient(blocks, soft, placed)
    for name, leaf in leaves.items():
        torch.testing.assert_close(slopes[name], leaf.grad)

    change = {name: other[name] - p for name, p in soft.items()}
    line = cycle_consistent.along(blocks, soft, change, placed)
    for t in (0.0, 0.3, 1.0):
        moved = {name: p + t * change[name] for name, p in soft.items()}
        assert line(t) == pytest.approx(float(pairwise(blocks, moved)))


def test_the_line_search_is_exact() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(50):
        line = np.polynomial.Polynomial(rng.normal(size=5) * [1, 1, 3, 5, 5])
        best = cycle_consistent.highest(line)
        inside += 0 < best < 1
        assert line(best) >= line(np.linspace(0, 1, 1001)).max() - 1e-12
    assert inside > 5


def test_steps_climb_stay_doubly_stochastic_and_end_in_consistent_permutations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    population = random_population([[5, 4]] * 4, seed=4)
    blocks, seen = blocks_of(population), []
    take = cycle_consistent.step

    def recorded(blocks: list[Block], soft: cycle_consistent.Soft, placed: list[Tensor]) -> float:
        gain = take(blocks, soft, placed)
        again = [cycle_consistent.into_universe(block, soft) for block in blocks]
        assert all(torch.allclose(a, b) for a, b in zip(placed, again, strict=True))
        seen.append(cycle_consistent.pairs(again, again))
        for p in soft.values():
            assert bool((p >= -1e-12).all())
            torch.testing.assert_close(p.sum(1), torch.ones_like(p.sum(1)))
            torch.testing.assert_close(p.sum(2), torch.ones_like(p.sum(2)))
        return gain

    monkeypatch.setattr(cycle_consistent, "step", recorded)
    orders = cycle_consistent.universe_orders(population, random_state=0)
    assert len(seen) > 5
    assert all(after >= before - 1e-9 * abs(before) for before, after in itertools.pairwise(seen))
    placed = [matching.reordered(blocks, k, order) for k, order in enumerate(orders)]
    stacked = [torch.stack(values) for values in zip(*placed, strict=True)]
    assert cycle_consistent.pairs(stacked, stacked) > cycle_consistent.pairs(
        [block.values for block in blocks], [block.values for block in blocks]
    )
    for k, layer in itertools.product(range(4), population.architecture.hidden):  # no member alone can gain
        for order in itertools.permutations(range(layer.width)):
            moved = matching.reorder(blocks, placed[k], layer.name, torch.tensor(order))
            assert agreement([*placed[:k], moved, *placed[k + 1 :]]) <= agreement(placed) + 1e-9
    for name, width in (("hidden.0", 5), ("hidden.1", 4)):
        assert all(sorted(order[name].tolist()) == list(range(width)) for order in orders)
        onto = [torch.eye(width)[order[name]].T for order in orders]  # P_k (u, c)
        between = {(a, b): onto[a] @ onto[b].T for a in range(4) for b in range(4)}
        for a, b, c in itertools.product(range(4), repeat=3):
            assert torch.equal(between[a, b] @ between[b, c], between[a, c])


def test_two_members_of_one_hidden_layer_are_matched_optimally() -> None:
    population = random_population([[4]] * 2, seed=6)
    blocks = blocks_of(population)
    orders = cycle_consistent.universe_orders(population, random_state=0)
    first, second = (matching.reordered(blocks, k, orders[k]) for k in (0, 1))
    best = max(
        similarity([b.values[0] for b in blocks], matching.reordered(blocks, 1, {"hidden.0": torch.tensor(order)}))
        for order in itertools.permutations(range(4))
    )
    assert similarity(first, second) == pytest.approx(best)


# --- growth


@pytest.mark.parametrize("sigma0", [2.0, math.inf])
def test_scores_are_those_of_the_written_formula(sigma0: float) -> None:
    generator = torch.Generator().manual_seed(0)
    points, others = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (2, 5))
    groups = [
        [0, 1, 2],
        [3, 4],
    ]  # whose sums are S_c; three and two of J = 4 members own them
    sums = torch.stack([others[g].sum(0) for g in groups])
    sigma, gamma, n_members = 0.7, 1.3, 4
    found = probabilistic.scores(
        points, sums, torch.tensor([3.0, 2.0]).double(), sigma, sigma0, gamma, n_members=n_members, n_new=2
    )
    precision, prior = 1 / sigma**2, 1 / sigma0**2
    for u, v in enumerate(points):
        for c, group in enumerate(groups):
            m, s = len(group), others[group].sum(0) * precision
            expected = (
                (s + v * precision).square().sum() / (prior + (m + 1) * precision)
                - s.square().sum() / (prior + m * precision)
                + 2 * math.log(m / (n_members - m))
            )
            assert float(found[u, c]) == pytest.approx(float(expected))
        for r in (1, 2):
            expected = (v * precision).square().sum() / (prior + precision)
            expected = expected + 2 * math.log(gamma / n_members) - 2 * math.log(r)
            assert float(found[u, 1 + r]) == pytest.approx(float(expected))


def test_a_unit_is_what_goes_in_and_what_goes_to_the_outputs() -> None:
    population = random_population([[4, 3], [5, 3]])
    below = transport.transport_bases(population, 1, None)["hidden.0"].projections
    (place,) = population.architecture.read("hidden.0")
    for name, projections in (("hidden.0", {}), ("hidden.1", {place: below})):
        expected = []
        for k, net in enumerate(member.module for member in population):
            first, second = net.hidden
            if name == "hidden.0":
                expected.append(torch.cat([first.weight, first.bias[:, None]], dim=1).detach())
            else:
                parts = [second.weight @ below[k].matrix, second.bias[:, None], net.readout.weight.T]
                expected.append(torch.cat(parts, dim=1).detach())
        length = torch.cat(expected).square().sum(1).mean().sqrt()
        for found, points in zip(probabilistic.units(population, name, projections), expected, strict=True):
            torch.testing.assert_close(found.float(), points / length)


def test_duplicates_are_matched_and_units_far_from_all_others_open_new_global_units() -> None:
    """Three members share two units and have one of their own each."""
    shared = torch.tensor([[3.0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0]])
    nets = [random_mlp([3], "tanh", seed=k) for k in range(3)]
    with torch.no_grad():
        for k, net in enumerate(nets):
            rows = [k, (k + 1) % 3]
            net.hidden[0].weight.zero_()
            net.hidden[0].bias.zero_()
            net.readout.weight.fill_(0.1)
            net.hidden[0].weight[rows] = shared
            net.hidden[0].weight[(k + 2) % 3, 2 + k] = 3.0
    population = Population.from_modules(nets, inputs(8))
    fused = baselines.probabilistic_matching(population, sigma=0.2)
    assert fused.config.widths == (5,)
    # Shared units are means, the others are on their own: nothing is lost.
    assert_same_function(fused, baselines.Ensemble(population), SMALL)
    owners = probabilistic.match(
        probabilistic.units(population, "hidden.0", {}), 0.2, math.inf, 1.0, None, np.random.default_rng(0)
    )
    for u in (0, 1):
        assert len({int(owners[k][(k + u) % 3]) for k in range(3)}) == 1
    assert len({int(owners[k][(k + 2) % 3]) for k in range(3)}) == 3


@pytest.mark.parametrize("arguments", [{"sigma": 1e-3}, {"gamma": 1e30}])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_where_nothing_is_matched_growth_gives_the_ensemble(arguments: dict[str, float], activation: str) -> None:
    population = random_population([[5, 4], [3, 6], [4, 4]], activation)
    fused = baselines.probabilistic_matching(population, **arguments)
    assert fused.config.widths == (12, 14)
    assert_same_function(fused, baselines.Ensemble(population), SMALL)


def test_growth_keeps_to_its_cap() -> None:
    population = random_population([[5, 4], [3, 6], [4, 4]])
    for cap, expected in ((6, (6, 6)), (7, (7, 7)), ({"hidden.0": 5}, (5, 14)), (99, (12, 14))):
        fused = baselines.probabilistic_matching(population, sigma=1e-3, max_width=cap)
        assert fused.config.widths == expected
    # Global units keep their members' units apart.
    for basis in probabilistic.global_bases(population, 0.3, 2.0, 1.0, {"hidden.0": 6, "hidden.1": None}, 0).values():
        owned = torch.stack([p.matrix.sum(0) for p in basis.projections])
        assert float(owned.max()) == 1.0
        for mixing, projection in zip(basis.mixing, basis.projections, strict=True):
            assert bool((projection.matrix.sum(1) == 1).all())
            torch.testing.assert_close(mixing, projection.matrix / (0.15**2 + owned.sum(0)))  # posterior mean


# --- transplantation


def test_all_units_transplanted_are_the_ensemble() -> None:
    population = random_population([[5, 4], [3, 6], [4, 4]])
    widths = {"hidden.0": 12, "hidden.1": 14}
    fused = baselines.transplantation(population, widths)
    assert_same_function(fused, baselines.Ensemble(population), SMALL)
    shares = baselines.transplantation(population, widths, pooling="class-share", calibration=SMALL)
    responses = Responses(population.networks, SMALL)
    torch.testing.assert_close(outputs(shares, SMALL), pooled(responses, class_share(responses)), rtol=1e-4, atol=1e-4)


def test_the_units_kept_are_those_with_the_largest_incoming_weights() -> None:
    population = random_population([[5, 4], [3, 6], [4, 4]])
    bases = concatenation.transplanted_bases(population, {"hidden.0": 4, "hidden.1": 6})
    for index, basis in enumerate(bases.values()):
        norms = torch.cat([member.module.hidden[index].weight.detach().norm(dim=1) for member in population])
        torch.testing.assert_close(torch.cat(concatenation.magnitudes(population, f"hidden.{index}")).float(), norms)
        kept = torch.cat([mixing.any(1) for mixing in basis.mixing])
        assert int(kept.sum()) == basis.width
        assert float(norms[kept].min()) > float(norms[~kept].max())
        assert all(torch.equal(m, p.matrix) for m, p in zip(basis.mixing, basis.projections, strict=True))
    assert baselines.transplantation(population).config.widths == (8, 8)
    assert baselines.transplantation(population, "0.5x").config.widths == (2, 2)
    assert baselines.transplantation(population, {"hidden.1": 5}).config.widths == (4, 5)


# --- widening


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_wider_network_is_the_same_function(activation: str, bias: bool) -> None:
    population = random_population([[5, 4], [5, 4], [3, 7]], activation, bias=bias)
    for member, width, expected in (
        (0, "1.6x", (8, 6)),
        (1, 11, (11, 11)),
        (1, "1x", (5, 4)),
        (2, {"hidden.1": "2x"}, (3, 8)),
    ):
        wider = baselines.net2wider(population, width, member=member, random_state=member)
        assert wider.config.widths == expected
        assert_same_function(wider, population.members[member].module, SMALL)


def test_copies_are_copies_and_share_outgoing_weights() -> None:
    population = random_population([[4, 3]], "tanh")
    net, wider = population.members[0].module, baselines.net2wider(population, 9, random_state=1)
    for index, width in enumerate((4, 3)):
        same = (wider.hidden[index].bias[:, None] - net.hidden[index].bias).abs() < 1e-6
        assert bool(same[:width].diagonal().all())
        assert bool((same.sum(1) == 1).all())
        after, before = (n.hidden[1].weight if index == 0 else n.readout.weight for n in (wider, net))
        after = after[: len(before)]
        torch.testing.assert_close(after @ same.float(), before)  # what a unit's copies add up to


def test_noise_is_on_later_copies_only() -> None:
    population = random_population([[4, 3]], "tanh")
    exact, noisy = (baselines.net2wider(population, 40, noise=noise) for noise in (0.0, 0.1))
    for index, width in enumerate((4, 3)):
        before, after = exact.hidden[index].weight.detach(), noisy.hidden[index].weight.detach()
        assert torch.equal(before[:width], after[:width])
        size = before[width:].square().mean(1).sqrt()
        relative = (after - before)[width:] / size[:, None]
        assert 0.07 < float(relative.square().mean().sqrt()) < 0.13
        assert torch.equal(exact.hidden[index].bias, noisy.hidden[index].bias)
    assert torch.equal(exact.readout.weight, noisy.readout.weight)
    change = (outputs(noisy, SMALL) - outputs(exact, SMALL)).abs().max()
    assert 0 < float(change) < 1


# --- what is refused

EQUAL, UNEQUAL = [[5, 4], [5, 4]], [[5, 4], [4, 4]]


@pytest.mark.parametrize(
    ("name", "widths", "arguments", "message"),
    [
        *(
            (name, UNEQUAL, {}, r"members must have equal widths, got \(5, 4\) in layer 'hidden.0'")
            for name in ("weight_matching", "merge_many", "activation_matching", "cycle_matching", "parameter_average")
        ),
        ("weight_matching", EQUAL, {"reference": 2}, "reference must be an int from 0 to 1, got 2"),
        ("activation_matching", EQUAL, {"reference": -1}, "reference must be an int from 0 to 1, got -1"),
        ("transport_fusion", EQUAL, {"reference": True}, "reference must be an int from 0 to 1, got True"),
        ("net2wider", EQUAL, {"member": 1.0}, "member must be an int from 0 to 1, got 1.0"),
        ("activation_matching", EQUAL, {"calibration": None}, "calibration must be inputs for a method that compares"),
        (
            "activation_matching",
            EQUAL,
            {"seen": "outputs"},
            "seen must be one of 'activations', 'pre-activations'",
        ),
        ("activation_matching", EQUAL, {"calibration": SMALL[:, :4]}, r"calibration must have shape \(n, 6\)"),
        ("transport_fusion", EQUAL, {"ground": "activations"}, "calibration must be inputs for a method that compares"),
        ("transport_fusion", EQUAL, {"ground": "truth"}, "ground must be one of 'weights', 'activations', got 'truth'"),
        ("probabilistic_matching", EQUAL, {"sigma": 0.0}, "sigma must be a number > 0, got 0.0"),
        ("probabilistic_matching", EQUAL, {"gamma": math.nan}, "gamma must be a number > 0, got nan"),
        ("probabilistic_matching", EQUAL, {"sigma0": -1.0}, "sigma0 must be a number > 0, got -1.0"),
        (
            "probabilistic_matching",
            UNEQUAL,
            {"max_width": 4},
            "max_width of layer 'hidden.0' must be an int >= 5",
        ),
        ("probabilistic_matching", EQUAL, {"max_width": {"hidden.2": 9}}, "max_width must be one of 'hidden.0', 'hidd"),
        ("transplantation", EQUAL, {"width": 11}, "width of layer 'hidden.0' must be at most 10, all units, got 11"),
        ("transplantation", EQUAL, {"width": "wide"}, 'width must be a positive int or a multiple such as "2x", got'),
        ("transplantation", EQUAL, {"width": {"hidden.2": 9}}, "width must be one of 'hidden.0', 'hidden.1', got"),
        (
            "net2wider",
            EQUAL,
            {"width": {"hidden.1": 3}},
            "width of layer 'hidden.1' must be at least 4, the wid",
        ),
        ("net2wider", EQUAL, {"noise": -0.1}, r"noise must be a number in \[0, inf\], got -0.1"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    name: str, widths: list[list[int]], arguments: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = random_population(widths)
    for module in (concatenation, cycle_consistent, probabilistic, matching, transport, widening):
        monkeypatch.setattr(module, "fuse", None)
        for work in ("average_of", "blocks_of", "global_bases", "transport_bases", "transplanted_bases", "replication"):
            monkeypatch.setattr(module, work, None, raising=False)
    if name == "activation_matching":
        arguments = {"calibration": SMALL, **arguments}
    with pytest.raises(InputError, match=message):
        getattr(baselines, name)(population, **arguments)


@pytest.mark.parametrize("name", METHODS)
def test_corrections_and_populations_that_do_not_fit_are_refused(name: str) -> None:
    population, method = random_population([[5, 4], [5, 4]]), METHODS[name]
    with pytest.raises(InputError, match="correction must be one of .*, got 'repair'"):
        method(population, correction="repair")
    if "activation" not in name:
        with pytest.raises(InputError, match="correction='moments' needs calibration data"):
            method(population, correction="moments")
    with pytest.raises(InputError, match="calibration must be finite"):
        method(population, calibration=SMALL * math.nan)
    with pytest.raises(InputError, match="population must have at least 1 member, got none"):
        getattr(baselines, name.split(",")[0])(Population((), SMALL[:8]), calibration=SMALL)


def test_assign_takes_the_best_permutation() -> None:
    gain = torch.tensor([[1.0, 5.0, 0.0], [4.0, 6.0, 0.0], [0.0, 0.0, 1.0]])
    assert assign(gain).tolist() == [1, 0, 2]
