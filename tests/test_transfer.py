"""Transfer: clusters by task, their exact permutation test, and trunks for a new task."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import consilience as cs
from conftest import refused, run
from consilience import cli
from consilience.data.labels import relabelled
from consilience.errors import InputError
from consilience.report.transfer import TransferResult, plots, transfer_sentences, transfer_table, trunks_table
from consilience.store import load_network, save_network
from consilience.studies.request import Reading
from consilience.studies.samples import source_of
from consilience.transfer import TASKS, LayerTasks, Transfer, Trial, compare_trunks, of_task
from consilience.transfer.comparison import paired
from consilience.transfer.frequency import layer_tasks, ownership
from consilience.transfer.joint import joint_population, with_outputs
from consilience.transfer.trunk import Head, fit_head, standardization, with_head
from consilience.units.follow import find_layers


def net(shared: int, own: int, seed: int, n_outputs: int) -> nn.Module:
    """A perceptron with ``shared`` units that every network has, up to noise and order, and units of its own."""
    common = torch.randn(shared, 6, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat(
        [common + 0.02 * torch.randn(shared, 6, generator=generator), torch.randn(own, 6, generator=generator)]
    )
    module = cs.MLP(6, [shared + own], n_outputs)
    with torch.no_grad():
        module.hidden[0].weight.copy_(rows[torch.randperm(len(rows), generator=generator)])
        module.hidden[0].bias.zero_()
        module.readout.weight.copy_(torch.randn(n_outputs, shared + own, generator=generator))
    return module


@pytest.fixture(scope="module")
def planted() -> Transfer:
    """Three tasks of three members each; 4 of the 8 units of each member are the same in all."""
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(5))
    populations = {
        name: cs.Population.from_modules([net(4, 4, 10 * t + k, 2 + t) for k in range(3)], x)
        for t, name in enumerate(("a", "b", "c"))
    }
    return Transfer(census=cs.Census(n_clusters=40, n_resamples=0), n_draws=50).fit(populations, x)


# --- by task ---


def test_p_is_that_of_all_permutations_of_members_between_tasks() -> None:
    task = np.array([0, 0, 0, 1, 1, 2, 2])
    random = np.random.default_rng(0)
    owned = random.random((7, 9)) < 0.4
    measured = layer_tasks(owned, task, ("a", "b", "c"), 0.5, 10, random)
    counts = np.stack([owned[task == t].sum(0) for t in range(3)], axis=1)
    reached = np.zeros(counts.shape)
    every = [np.array(order) for order in permutations(range(7))]
    for order in every:
        reached += np.stack([owned[task[order] == t].sum(0) for t in range(3)], axis=1) >= counts
    np.testing.assert_allclose(measured.p, reached / len(every), atol=1e-12)


def test_specific_clusters_are_found_and_few_false_ones() -> None:
    task, false = np.repeat(np.arange(3), 8), []
    for seed in range(40):
        random = np.random.default_rng(seed)
        owned = random.random((24, 30)) < 0.4
        false.append(layer_tasks(owned, task, ("a", "b", "c"), 0.5, 5, random).specific.any())
    assert np.mean(false) <= 0.1  # at a rate of 0.05: exact p-values of counts are conservative
    owned[:, 0], owned[:, 1] = task == 1, True
    measured = layer_tasks(owned, task, ("a", "b", "c"), 0.5, 5, random)
    assert measured.specific[0].tolist() == [False, True, False]
    assert measured.invariant[1]
    assert not measured.invariant[0]
    assert measured.order[0] == 1


def test_planted_units_are_invariant_and_come_first(planted: Transfer) -> None:
    layer, census = planted.layers_["hidden.0"], planted.census_.layers_["hidden.0"]
    assert int(layer.invariant.sum()) == 4
    assert sorted(layer.order[:4].tolist()) == np.flatnonzero(layer.invariant).tolist()
    assert ownership(census)[:, layer.invariant].all()  # by every member
    assert layer.frequency.shape == (40, 3)
    assert planted.member_task_.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


# --- trunks ---


def test_the_trunk_of_planted_clusters_has_their_activations(planted: Transfer) -> None:
    x = torch.randn(300, 6)
    features = planted.trunk(width=4).features(x)
    common = torch.randn(4, 6, generator=torch.Generator().manual_seed(99))
    expected = torch.relu(x @ common.T)
    correlation = np.corrcoef(features.T.numpy(), expected.T.numpy())[:4, 4:]
    assert sorted(correlation.argmax(1).tolist()) == [0, 1, 2, 3]
    assert correlation.max(1).min() > 0.99
    assert planted.trunk("all").features(x).shape == (300, 40)
    assert planted.trunk("least-invariant", width=4).features(x).shape == (300, 4)


def test_an_adapted_network_learns_what_depends_on_shared_units(planted: Transfer, tmp_path: Path) -> None:
    x, unseen = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (100, 500))
    common = torch.randn(4, 6, generator=torch.Generator().manual_seed(99))

    def label(x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(x @ common.T) @ torch.tensor([1.0, -1.0, 1.0, -1.0]) > 0).long()

    adapted = planted.adapt(x, label(x), width=4)
    accuracy = float((adapted(unseen).argmax(1) == label(unseen)).double().mean())
    assert accuracy > 0.8
    assert adapted.config.widths == (4,)
    save_network(adapted, tmp_path / "net")
    assert torch.equal(load_network(tmp_path / "net")(unseen), adapted(unseen))


def test_a_head_in_the_readout_computes_the_head(planted: Transfer) -> None:
    trunk, x = planted.trunk(width=5), torch.randn(20, 6)
    features = trunk.features(x)
    head = Head(features.mean(0), features.std(0), torch.randn(3, 5), torch.randn(3))
    module = with_head(planted.census_.population_.members[0].module, trunk.networks[0], head)
    torch.testing.assert_close(module(x), head(features))


def test_a_head_is_the_ridge_regression_with_enough_rows() -> None:
    features = torch.randn(400, 5)
    targets = features @ torch.randn(5, 2) + 3
    head = fit_head(features, targets, *standardization(features))
    torch.testing.assert_close(head(features), targets, rtol=1e-3, atol=1e-3)
    constant = torch.cat([features, torch.ones(400, 1)], dim=1)
    assert bool(torch.isfinite(fit_head(constant[:3], targets[:3], *standardization(constant))(constant)).all())


def test_other_numbers_of_outputs_are_zero_or_left_out() -> None:
    module, x = net(2, 3, 0, 3), torch.randn(10, 6)
    architecture = find_layers(module, x)
    padded, cut = (with_outputs(module, architecture, n) for n in (5, 2))
    torch.testing.assert_close(padded(x), torch.cat([module(x), torch.zeros(10, 2)], dim=1))
    torch.testing.assert_close(cut(x), module(x)[:, :2])
    assert padded.config.n_outputs == 5


def test_trunks_are_compared_on_the_same_rows(planted: Transfer) -> None:
    x, test_x = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (90, 200))
    common = torch.randn(4, 6, generator=torch.Generator().manual_seed(99))

    def data(x: torch.Tensor) -> cs.Dataset:
        y = torch.relu(x @ common.T).argmax(1)
        return cs.Dataset(x, y, torch.arange(len(x)))

    trials = compare_trunks(planted, data(x), data(test_x), (1, 5), n_draws=4)
    assert {trial.trunk for trial in trials} >= {"invariant clusters", "one member", "random features", "inputs"}
    assert all(len(trial.accuracy) == 4 for trial in trials)
    assert paired(trials, 5, "random features").mean() > 0.1
    again = compare_trunks(planted, data(x), data(test_x), (1, 5), n_draws=4)
    assert trials == again
    with pytest.raises(InputError, match="train must have 80 rows of each class, got"):
        compare_trunks(planted, data(x), data(test_x), (80,))


# --- tasks ---


def test_tasks_are_functions_of_the_class() -> None:
    data = cs.Dataset(torch.zeros(10, 2), torch.arange(10), torch.arange(10))
    assert of_task(data, "parity").y.tolist() == [i % 2 for i in range(10)]
    assert of_task(data, "above-four").y.tolist() == [int(i > 4) for i in range(10)]
    assert all(sorted(set(labels)) == list(range(max(labels) + 1)) for labels in TASKS.values())
    assert of_task(data, [0, 1] * 5).y.tolist() == [i % 2 for i in range(10)]
    for labels in ("odd", "0", "0,0", "0,2", [0, 0.5], 3):
        with pytest.raises(InputError, match="labels must be one of 'class', 'parity', .*, or a number from 0 on"):
            of_task(data, labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rows must be of 10 classes, 0 to 9, for labels 'parity'"):
        of_task(cs.Dataset(torch.zeros(2, 2), torch.tensor([0, 12]), torch.arange(2)), "parity")


# --- what is refused ---


def test_populations_that_do_not_fit_are_refused() -> None:
    x, wide = torch.randn(30, 6), torch.randn(30, 7)
    two = cs.Population.from_modules([net(2, 2, k, 2) for k in range(2)], x)
    one = cs.Population.from_modules([net(2, 2, 0, 2)], x)
    other = cs.Population.from_modules([cs.MLP(7, [4], 2) for _ in range(2)], wide)
    for populations, message in (
        ({"a": two}, "populations must be a dict of two tasks or more, got 1"),
        ([two, two], "populations must be a dict of two tasks or more, got list"),
        ({"a": two, "b": one}, "populations must have two members or more, got one for 'b'"),
        ({"a": two, "b": other}, r"populations must have inputs of one shape, \(6,\) as of 'a', got \(7,\) for 'b'"),
    ):
        with pytest.raises(InputError, match=message):
            joint_population(populations)  # type: ignore[arg-type]
    pair: Any = {"a": two, "b": two}
    with pytest.raises(
        InputError, match="x must have at least as many rows as a member has units in layer 'hidden.0', 4"
    ):
        Transfer().fit(pair, x[:3])
    with pytest.raises(InputError, match="x must be inputs without labels, got none"):
        Transfer().fit(pair, None)
    with pytest.raises(InputError, match="transfer must be fitted, got one that is not"):
        Transfer().trunk()


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parent.parent / "docs" / "transfer.md"
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, "transfer.md", "exec"), names)
    assert cs.evaluate(names["net"], names["test"]).quality > 0.6


# --- the command ---


@pytest.fixture(scope="module")
def three_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Populations of digits by class, parity and above four, in directories of these names."""
    root = tmp_path_factory.mktemp("tasks")
    small = ["--members", 3, "--hidden", 10, "--epochs", 4, "--batch-size", 64, "--learning-rate", 5e-3]
    for task in ("class", "parity", "0,0,0,0,0,1,1,1,1,1"):
        cli.main([str(a) for a in ["train", "--labels", task, "--out", root / task, *small]])
    return root


