"""Clusters chosen by what they reconstruct, pooled outputs, second-order fits, elastic widths, imagined inputs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import inputs, random_population
from consilience.assembly import Assembler, assemble, elastic, load_elastic
from consilience.assembly.choice import CensusPlan
from consilience.assembly.gauss_newton import gauss_newton
from consilience.assembly.pooling import class_share, pooled
from consilience.assembly.reconstruction import reconstruct
from consilience.assembly.selection import forward_selection, unexplained
from consilience.assembly.widths import resolve
from consilience.baselines import Ensemble
from consilience.bases.grounding import Groups
from consilience.census.census import Census
from consilience.data import Data
from consilience.errors import ArtefactError, InputError
from consilience.evaluation import evaluate
from consilience.population import Population, imagine_inputs
from consilience.signals.held_out import held_out
from consilience.signals.responses import Responses
from consilience.store import read_artefact, save_network, write_artefact
from test_assembly import assert_same_function, outputs
from test_census import scrambled_population

pytestmark = pytest.mark.numerical

X, FRESH = inputs(300, seed=1), inputs(200, seed=2)


def centred(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values - values.mean(0)


def dense(groups: Groups, n_units: int) -> np.ndarray:
    """Which units are in each group, (U, c)."""
    inside = np.zeros((n_units, groups.n_clusters), dtype=bool)
    inside[groups.units, groups.clusters] = True
    return inside


def error_of(features: Tensor, targets: Tensor, columns: list[int]) -> float:
    """Squared error of least squares, by another road: a projector."""
    q, _ = torch.linalg.qr(features[:, columns].double())
    return float((targets.double() - q @ (q.T @ targets.double())).square().sum())


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_each_choice_lowers_the_error_most(seed: int) -> None:
    """Orthogonal least squares against its definition: try every candidate at every step."""
    features, targets = centred(60, 12, seed=seed), centred(60, 3, seed=seed + 1)
    chosen = forward_selection(features, targets, 6)
    assert len(set(chosen)) == 6
    for step, column in enumerate(chosen):
        errors = {
            other: error_of(features, targets, [*chosen[:step], other])
            for other in range(12)
            if other not in chosen[:step]
        }
        assert errors[column] <= min(errors.values()) * (1 + 5e-3)  # it shrinks a little where this does not


def test_copies_add_nothing_and_come_last() -> None:
    features = centred(50, 4, seed=0)
    chosen = forward_selection(torch.cat([features, 3 * features], dim=1), centred(50, 2, seed=1), 6)
    assert sorted(column % 4 for column in chosen[:4]) == [0, 1, 2, 3]


def test_more_choices_than_directions_are_still_distinct() -> None:
    features = centred(40, 2, seed=0)[:, [0, 1, 0, 1, 0]]
    assert sorted(forward_selection(features, centred(40, 1, seed=1), 5)) == [0, 1, 2, 3, 4]


def test_what_a_linear_readout_leaves_unexplained() -> None:
    features, targets = centred(80, 5, seed=0), centred(80, 2, seed=1)
    assert unexplained(features, targets) == pytest.approx(error_of(features, targets, list(range(5))), rel=1e-3)
    assert unexplained(features, features[:, :2] * 4) < 1e-3 * float((features[:, :2] * 4).square().sum())


@pytest.mark.parametrize("clusterer", ["ward", "average", "two-stage", "kmeans"])
def test_chosen_clusters_are_clusters_of_the_census_and_explain_at_least_as_much(clusterer: str) -> None:
    population = random_population([[6, 5]] * 4)
    census = Census(clusterer=clusterer, n_clusters=8, n_resamples=0).fit(population, X)
    responses = Responses(census.networks_, X)
    weights = torch.full((4, 3), 0.25)
    chosen = reconstruct(census, responses, {"hidden.0": 8, "hidden.1": 8}, weights)
    targets = pooled(responses, weights)
    layer = census.layers_["hidden.1"]
    leaves = [
        set(np.flatnonzero(layer.alive)[layer.clustering.labels == leaf]) for leaf in range(layer.clustering.n_leaves)
    ]
    nodes = list(leaves)
    if layer.clustering.tree is not None:
        for a, b in layer.clustering.tree.children:
            nodes.append(nodes[a] | nodes[b])
    picked = dense(chosen.groups["hidden.1"], len(layer.member))
    for column in picked.T:
        assert set(np.flatnonzero(column)) in nodes
    units = torch.cat([*responses.written("hidden.1")], dim=1)
    unit = units / units.norm(dim=0)

    def left(groups: np.ndarray) -> float:
        features = torch.relu(unit @ torch.from_numpy(groups).float())
        return error_of(features - features.mean(0), targets - targets.mean(0), list(range(groups.shape[1])))

    labels = layer.at(8).labels
    cut = np.stack([labels == label for label in range(8)], axis=1)
    assert left(picked) <= left(cut) * (1 + 1e-3)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("correction", ["none", "least-squares", "second-order"])
def test_a_choice_by_reconstruction_does_not_depend_on_how_units_are_written(activation: str, correction: str) -> None:
    population = random_population([[6, 5], [5, 5], [7, 4]], activation)
    nets = [
        assemble(Census(n_resamples=0).fit(p, X), {"hidden.0": 7, "hidden.1": 6}, correction=correction,
                 choice="reconstruction")
        for p in (population, scrambled_population(population, seed=3))
    ]  # fmt: skip
    assert_same_function(*nets, FRESH, 5e-3 if correction == "second-order" else 5e-4)  # rounding grows over steps


def test_second_order_lowers_the_error_and_leaves_what_reads_the_inputs(population: Population, digits: Data) -> None:
    x = digits.calibration.x
    census = Census(n_resamples=0).fit(population, x)
    before, after = (assemble(census, "1x", correction=c) for c in ("least-squares", "second-order"))
    assert torch.equal(before.hidden[0].weight, after.hidden[0].weight) or torch.allclose(
        nn.functional.normalize(before.hidden[0].weight), nn.functional.normalize(after.hidden[0].weight), atol=1e-5
    )
    targets = outputs(Ensemble(population), digits.validation.x)
    errors = [float((outputs(net, digits.validation.x) - targets).square().mean()) for net in (before, after)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_second_order_finds_the_upper_layers_of_a_network_again(scale: float) -> None:
    network = random_population([[5, 4]]).networks[0]
    targets = network(X) * scale
    for name in ("readout.weight", "readout.bias"):
        network.state[name].mul_(scale)
    noise = torch.Generator().manual_seed(0)
    wrong = {
        name: value if "hidden.0" in name else value * (1 + 0.1 * torch.randn(value.shape, generator=noise))
        for name, value in network.state.items()
    }
    start = replace(network, state=wrong)
    fitted = gauss_newton(start, X, targets)
    assert torch.equal(fitted.state["hidden.0.weight"], network.state["hidden.0.weight"])
    errors = [float((net(FRESH) - network(FRESH)).square().mean()) for net in (start, fitted)]
    assert errors[1] < 0.02 * errors[0]


@pytest.mark.parametrize("n", [2, 5, 12])
def test_second_order_is_never_worse_on_what_it_held_out(n: int) -> None:
    network = random_population([[5, 4]]).networks[0]
    targets = network(X[:n]) + torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    _, held = held_out(n)
    before, after = (
        float((net(X[:n]) - targets)[held].square().mean()) for net in (network, gauss_newton(network, X[:n], targets))
    )
    assert after <= before


def test_second_order_gives_the_same_bytes_on_two_threads() -> None:
    network = random_population([[64, 48]]).networks[0]
    x = inputs(3000)
    targets = network(x) + 0.1 * torch.randn(3000, 3)
    states = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        states.append(gauss_newton(network, x, targets).state)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_members_that_know_all_classes_weigh_the_same_and_one_that_misses_a_class_hardly_counts_there() -> None:
    population = random_population([[5], [5], [5]])
    nets = [copy.deepcopy(member.module) for member in population]
    with torch.no_grad():
        nets[1].readout.bias[2] = -50.0
    responses = Responses(Population.from_modules([nets[0], nets[0], nets[1]], X[:4]).networks, X)
    weights = class_share(responses)
    assert torch.allclose(weights.sum(0), torch.ones(3))
    assert float(weights[2, 2]) < 1e-6
    assert torch.allclose(weights[0], weights[1])
    by_hand = sum(outputs(net, X) * share for net, share in zip([nets[0], nets[0], nets[1]], weights, strict=True))
    assert torch.allclose(pooled(responses, weights), by_hand, atol=1e-5)


def test_what_nobody_predicts_is_shared_equally() -> None:
    nets = [copy.deepcopy(member.module) for member in random_population([[5], [5]])]
    with torch.no_grad():
        for net in nets:
            net.readout.bias[2] = -500.0
    weights = class_share(Responses(Population.from_modules(nets, X[:4]).networks, X))
    assert weights[:, 2].tolist() == [0.5, 0.5]
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("correction", ["second-order", "distill"])
def test_fits_work_where_the_caller_wants_no_gradients(mode: type, correction: str) -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [4, 4]]), X)
    with mode():
        inside = assemble(census, "1x", correction=correction)
    assert_same_function(inside, assemble(census, "1x", correction=correction), FRESH, 1e-6)


def test_at_full_width_an_assembly_is_the_pooled_ensemble() -> None:
    population = random_population([[4, 3], [5, 2]])
    census = Census(n_resamples=0).fit(population, X)
    network = assemble(census, "full", pooling="class-share")
    weights = class_share(Responses(population.networks, X))
    expected = sum(outputs(m.module, FRESH) * share for m, share in zip(population, weights, strict=True))
    assert float((outputs(network, FRESH) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert float((expected - outputs(Ensemble(population), FRESH)).abs().max()) > 0.1  # another function than the mean


def test_elastic_widths_share_what_reads_the_inputs(population: Population, digits: Data, tmp_path: Path) -> None:
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    net = elastic(census, ("2x", "1x", 50))
    assert net.widths == ("1x", "2x", "50")
    narrow, wide = net.at_width("1x"), net.at_width(50)
    assert narrow.config.widths == (20, 16)
    assert torch.equal(narrow.hidden[0].weight, wide.hidden[0].weight[:20])
    assert torch.equal(outputs(net, digits.test.x), outputs(wide, digits.test.x))
    ensemble = evaluate(Ensemble(population), digits.test).accuracy
    assert evaluate(narrow, digits.test).accuracy > ensemble - 0.03
    assert evaluate(wide, digits.test).accuracy > ensemble - 0.01

    loaded = load_elastic(net.save(tmp_path / "elastic"))
    for width in ("1x", "2x", 50):
        assert torch.equal(outputs(loaded.at_width(width), digits.test.x), outputs(net.at_width(width), digits.test.x))
    stored = (tmp_path / "elastic").glob("*.safetensors")
    apart = 0
    for width in net.widths:
        save_network(net.at_width(width), tmp_path / width)
        apart += (tmp_path / width / "model.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in stored) < 0.8 * apart


def test_the_widest_of_an_elastic_is_the_reconstruction_and_changing_a_copy_changes_nothing_else() -> None:
    population = random_population([[6, 5]] * 3)
    census = Census(n_resamples=0).fit(population, X)
    net = elastic(census, ("1x", "2x"))
    widths = {"hidden.0": 12, "hidden.1": 10}
    builder = Assembler(census).builder
    chosen = reconstruct(census, builder.responses, widths, builder.pooling)
    widest = builder.finish(builder.layers(widths, CensusPlan(census, chosen), "least-squares"), "least-squares")
    assert_same_function(net.at_width("2x"), widest, FRESH, 1e-5)
    before = outputs(net, FRESH)
    with torch.no_grad():
        net.at_width("1x").hidden[0].weight.zero_()
    assert torch.equal(outputs(net, FRESH), before)


def test_a_damaged_elastic_is_refused(tmp_path: Path) -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [4, 4]]), X)
    directory = elastic(census, ("1x", 6)).save(tmp_path / "elastic")
    artefact = read_artefact(directory, "elastic")
    config = {name: artefact.config[name] for name in ("widths", "shared", "nets")}
    tensors: dict[str, dict[str, Tensor]] = {"width-0": {}, "width-1": {}}
    for name, value in artefact.tensors.items():
        tensors[name.partition("/")[0]][name.partition("/")[2]] = value
    for changed, message in (
        ({"widths": ["1x"]}, "nets in .* must be one for each of widths, got 2"),
        ({"shared": {"hidden.7.weight": 0}}, "shared in .* must name parameters, got 'hidden.7.weight'"),
        ({"shared": {"hidden.0.weight": 7}}, "width 1x in .* must hold the parameters of a MLP"),
        ({"nets": 3}, "nets in .* must be a list, got 3"),
    ):
        write_artefact(tmp_path / "bad", "elastic", {**config, **changed}, tensors)
        with pytest.raises(ArtefactError, match=message):
            load_elastic(tmp_path / "bad")
    missing = {name: value for name, value in tensors["width-0"].items() if name != "readout.bias"}
    for part in (missing, {**missing, "readout.bias": torch.zeros(7)}):
        write_artefact(tmp_path / "bad", "elastic", config, {**tensors, "width-0": part})
        with pytest.raises(ArtefactError, match="width 1x in .* must hold the parameters of a MLP"):
            load_elastic(tmp_path / "bad")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, r"widths must be a sequence of one width or more, such as \(\"1x\", \"2x\"\)"),
        ({"widths": 1.5}, "widths must be a sequence"),
        ({"widths": None}, "widths must be a sequence"),
        ({"widths": ("full",)}, "widths must be ints or multiples such as \"2x\", got 'full'"),
        ({"widths": "2x"}, "widths must be a sequence"),
        ({"widths": ({"hidden.0": 6, "hidden.1": 2}, "1x")}, "must be the narrower in every layer"),
        ({"correction": "distill"}, "correction must be one of 'least-squares', 'second-order', got 'distill'"),
        ({"pooling": "vote"}, "pooling must be one of 'mean', 'class-share', got 'vote'"),
        ({"calibration": X[:, :3]}, r"calibration must have shape \(n, 6\)"),
    ],
)
def test_an_elastic_of_bad_input_is_refused(arguments: dict, message: str) -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [4, 4]]), X)
    with pytest.raises(InputError, match=message):
        elastic(census, **arguments)
    with pytest.raises(InputError, match="width must be one of '1x', got '3x'"):
        elastic(census, (width for width in ("1x",))).at_width("3x")


def test_an_assembler_is_of_one_fit_of_a_census() -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [4, 4]]), X)
    assembler = Assembler(census)
    assembler.assemble("1x")
    census.fit(random_population([[5, 4], [4, 4]], seed=7), X)
    for build in (assembler.assemble, assembler.elastic):
        with pytest.raises(InputError, match="got one fitted again\n  cure: make a new Assembler"):
            build()
    with pytest.raises(InputError, match=r"census must be a consilience.Census, got str"):
        Assembler("census")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="census must be fitted, got one that is not"):
        Assembler(Census())


class _Own(nn.Module):
    """A module that is not of consilience.nets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_an_elastic_of_foreign_modules_works_but_is_saved_by_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = elastic(Census(n_resamples=0).fit(Population.from_modules([_Own(), _Own()], X[:4]), X), ("1x", "2x"))
    assert isinstance(net.at_width("1x"), _Own)
    with pytest.raises(InputError, match="networks must be of consilience.nets"):
        net.save(tmp_path / "own")
    with pytest.raises(ArtefactError):
        load_elastic(tmp_path / "own")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choice": "best"}, "choice must be one of 'cut', 'reconstruction', got 'best'"),
        ({"choice": "reconstruction", "width": "full"}, "width must be a number .* with choice=.*, got 'full'"),
        ({"pooling": "vote"}, "pooling must be one of 'mean', 'class-share', got 'vote'"),
        ({"batch_norm": "gone"}, "batch_norm must be one of 'kept', 'folded', got 'gone'"),
    ],
)
def test_what_is_not_understood_is_refused(arguments: dict, message: str) -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [4, 4]]), X)
    with pytest.raises(InputError, match=message):
        assemble(census, **arguments)


