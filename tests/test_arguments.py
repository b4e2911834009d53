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
from consilience import baselines, comparison, modularity
from consilience.units import layers

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
    "bytes": b"\x03",  # a sequence of one small int
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
    of_three = cs.Census(n_clusters=4, n_resamples=0).fit(random_population([[4, 3]] * 3), X)
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
        "ViT": (cs.ViT, {"n_channels": 1, "image_size": 4, "patch_size": 2, "n_outputs": 3}),
        "GPT": (cs.GPT, {"n_tokens": 5, "n_positions": 3, "width": 4, "heads": [2], "mlp_widths": [2]}),
        "Llama": (cs.Llama, {"n_tokens": 5, "n_positions": 3, "width": 4, "heads": [2], "mlp_widths": [2]}),
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
        "device": (lambda **given: cs.device(**given).__enter__(), {"name": "cpu"}),
        "engine": (lambda **given: cs.engine(**given).__enter__(), {"name": "serial"}),
        "evaluate": (cs.evaluate, {"network": NET, "dataset": ROWS, "reference": None}),
        "Motifs.fit": (cs.Motifs(n_permutations=1, n_resamples=0).fit, {"census": of_three}),
        "Transfer.fit": (cs.Transfer(n_draws=2).fit, {"populations": {"a": population, "b": population}, "x": X}),
        "route": (
            cs.route,
            {"network": NET, "census": census, "active": 0.5, "n_experts": 2, "grouping": "random", "calibration": X},
        ),
        "extend_census": (cs.extend_census, {"census": census, "modules": [NET]}),
        "find_layers": (cs.find_layers, {"module": NET, "example_input": X}),
        "imagine_inputs": (cs.imagine_inputs, {"population": population, "n": 4, "random_state": 0}),
        "load_census": (cs.load_census, {"directory": folder / "census", "population": population}),
        "load_data": (
            cs.load_data,
            {"source": "digits", "random_state": 0, "context": None, "subwords": None, "n_calibration": 10},
        ),
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
        "Motifs": ("fit", {"census": of_three}, cs.Motifs, {"level": 0.05, "n_permutations": 1, "n_resamples": 0}),
        "Transfer": (
            "fit",
            {"populations": {"a": population, "b": population}, "x": X},
            cs.Transfer,
            {"share": 0.5, "n_draws": 2, "random_state": 0},
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


@pytest.fixture(scope="module")
def rooms() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions of rooms that `consilience` itself does not have, and further arguments of some that it has."""
    population = random_population([[4], [4]])
    assembler = cs.Assembler(cs.Census(n_clusters=4, n_resamples=0).fit(population, X))
    built = {"correction": "none", "calibration": X, "pooling": "mean", "random_state": 0}
    distills = {"steps": 1, "batch_size": 8, "learning_rate": 0.1, "batches": [X], "augmentation": None}
    network, labels, features = population.members[0].network, np.stack([Y, Y % 2]), [X.numpy(), X.numpy()[:, :4]]
    clusters, samples = {"hidden.0": np.array([0, 0, 1, 1])}, {"x": X, "y": Y}
    return {
        "weight_matching": (baselines.weight_matching, {"population": population, "reference": 0, **built}),
        "merge_many": (baselines.merge_many, {"population": population, **built}),
        "activation_matching": (
            baselines.activation_matching,
            {"population": population, "reference": 0, "seen": "activations", **built},
        ),
        "orthogonal_matching": (baselines.orthogonal_matching, {"population": population, "reference": 0, **built}),
        "cycle_matching": (baselines.cycle_matching, {"population": population, **built}),
        "transplantation": (baselines.transplantation, {"population": population, "width": "2x", **built}),
        "probabilistic_matching": (
            baselines.probabilistic_matching,
            {"population": population, "sigma": 0.3, "sigma0": 1.0, "gamma": 1.0, "max_width": None, **built},
        ),
        "transport_fusion": (
            baselines.transport_fusion,
            {"population": population, "reference": None, "ground": "weights", **built},
        ),
        "net2wider": (baselines.net2wider, {"population": population, "width": "2x", "member": 0, "noise": 0.0}),
        "distil": (
            baselines.distil,
            {"population": population, "calibration": X, "start": "member", "width": None, **distills},
        ),
        "Assembler.assemble distill": (assembler.assemble, {"width": 4, "correction": "distill", **distills}),
        "evaluate reference": (cs.evaluate, {"network": NET, "dataset": X, "reference": population}),
        "load_data layout": (
            cs.load_data,
            {"source": "digits", "layout": "auto", "columns": (), "target": None},
        ),
        "train_population options": (
            lambda **given: cs.train_population(NET, ROWS, 1, training=cs.Training(epochs=1, batch_size=60), **given),
            {"callbacks": (), "checkpoint": None, "checkpoint_epochs": (), "progress": None},
        ),
        "loss_barriers": (
            comparison.loss_barriers,
            {"models": [NET, random_mlp([4], seed=1)], **samples, "n_points": 3, "random_state": 0},
        ),
        "clustering_similarities": (
            comparison.clustering_similarities,
            {"labels": labels, "measure": "adjusted_rand", "others": labels},
        ),
        "representation_similarities": (
            comparison.representation_similarities,
            {"activations": features, "measure": "unbiased_cka", "names": None},
        ),
        "similarity_intervals": (
            comparison.similarity_intervals,
            {"activations": features, "measure": "unbiased_cka", "level": 0.9, "random_state": 0},
        ),
        "as_distance": (comparison.as_distance, {"values": np.eye(3), "measure": "adjusted_rand"}),
        "null_z": (
            comparison.null_z,
            {"labels": labels, "measure": "adjusted_rand", "n_null": 3, "random_state": 0},
        ),
        "group_models": (comparison.group_models, {"distances": 1 - np.eye(3)}),
        "find_consensus": (
            comparison.find_consensus,
            {"labels": labels, "n_clusters": 2, "method": "average", "random_state": 0},
        ),
        "unit_graph": (modularity.unit_graph, {"network": NET, "example_input": X}),
        "cross_modularity": (
            modularity.cross_modularity,
            {"network": network, "clusters": "joint", "n_clusters": 2, "n_null": 2, "gradients_of": None},
        ),
        "bipartite_clusters": (
            modularity.bipartite_clusters,
            {"matrix": np.eye(5) + 1, "n_clusters": 2, "random_state": 0},
        ),
        "effective_circuit": (
            modularity.effective_circuit,
            {"network": network, **samples, "label": 0, "criterion": "one-vs-rest", "block": 64},
        ),
        "lesions": (
            modularity.lesions,
            {"network": network, "clusters": clusters, **samples, "n_random": 2, "random_state": 0},
        ),
        "specialisation": (modularity.specialisation, {"network": network, "clusters": clusters, **samples}),
        "clusterable_initialisation": (
            modularity.clusterable_initialisation,
            {"module": NET, "example_input": X, "n_modules": 2, "strength": 0.6, "random_state": 0},
        ),
        "contiguous": (modularity.contiguous, {"n_units": 4, "n_clusters": 2}),
        "BlockMask": (
            modularity.BlockMask,
            {
                "clusters": {"hidden.0": np.zeros(4, int), "readout": np.zeros(3, int)},
                "network": NET,
                "example_input": X,
            },
        ),
        "MatrixClusterLoss": (modularity.MatrixClusterLoss, {"matrices": MATRICES}),
        "matrix_modularity": (modularity.matrix_modularity, {"module": NET, "matrices": MATRICES}),
        "MagnitudePruning": (modularity.MagnitudePruning, {"begin": 1, "end": 2, "start": 0.5, "final": 0.9}),
    }


MATRICES = {"readout.weight": (np.zeros(3, int), np.zeros(4, int))}
AMOUNTS = {"n_members", "epochs", "n_null", "n_resamples", "n_students", "max_iterations", "n_clusters", "n_units"}
AMOUNTS |= {"n_points", "n_random", "steps", "n_permutations", "n_draws"}
# What has no arguments to be odd: a base class, an error, results, and a callback that is tested with training.
WITHOUT = {
    "RegressionScore",
    "Callback",
    "Closeness",
    "ConsilienceError",
    "Data",
    "Dataset",
    "Elastic",
    "Penalty",
    "Population",
    "Score",
}


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


ROOMS = {  # whose public names the table has, but for results, tables of names, and what `consilience` has itself
    baselines: set[str](),
    comparison: {"MEASURES", "Consensus", "Groups", "Intervals", "Measure", "Null"},
    modularity: {"Circuit", "CrossModularity", "UnitGraph"},
}


def test_every_public_name_of_some_rooms_is_in_the_table(valid: Mapping[str, Any], rooms: Mapping[str, Any]) -> None:
    names = {name.partition(".")[0] for name in (*valid, *rooms)} | WITHOUT
    for room, without in ROOMS.items():
        assert {*room.__all__} - without <= names


TRACED = (
    "Population.",
    "loss_barriers",
    "unit_graph",
    "clusterable",
    "BlockMask",
    "find_layers",
    "train",
    "Clus",
    "Eigen",
    "Cross",
    "Training",
    "ExpandAndCluster",
)


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace a module on the same inputs once: most of the arguments that are odd do not change what is traced."""
    kept, trace = dict[str, Any](), layers.trace

    def once(module: nn.Module, x: Tensor, *options: Any) -> Any:
        key = f"{module} {[p.tolist() for p in module.state_dict().values()]} {x.dtype} {x.tolist()} {options}"
        if key not in kept:
            kept[key] = trace(module, x, *options)
        return kept[key]

    monkeypatch.setattr(layers, "trace", once)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(
    "part", ["plain", *(pytest.param(part, marks=pytest.mark.slow) for part in ("traced", "rooms"))]
)
def test_odd_arguments_are_taken_or_refused(
    valid: Mapping[str, Any], rooms: Mapping[str, Any], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # odd texts may be names of directories
    of_part = {name: call for name, call in valid.items() if name.startswith(TRACED) == (part == "traced")}
    chosen = rooms if part == "rooms" else of_part
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
            lambda: Returns(lambda y: {"logits": "text"}),
            r"member 0 \(Returns\) must return one tensor of real numbers or several, got dict\n  cure: pass output=",
        ),
        (
            lambda: Returns(lambda y: y.int()),
            r"member 0 \(Returns\) must return tensors of real numbers, got int32 \(8, 3\)",
        ),
        (
            lambda: Returns(lambda y: y, lambda h: h.half().float()),
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
    """A layer, and what functions make of its units and of the outputs."""

    def __init__(self, change: Callable[[Tensor], Any], inner: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.layer, self.readout, self.change, self.inner = nn.Linear(6, 4), nn.Linear(4, 3), change, inner

    def forward(self, x: Tensor) -> Any:
        return self.change(self.readout(self.inner(self.layer(x))))


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


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**64 - 1])
def test_seeds_of_64_bits_are_taken_where_k_means_draws(seed: int) -> None:
    population = random_population([[4], [4]])
    census = cs.Census(clusterer="kmeans", n_clusters=2, n_resamples=0, random_state=seed).fit(population, X)
    assert census.layers_["hidden.0"].n_clusters_ == 2
    assert np.isfinite(cs.Clusterability(n_clusters=2, n_null=2, random_state=seed).fit(NET, X).n_cut_)
