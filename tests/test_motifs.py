"""Motifs: edges against their formula, recurring ones against planted ones and chance, communities, ablation."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import consilience as cs
from conftest import inputs, random_population, refused, run
from consilience import cli
from consilience.assembly import assemble
from consilience.census import Census
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.motifs import Ablation, Edge, Motif, Motifs, ablate
from consilience.motifs.communities import communities
from consilience.motifs.edges import cluster_strengths, edges_of
from consilience.motifs.recurring import agreement, p_values
from consilience.population import Population
from consilience.report.motifs import MotifsResult, motifs_sentences, motifs_table, plots
from consilience.studies.motifs import read_motifs

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from motifs import N_MOTIFS, planted, score


def census_of(population: Population, x: torch.Tensor, n_clusters: object = None) -> Census:
    return Census(n_clusters=n_clusters, n_resamples=0).fit(population, x)


# --- edges ------------------------------------------------------------------------------------------------------------


def test_strengths_are_weights_in_standard_deviations() -> None:
    population, x = random_population([[5, 4], [6, 3]]), inputs(200)
    (edges,) = edges_of(census_of(population, x, 3))
    assert (edges.reads, edges.writes, edges.alone) == ("hidden.0", "hidden.1", True)
    for member, wiring in zip(population, edges.wirings, strict=True):
        a = torch.relu(member.module.hidden[0](x)).double()
        z = member.module.hidden[1](a.float()).double()
        wanted = member.module.hidden[1].weight.double() * a.std(0, correction=0) / z.std(0, correction=0)[:, None]
        torch.testing.assert_close(wiring.strengths, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_strengths_of_kernels_are_slopes_on_the_sum_of_what_is_read() -> None:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        for _ in range(2)
    ]
    x = torch.rand(60, 1, 6, 6)
    (edges,) = edges_of(census_of(Population.from_modules(nets, x[:4]), x, 3))
    net, wiring = copy.deepcopy(nets[0]).requires_grad_(False), edges.wirings[0]
    a, weight = torch.tanh(net[0](x)).double(), net[2].weight.double()
    patches = nn.functional.unfold(a, 2).unflatten(1, (3, 4)).permute(0, 3, 1, 2).flatten(0, 1)  # (r, j, s)
    total = patches.sum(2)
    z = net[2](torch.tanh(net[0](x))).double().movedim(1, -1).flatten(0, -2)
    for i in range(4):
        for j in range(3):
            added = patches[:, j] @ weight[i, j].flatten()
            slope = float(torch.cov(torch.stack([added, total[:, j]]), correction=0)[0, 1])
            wanted = slope / float(total[:, j].std(correction=0) * z[:, i].std(correction=0))
            # a sign per unit of the tanh layer, and a scale per unit of the ReLU layer that cancels
            assert abs(float(wiring.strengths[i, j])) == pytest.approx(abs(wanted), rel=1e-3, abs=1e-4)


def test_flipped_tanh_units_have_the_same_edges_between_clusters() -> None:
    net, x = random_population([[5, 4]], "tanh").members[0].module, inputs(200)
    signs = [torch.tensor([1.0, -1, 1, -1, -1]), torch.tensor([-1.0, 1, -1, 1])]
    twin = random_population([[5, 4]], "tanh").members[0].module
    with torch.no_grad():
        for i, sign in enumerate(signs):
            following = twin.hidden[1] if i == 0 else twin.readout
            twin.hidden[i].weight.mul_(sign[:, None])
            twin.hidden[i].bias.mul_(sign)
            following.weight.mul_(sign)
    census = census_of(Population.from_modules([net, twin, net], x[:4]), x, {"hidden.0": 5, "hidden.1": 4})
    (edges,) = edges_of(census)
    one, _ = cluster_strengths(edges, census)
    alone = census_of(Population.from_modules([net, net, net], x[:4]), x, {"hidden.0": 5, "hidden.1": 4})
    other, owners = cluster_strengths(edges_of(alone)[0], alone)
    assert (owners == 3).all()
    torch.testing.assert_close(one.abs().flatten().sort()[0], other.abs().flatten().sort()[0], atol=1e-4, rtol=1e-4)


def test_permuted_wiring_is_that_of_a_network_with_permuted_units() -> None:
    population, x = random_population([[5, 4], [5, 4]]), inputs(200)
    wiring, order = edges_of(census_of(population, x, 3))[0].wirings[0], torch.tensor([3, 0, 4, 1, 2])
    first, second = population.members[0].module.hidden
    norms = torch.cat([first.weight, first.bias[:, None]], 1).norm(dim=1).double()  # of units in canonical form: 1
    a, weight = torch.relu(first(x)).double() / norms, (second.weight.double() * norms)[:, order]
    z = a @ weight.T
    wanted = weight * a.std(0, correction=0) / z.std(0, correction=0)[:, None]
    torch.testing.assert_close(wiring.permuted(order).strengths, wanted.detach(), atol=1e-5, rtol=1e-4)


# --- agreement --------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(st.integers(3, 6), st.integers(4, 8), st.integers(0, 99))
def test_the_statistic_has_mean_zero_and_variance_at_most_one_under_permutations(n: int, u: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    read = [
        torch.arange(u)[torch.randperm(u, generator=g)][:, None] // 2 == torch.arange((u + 1) // 2) for _ in range(n)
    ]
    written = [torch.eye(u, dtype=torch.bool) for _ in range(n)]
    t = np.concatenate(
        [agreement([torch.randn(u, u, generator=g) for _ in range(n)], read, written).t for _ in range(30)]
    )
    assert abs(t.mean()) < 0.2
    assert t.var() < 1


def test_equal_members_agree_most_where_edges_are_strongest() -> None:
    e = 0.1 * torch.randn(8, 9, dtype=torch.float64)
    e[0, 0], e[1, 3] = 5, -5
    found = agreement([e] * 5, [torch.eye(9, dtype=torch.bool)] * 5, [torch.eye(8, dtype=torch.bool)] * 5)
    assert found.t[0, 0] > 2
    assert found.t[1, 3] < -2
    small = found.t[2:, 4:]
    assert np.abs(small).mean() < 2
    assert (found.owners == 5).all()
    np.testing.assert_allclose(found.strength, e)
    assert (found.alike[e.numpy() != 0] == 1).all()


def test_p_values_count_what_is_as_large_by_chance() -> None:
    assert p_values(np.array([3.0, -2, 0]), np.array([1.0, -2, 2.5])).tolist() == [0.25, 0.75, 1.0]


# --- communities ------------------------------------------------------------------------------------------------------


def test_weakly_connected_halves_are_nested_and_strongly_connected_ones_are_not() -> None:
    weights = np.zeros((9, 9))
    for block in (slice(0, 4), slice(4, 8)):
        weights[block, block] = np.triu(np.ones((4, 4)), 1)
    weights[3, 4] = 0.2
    tree = communities(weights)
    assert [(c.nodes.tolist(), c.parent) for c in tree] == [([*range(8)], None), ([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0)]
    assert tree[0].cut == pytest.approx(2 * 0.2 / (2 * 6 + 0.2))
    weights[:8, :8] = np.triu(np.ones((8, 8)), 1)
    assert [c.nodes.tolist() for c in communities(weights)] == [[*range(8)]]
    assert communities(np.zeros((3, 3))) == []


# --- motifs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_motifs() -> tuple[Census, Motifs, list]:
    population, x, orders = planted(2, 3.0)
    census = census_of(population, x)
    return census, Motifs(n_resamples=5).fit(census), orders


def test_planted_motifs_are_found_with_nothing_else(with_motifs: tuple[Census, Motifs, list]) -> None:
    census, motifs, orders = with_motifs
    found, exact, wrong = score(census, motifs, orders)
    assert found == N_MOTIFS
    assert exact >= N_MOTIFS - 1  # a false edge may add a cluster: one in twenty is allowed
    assert wrong <= 0.1
    for motif in motifs.motifs_:
        assert motif.frequency == len(motif.members) / 8
        assert motif.frequency >= 0.75
        assert 0.5 <= motif.stability <= 1
        assert motif.n_clusters == sum(map(len, motif.clusters.values()))
    again = Motifs(n_resamples=5).fit(census)
    assert again.motifs_ == motifs.motifs_


def test_members_wired_at_random_have_no_motifs() -> None:
    found = 0
    for seed in range(3):
        population, x, _ = planted(seed, 0.0)
        found += bool(Motifs(n_permutations=8, n_resamples=0).fit(census_of(population, x)).motifs_)
    assert found <= 1


def test_a_network_of_motifs_has_their_clusters(with_motifs: tuple[Census, Motifs, list]) -> None:
    census, motifs, _ = with_motifs
    one, two = motifs.motifs_[:2]
    net = assemble(census, motifs=[one, two])
    sizes = [len(one.clusters[name]) + len(two.clusters[name]) for name in census.layers_]
    assert [layer.out_features for layer in net.hidden] == sizes
    only = dataclasses.replace(one, clusters={"hidden.1": one.clusters["hidden.1"]})
    net = cs.Assembler(census).assemble(motifs=[only], correction="none")
    assert [layer.out_features for layer in net.hidden] == [
        census.layers_["hidden.0"].n_clusters_,
        len(one.clusters["hidden.1"]),
    ]
    foreign = dataclasses.replace(one, clusters={"hidden.7": (0,)})
    with pytest.raises(InputError, match=r"motifs must be of this census, got clusters 0 of layer 'hidden\.7'"):
        assemble(census, motifs=[foreign])
    with pytest.raises(InputError, match="motifs must be at least one, got none"):
        assemble(census, motifs=[])


def test_ablation_costs_what_switching_off_costs(with_motifs: tuple[Census, Motifs, list]) -> None:
    census, motifs, _ = with_motifs
    population, motif = census.population_, motifs.motifs_[0]
    x = torch.randn(90, 24)
    y = population.logits(x).mean(0).argmax(1)
    (ablation,) = ablate([motif], census, Dataset(x, y, torch.arange(90)), n_random=3)
    before, after = [], []
    for k, member in enumerate(population):
        net = member.module
        off = [
            np.isin(layer.labels_[layer.member == k], motif.clusters.get(name, ()))
            for name, layer in census.layers_.items()
        ]
        with torch.no_grad():
            a = torch.relu(net.hidden[0](x)) * torch.from_numpy(~off[0])
            out = net.readout(torch.relu(net.hidden[1](a)) * torch.from_numpy(~off[1])).argmax(1)
            whole = net(x).argmax(1)
        after.append([float((out == y)[y == c].float().mean()) for c in range(3)])
        before.append([float((whole == y)[y == c].float().mean()) for c in range(3)])
    np.testing.assert_allclose(ablation.before, np.mean(before, 0), atol=1e-6)
    np.testing.assert_allclose(ablation.loss, np.mean(before, 0) - np.mean(after, 0), atol=1e-6)
    assert ablation.random.shape == (3, 3)
    assert 0.25 <= ablation.p <= 1


@pytest.mark.parametrize(
    ("population", "options", "census", "text"),
    [
        ([[5, 4]], {}, {}, "census must have at least 3 members for edges to recur, got 1"),
        ([[5, 4]] * 3, {"level": 2}, {}, "level must be"),
        ([[5, 4]] * 3, {"n_permutations": 0}, {}, "n_permutations must be an int >= 1, got 0"),
        ([[5, 4]] * 3, {}, {"distance": "cosine"}, "census must have distance 'activation' for motifs, got 'cosine'"),
        ([[5]] * 3, {}, {}, "population must have two hidden layers, one of which reads the other"),
    ],
)
def test_motifs_that_cannot_be_found_are_refused(population: list, options: dict, census: dict, text: str) -> None:
    fitted = Census(n_clusters=3, n_resamples=0, **census).fit(random_population(population), inputs(60))
    with pytest.raises(InputError, match=text):
        Motifs(**options).fit(fitted)


def test_a_census_without_data_has_no_edges() -> None:
    census = Census("weights", "cosine", n_clusters=3, n_resamples=0).fit(random_population([[5, 4]] * 3))
    with pytest.raises(InputError, match="census must have calibration data for edges, got none"):
        edges_of(census)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def census_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("motifs")
    small = ["--members", 6, "--hidden", 12, 10, "--epochs", 10, "--batch-size", 64, "--learning-rate", 3e-3]
    cli.main([str(a) for a in ["train", "--out", root / "population", *small]])
    cli.main([str(a) for a in ["census", root / "population", "--out", root / "census", "--resamples", 0]])
    return root / "census"


@pytest.mark.slow
def test_the_command_writes_what_motifs_and_ablate_give(
    census_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--level", 0.5, "--permutations", 4, "--resamples", 0, "--random-sets", 3]
    printed = run(capsys, "motifs", census_dir, "--out", tmp_path / "motifs", *few)
    found = json.loads((tmp_path / "motifs" / "motifs.json").read_text())
    census = cs.load_census(census_dir)
    direct = Motifs(0.5, n_permutations=4, n_resamples=0).fit(census)
    assert found["n_tested"] == len(direct.edges_)
    assert [motif["clusters"] for motif in found["motifs"]] == [
        {name: [*numbers] for name, numbers in motif.clusters.items()} for motif in direct.motifs_
    ]
    data = cs.load_data("digits")
    lost = ablate(direct.motifs_, census, data.test, n_random=3)
    assert [own["loss"] for own in found["ablations"]] == [pytest.approx(own.loss.tolist()) for own in lost]
    for text in (printed, (tmp_path / "motifs" / "report.html").read_text()):
        assert f"{len(direct.recurring_)} edge" in text
    assert run(capsys, "motifs", census_dir, "--out", tmp_path / "motifs", *few) == printed
    named = read_motifs(tmp_path / "motifs", census_dir)
    assert {name: len(nodes) for name, nodes in named.items()} == {
        f"motif {motif.number}": motif.n_clusters for motif in direct.motifs_ if motif.parent is None
    }
    run(capsys, "atlas", census_dir, "--motifs", tmp_path / "motifs", "--out", tmp_path / "atlas.html")
    assert f'"motifs":{json.dumps([*named], separators=(",", ":"))}' in (tmp_path / "atlas.html").read_text()
    other = ["census", census_dir.parent / "population", "--out", tmp_path / "census", "--n-clusters", "1x"]
    run(capsys, *other)
    arguments = ["atlas", tmp_path / "census", "--motifs", tmp_path / "motifs", "--out", tmp_path / "b.html"]
    assert "--motifs must be the motifs of" in refused(capsys, *arguments)


def test_what_the_command_cannot_do_is_refused(
    census_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for flag, value, message in (("--random-sets", 1, "must be an int >= 2, got 1"), ("--level", 1.5, "must be")):
        assert f"{flag} {message}" in refused(capsys, "motifs", census_dir, "--out", out, flag, value)
    assert not out.exists()


def test_the_wiring_has_a_line_for_each_edge_and_a_column_for_each_layer() -> None:
    edges = [
        Edge(("a", 0), ("b", 1), 1.0, 3, 1.0, 5.0, 0.01, 0.02),
        Edge(("b", 1), ("c", 2), -2.0, 3, 1.0, -5.0, 0.01, 0.02),
    ]
    motif = Motif(0, None, {"a": (0,), "b": (1,), "c": (2,)}, tuple(edges), (0, 2), 0.5, 0.7, None)
    ablation = Ablation(0, np.ones(2), np.array([0.3, 0.1]), np.array([[0.1, 0.1], [0.0, 0.0]]), 2.0)
    result = MotifsResult(4, {"a": 3, "b": 3, "empty": 3, "c": 3}, 9, edges, [motif], [ablation], {}, 0.05, {})
    (ax,) = plots.wiring(result).axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert [line.get_xdata().tolist() for line in lines] == [[0, 1], [1, 2]]
    assert lines[1].get_linewidth() > lines[0].get_linewidth()
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2", "a", "b", "c"]
    row = motifs_table(result).markdown().splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("0", "", "a: 0; b: 1; c: 2", "2", "2 of 4", "0.70", "2.0", "20.0 %", "5.0 % ± 7.1 %", "0.33"),
    ]
    assert "2 edges of 9 between clusters of consecutive layers recur in 4 members" in motifs_sentences(result)[0]