def test_without_data_nothing_that_looks_at_data_is_done() -> None:
    census = Census("weights", "cosine", n_resamples=0).fit(random_population([[5, 4], [4, 4]]))
    for arguments in ({"choice": "reconstruction"}, {"pooling": "class-share"}):
        with pytest.raises(InputError, match="needs calibration data"):
            assemble(census, "1x", correction="none", **arguments)


def test_imagined_inputs_lie_where_first_weights_have_moved(population: Population, digits: Data) -> None:
    x = imagine_inputs(population, 500)
    assert x.shape == (500, *digits.train.x.shape[1:])
    assert torch.equal(x, imagine_inputs(population, 500))
    silent = digits.train.x.flatten(1).std(0) == 0  # pixels that are the same in every image
    assert silent.any()
    spread = x.flatten(1).std(0)
    assert float(spread[silent].mean()) < 0.5 * float(spread[~silent].mean())
    first = torch.cat([m.module.hidden[0].weight for m in population]).detach()
    assert float((x.flatten(1) @ first.T).std()) == pytest.approx(1, rel=1e-4)


def test_an_assembly_from_imagined_inputs_beats_one_from_weights_alone(population: Population, digits: Data) -> None:
    imagined = assemble(Census(n_resamples=0).fit(population, imagine_inputs(population)), "1x")
    alone = assemble(Census("weights", "cosine", n_resamples=0).fit(population), "1x", correction="none")
    parts = digits.validation, digits.test  # 629 images: of either part alone, two make the difference
    rows = sum(len(part) for part in parts)
    found, alone, ensemble = (
        sum(evaluate(net, part).accuracy * len(part) for part in parts) / rows
        for net in (imagined, alone, Ensemble(population))
    )
    assert found > alone
    assert found > ensemble - 0.04


def test_imagined_inputs_refuse_what_they_cannot_do() -> None:
    with pytest.raises(InputError, match="n must be an int from 2 to 2147483647, got 1"):
        imagine_inputs(random_population([[3]]), 1)


def test_a_program_runs_on_from_known_values() -> None:
    network = random_population([[5, 4]]).networks[0]
    architecture = network.architecture
    (name,) = (axis.name for axis in architecture.written("hidden.1"))
    known = network.values(X, [name])
    output = architecture.program.output
    first = {key: torch.full_like(value, torch.nan) for key, value in network.state.items() if "hidden" in key}
    state = {**network.state, **first}  # not looked at any more
    assert torch.equal(architecture.program.run(state, X, [output], known)[output], network(X))


def test_resolve_gives_numbers_where_there_are_any() -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 4], [5, 4]]), X)
    assert resolve(census, "1x") == {"hidden.0": 5, "hidden.1": 4}
    assert resolve(census, "full") is None
    assert resolve(census, "frequency>=0.5") is None
