"""Classification, regression and labels: targets, scores by closed forms, and tables from a .csv file to a report."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs
from conftest import inputs, random_mlp, refused, run
from consilience import cli
from consilience.agreement import agreement, row_errors
from consilience.data import Dataset, load_data
from consilience.errors import InputError
from consilience.evaluation import paired_error, scored
from consilience.report.results import Experiment
from consilience.tasks import as_targets, check_varies, losses
from consilience.training import Run, Training, fit_members

X = inputs(60)


def table(path: Path, n: int = 60, separator: str = ",", **columns: object) -> Path:
    """Three inputs of very different scales, and a number that is 100 + 50 a + noise."""
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, n))
    values = {"a": a, "b": 1e4 + 1e3 * b, "price": 100 + 50 * a + noise, **columns}
    rows = zip(*(np.broadcast_to(np.asarray(v, dtype=object), n) for v in values.values()), strict=True)
    path.write_text("\n".join(separator.join(map(str, row)) for row in [tuple(values), *rows]) + "\n")
    return path


def rows_of(y: Tensor, task: str | None = None, unit: Tensor | None = None) -> Dataset:
    return Dataset(X, y, torch.arange(60), task, unit)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_table_is_read_by_names_and_scaled_by_its_training_rows(tmp_path: Path, separator: str) -> None:
    path = table(tmp_path / "t.csv", separator=separator)
    data = load_data(path, target="price", task="regression")
    assert (data.task, data.n_classes, data.n_outputs) == ("regression", None, 1)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [39, 9, 12]
    assert torch.allclose(data.train.x.mean(0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(data.train.y.std(0, correction=0), torch.ones(1), atol=1e-5)
    raw = load_data(path, target="price", task="regression", input_scale="none", target_scale="none")
    assert raw.scaling is not None
    assert (raw.scaling.inputs, raw.scaling.targets, raw.train.unit) == (None, None, None)
    assert data.train.unit is not None
    own_units = data.test.y * data.train.unit + raw.train.y.mean()
    assert torch.allclose(own_units.float(), raw.test.y, rtol=1e-5)
    assert "x: columns a, b; target price; y: 1 number; inputs standardized; target standardized, (y - " in data.read_as


def test_several_targets_are_numbers_or_labels(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", wet=["true", "FALSE"] * 30, cold=[0, 1, 1] * 20)
    numbers = load_data(path, columns=["a"], target=["b", "price"], task="regression")
    assert (numbers.n_outputs, numbers.read_as.partition("y: ")[2]) == (
        2,
        "2 numbers; inputs standardized; targets standardized",
    )
    labels = load_data(path, columns=["a", "b"], target=["wet", "cold"], task="multilabel")
    assert (labels.task, labels.n_outputs, labels.train.y.unique().tolist()) == ("multilabel", 2, [0, 1])
    classes = load_data(path, columns=["a", "b"], target="cold")
    assert (classes.task, classes.n_classes) == ("classification", 2)


def test_names_of_classes_are_labels_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", label=["sand", "clay", " silt "] * 20)
    data = load_data(path)
    assert (data.task, data.n_classes, data.classes) == ("classification", 3, ("clay", "sand", "silt"))
    assert {*zip((data.train.ids % 3).tolist(), data.train.y.tolist(), strict=True)} == {(0, 1), (1, 0), (2, 2)}
    assert "target label: 0 clay, 1 sand, 2 silt; " in data.read_as
    path = table(tmp_path / "t.csv", label=["sand", ""] * 30)
    with pytest.raises(InputError, match=r"column 'label' of .*t.csv must have a name in each row, got '' in row 1"):
        load_data(path)


def test_other_rows_take_the_scales_of_those_that_members_were_trained_on(tmp_path: Path) -> None:
    first = load_data(table(tmp_path / "t.csv"), target="price", task="regression")
    (tmp_path / "u").mkdir()
    shifted = table(tmp_path / "u" / "t.csv", a=np.arange(60))
    second = load_data(shifted, target="price", task="regression", scaling=first.scaling)
    assert first.scaling is not None
    assert first.scaling.inputs is not None
    expected = (second.train.ids - first.scaling.inputs.mean[0]) / first.scaling.inputs.spread[0]
    assert torch.allclose(second.train.x[:, 0], expected.float(), atol=1e-4)
    with pytest.raises(InputError, match=r"rows must have the shape \(2,\) of the scaling, got \(1,\) in t.csv"):
        load_data(shifted, columns=["a"], target="price", task="regression", scaling=first.scaling)


@pytest.mark.parametrize(
    ("columns", "options", "text"),
    [
        ({"price": 3.5}, {}, "train must have targets that vary, got 3.5 in all rows of 'price'"),
        ({"price": ["", *range(59)]}, {}, "train.y must be finite, got NaN or infinity in 1 of 60 rows, first row 0"),
        ({"a": ["n/a", *range(59)]}, {}, "train.x must be finite, got NaN or infinity in 1 of 60 rows, first row 0"),
        ({"a": ["word", *range(59)]}, {}, "must have columns of numbers, got 'a' of text"),
        (
            {"price": ["low", "high"] * 30},
            {},
            "t.csv must have targets that are numbers for task 'regression', got names: 'high', 'low'",
        ),
        ({"b": ["low", "high"] * 30}, {"target": ["price", "b"]}, "several targets .* of numbers, got b of text"),
        (
            {},
            {"target": "prize"},
            "target must be among a, b, price, got 'prize'\n  cure: did you mean 'price'\\?",
        ),
        ({}, {"target": None}, "must have exactly one column label or y, got columns a, b, price"),
        (
            {},
            {"task": "ranking"},
            "task must be one of 'classification', 'regression', 'multilabel', 'next-token', got 'ranking'",
        ),
        ({}, {"task": "multilabel"}, "train.y must be 0 or 1 in each column"),
        ({}, {"task": None}, r"train.y must be integer labels .*\n.*--task regression"),
        ({}, {"task": None, "target_scale": "standardize"}, "target_scale must be 'auto' or 'none' for classes"),
        ({}, {"input_scale": "log"}, "input_scale must be one of 'auto', 'none', 'standardize', got 'log'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, columns: dict, options: dict, text: str) -> None:
    path = table(tmp_path / "t.csv", **columns)
    with pytest.raises(InputError, match=text):
        load_data(path, **{"target": "price", "task": "regression", **options})


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    broken = {b"a,y\n1,2\n3\n": "2 fields.*got 1 in row 1", b"a,y\n": "names alone", b"\xff,\n": "must be a .csv"}
    for content, text in broken.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=text):
            load_data(path)


def test_targets_of_an_npz_must_have_one_shape(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    content = {"x_train": x[:40], "y_train": x[:40, :2], "x_test": x[40:], "y_test": x[40:, 0]}
    np.savez(tmp_path / "t.npz", **content)
    with pytest.raises(InputError, match=r"y_train and y_test must have rows of one shape, got .* and .*"):
        load_data(tmp_path / "t.npz", task="regression")
    np.savez(tmp_path / "t.npz", **{**content, "y_test": x[40:, :2]})
    assert load_data(tmp_path / "t.npz", task="regression").n_outputs == 2


# --- scores -----------------------------------------------------------------------------------------------------------


def test_a_regression_has_r2_and_errors_in_the_units_of_its_targets() -> None:
    net, y, unit = random_mlp([4]), torch.randn(60, 3), torch.tensor([1.0, 10, 0.1])
    score, added = scored(net, rows_of(y, unit=unit))
    with torch.no_grad():
        errors = (net(X) - y).double()
    assert isinstance(score, cs.RegressionScore)
    r2 = 1 - errors.square().mean(0) / y.double().var(0, correction=0)
    assert score.r2 == pytest.approx(float(r2.mean()))
    assert score.rmse == pytest.approx((errors.square().mean(0).sqrt() * unit).tolist())
    assert float(added.mean()) == pytest.approx(score.r2)
    assert cs.evaluate(net, rows_of(y), task="regression").r2 == pytest.approx(score.r2)
    assert cs.evaluate(lambda x: y, rows_of(y)).r2 == 1
    assert cs.evaluate(lambda x: y.mean(0).expand(60, 3), rows_of(y)).r2 == pytest.approx(0, abs=1e-6)


def test_the_error_of_r2_is_that_of_repeated_samples() -> None:
    g, scores = torch.Generator().manual_seed(0), []
    for _ in range(300):
        y = torch.randn(200, 1, generator=g)
        outputs = 0.8 * y + 0.5 * torch.randn(200, 1, generator=g)
        better = 0.5 * (outputs + y)
        sample = Dataset(y, y, torch.arange(200))
        (one, added), (other, more) = (scored(lambda x, out=out: out, sample) for out in (outputs, better))
        scores.append((one.quality, one.quality_se, other.quality - one.quality, paired_error(more, added)))
    value, error, difference, paired = np.array(scores).T
    assert error.mean() == pytest.approx(value.std(), rel=0.15)
    assert paired.mean() == pytest.approx(difference.std(), rel=0.15)


def test_probabilities_are_no_logits() -> None:
    net, y = random_mlp([4]), torch.randint(0, 3, (60,))
    logits = cs.evaluate(net, rows_of(y))
    for tail in (nn.Softmax(1), nn.LogSoftmax(1)):
        assert cs.evaluate(nn.Sequential(net, tail), rows_of(y)).loss == pytest.approx(logits.loss, rel=1e-5)
    sure = functional.one_hot(1 - y.clamp(max=1), 3).float()
    assert np.isfinite(cs.evaluate(lambda x: sure, rows_of(y)).loss)


def test_several_labels_are_counted_one_by_one() -> None:
    net, y = random_mlp([4]), (torch.rand(60, 3) < 0.3).float()
    score = cs.evaluate(net, rows_of(y, "multilabel"))
    with torch.no_grad():
        outputs = net(X)
    assert score.accuracy == pytest.approx(float(((outputs > 0) == (y > 0)).double().mean()))
    assert score.loss == pytest.approx(float(functional.binary_cross_entropy_with_logits(outputs, y)))
    behind = cs.evaluate(nn.Sequential(net, nn.Sigmoid()), rows_of(y), task="multilabel")
    assert behind.loss == pytest.approx(score.loss, rel=1e-4)
    assert behind.accuracy == score.accuracy


def test_targets_that_do_not_fit_the_task_or_the_outputs_are_refused() -> None:
    net = random_mlp([4])
    with pytest.raises(InputError, match=r"shape of the targets of a regression, \(60, 1\), got \(60, 3\)"):
        cs.evaluate(net, rows_of(torch.rand(60)))
    with pytest.raises(InputError, match="y must have targets that vary, got 0.333333 in all rows of column 0"):
        cs.evaluate(net, rows_of(torch.ones(60, 3) / 3))
    with pytest.raises(InputError, match="y must be integer labels"):
        cs.evaluate(net, rows_of(torch.rand(60, 3)), task="classification")
    with pytest.raises(InputError, match=r"y must be 0 or 1 in each column \(n, labels\), got 2"):
        as_targets([[0, 1], [2, 1]], 2, "y", "multilabel")
    with pytest.raises(InputError, match="train must have targets that vary, got 2 in all rows of column 1"):
        cs.train_population(net, rows_of(torch.stack([X[:, 0], torch.full((60,), 2.0), X[:, 1]], 1)), 2)
    check_varies(torch.zeros(3, dtype=torch.int64), "y")


def test_the_error_of_labels_is_the_divergence_of_each() -> None:
    outputs, reference = torch.randn(2, 50, 4, dtype=torch.float64).unbind()
    p, q = reference.sigmoid(), outputs.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1)
    assert torch.allclose(row_errors(outputs, reference, "multilabel", torch.ones(4)), expected)
    assert agreement(outputs, reference, "multilabel").top1 is None


# --- training ---------------------------------------------------------------------------------------------------------


def test_labels_are_trained_by_their_cross_entropy() -> None:
    y, nets = (X[:, :3] > 0).float(), [random_mlp([8], seed=k) for k in range(2)]
    training = Training(epochs=3, batch_size=20, optimizer="sgd", momentum=0, learning_rate=0.1, shuffle="shared")
    trained = fit_members(nets, X, y, Run(training, task="multilabel", validation=(X, y)))
    for net, state in zip(nets, trained.states, strict=True):
        before = float(losses(net(X).detach(), y, "multilabel").mean())
        net.load_state_dict(state)
        record = [r for r in trained.metrics if r["member"] == nets.index(net)][-1]
        assert record["validation_loss"] == pytest.approx(
            float(losses(net(X).detach(), y, "multilabel").mean()), rel=1e-5
        )
        assert record["validation_accuracy"] == pytest.approx(cs.evaluate(net, rows_of(y, "multilabel")).accuracy)
        assert record["validation_loss"] < before
    population = cs.train_population(cs.MLP(6, [8], 3), rows_of(y, "multilabel"), 2, training=training)
    assert population.task == "multilabel"
    with pytest.raises(InputError, match="y must be targets of a classification, got float32"):
        fit_members(nets, X, y, Run(training, task="classification"))


def test_numbers_in_one_column_are_trained() -> None:
    data = Dataset(X, X[:, 0], torch.arange(60))
    training = Training(epochs=60, batch_size=20, learning_rate=1e-2)
    population = cs.train_population(cs.MLP(6, [8], 1), data, 2, training=training)
    assert population.task == "regression"
    assert cs.evaluate(cs.Ensemble(population), data).r2 > 0.9


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population trained on a table, and its census."""
    root = tmp_path_factory.mktemp("regression")
    path = table(root / "t.csv", n=200)
    training = ["--members", "3", "--hidden", "8", "--epochs", "30", "--batch-size", "32", "--learning-rate", "1e-2"]
    read = ["--data", path, "--target", "price", "--task", "regression"]
    for arguments in (
        ["train", *read, "--out", root / "population", *training],
        ["census", root / "population", "--out", root / "census", "--resamples", "2"],
    ):
        cli.main([str(a) for a in arguments])
    return root


