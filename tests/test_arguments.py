"""Odd arguments: every public function takes them or refuses them with an error of ours, never with anybody else's."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import consilience as cs
from conftest import blobs, random_mlp, random_population

X, Y = blobs(60)
ROWS = cs.Dataset(X, Y, torch.arange(60))
NET = random_mlp([4])


class Broken(nn.Module):
    """A user's module whose forward pass raises."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("broken")


ODD: dict[str, Any] = {
    "None": None,
    "True": True,
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "2**64": 2**64,
    "NaN": float("nan"),
    "text": "odd",
    "no text": "",
    "bytes": b"odd",
    "an object": object(),
    "an empty list": [],
    "an empty dict": {},
    "a list of texts": ["a", "b"],
    "a dict of None": {"hidden.0": None},
    "a type": int,
    "a function": lambda: None,
    "an array of float64": X.double().numpy(),
    "a big-endian array": X.numpy().astype(">f4"),
    "an array of texts": np.array(["a", "b"]),
    "an array of complex numbers": np.ones((60, 6), complex),
    "a tensor that requires gradients": X.clone().requires_grad_(),
    "values of 1e20": X * 1e20,
    "bfloat16": X.bfloat16(),
    "integers": X.long(),
    "booleans": X > 0,
    "complex numbers": X.to(torch.complex64),
    "a sparse tensor": X.to_sparse(),
    "a meta tensor": X.to("meta"),
    "a number as a tensor": torch.tensor(1.0),
    "no rows": X[:0],
    "one row": X[:1],
    "NaN in rows": X * torch.nan,
    "other features": X[:, :4],
    "one-hot": nn.functional.one_hot(Y),
    "a column": Y[:, None],
    "float labels": Y.double(),
    "a data set of arrays": cs.Dataset(X.numpy(), Y.numpy(), np.arange(60)),  # type: ignore[arg-type]
    "a pair": (X, Y),
    "a module": NET,
    "a sequential module": nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
    "a wrapped module": nn.DataParallel(NET),
    "a lazy module": nn.LazyLinear(3),
    "a broken module": Broken(),
    "a list of modules": [NET, NET],
    "a list of broken modules": [Broken()],
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public function and method with arguments that it takes, by name; what is long is left small."""
    folder = tmp_path_factory.mktemp("arguments")
    population = random_population([[4], [4]])
    census = cs.Census(n_clusters=4, n_resamples=0).fit(population, X)
    assembler, elastic = cs.Assembler(census), cs.elastic(census, [2, 4])
    (folder / "runs").mkdir()
    torch.save(NET.state_dict(), folder / "runs" / "a.pt")
    population.save(folder / "population")
    cs.save_census(census, folder / "census", folder / "population")
    cs.save_network(NET, folder / "network")
    elastic.save(folder / "elastic")
    training = cs.Training(epochs=1, batch_size=60)
    student = {"n_units": 2, "n_students": 2, "activation": "tanh", "expansion": 1, "max_iterations": 20}

    def made(kind: Callable[..., Any], method: str, **fixed: Any) -> Callable[..., Any]:
        return lambda **given: getattr(kind(**{**fixed, **given.pop("init", {})}), method)(**given)

    plain = {
        "MLP": (cs.MLP, {"n_inputs": 6, "widths": [4], "n_outputs": 3}),
        "ConvNet": (cs.ConvNet, {"n_channels": 1, "widths": [2], "n_outputs": 3}),
        "ResNet": (cs.ResNet, {"n_channels": 1, "widths": [2], "n_outputs": 3}),
        "Assembler": (cs.Assembler, {"census": census, "calibration": X, "pooling": "mean"}),
        "Assembler.assemble": (assembler.assemble, {"width": 4, "correction": "none"}),
        "Assembler.elastic": (assembler.elastic, {"widths": [2, 4], "correction": "least-squares"}),
        "Census.fit": (cs.Census(n_clusters=4, n_resamples=0).fit, {"population": population, "x": X}),
        "Dataset.take": (ROWS.take, {"indices": [1, 2]}),
        "Dataset.sample": (ROWS.sample, {"n": 2, "random_state": 0}),
        "Elastic.at_width": (elastic.at_width, {"width": 2}),
        "Ensemble": (cs.Ensemble, {"population": population}),
        "Population.from_modules": (cs.Population.from_modules, {"modules": [NET], "example_input": X[:8]}),
        "Population.from_directory": (
            cs.Population.from_directory,
            {"directory": folder / "runs", "module": NET, "example_input": X[:8]},
        ),
        "Population.load": (cs.Population.load, {"directory": folder / "population", "module": None}),
        "Population.with_members": (population.with_members, {"modules": [NET]}),
        "Population.with_snapshot": (population.with_snapshot, {"epoch": 1, "modules": [NET, NET]}),
        "assemble": (cs.assemble, {"census": census, "width": 4, "correction": "none", "calibration": X}),
        "best_member": (cs.best_member, {"population": population, "validation": ROWS}),
        "elastic": (cs.elastic, {"census": census, "widths": [2, 4], "calibration": X}),
        "evaluate": (cs.evaluate, {"network": NET, "dataset": ROWS, "reference": None}),
        "extend_census": (cs.extend_census, {"census": census, "modules": [NET]}),
        "find_layers": (cs.find_layers, {"module": NET, "example_input": X}),
        "imagine_inputs": (cs.imagine_inputs, {"population": population, "n": 4, "random_state": 0}),
        "load_census": (cs.load_census, {"directory": folder / "census", "population": population}),
        "load_data": (cs.load_data, {"source": "digits", "random_state": 0, "n_calibration": 10}),
        "load_elastic": (cs.load_elastic, {"directory": folder / "elastic"}),
        "load_network": (cs.load_network, {"directory": folder / "network", "module": None}),
        "parameter_average": (cs.parameter_average, {"population": population}),
        "save_census": (
            cs.save_census,
            {"census": census, "directory": folder / "census", "population": folder / "population"},
        ),
        "save_network": (cs.save_network, {"module": NET, "directory": folder / "network", "extra_config": {}}),
        "train_population": (
            cs.train_population,
            {"net": NET, "train": ROWS, "n_members": 1, "training": training, "validation": ROWS, "random_state": 0},
        ),
        "Clusterability.fit": (
            cs.Clusterability(n_clusters=2, n_null=2).fit,
            {"network": NET, "example_input": X},
        ),
        "EigenvalueLoss": (cs.EigenvalueLoss, {"network": NET, "example_input": X, "n_eigenvalues": 1}),
        "CrossClusterLoss": (
            cs.CrossClusterLoss,
            {
                "clusters": {"hidden.0": np.zeros(4, int), "readout": np.zeros(3, int)},
                "network": NET,
                "example_input": X,
            },
        ),
        "ModelComparison.fit": (
            cs.ModelComparison(n_clusters=2, n_null=0).fit,
            {"models": [NET, random_mlp([4], seed=1)], "X": X, "y": Y, "ids": None, "epochs": ()},
        ),
        "ExpandAndCluster.fit": (cs.ExpandAndCluster(**student).fit, {"X": X[:20, :2], "Y": X[:20, :1].tanh()}),  # type: ignore[arg-type]
    }
    settings = {
        "Census": ("fit", {"population": population, "x": X}, cs.Census, {"n_clusters": 4, "n_resamples": 0}),
        "Clusterability": (
            "fit",
            {"network": NET, "example_input": X},
            cs.Clusterability,
            {"n_clusters": 2, "null": "permute", "n_null": 2, "random_state": 0, "n_jobs": 1},
        ),
        "ModelComparison": (
            "fit",
            {"models": [NET, random_mlp([4], seed=1)], "X": X},
            cs.ModelComparison,
            {"measure": "adjusted_rand", "layers": None, "n_clusters": 2, "n_null": 0, "random_state": 0},
        ),
        "ExpandAndCluster": (
            "fit",
            {"X": X[:20, :2], "Y": X[:20, :1].tanh()},
            cs.ExpandAndCluster,
            {**student, "random_state": 0, "coverage": 0.8, "rule": "plateau", "noise": 0.0},
        ),
        "Training": (
            "training",
            {},
            lambda **options: cs.train_population(NET, ROWS, 1, training=cs.Training(**options)),
            {"epochs": 1, "batch_size": 60, "optimizer": "adam", "learning_rate": 0.1, "shuffle": "shared"},
        ),
    }
    for name, (method, given, kind, options) in settings.items():
        if method == "training":
            plain[name] = kind, options
        else:
            plain[name] = (
                (lambda kind=kind, method=method, given=given, **options: getattr(kind(**options), method)(**given)),
                options,
            )
    return plain


AMOUNTS = {"n_members", "epochs", "n_null", "n_resamples", "n_students", "max_iterations", "n_clusters", "n_units"}
# What has no arguments to be odd: a base class, an error, results, and a callback that is tested with training.
WITHOUT = {"Callback", "Closeness", "ConsilienceError", "Data", "Dataset", "Elastic", "Penalty", "Population", "Score"}


def test_every_public_name_is_in_the_table(valid: Mapping[str, Any]) -> None:
    names = {name.partition(".")[0] for name in valid}
    assert {name for name in cs.__all__ if name not in WITHOUT} <= names


def odd_calls(valid: Mapping[str, Any]) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    for name, (function, given) in valid.items():
        for argument in given:
            for odd, value in ODD.items():
                if odd == "2**64" and argument in AMOUNTS:
                    continue  # as much work as was asked for
                yield f"{name}({argument}={odd})", function, {**given, argument: value}


def foreign_errors(calls: Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]) -> tuple[int, list[str]]:
    """How many calls there were, and the errors that are not ours."""
    n, foreign = 0, []
    for name, function, given in calls:
        n += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(**given)
        except cs.ConsilienceError:
            pass
        except Exception as error:  # what the test is about
            foreign.append(f"{name}: {type(error).__name__}: {str(error)[:120]}")
    return n, foreign


TRACED = ("Population.", "find_layers", "train", "Clus", "Eigen", "Cross", "Training", "ExpandAndCluster")


@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "traced"])
def test_odd_arguments_are_taken_or_refused(
    valid: Mapping[str, Any], traced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # odd texts may be names of directories
    chosen = {name: call for name, call in valid.items() if name.startswith(TRACED) == traced}
    for function, given in chosen.values():
        function(**given)
    n, foreign = foreign_errors(odd_calls(chosen))
    assert foreign == []
    assert n >= 500


@pytest.mark.parametrize("name", ["DataParallel", "AveragedModel", "compiled", "a compiled part"])
def test_wrappers_are_taken_off(name: str) -> None:
    wrapped: nn.Module = random_mlp([4])
    if name == "a compiled part":
        wrapped.hidden[0] = torch.compile(wrapped.hidden[0], backend="eager")  # type: ignore[index]
    else:
        compiled = lambda net: torch.compile(net, backend="eager")  # noqa: E731
        wrapped = {"DataParallel": nn.DataParallel, "AveragedModel": AveragedModel, "compiled": compiled}[name](wrapped)
    population = cs.Population.from_modules([wrapped, NET], X[:8])
    assert list(population.members[0].module.state_dict()) == list(NET.state_dict())
    assert torch.equal(population.logits(X)[0], NET(X).detach())


def empty() -> nn.Module:
    net = nn.Linear(6, 3)
    net.weight = nn.Parameter(torch.zeros(0, 6))
    return net


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: nn.Module = torch.jit.trace(NET, X[:2])
    return traced


def kept(net: nn.Module) -> nn.Module:
    """With an activation kept on the module, and its history."""
    net.kept = net(X)  # type: ignore[assignment]
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LazyLinear(3), "'weight' of member 0 must have values, got none yet\n  cure: run the module once"),
        (lambda: random_mlp([4]).to("meta"), "'hidden.0.weight' of member 0 must have values, got none yet"),
        (empty, r"'weight' of member 0 must be dense, .* and not empty, got .* \(0, 6\)"),
        (scripted, "member 0 must be a module in Python, got TorchScript\n  cure: pass the"),
        (
            lambda: with_attribute(lock=threading.Lock()),
            "copy.deepcopy can copy, got 'lock', of which it says TypeError",
        ),
        (lambda: with_weight(torch.uint8), "'layer.weight' of member 0 must be dense, of a floating point type"),
        (lambda: with_weight(torch.complex64), "'layer.weight' of member 0 must be dense, of a floating point type"),
        (
            Broken,
            r"inputs that member 0 \(Broken\) takes, got float32 \(8, 6\), .* raises KeyError: 'broken' \(test_arg",
        ),
        (
            lambda: Returns(lambda y: {"logits": y}),
            r"member 0 \(Returns\) must return one tensor of real numbers, got dict",
        ),
        (
            lambda: Returns(lambda y: (y,)),
            "must return one tensor of real numbers, got tuple\n  cure: wrap it in a mod",
        ),
        (
            lambda: Returns(lambda y: y.half().float()),
            "the forward pass converts units to torch.float16: aten.to.dtype",
        ),
        (
            lambda: Autocast(),
            "the forward pass of Autocast must be tensor operations alone, got a region of its own: autocast",
        ),
    ],
)
def test_modules_that_cannot_be_members_are_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(cs.ConsilienceError, match=message):
        cs.Population.from_modules([make()], X[:8])


def test_an_error_of_the_members_own_code_is_chained() -> None:
    with pytest.raises(cs.ConsilienceError, match="member 1") as caught:
        cs.Population.from_modules([NET, Broken()], X[:8])
    assert isinstance(caught.value.__cause__, KeyError)


class Returns(nn.Module):
    """A layer, and what a function makes of its outputs."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.readout, self.change = nn.Linear(6, 4), nn.Linear(4, 3), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.readout(torch.relu(self.layer(x))))


class Autocast(Returns):
    """Its forward pass switches autocast off."""

    def __init__(self) -> None:
        super().__init__(lambda y: y)

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


class Floats(Returns):
    """It converts to float32 where its values are so already, or are integers."""

    def forward(self, x: Tensor) -> Any:
        return self.readout(torch.relu(self.layer(x.float())).to(torch.float32))


def with_attribute(**attributes: object) -> nn.Module:
    net = random_mlp([4])
    vars(net).update(attributes)
    return net


def with_weight(dtype: torch.dtype) -> nn.Module:
    net = Broken()
    net.layer.weight = nn.Parameter(net.layer.weight.to(dtype), requires_grad=False)
    return net


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    nets, x = [random_mlp([4], seed=k).to(dtype) for k in range(2)], X.to(dtype)
    population = cs.Population.from_modules(nets, x[:8])
    assert population.example_input.dtype == torch.float32
    network = cs.assemble(cs.Census(n_resamples=0).fit(population, x), "full")
    expected = torch.stack([net.float()(x.float()) for net in nets]).mean(0)
    torch.testing.assert_close(network(x.float()), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: kept(random_mlp([4])), lambda: Floats(lambda y: y), lambda: OneHot()])