@pytest.mark.slow
def test_the_command_measures_what_fit_and_compare_trunks_do(
    three_tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [three_tasks / task for task in ("class", "parity")]
    arguments = ["transfer", *places, "--labels", "loops", "--rows", 1, 5, "--draws", 3, "--out", tmp_path / "out"]
    printed = run(capsys, *arguments)
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())
    data = cs.load_data("digits", labels="loops")
    transfer = Transfer().fit({place.name: cs.Population.load(place) for place in places}, data.calibration.x)
    trials = compare_trunks(transfer, data.train, data.test, (1, 5), n_draws=3)
    assert [own["accuracy"] for own in found["trials"]] == [pytest.approx(list(t.accuracy), abs=0.01) for t in trials]
    np.testing.assert_allclose(found["layers"]["hidden.0"]["frequency"], transfer.layers_["hidden.0"].frequency)
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (printed, page):
        assert "With 5 labels of each class of loops, readouts of the most invariant clusters have" in text
    assert run(capsys, *arguments) == printed


def test_without_a_new_task_there_are_clusters_alone(
    three_tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "transfer", *(three_tasks / name for name in ("class", "parity")), "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert found["trials"] == []
    assert "Which of them help" not in (tmp_path / "out" / "report.html").read_text()


def test_what_the_command_cannot_do_is_refused(
    three_tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = three_tasks / "class", three_tasks / "parity", tmp_path / "out"
    for arguments, message in (
        ([one], "transfer must be given the populations of two tasks or more, got class"),
        ([one, two, "--share", 2], "--share must be a number in [0, 1], got 2.0"),
        ([one, two, "--draws", 1], "--draws must be an int >= 2, got 1"),
        ([one, two, "--rows", 0], "--rows must be an int >= 1, got 0"),
        ([one, two, "--labels", "odd"], "--labels must be one of 'class', 'parity'"),
        (
            [one, two, "--labels", "0,1"],
            "--labels must be one for each class of digits, which has 10 classes, got '0,1'",
        ),
    ):
        assert message in refused(capsys, "transfer", *arguments, "--out", out)
    assert not out.exists()


def test_other_labels_keep_the_split_and_are_kept_by_what_follows(three_tasks: Path) -> None:
    plain, parity = (cs.load_data("digits", labels=labels) for labels in (None, "parity"))
    assert parity.n_classes == 2
    assert torch.equal(parity.test.ids, plain.test.ids)
    assert torch.equal(parity.test.y, plain.test.y % 2)
    own = source_of(three_tasks / "0,0,0,0,0,1,1,1,1,1", None, 0, Reading()).load()
    assert torch.equal(own.test.y, (plain.test.y > 4).long())
    with pytest.raises(InputError, match="labels must be one for each class of diabetes"):
        relabelled(dataclasses.replace(plain, name="diabetes", n_classes=None), "parity")


def test_the_tables_and_pictures_are_of_the_numbers() -> None:
    frequency = np.array([[1.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    q = np.array([[0.9, 0.9], [1.0, 0.01], [0.9, 1.0]])
    invariant = np.array([True, False, False])
    layer = LayerTasks(("a", "b"), frequency, q, q, np.arange(3), invariant, 1, (0.25, 0.5))
    trials = [
        Trial(trunk, 4, n, accuracy)
        for n, shift in ((1, 0.0), (10, 0.2))
        for trunk, accuracy in (
            ("invariant clusters", (0.5 + shift, 0.7 + shift)),
            ("least invariant", (0.5 + shift, 0.5 + shift)),
            ("one member", (0.4 + shift, 0.4 + shift)),
        )
    ]
    result = TransferResult({"a": 4, "b": 5}, {"hidden.0": layer}, 0.5, "c", trials, {})
    row = transfer_table(result).markdown().splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["hidden.0", "3", "1", "1", "0.2 ± 0.5", "0", "1"]
    row = trunks_table(result).markdown().splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("invariant clusters", "4", "**60.0 ± 10.0 %**", "**80.0 ± 10.0 %**"),
    ]
    first, _, at_ten = transfer_sentences(result)
    assert "every task: 1, where 0.2 would be" in first
    assert "+20.0 ± 10.0 points beside one member's units and +10.0 ± 10.0 points beside" in at_ten
    figure = plots.frequencies(result)
    assert figure.axes[0].images[0].get_array().tolist() == frequency.T.tolist()
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [[[1.0, 1.0]]]
    lines = {line.get_label(): line.get_ydata().tolist() for line in plots.accuracies(result).axes[0].lines}
    assert lines["one member"] == pytest.approx([40.0, 60.0])
