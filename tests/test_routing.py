"""Routing: experts, routers in closed form, and networks that skip what their routers leave out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from conftest import refused, run
from consilience.assembly.experts import coactive_experts, random_experts
from consilience.assembly.routing import RoutedLayerRecord
from consilience.errors import InputError
from consilience.nets import Routed
from consilience.report.routing import (
    NARROW,
    ROUTED,
    WIDE,
    RoutingResult,
    RoutingRow,
    routing_sentences,
    routing_table,
)
from consilience.report.routing.plots import score_by_products
from consilience.report.routing.result import layers_table
from consilience.store import load_network, save_network


def routed_net(seed: int = 0, activation: str = "relu") -> Routed:
    torch.manual_seed(seed)
    net = Routed(5, [12, 6], 3, experts=[4, 3], active=[2, 1], activation=activation)
    for layer in net.hidden:
        nn.init.normal_(layer.rest)
    return net.eval()


def by_the_formula(net: Routed, x: Tensor) -> Tensor:
    """Every unit is computed, and those that the router leaves out are replaced."""
    for layer in net.hidden:
        scores = x @ layer.router.weight.T + layer.router.bias
        a = {"relu": torch.relu, "tanh": torch.tanh}[net.activation](x @ layer.units.weight.T + layer.units.bias)
        rows = []
        for score, units in zip(scores, a, strict=True):
            values = score.tolist()
            chosen = sorted(range(layer.n_experts), key=lambda e: -values[e])[: layer.n_active]
            kept = torch.tensor([u // (len(units) // layer.n_experts) in chosen for u in range(len(units))])
            rows.append(torch.where(kept, units, layer.rest))
        x = torch.stack(rows)
    return x @ net.readout.weight.T + net.readout.bias


@pytest.fixture(scope="module")
def setting() -> tuple[cs.Census, nn.Module, Any]:
    """A census of four members, an assembly of four times their width, and data."""
    data = cs.load_data("digits", random_state=0)
    population = cs.train_population(
        cs.MLP(64, [16, 12], 10), data.train, 4, training=cs.Training(epochs=12, learning_rate=5e-3), random_state=0
    )
    census = cs.Census(n_resamples=0, random_state=0).fit(population, data.calibration.x)
    return census, cs.assemble(census, "full"), data


# --- the network ---


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_computes_the_chosen_experts_and_constants_for_the_others(activation: str) -> None:
    net, x = routed_net(activation=activation), torch.randn(40, 5)
    torch.testing.assert_close(net(x), by_the_formula(net, x))
    torch.testing.assert_close(torch.cat([net(row) for row in x.split(1)]), net(x))  # whatever the batch
    assert net(x[:0]).shape == (0, 3)


def test_units_that_are_left_out_are_not_computed() -> None:
    net, x = routed_net(), torch.randn(40, 5)
    layer = net.hidden[0]
    expected = net(x)
    layer.router.bias.data[1] = -1e9  # nobody chooses expert 1
    without = net(x)
    layer.units.weight.data[3:6] = torch.nan
    torch.testing.assert_close(net(x), without)
    assert not torch.allclose(expected, without)


def test_products_are_those_of_routers_active_units_and_readout() -> None:
    net = routed_net()
    assert net.n_products == (4 * 5 + 5 * 6) + (3 * 12 + 12 * 2) + 6 * 3
    assert net.n_products_of_all == 5 * 12 + 12 * 6 + 6 * 3


def test_gradients_reach_the_experts_that_ran_and_the_constants_of_the_others() -> None:
    net = routed_net()
    x = torch.randn(1, 5)
    net(x).sum().backward()
    chosen = net.hidden[0].router(x).topk(2).indices[0].tolist()
    for e in range(4):
        units = slice(3 * e, 3 * e + 3)
        assert bool(net.hidden[0].rest.grad[units].any()) == (e not in chosen)


def test_a_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="active must be an int from 1 to 4, got 5\n  cure: route to fewer experts"):
        Routed(5, [12], 3, experts=[4], active=[5])
    with pytest.raises(InputError, match=r"widths must be multiples of their number of experts, 5, got 12"):
        Routed(5, [12], 3, experts=[5], active=[5])
    with pytest.raises(InputError, match=r"experts must have one number for each hidden layer, got \(4,\) for 2"):
        Routed(5, [12, 6], 3, experts=[4], active=[2, 1])


# --- experts ---


def test_units_that_are_active_together_share_an_expert() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(300, 4, generator=generator)
    group = torch.arange(4).repeat(6)[torch.randperm(24, generator=generator)]
    activations = torch.relu(sources[:, group] + 0.3 * torch.randn(300, 24, generator=generator))
    experts = coactive_experts(activations, 4)
    assert sorted(len(set(group[e].tolist())) for e in experts) == [1, 1, 1, 1]
    mixed = [len(set(group[e].tolist())) for e in random_experts(24, 4)]
    assert max(mixed) > 1


@pytest.mark.parametrize("n_experts", [1, 3, 5, 7])
def test_experts_are_of_equal_size_and_have_each_unit_once(n_experts: int) -> None:
    activations = torch.randn(50, 17)
    for experts in (coactive_experts(activations, n_experts), random_experts(17, n_experts)):
        assert torch.cat(experts).sort().values.tolist() == list(range(17))
        assert {len(e) for e in experts} <= {17 // n_experts, -(-17 // n_experts)}


# --- routing ---


def test_with_all_experts_it_is_the_wide_network(setting: tuple[cs.Census, nn.Module, Any]) -> None:
    census, wide, data = setting
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    for n_experts in (1, 4, 5, 48):  # 5 does not divide the units: experts are filled up
        routed = cs.route(wide, census, 1.0, n_experts=n_experts, correction="none")
        torch.testing.assert_close(routed(data.test.x), wide(data.test.x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())


def test_least_squares_is_nearer_than_no_correction_and_coactive_experts_cost_less(
    setting: tuple[cs.Census, nn.Module, Any],
) -> None:
    census, wide, data = setting

    def error(**options: Any) -> float:
        routed = cs.route(wide, census, 0.5, n_experts=8, **options)
        return cs.evaluate(routed, data.calibration.x, census.population_).error

    assert error() < 0.3 * error(correction="none")
    assert error(correction="none") < error(correction="none", grouping="random")
    routed = cs.route(wide, census, 0.5, n_experts=8)
    assert cs.evaluate(routed, data.test).quality > cs.evaluate(wide, data.test).quality - 0.06


def test_scores_explain_what_leaving_out_an_expert_costs(setting: tuple[cs.Census, nn.Module, Any]) -> None:
    census, wide, _ = setting
    record = cs.route(wide, census, 0.25, n_experts=8).routing_
    for layer in record.layers:
        assert 0.3 < layer.explained < 1
        assert sum(layer.used) == pytest.approx(2)  # of eight
        assert sorted(unit for e in layer.experts for unit in e) == list(range(sum(map(len, layer.experts))))


def test_distillation_lowers_the_held_out_error(setting: tuple[cs.Census, nn.Module, Any]) -> None:
    census, wide, _ = setting
    routed = cs.route(wide, census, 0.25, n_experts=8, correction="distill", steps=60, learning_rate=1e-3)
    assert routed.routing_.distillation.kept
    assert routed.routing_.distillation.after < routed.routing_.distillation.before


def test_outputs_that_are_numbers_keep_their_units() -> None:
    torch.manual_seed(0)
    members = [cs.MLP(6, [10], 2) for _ in range(2)]
    for net in members:
        net.readout.weight.data.mul_(1e4)
        net.readout.bias.data.fill_(5e4)
    x = torch.randn(1000, 6)
    population = cs.Population.from_modules(members, x, task="regression")
    census = cs.Census(n_resamples=0).fit(population, x)
    wide = cs.assemble(census, "full")
    errors = []
    for options in ({}, {"correction": "distill", "steps": 150, "learning_rate": 3e-3}):
        routed = cs.route(wide, census, 0.5, n_experts=4, **options)
        errors.append(cs.evaluate(routed, x, population).error)
    assert errors[1] < errors[0] < 0.5


def test_it_is_saved_and_loaded_without_the_rooms_that_made_it(
    setting: tuple[cs.Census, nn.Module, Any], tmp_path: Path
) -> None:
    census, wide, data = setting
    routed = cs.route(wide, census, 0.25, n_experts=8)
    save_network(routed, tmp_path / "routed")
    torch.testing.assert_close(load_network(tmp_path / "routed")(data.test.x), routed(data.test.x), rtol=0, atol=0)
    code = f"""
