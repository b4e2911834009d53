"""Targets, tasks and outputs that cannot be used: one clear error before work starts, in Python and from commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from conftest import refused, run
from consilience import cli
from consilience.data import Dataset
from consilience.errors import InputError

N = 60
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
NUMBERS = X[:, :2] * 2 + 1
CONSTANT, UNKNOWN = NUMBERS.clone(), NUMBERS.clone()
CONSTANT[:, 1], UNKNOWN[7, 1] = 3, torch.nan
TARGETS = {
    "constant": (CONSTANT, "must have targets that vary, got 3 in all rows of column 1"),
    "NaN": (UNKNOWN, "y must be finite, got NaN or infinity in 1 of"),
    "of other rows": (NUMBERS[:9], r"y must have one row for each of the \d+ rows of x, got float32 \(9, 2\)"),
}


class Heads(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scores, self.value = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.a(x))
        return {"scores": self.scores(h), "value": self.value(h)}


def net() -> nn.Module:
    return cs.MLP(4, [5], 2)


def rows(y: Tensor, task: str | None = None) -> Dataset:
    return Dataset(X, y, torch.arange(N), task)


def no_forward(module: nn.Module, inputs: object) -> None:
    raise AssertionError("work has started")


@pytest.mark.parametrize("name", TARGETS)
def test_targets_that_cannot_be_learned(name: str) -> None:
    y, message = TARGETS[name]
    module = net()
    module.register_forward_pre_hook(no_forward)
    with pytest.raises(InputError, match=message):
        cs.evaluate(module, rows(y, "regression"))
    with pytest.raises(InputError, match=message):
        cs.train_population(net(), rows(y, "regression"), 2)


def test_one_output_has_no_classes_to_choose_from() -> None:
    data = Dataset(X, (X[:, 0] > 0).long(), torch.arange(len(X)))
    with pytest.raises(InputError, match="task must fit the outputs, at least 2 for classification, got .* \\(n, 1\\)"):
        cs.train_population(cs.MLP(X.shape[1], [5], 1), data, 2)


def test_targets_of_another_shape_than_the_outputs() -> None:
    with pytest.raises(InputError, match=r"must have shape \(n, 2\), as the outputs, got \(60, 3\)"):
        cs.train_population(net(), rows(torch.cat([NUMBERS, NUMBERS[:, :1]], 1)), 2)
    with pytest.raises(InputError, match=r"outputs must have the shape of the targets of a regression, \(60, 3\)"):
        cs.evaluate(net(), rows(torch.cat([NUMBERS, NUMBERS[:, :1]], 1)))


@pytest.mark.parametrize("name", TARGETS)
def test_commands_refuse_targets_that_cannot_be_learned(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y, message = TARGETS[name]
    data = tmp_path / "data.npz"
    np.savez(data, x_train=X, y_train=y, x_test=X[:20], y_test=NUMBERS[:20])
    train = ["train", "--data", data, "--task", "regression", "--hidden", "5", "--out", tmp_path / "population"]
    printed = refused(capsys, *train)
    with pytest.raises(InputError, match=message):
        raise InputError(printed)
    assert "cure:" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        ("next-token", 2, r"\(n, t, tokens\) for next-token, got 'next-token' of outputs \(n, 2\)"),
        ("classification", 1, r"at least 2 for classification, got 'classification' of outputs \(n, 1\)"),
    ],
)
def test_a_task_that_does_not_fit_the_outputs(task: str, outputs: int, message: str, tmp_path: Path) -> None:
    modules = [cs.MLP(4, [5], outputs) for _ in range(2)]
    with pytest.raises(InputError, match=message):
        cs.Population.from_modules(modules, X[:8], task=task)
    for k, module in enumerate(modules):
        torch.save(module.state_dict(), tmp_path / f"{k}.pt")
    with pytest.raises(InputError, match=message):
        cs.Population.from_directory(tmp_path, modules[0], X[:8], task=task)


def net_of_one_output() -> nn.Module:
    return cs.MLP(4, [5], 1)


def own_networks(place: Path, x: Tensor, y: Tensor, task: str) -> tuple[Path, list[Any]]:
    """A folder of checkpoints, and the options that name their class, these data and this task, the task last."""
    folder, data = place / "runs", place / "data.npz"
    folder.mkdir()
    for k in range(2):
        torch.save(net_of_one_output().state_dict(), folder / f"{k}.pt")
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    return folder, ["--module", "test_bad_input:net_of_one_output", "--data", data, "--task", task]


def test_commands_refuse_a_task_that_does_not_fit_the_outputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, own = own_networks(tmp_path, X, X[:, 0] > 0, "classification")
    message = refused(capsys, "census", folder, *own, "--out", tmp_path / "census")
    assert "got 'classification' of outputs (n, 1)" in message
    assert "cure: pass task='multilabel' if it says yes or no" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "runs"]
    run(capsys, "census", folder, *own[:-1], "multilabel", "--out", tmp_path / "census", "--resamples", "0")


def test_an_output_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="output must be one of 'scores', 'value' .*got 'score'\n.*mean 'scores'"):
        cs.Population.from_modules([Heads()], X[:8], output="score")
    message = refused(capsys, "inspect", "test_bad_input:Heads", "--example-shape", "4", "--output", "valeu")
    assert "got 'valeu'\n  cure: did you mean 'value'?" in message


@pytest.mark.parametrize(
    ("n", "width", "message"), [(N, 9, "width of layer 'hidden.0' should be at most 8, got 9"), (10, 5, "10 samples")]
)
def test_warnings_are_said_where_the_user_called(n: int, width: int, message: str) -> None:
    members = cs.Population.from_modules([cs.MLP(4, [4], 2), cs.MLP(4, [4], 2)], X[:8])
    census = cs.Census(n_resamples=0).fit(members, X[:n])
    with pytest.warns(UserWarning, match=message) as told:
        cs.assemble(census, width)
    assert [warning.filename for warning in told] == [__file__]


def test_widths_of_more_units_than_there_are_warn_once() -> None:
    members = cs.Population.from_modules([cs.MLP(4, [4, 5, 6], 2), cs.MLP(4, [4, 5, 6], 2)], X[:8])
    with pytest.warns(UserWarning, match=r"layer 'hidden.0' \(and 1 other layer\) should be at most 8, got 11") as told:
        cs.assemble(cs.Census(n_resamples=0).fit(members, X[:N]), 11)
    assert len(told) == 1


def test_commands_do_not_compare_data_with_example_inputs_that_they_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, own = own_networks(tmp_path, 1e3 * X, NUMBERS[:, 0], "regression")
    cli.main(list(map(str, ["census", folder, *own, "--resamples", "0", "--out", tmp_path / "census"])))
    assert "example inputs" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(4, 2), lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3))]
)
def test_inputs_of_another_precision_than_the_network(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        InputError, match="example_input must be inputs that .*\n  cure: give networks and inputs one type"
    ):
        cs.Population.from_modules([make().double()], X[:8])
