"""Expand-and-Cluster: exact on small teachers, honest where it fails, and every part against what it should be."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from consilience.errors import InputError, TrainingError
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery import ExpandAndCluster, IdentifiabilityWarning
from consilience.recovery.clusters import StudentUnits, UnitTree
from consilience.recovery.cuts import cuts, plateaus
from consilience.recovery.distance import distance
from consilience.recovery.guesses import EXPANSIONS, guess_width, smallest_expansion
from consilience.recovery.network import as_good, medians, relative_error, without_excess
from consilience.recovery.signs import turned
from consilience.recovery.student import Student, symmetry_of_function
from consilience.units.symmetry import Symmetry

pytestmark = pytest.mark.numerical


def mixed(z: Tensor) -> Tensor:
    """An activation without any symmetry."""
    return torch.sigmoid(4 * z) + torch.nn.functional.softplus(z)


def teacher(activation: str = "tanh", widths: tuple[int, ...] = (2,), d: int = 3, o: int = 2, seed: int = 0) -> cs.MLP:
    generator = torch.Generator().manual_seed(seed)
    net = cs.MLP(d, widths, o, activation=activation).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def inputs(n: int = 200, d: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recovered(x: Tensor, y: Tensor | Callable[[Tensor], Tensor], **options: object) -> ExpandAndCluster:
    return ExpandAndCluster(**({"n_units": 2, "n_students": 8, "activation": "tanh"} | options)).fit(x, y)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu", "softplus"])
def test_size_and_every_parameter(activation: str) -> None:
    net, x = teacher(activation), inputs()
    found = recovered(x, net, activation=activation)
    apart = found.distance_to(net)
    assert found.n_units_ == (2,)
    assert found.diagnostics_.exact
    assert found.diagnostics_.reason == ""
    assert apart.is_exact
    assert apart.worst_angle < 1e-7
    assert apart.worst_error < 1e-6
    assert apart.function_error < 1e-9
    assert isinstance(found.model_, cs.MLP)  # signs came out right: no linear path is left
    fresh = inputs(seed=5)
    assert torch.allclose(found.model_(fresh), net(fresh), atol=1e-7)


def test_an_activation_without_a_name() -> None:
    net = Student(3, [2], 2, mixed).double()
    found = recovered(inputs(), net, activation=mixed)
    assert found.activation_ == "custom"
    assert found.distance_to(net).worst_error < 1e-6


@pytest.mark.parametrize("activation", ["tanh", pytest.param("gelu", marks=pytest.mark.slow)])
def test_layer_by_layer(activation: str) -> None:
    net = teacher(activation, (2, 2), d=3, o=3, seed=4)
    found = recovered(inputs(340), net, n_units=(2, 2), n_students=6, activation=activation)
    apart = found.distance_to(net)
    assert found.n_units_ == (2, 2)
    assert found.diagnostics_.exact
    assert apart.is_exact
    assert apart.worst_error < 1e-5
    assert apart.function_error < 1e-9


def test_units_of_inputs_and_outputs_do_not_matter() -> None:
    net, x = teacher(), inputs()
    found = recovered(1000 * x + 7, lambda raw: 1e-4 * net((raw - 7) / 1000) + 3)
    wanted = 1e-4 * net(x) + 3
    assert found.n_units_ == (2,)
    assert torch.allclose(found.model_(1000 * x + 7), wanted, atol=1e-10)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_an_input_that_never_changes_is_not_looked_at(activation: str) -> None:
    net, x = teacher(activation, d=4), inputs(d=4)
    x[:, 2] = 0.7
    found = recovered(x, net, activation=activation)
    assert found.n_units_ == (2,)
    assert bool((found.model_.hidden[0].weight[:, 2] == 0).all())
    assert torch.allclose(found.model_(x), net(x), atol=1e-8)


def test_one_unit() -> None:
    net = teacher(widths=(1,))
    found = recovered(inputs(), net, n_units=1, expansion=1)
    assert found.n_units_ == (1,)
    assert found.distance_to(net).worst_error < 1e-6


def test_whoever_is_asked_stays_as_it_is() -> None:
    asked = nn.Sequential(nn.BatchNorm1d(3), teacher().float())
    before, state = asked[0].running_mean.clone(), torch.get_rng_state()
    found = recovered(inputs().float(), asked, n_students=3, tolerance=1e-12, noise=1e-6)
    assert asked.training
    assert torch.equal(asked[0].running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.n_units_ == (2,)


def test_same_seed_same_network() -> None:
    net, x = teacher(), inputs()
    first, second = (recovered(x, net, n_students=3, random_state=3).model_ for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_size_and_expansion_unknown() -> None:
    net, x = teacher(), inputs()
    found = recovered(x, net, n_units=None, expansion="auto", n_students=5)
    assert found.n_units_ == (2,)
    assert found.distance_to(net).worst_angle < 1e-7


@pytest.mark.slow
def test_smallest_width_and_expansion() -> None:
    net, x = teacher(widths=(3,), seed=2), inputs()
    y = net(x).detach()
    y = (y - y.mean(0)) / y.std()
    settings = recovered(x, net, n_units=3, n_students=2)._settings(x, y)[0]
    (width,) = guess_width(x, y, 1, settings)
    assert width == 3  # two units cannot be three
    assert smallest_expansion(x, y, (3,), settings) in EXPANSIONS
    assert smallest_expansion(x, y, (1,), settings) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_activation_unknown(activation: str) -> None:
    found = recovered(inputs(), teacher(activation, seed=3), activation="auto")
    losses = [trial.loss for trial in found.diagnostics_.activations]
    assert found.activation_ == activation
    assert found.n_units_ == (2,)
    assert losses[0] < 0.5 * min(losses[1:])


def test_noise() -> None:
    net, x = teacher(), inputs(600)
    y = net(x).detach()
    noisy = y + 1e-3 * y.var(0).mean().sqrt() * torch.randn(
        y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype
    )
    found = recovered(x, noisy, noise=1e-3)
    apart = found.distance_to(net)
    assert found.n_units_ == (2,)
    assert apart.function_error < 1e-3  # an average over what is seen is nearer than any of it
    with pytest.raises(TrainingError, match="students must reach a loss"):
        recovered(x, y + 0.1 * torch.randn_like(y), noise=0.0)


def test_published_rule_is_another_cut() -> None:
    net, x = teacher(widths=(3,), seed=2), inputs()
    ours, theirs = (recovered(x, net, n_units=3, rule=rule) for rule in ("plateau", "published"))
    assert ours.n_units_ == (3,)
    assert len(theirs.clusters_[0].clusters) >= len(theirs.clusters_[0].kept) >= 3
    assert theirs.clusters_[0].height != ours.clusters_[0].height


@pytest.mark.slow
def test_a_failure_is_never_called_a_success() -> None:
    net, x = teacher(widths=(3,), seed=2), inputs()
    few = teacher(d=2, o=1, seed=1)
    for n, seed in ((40, 1), (36, 4)):  # students with nearly as many parameters as there are outputs
        found = recovered(inputs(n, 2, seed), few, noise=0.1, random_state=seed)
        students = found.diagnostics_.students_error
        assert not found.diagnostics_.exact or found.diagnostics_.error <= students
    strict = recovered(x, net, n_units=3, max_angle=1e-9, coverage=1.0)
    assert not strict.diagnostics_.exact
    assert strict.diagnostics_.reason
    with pytest.raises(InputError, match="needs a recovered network"):
        ExpandAndCluster().distance_to(net)


def test_no_better_than_the_students() -> None:
    y = torch.zeros(100, 2)
    small, students = nn.Linear(2, 2), 60
    for noisy in (False, True):
        assert as_good(1e-3, small, 1e-3, students, y, noisy)
        assert not as_good(2e-3, small, 1e-3, students, y, noisy)
        assert not as_good(1e-20, small, 1e-22, students, y, noisy)
    assert as_good(1e-25, small, 1e-30, students, y, False)  # rounding
    assert not as_good(1.1e-3, small, 1e-3, students, y, False)
    assert as_good(1.3e-3, small, 1e-3, students, y, True)  # students have fitted noise
    assert not as_good(1.1e-3, small, 1e-3, 150, y, True)  # as many parameters as equations: nothing can be said


def test_distance_after_every_symmetry() -> None:
    net, x = teacher("tanh", (3, 2), seed=6), inputs()
    copy = Student(3, [3, 2], 2, torch.tanh).double()
    copy.load_state_dict(net.state_dict())
    order, signs = torch.tensor([2, 0, 1]), torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    with torch.no_grad():
        first, second = copy.layers[:2]
        first.weight.copy_(signs[:, None] * first.weight[order])
        first.bias.copy_(signs * first.bias[order])
        second.weight.copy_(second.weight[:, order] * signs)
    symmetry = symmetry_of_function(torch.tanh)
    same = distance(copy, net, symmetry, x)
    assert same.is_exact
    assert same.worst_error < 1e-12
    assert sorted(same.pairs[0]) == [(0, 2), (1, 0), (2, 1)]
    with torch.no_grad():
        copy.layers[1].weight[0, 0] *= 1.01
    changed = distance(copy, net, symmetry, x)
    assert 1e-4 < changed.worst_error < 1e-2
    assert changed.function_error > 1e-4


def test_distance_counts_missing_and_excess_units() -> None:
    net, x = teacher(widths=(3,), seed=6), inputs()
    smaller = Student(3, [2], 2, torch.tanh).double()
    with torch.no_grad():
        smaller.layers[0].weight.copy_(net.hidden[0].weight[:2])
        smaller.layers[0].bias.copy_(net.hidden[0].bias[:2])
    symmetry = symmetry_of_function(torch.tanh)
    assert (distance(smaller, net, symmetry, x).missing, distance(smaller, net, symmetry, x).excess) == (1, 0)
    with torch.no_grad():
        smaller.layers[0].weight[1] = torch.tensor([5.0, -3.0, 9.0])
    assert (distance(smaller, net, symmetry, x).missing, distance(smaller, net, symmetry, x).excess) == (2, 1)
    with pytest.raises(InputError, match="teacher must have 1 hidden layers, got 2"):
        distance(smaller, teacher(widths=(2, 2)), symmetry, x)
    with pytest.raises(InputError, match="teacher must be a chain of linear layers"):
        distance(smaller, teacher("relu", widths=(2,)), symmetry, x)


@pytest.mark.parametrize(
    ("homogeneous", "odd_constant", "even_slope", "names"),
    [
        (True, 0.0, 2.0, ["identity"]),
        (True, None, 1.0, ["relu"]),
        (True, None, 1.01, ["leaky_relu"]),
        (False, 0.0, None, ["tanh", "erf"]),
        (False, 1.0, None, ["sigmoid"]),
        (False, None, 1.0, ["softplus", "gelu", "silu"]),
        (False, None, None, ["elu"]),
    ],
)
def test_symmetries_of_functions(
    homogeneous: bool, odd_constant: float | None, even_slope: float | None, names: list[str]
) -> None:
    for name in names:
        symmetry = symmetry_of_function(ACTIVATIONS[name])
        assert symmetry == Symmetry(homogeneous, odd_constant, even_slope)


def test_signs_from_a_linear_path() -> None:
    generator = torch.Generator().manual_seed(0)
    hyperplanes = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    wrong = torch.tensor([True, False, False, True])
    path = -(weights * wrong) @ hyperplanes[:, :-1]
    assert torch.equal(turned(1.0, hyperplanes, weights, path), wrong)
    assert torch.equal(turned(-2.0, hyperplanes, weights, -2 * path), wrong)
    weights[:, 1] = 0  # what nothing reads keeps its sign
    assert torch.equal(turned(1.0, hyperplanes, weights, path), wrong)


@pytest.mark.parametrize("widths", [(2,), (2, 2)])
def test_units_that_nothing_needs_are_removed(widths: tuple[int, ...]) -> None:
    net, x = teacher(widths=widths, seed=8), inputs()
    wide = Student(3, [4, *widths[1:]], 2, torch.tanh).double()
    with torch.no_grad():  # one unit twice, with half its weight each, and one that is constant
        wide.layers[0].weight.copy_(torch.cat([net.hidden[0].weight, net.hidden[0].weight[:1], torch.zeros(1, 3)]))
        wide.layers[0].bias.copy_(torch.cat([net.hidden[0].bias, net.hidden[0].bias[:1], torch.ones(1)]))
        above = [*net.hidden, net.readout][1]
        halves = torch.cat([above.weight[:, :1] / 2, above.weight[:, 1:]], dim=1)
        wide.layers[1].weight.copy_(torch.cat([halves, above.weight[:, :1] / 2, torch.zeros(len(halves), 1)], dim=1))
        wide.layers[1].bias.copy_(above.bias)
        if len(widths) > 1:
            wide.layers[2].load_state_dict(net.readout.state_dict())
    y = net(x).detach()
    assert relative_error(wide, x, y) < 1e-28
    small, error, removed = without_excess(wide, relative_error(wide, x, y), x, y, noisy=False)
    assert (small.widths, removed) == (widths, 2)
    assert error < 1e-24


def units(n_students: int, n_units: int, projective: bool = True, noise: float = 1e-6) -> StudentUnits:
    generator = np.random.default_rng(0)
    true = generator.normal(size=(n_units, 5))
    rows, outgoing, owner = [], [], []
    for student in range(n_students):
        own = np.concatenate([true, generator.normal(size=(2, 5))])  # two units of the student's own
        sign = generator.choice([-1, 1], size=(len(own), 1)) if projective else 1
        rows.append(sign * (own + noise * generator.normal(size=own.shape)))
        outgoing.append(sign * np.ones((len(own), 2)))
        owner += [student] * len(own)
    return StudentUnits(np.concatenate(rows), np.concatenate(outgoing), np.array(owner), projective, projective)


@pytest.mark.parametrize("projective", [True, False])
def test_clusters_are_what_students_share(projective: bool) -> None:
    some = units(8, 3, projective)
    (best,) = cuts(some, 0.8, math.pi / 12)
    assert [cluster.n_students for cluster in best.kept] == [8, 8, 8]
    for cluster in best.kept:
        aligned = some.hyperplanes[cluster.units] * cluster.signs[:, None]
        assert np.ptp(aligned, axis=0).max() < 1e-4
        assert cluster.outgoing == pytest.approx(math.sqrt(2), rel=1e-6)  # signs go along
    assert best.plateau[0] < 1e-3 < 0.1 < best.plateau[1]


@pytest.mark.parametrize("rule", ["plateau", "published"])
def test_medians_have_one_sign(rule: str) -> None:
    some = units(8, 3, noise=0)
    rows = medians(some, cuts(some, 0.8, math.pi / 12, rule=rule)[0])
    for row in rows.numpy():
        same = np.abs(some.hyperplanes @ row) / np.linalg.norm(some.hyperplanes, axis=1) / np.linalg.norm(row)
        assert (same > 1 - 1e-9).sum() >= 8


def test_nothing_that_survives_is_no_cut() -> None:
    some = units(8, 3, noise=0.1)
    assert cuts(some, 0.8, 1e-12, rule="published") == []


def test_units_are_counted_by_student() -> None:
    some = units(8, 3, noise=0)
    hyperplanes = np.concatenate([some.hyperplanes, np.tile(some.hyperplanes[3], (8, 1))])
    outgoing = np.concatenate([some.outgoing, np.ones((8, 2))])
    student = np.concatenate([some.student, np.zeros(8, dtype=int)])  # eight more copies of a unit that only it has
    many = StudentUnits(hyperplanes, outgoing, student, True, True)
    assert len(cuts(many, 0.8, math.pi / 12)[0].kept) == 3
    assert len(cuts(many, 0.8, math.pi / 12, rule="published")[0].kept) > 3


def test_what_has_no_weight_is_dropped() -> None:
    some = units(8, 3)
    some.outgoing[np.arange(len(some)) % 5 == 1] *= 1e-4
    best = cuts(some, 0.8, math.pi / 12)[0]
    dropped = [cluster for cluster in best.clusters if cluster.dropped]
    assert len(best.kept) == 2
    assert any("outgoing" in cluster.dropped for cluster in dropped)


def test_the_sweep_counts_what_cutting_everywhere_counts() -> None:
    nodes = UnitTree(units(5, 3, noise=0.2))
    alive = (nodes.n_students >= 3) & (nodes.angles <= 0.5)
    heights = [0.0, *nodes.tree.heights]
    for step, height in enumerate(heights[:-1]):
        if height < heights[step + 1]:
            roots = nodes.tree.roots(nodes.tree.n_merges_below(height))
            assert alive[roots].sum() == nodes.n_survivors(alive)[step]
    for plateau in plateaus(nodes, alive):
        clusters = nodes.clusters_at(math.sqrt(plateau.below * plateau.above))
        assert alive[clusters].sum() == plateau.n_clusters


def test_bad_input() -> None:
    net, x = teacher(), inputs(20)
    y = net(x).detach()
    nan = x.clone()
    nan[4, 1] = float("nan")
    for options, message in (
        ({"n_units": 0}, "n_units must be one int >= 1"),
        ({"n_units": []}, "n_units must be one int >= 1"),
        ({"n_units": 2.0}, "n_units must be one int >= 1 or one for each layer, got 2.0"),
        ({"n_students": 1}, "n_students must be an int >= 2, got 1"),
        ({"noise": float("nan")}, r"noise must be a number in \[0, 0.7\), got nan"),
        ({"noise": 0.8}, r"noise must be a number in \[0, 0.7\), got 0.8"),
        ({"noise": -1.0}, "noise must be a number in"),
        ({"tolerance": 0.0}, "tolerance must be a number > 0, got 0.0"),
        ({"expansion": float("nan")}, 'expansion must be a number >= 1 or "auto", got nan'),
        ({"expansion": 0.5}, "expansion must be a number >= 1"),
        ({"expansion": "big"}, "expansion must be a number >= 1"),
        ({"coverage": 1.5}, r"coverage must be a number in \[0, 1\], got 1.5"),
        ({"coverage": 0.0}, "coverage must be a number > 0"),
        ({"max_angle": 4.0}, "max_angle must be a number in"),
        ({"rule": "other"}, "rule must be one of 'plateau', 'published', got 'other'"),
        ({"activation": "swish"}, "activation must be a function or one of .*, got 'swish'"),
        ({"activation": np.array(["tanh", "relu"])}, "activation must be a function or one of"),
        ({"n_units": np.array([2, 3])}, r"n_units must be one int >= 1 or one for each layer, got array"),
        ({"rule": []}, r"rule must be one of 'plateau', 'published', got \[\]"),
    ):
        with pytest.raises(InputError, match=message):
            recovered(x, y, **options)
    for x_given, y_given, message in (
        (nan, y, "X must be finite, .* first row 4"),
        (
            x,
            torch.ones_like(y),
            "Y must have rows that differ, got the same values in all rows\n  cure: a network of constant outputs",
        ),
        (torch.ones_like(x), y, "X must have rows that differ, .*\n  cure: pass inputs that differ"),
        (x[:2], y[:2], "X must have at least 3 rows, of which a tenth is held out, got 2\n  cure: pass several rows"),
        (x, y[:-1], "Y must have one row for each of the 20 rows of X"),
        (x[:, :, None], y, r"X must have shape \(samples, features\), got \(20, 3, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            recovered(x_given, y_given)


def test_too_few_inputs_are_told() -> None:
    net, x = teacher(), inputs(10)
    with pytest.warns(IdentifiabilityWarning, match=r"50 parameters, and there are 9 × 2 = 18"):
        recovered(x, net, n_students=2)


def test_an_activation_that_does_not_fit() -> None:
    net, x = teacher("relu", (3,), seed=2), inputs(400)
    with pytest.raises(TrainingError, match="try another activation"):
        recovered(x, net, n_units=1, expansion=2, activation="erf", max_iterations=30)