def test_modules_that_keep_convert_or_encode_are_merged(make: Callable[[], nn.Module]) -> None:
    net = make()
    x = torch.arange(60)[:, None].expand(60, 6) % 5 if isinstance(net, OneHot) else X
    population = cs.Population.from_modules((net for _ in range(2)), x[:8])
    network = cs.assemble(cs.Census(n_resamples=0).fit(population, x), "full")
    torch.testing.assert_close(network(x), net(x), rtol=0, atol=1e-4)


class OneHot(Returns):
    """It takes integers, of 5 kinds."""

    def __init__(self) -> None:
        super().__init__(lambda y: y)
        self.layer = nn.Linear(30, 4)

    def forward(self, x: Tensor) -> Any:
        return super().forward(nn.functional.one_hot(x, 5).flatten(1).float())


@pytest.mark.parametrize("x", [X.numpy(), X.numpy().astype(">f8"), X.clone().requires_grad_(), X.tolist()])
def test_inputs_of_any_kind_are_the_same_inputs(x: Any) -> None:
    population = cs.Population.from_modules([NET, random_mlp([4], seed=1)], x)
    assert torch.equal(population.example_input, X)
    census = cs.Census(n_resamples=0).fit(population, x)
    assert census.calibration_ is not None
    assert torch.equal(census.calibration_, X)
    compared = [cs.ModelComparison(n_clusters=3, n_null=0).fit(population, inputs).matrix_ for inputs in (X, x)]
    np.testing.assert_array_equal(compared[0]["hidden.0"], compared[1]["hidden.0"])


@pytest.mark.parametrize("y", [nn.functional.one_hot(Y), Y[:, None], Y.double(), Y.numpy().astype(">i4")])
def test_labels_of_any_unambiguous_kind_are_the_same_labels(y: Any) -> None:
    expected = cs.evaluate(NET, ROWS)
    assert cs.evaluate(NET, cs.Dataset(X, y, ROWS.ids)) == expected
    purity = [cs.ModelComparison(n_null=0).fit([NET, NET], X, given).purity_["hidden.0"] for given in (Y, y)]
    np.testing.assert_array_equal(*purity)


def test_one_module_is_no_list() -> None:
    with pytest.raises(cs.ConsilienceError, match="modules must be a list .*, got one Sequential\n  cure: put it into"):
        cs.Population.from_modules(ODD["a sequential module"], X[:8])
    assert len(cs.Population.from_modules(nn.ModuleList([NET, NET]), X[:8])) == 2