import sys, json
from consilience.store import load_network
load_network({str(tmp_path / "routed")!r})
print(json.dumps(sorted(name for name in sys.modules if name.startswith("consilience."))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in json.loads(done.stdout)}
    assert "store" in rooms
    assert not rooms & {"training", "assembly", "census", "population", "report", "studies"}


# --- what is refused ---


def test_what_cannot_be_routed_is_refused(setting: tuple[cs.Census, nn.Module, Any]) -> None:
    census, wide, data = setting
    with pytest.raises(InputError, match=r"active must be a number in \[0, 1\], got 2"):
        cs.route(wide, census, 2)
    with pytest.raises(InputError, match="n_experts must be at most the units of each layer, got 49 for a layer of 48"):
        cs.route(wide, census, n_experts=49)
    with pytest.raises(InputError, match="calibration must have at least as many rows as a layer has units, 64, got 9"):
        cs.route(wide, census, calibration=data.calibration.x[:9])
    blind = cs.Census("weights", "cosine", n_resamples=0).fit(census.population_)
    with pytest.raises(InputError, match="calibration must be inputs without labels, got none"):
        cs.route(wide, blind)
    with pytest.raises(InputError, match="steps must be given with correction='distill' alone"):
        cs.route(wide, census, steps=10)
    with pytest.raises(InputError, match="network must be a module, got str"):
        cs.route("4x", census)


def test_networks_of_other_kinds_are_refused(setting: tuple[cs.Census, nn.Module, Any]) -> None:
    census = setting[0]
    for network, reason in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no hidden layer"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), nn.Softmax(1)),
            "outputs that pass through",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 10)), "linear layers"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10)),
            "activations",
        ),
    ):
        with pytest.raises(InputError, match=f"network must be a chain of fully connected layers, got .*{reason}"):
            cs.route(network, census)


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parent.parent / "docs" / "routing.md"
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, "routing.md", "exec"), names)
    assert names["routed"].n_products < names["routed"].n_products_of_all / 2