def test_a_regression_from_a_table_to_a_report(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "report", done / "census", "--out", done / "report")
    assert "Test (n = 40) R² (%) | Test (n = 40) RMSE | Ensemble error | Ensemble worth" in " ".join(printed.split())
    assert "R² on 40 test samples: mean member " in printed
    experiment = Experiment.load(done / "report")
    rows = {(row.method, row.width): row for row in experiment.table}
    ensemble, full = rows["ensemble of the members", ""], rows["assembly, none", "full"]
    assert full.test.quality == pytest.approx(ensemble.test.quality, abs=1e-5)
    assert full.closeness is not None
    assert (full.closeness.worth, rows["mean member", ""].closeness.worth) == (3, 1)
    assert ensemble.test.quality > 0.9
    assert 1 < ensemble.test.rmse[0] < 20  # the noise is 1, the spread 50
    for points in experiment.learning.values():
        assert points[-1].test.quality == pytest.approx(
            next(row for row in experiment.table if row.method in experiment.learning).test.quality, abs=0.5
        )
    page = (done / "report" / "report.html").read_text()
    assert "<h2>R² and width</h2>" in page
    assert "accuracy" not in page.lower()


def test_networks_of_numbers_are_compared(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "compare", done / "population", "--out", done / "compared", "--barriers")
    assert "Targets explained" in printed
    found = json.loads((done / "compared" / "comparison.json").read_text())
    assert (found["n_samples"], found["n_clusters"]) == (40, 10)
    assert all(0.3 < share < 1 for share in found["purity"]["hidden.0"])  # two inputs make the target
    assert all(barrier >= 0 for row in found["barriers"] for barrier in row)
    page = (done / "compared" / "report.html").read_text()
    assert " · target " in page
    assert "with targets of mean " in page
    assert "Purity" not in page


