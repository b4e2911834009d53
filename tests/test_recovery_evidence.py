"""What a claim of a recovery rests on: held-out rows, the rank of the Jacobian, students that agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import consilience as cs
from consilience.errors import InputError
from consilience.recovery import ExpandAndCluster
from consilience.recovery.evidence import Agreement, Evidence, evidence_of, split
from consilience.recovery.student import Student, set_rows

pytestmark = pytest.mark.numerical
Rows = tuple[Tensor, Tensor]


def teacher(seed: int, offset: float, d: int = 5) -> cs.MLP:
    """Two relu units of unit norm, active where their weights times the inputs are above the offset."""
    generator = torch.Generator().manual_seed(seed)
    net = cs.MLP(d, [2], 2, activation="relu").double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        weight = net.hidden[0].weight
        weight.div_(torch.linalg.vector_norm(weight, dim=1, keepdim=True))
        net.hidden[0].bias.fill_(-offset)
    return net


def inputs(seed: int, n: int = 200, d: int = 5) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)


def recovered(x: Tensor, y: Tensor | Callable[[Tensor], Tensor], **options: object) -> ExpandAndCluster:
    return ExpandAndCluster(**({"n_units": 2, "n_students": 6, "activation": "relu"} | options)).fit(x, y)


def student(function: Callable[[Tensor], Tensor] = torch.relu, widths: tuple[int, ...] = (3,)) -> Student:
    generator = torch.Generator().manual_seed(0)
    net = Student(4, widths, 2, function).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def evidence(net: Student, x: Tensor, x_held: Tensor, noise: float = 0.0) -> Evidence:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        fitted, held = (
            (rows, net(rows) + noise * torch.randn(len(rows), 2, generator=generator, dtype=x.dtype))
            for rows in (x, x_held)
        )
    return evidence_of(net, fitted, held, [Agreement(5, 5, 5)], net.function is torch.relu, noise > 0)


def identified(made: Evidence) -> list[bool]:
    return [unit.identified for layer in made.units for unit in layer]


@pytest.mark.parametrize("seed", [1, 2])
def test_units_that_are_active_on_few_rows_are_not_claimed(seed: int) -> None:
    net = teacher(seed, 1.9)
    found = recovered(inputs(seed), net)
    told = found.diagnostics_
    assert told.explains
    assert told.error < 1e-24
    assert found.distance_to(net).function_error > 0.05  # wrong on fresh inputs
    assert not told.exact
    assert told.reason.startswith("it explains the outputs, not identified: ")
    assert told.evidence is not None
    assert told.evidence.rank < told.evidence.n_free
    assert not all(identified(told.evidence))
    assert told.reason.endswith("give more inputs on which these units are active")


def test_units_that_are_active_on_enough_rows_are_claimed() -> None:
    net = teacher(5, 1.2)
    found = recovered(inputs(5), net)
    assert found.diagnostics_.exact
    assert found.distance_to(net).function_error < 1e-9
    told = found.diagnostics_.evidence
    assert told is not None
    assert (told.n_fitted, told.n_held_out, told.rank, told.n_free) == (180, 20, 16, 16)
    assert all(identified(told))
    assert told.held_out_error < 1e-24
    assert told.doubts == ()
    assert told.cure == ""


def test_no_fit_reads_held_out_rows() -> None:
    net, x = teacher(5, 1.2), inputs(5)
    y = net(x).detach()
    _, held = split(x)
    changed = y.clone()
    changed[held] += 1
    first, second = recovered(x, y), recovered(x, changed)
    for ours, theirs in zip(first.model_.parameters(), second.model_.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert first.diagnostics_.exact
    assert not second.diagnostics_.exact
    assert "the error on 20 held-out rows is" in second.diagnostics_.reason


def test_equal_inputs_are_on_one_side_of_the_split() -> None:
    x = inputs(0, n=40)
    repeated = x.repeat(3, 1)[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    fitted, held = split(repeated)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(120))
    assert (len(fitted), len(held)) == (108, 12)
    assert not (repeated[fitted][:, None] == repeated[held]).all(2).any()


def test_rows_that_are_fitted_must_differ() -> None:
    x = inputs(0, n=40)
    y = torch.zeros(40, 1, dtype=torch.float64)
    y[split(x)[1][0]] = 1
    with pytest.raises(
        InputError,
        match="Y must have rows that differ, got the same values in 36 of 40 rows, the others being held out",
    ):
        recovered(x, y)


def rows(seed: int = 0) -> Rows:
    drawn = inputs(seed, d=4)
    return drawn[:180], drawn[180:]


@pytest.mark.parametrize(("function", "widths"), [(torch.relu, (3,)), (torch.tanh, (3,)), (torch.tanh, (3, 2))])
def test_the_rank_is_full_where_the_rows_determine_all_parameters(
    function: Callable[[Tensor], Tensor], widths: tuple[int, ...]
) -> None:
    net = student(function, widths)
    made = evidence(net, *rows())
    n_parameters = sum(parameter.numel() for parameter in net.parameters())
    assert made.rank == made.n_free == n_parameters - (3 if function is torch.relu else 0)
    assert all(identified(made))
    assert made.doubts == ()


def changed(net: Student, unit: Tensor) -> Student:
    hyperplanes = torch.cat([net.layers[0].weight, net.layers[0].bias[:, None]], dim=1).detach()
    hyperplanes[1] = unit
    set_rows(net.layers[0], hyperplanes)
    return net


@pytest.mark.parametrize(
    ("case", "rank", "unit_identified"),
    [
        ("dead", 14, [True, False, True]),
        ("always active", 19, [True, False, True]),
        ("one kink", 20, [True, False, True]),
        ("four rows of five", 19, [True, False, True]),
        ("a copy", 18, [False, False, True]),
    ],
)
def test_units_that_the_rows_do_not_determine(case: str, rank: int, unit_identified: list[bool]) -> None:
    net, (x, x_held) = student(), rows()
    weights = net.layers[0].weight[1].detach()
    order, held = (x @ weights).sort().values, x_held @ weights
    x_held = x_held[(held > order[1]) & (held < order[-5])]
    bias = {"dead": -order[-1] - 1, "always active": 1 - order[0], "one kink": -(order[0] + order[1]) / 2}
    bias["four rows of five"] = -(order[-5] + order[-4]) / 2
    unit = torch.cat([weights, bias.get(case, order[:1])[None].reshape(1)])
    if case == "a copy":
        unit = torch.cat([net.layers[0].weight[0], net.layers[0].bias[:1]]).detach()
    made = evidence(changed(net, unit), x, x_held)
    assert made.n_free == 20
    assert made.rank == rank
    assert identified(made) == unit_identified
    assert made.held_out_error < 1e-24  # these rows do not show it
    assert "not identified: 1 (" in made.doubts[-1] or case == "a copy"


def test_a_unit_on_as_many_rows_as_weights_needs_a_held_out_row() -> None:
    net, (x, x_held) = student(), rows()
    weights = net.layers[0].weight[1].detach()
    order = (x @ weights).sort().values
    net = changed(net, torch.cat([weights, -(order[-6:-4].mean())[None]]))
    assert bool((x_held @ weights < order[-6]).all())
    farther = 1.1 * x[(x @ weights).argmax()]
    confirmed, alone = evidence(net, x, torch.cat([x_held, farther[None]])), evidence(net, x, x_held)
    assert confirmed.rank == alone.rank == 20
    assert [e.units[0][1].n_active for e in (confirmed, alone)] == [5, 5]
    assert [e.units[0][1].n_decisive for e in (confirmed, alone)] == [0, 5]
    assert (identified(confirmed)[1], identified(alone)[1]) == (True, False)


@pytest.mark.parametrize("shift", [-1e-14, 0.0, 1e-14])
def test_a_row_on_a_kink_determines_nothing_on_either_side(shift: float) -> None:
    net, (x, x_held) = student(), rows()
    weights = net.layers[0].weight[1].detach()
    fifth = (x @ weights).sort().values[-5]
    made = evidence(changed(net, torch.cat([weights, (shift - fifth)[None]])), x, x_held)
    assert made.rank == 19
    assert made.units[0][1].n_active == 4


def test_copies_of_rows_and_of_inputs_determine_nothing() -> None:
    net, (x, x_held) = student(), rows()
    assert evidence(net, x[:9].repeat(20, 1), x_held).rank < 20
    twins = torch.cat([x[:, :3], x[:, :1]], dim=1)
    assert evidence(net, twins, x_held).rank == 20 - 3  # a unit's weights on the two are not told apart


def test_noise_makes_units_uncertain() -> None:
    net, (x, x_held) = student(), rows()
    fine, poor = evidence(net, x, x_held, noise=1e-3), evidence(net, x, x_held, noise=5.0)
    assert fine.doubts == ()
    assert poor.rank == 20
    assert not all(identified(poor))
    assert any("rows, 5 weights, standard error" in doubt for doubt in poor.doubts)
    assert 1e-5 < fine.units[0][0].error < 1e-2


def test_units_have_the_standard_errors_of_least_squares() -> None:
    net, (x, x_held) = student(torch.tanh), rows()
    made = evidence(net, x, x_held, noise=1e-2)
    with torch.no_grad():
        y = net(x)
    jacobian = torch.autograd.functional.jacobian(
        lambda *values: torch.func.functional_call(
            net, dict(zip(dict(net.named_parameters()), values, strict=True)), (x,)
        ).flatten(),
        tuple(parameter.detach() for parameter in net.parameters()),
    )
    flat = torch.cat([part.flatten(1) for part in jacobian], dim=1)
    residual = made.error * float(y.var(0, correction=0).mean()) * y.numel() / (y.numel() - flat.shape[1])
    covariance = residual * torch.linalg.inv(flat.T @ flat)
    places = [*range(4), 12]  # the weights and the bias of the first unit
    norm = torch.cat([net.layers[0].weight[0], net.layers[0].bias[:1]]).detach().norm()
    assert made.units[0][0].error == pytest.approx(float(covariance.diagonal()[places].sum().sqrt() / norm), rel=0.02)


def test_every_doubt_is_told() -> None:
    made = evidence(student(), *rows())
    few = replace(made, agreement=(Agreement(1, 3, 20), Agreement(2, 3, 20)))
    assert few.doubts == ("1 students share every unit of layer 1, of 3 that reach the outputs; 2 must",)
    assert few.cure == "give more inputs or train more students"
    assert [Agreement(0, n, 20).needed for n in (2, 3, 4, 5, 20)] == [2, 2, 2, 3, 10]
    held = replace(made, held_out_error=1e-3, error=1e-30)
    assert held.doubts == ("the error on 20 held-out rows is 1.0e-03, on 180 fitted rows 1.0e-30",)
    large = replace(made, rank=-1)
    assert large.doubts == ("its 20 parameters are too many for the rank of their Jacobian",)