# --- the command ---


@pytest.fixture(scope="module")
def census_dir(setting: tuple[cs.Census, nn.Module, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, census = tmp_path_factory.mktemp("routing"), setting[0]
    census.population_.save(root / "population")
    return cs.save_census(census, root / "census", root / "population")


@pytest.mark.slow
def test_the_command_writes_the_network_and_what_it_is_worth(
    census_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "routed"
    arguments = ["route", census_dir, "--width", "2x", "--experts", 4, "--grouping", "random"]
    arguments += ["--data", "digits", "--out", out]
    printed = run(capsys, *arguments)
    network, data, census = load_network(out), cs.load_data("digits"), cs.load_census(census_dir)
    assert isinstance(network, Routed)
    wide = cs.assemble(census, "2x", correction="second-order")
    direct = cs.route(wide, census, n_experts=4, grouping="random")
    torch.testing.assert_close(network(data.test.x), direct(data.test.x))
    found = json.loads((out / "routing.json").read_text())
    (asked,) = [row for row in found["rows"] if (row["name"], row["share"]) == (ROUTED["random"], 0.25)]
    assert asked["quality"] == pytest.approx(cs.evaluate(network, data.validation).quality)
    assert asked["products"] == network.n_products
    narrow = [row["products"] for row in found["rows"] if row["name"] == NARROW]
    assert len(narrow) == 3  # an eighth, a quarter and half of the experts
    for text in (printed, (out / "report.html").read_text()):
        assert f"a sample takes {100 * network.n_products / network.n_products_of_all:.1f}" in text
    assert run(capsys, *arguments) == printed


def test_what_the_command_cannot_do_is_refused(
    census_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for flag, value, message in (
        ("--active", 1.5, "must be a number in [0, 1], got 1.5"),
        ("--active", 0, "must be a number > 0, got 0.0"),
        ("--experts", 0, "must be an int >= 1, got 0"),
        ("--experts", 64, "must be at most the units of each layer, got 64 for a layer of 24"),
        ("--steps", 3, "must be left out with --correction least-squares, got 3"),
    ):
        assert f"{flag} {message}" in refused(
            capsys, "route", census_dir, *("--data", "digits", "--width", "2x", "--out", out, flag, value)
        )
    assert not out.exists()


def test_the_table_and_the_picture_are_of_the_numbers() -> None:
    co, random = ROUTED["co-activation"], ROUTED["random"]
    rows = [
        RoutingRow("ensemble of the members", None, 300, 0.95, 0.01),
        RoutingRow(WIDE, 1.0, 200, 0.94, 0.01),
        RoutingRow(co, 0.25, 80, 0.9, 0.01),
        RoutingRow(random, 0.25, 80, 0.85, 0.01),
        RoutingRow(NARROW, 0.25, 78, 0.91, 0.01),
    ]
    layer = RoutedLayerRecord(((0, 1), (2,)), 0.5, (0.25, 0.75))
    result = RoutingResult(rows, 0.25, "co-activation", 2, {"hidden.0": layer}, "accuracy", {})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in routing_table(result).markdown().splitlines()]
    assert lines[4] == [f"**{co}**", "**25.0 %**", "**80**", "**0.40**", "**90.00 ± 1.00 %**"]
    assert lines[6] == [NARROW, "", "78", "0.39", "91.00 ± 1.00 %"]
    assert routing_sentences(result)[1] == (
        "Its accuracy has a difference of -4.00 points to the wide network, -1.00 to a narrow network of as many "
        "multiplications and +5.00 to the same with random experts."
    )
    (ax,) = score_by_products(result).axes
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {co, random, NARROW, WIDE, "ensemble"}
    assert [cell.text for cell in layers_table(result).groups[""][0]] == [
        *("hidden.0", "1 or 2", "25.0 %", "75.0 %", "50.0 %"),
    ]