def test_clusters_of_networks_of_numbers_are_switched_off(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--nulls", "3", "--clusters", "2"]
    printed = run(capsys, "modularity", done / "population", "--out", done / "modularity", *few)
    assert "R² (%)" in printed
    assert re.search(r"cost more R² than as many random units .*; output 0 loses most", printed)
    found = json.loads((done / "modularity" / "modularity.json").read_text())
    assert all(row["accuracy"] is None and row["r2"] > 0.9 for row in found["networks"])
    assert (found["probe"]["outputs"], found["circuits"]) == (["0"], [])
    page = (done / "modularity" / "report.html").read_text()
    assert "R² by output and cluster" in page
    assert "R² lost with clusters off" in page
    assert "ccuracy" not in page


def test_an_assembly_is_scored_by_r2(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(run(capsys, "assemble", done / "census", "--out", done / "network", "--json"))
    assert result["assembly_validation_r2"] > 0.9
    other = table(done / "other.csv", n=100, a=np.linspace(-1, 1, 100))
    options = ["--data", other, "--out", done / "network"]
    assert "validation R²" in run(capsys, "assemble", done / "census", *options)
    message = refused(capsys, "assemble", done / "census", *options, "--task", "multilabel")
    assert "train.y must be 0 or 1" in message


def test_ones_own_networks_of_numbers(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_data(done / "t.csv", target="price", task="regression", target_scale="none")
    (done / "runs").mkdir()
    for k in range(2):
        torch.save(random_mlp([6], seed=k, n_inputs=2).state_dict(), done / "runs" / f"{k}.pt")
    read = ["--data", done / "t.csv", "--target", "price", "--task", "regression", "--input-scale", "standardize"]
    own = ["--module", "test_tasks:own_net"]
    run(capsys, "census", done / "runs", *own, *read, "--out", done / "own", "--resamples", "0")
    message = refused(capsys, "assemble", done / "own", *own, *read, "--out", done / "own-network")
    assert "t.csv must have inputs (2,) and 3 numbers, got inputs (2,) and 1 numbers" in message
    assert data.train.unit is None


def own_net() -> nn.Module:
    return cs.MLP(2, [6], 3)


def test_a_shape_that_a_population_does_not_have_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "inspect", done / "population", "--example-shape", "3,32,32")
    assert f"--example-shape must be that of the inputs of {done / 'population'}, 2, got 3,32,32" in message
    message = refused(capsys, "census", done / "population", "--example-shape", "5", "--out", done / "never")
    assert "--example-shape must be that of the inputs" in message
    assert "inputs (2,)" in run(capsys, "inspect", done / "population", "--example-shape", "2")


@pytest.mark.slow
def test_the_example_of_ensembles_runs() -> None:
    rows = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "ensembles.py"))["main"](
        epochs=2, members=5, thorough=False
    )
    near = {(name, kind): closeness for name, kind, _, _, closeness in rows}
    for name in ("diabetes", "surrogate", "sequences"):
        assert near[name, "assembly full"].error < 1e-6
        assert near[name, "assembly 1x"].error < near[name, "assembly 1x"].member_error + 1e-3
    assert len(rows) == 3 * 5 + 2 * 3
