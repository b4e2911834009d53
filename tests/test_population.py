"""Populations: what enters is proved, what is saved comes back, and what does not belong is refused."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conftest import inputs, random_mlp, random_population
from consilience.assembly import assemble
from consilience.census import Census, load_census, save_census
from consilience.data import Data, Dataset
from consilience.errors import ArtefactError, InputError, TracingError
from consilience.nets import MLP
from consilience.population import Population, imagine_inputs
from consilience.population import member as member_module
from consilience.seeds import INITIALISATION, seed
from consilience.training import Training, train_population
from consilience.training.fresh import initialise

X = inputs(8)


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


class Hand(nn.Module):
    """A user's own module."""

    def __init__(self, width: int = 5, activation: str = "relu") -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.second(getattr(functional, self.activation)(self.first(x)))


def test_modules_are_copied_and_put_in_eval_mode() -> None:
    net = random_mlp([5]).train()
    population = Population.from_modules([net], X)
    with torch.no_grad():
        net.readout.weight.zero_()
    assert net.training
    assert not population.members[0].module.training
    assert population.members[0].module.readout.weight.any()
    assert population.members[0].network.state["readout.weight"].any()


def test_members_of_one_architecture_are_traced_once_and_others_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    original = member_module.layers_of
    monkeypatch.setattr(member_module, "layers_of", lambda m, *rest: traced.append(m) or original(m, *rest))
    population = Population.from_modules([Hand(5), Hand(5), Hand(7)], X)
    assert len(traced) == 1
    assert population.widths("first") == (5, 5, 7)
    assert population.median_width("first") == 5
    traced.clear()
    with pytest.raises(InputError, match="member 1 must have the activations of member 0"):
        Population.from_modules([Hand(5, "relu"), Hand(5, "gelu")], X)
    assert len(traced) == 2  # of one class and shape, but not one function


class Configured(Hand):
    """Has an object of its own as a config, and a function that no attribute describes."""

    def __init__(self, width: int, factor: float = 1.0) -> None:
        super().__init__(width)
        self.config, self.scale = SimpleNamespace(width=width), lambda x: factor * x

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.scale(x))


def test_objects_of_their_own_do_not_keep_members_from_sharing_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    original = member_module.layers_of
    monkeypatch.setattr(member_module, "layers_of", lambda m, *rest: traced.append(m) or original(m, *rest))
    population = Population.from_modules([Configured(5), Configured(7)], X)
    assert population.widths("first") == (5, 7)
    assert len(traced) == 1
    with pytest.raises(InputError, match="member 2 must compute what member 0 computes of the same parameters"):
        population.with_members([Configured(5, factor=2.0)])
    assert len(traced) == 2


def test_logits_are_the_members_outputs() -> None:
    population = random_population([[5, 4], [3, 4]])
    expected = torch.stack([member.module(X) for member in population])
    torch.testing.assert_close(population.logits(X), expected.detach())


class Unlike(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x).softmax(-1)


def nan_mlp() -> MLP:
    net = random_mlp([5])
    with torch.no_grad():
        net.readout.bias[1] = torch.nan
    return net


class Random(nn.Module):
    """Traces well, and never computes the same thing twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x + torch.rand_like(x))))


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (random_mlp([5], n_inputs=7), InputError, "example_input must be inputs that"),
        (MLP(6, [5], 4), InputError, "member 1 must have the output size of member 0, 3, got 4"),
        (random_mlp([5, 5]), InputError, "member 1 must have the layers of member 0, "),
        (random_mlp([5], "tanh"), InputError, "member 1 must have the activations of member 0, "),
        (nan_mlp(), InputError, "'readout.bias' of member 1 must be finite, got NaN or infinity"),
        (Unlike(random_mlp([5])), InputError, "member 1 must have the layers of member 0, "),
        (Random(), TracingError, "outputs that depend on the others"),
    ],
)
def test_a_member_that_does_not_belong_is_refused_by_number(other: nn.Module, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Population.from_modules([random_mlp([5]), other], X)
    notes = getattr(caught.value, "__notes__", [])
    assert "this is member 1 of the population" in notes or "member 1" in str(caught.value)


class NeverRun(nn.Linear):
    """Has one layer, and fails the test when it runs."""

    def forward(self, _: Tensor) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (
            {"tasks": "regression"},
            "arguments must be among output, .* got 'tasks'\n  cure: did you mean 'task'",
        ),
        ({"members": ()}, "arguments must be among output, failed, .* got 'members'"),
        ({"task": "next_token"}, "task must be one of .* got 'next_token'"),
    ],
)
def test_unknown_arguments_and_tasks_are_refused_before_members_run(details: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Population.from_modules([NeverRun(6, 3)], X, **details)


def test_a_parameter_that_is_not_finite_is_refused_before_members_run() -> None:
    bad = NeverRun(6, 3)
    nn.init.constant_(bad.bias, float("nan"))
    with pytest.raises(InputError, match="'bias' of member 1 must be finite"):
        Population.from_modules([NeverRun(6, 3), bad], X)


class Scaled(nn.Module):
    """Preprocesses its inputs with a buffer and a plain number."""

    def __init__(self, mean: float = 0.5, scale: float = 2.0) -> None:
        super().__init__()
        self.net = random_mlp([5])
        self.register_buffer("mean", torch.tensor(mean))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.scale)


@pytest.mark.parametrize("other", [Scaled(mean=0.1), Scaled(scale=3.0)])
def test_members_that_differ_in_what_is_no_parameter_are_refused(other: nn.Module) -> None:
    population = Population.from_modules([Scaled(), Scaled()], X)
    network = assemble(Census("weights", "l2").fit(population), "full", correction="none")
    torch.testing.assert_close(network(X), population.logits(X).mean(0))
    with pytest.raises(InputError, match="member 1 must compute what member 0 computes of the same parameters"):
        Population.from_modules([Scaled(), other], X)


def test_modules_that_agree_on_the_examples_only_are_not_taken_for_one_another() -> None:
    """relu and relu6 are one function on small inputs: the modules decide what is shared, not their outputs."""
    with pytest.raises(InputError, match="member 1 must have the activations of member 0"):
        Population.from_modules([Hand(5, "relu"), Hand(5, "relu6")], X / 1000)


def test_what_does_not_fit_together_is_refused_before_training(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("consilience.training.train"), "train_blocks", None)
    with pytest.raises(InputError, match="member 1 must have the activations of member 0"):
        train_population([MLP(64, [4], 10, "relu"), MLP(64, [4], 10, "tanh")], digits.train, 2)


def test_a_function_that_makes_members_chooses_their_initial_values(digits: Data) -> None:
    def make() -> nn.Module:
        net = MLP(64, [4], 10)
        nn.init.constant_(net.readout.bias, 0.5)
        return net

    state = torch.random.get_rng_state()
    population = train_population(make, digits.train, 1, training=Training(epochs=1, learning_rate=1e-9))
    torch.testing.assert_close(population.members[0].module.readout.bias, torch.full((10,), 0.5), atol=1e-6, rtol=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_members_and_bad_examples_are_refused() -> None:
    with pytest.raises(InputError, match="modules must have at least one module, got none"):
        Population.from_modules([], X)
    with pytest.raises(InputError, match="example_input must be finite, got NaN or infinity in 8 of 8 rows"):
        Population.from_modules([random_mlp([5])], X * torch.inf)


def test_saved_and_loaded_is_the_same_and_so_are_its_bytes(tmp_path: Path) -> None:
    population = random_population([[5, 4], [3, 6]], "tanh")
    population = dataclasses.replace(population, failed={4: "why"}, metrics=({"epoch": 1, "loss": 0.5},))
    population.save(tmp_path / "a")
    loaded = Population.load(tmp_path / "a")
    assert torch.equal(loaded.logits(X), population.logits(X))
    assert loaded.widths("hidden.1") == (4, 6)
    assert loaded.failed == {4: "why"}
    assert list(loaded.metrics) == [{"epoch": 1, "loss": 0.5}]
    loaded.save(tmp_path / "b")
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


def test_a_users_own_modules_are_saved_without_their_code(tmp_path: Path) -> None:
    population = Population.from_modules([Hand(5), Hand(7)], X)
    population.save(tmp_path / "p")
    with pytest.raises(InputError, match=r"module must be given for members .*Hand\n  cure: pass module="):
        Population.load(tmp_path / "p")
    loaded = Population.load(tmp_path / "p", module=Hand(2))
    assert torch.equal(loaded.logits(X), population.logits(X))
    with pytest.raises(ArtefactError, match="member 0 of .* must have the 4 tensors of a MLP, got "):
        Population.load(tmp_path / "p", module=random_mlp([5]))


def test_a_damaged_population_is_refused(tmp_path: Path) -> None:
    random_population([[5]]).save(tmp_path / "p")
    (shard,) = (tmp_path / "p").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(ArtefactError, match="must have SHA-256 .*, got 200 bytes"):
        Population.load(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    (tmp_path / "p" / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(ArtefactError, match="must have format version 1, got 99"):
        Population.load(tmp_path / "p")


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that are proved from now on."""
    modules: list[nn.Module] = []
    prove = member_module.prove
    monkeypatch.setattr(member_module, "prove", lambda m, network, x: modules.append(m) or prove(m, network, x))
    return modules


def rewrite(directory: Path, **config: object) -> None:
    """Change the config, as another version or another hand would."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def test_members_that_were_proved_are_not_proved_again(tmp_path: Path, proved: list[nn.Module]) -> None:
    nets = [random_mlp([5], seed=k) for k in range(2)] + [random_mlp([7])]
    Population.from_modules(nets, X).with_snapshot(1, nets[::-1][1:] + nets[2:]).save(tmp_path / "p")
    assert len(proved) == 6
    proved.clear()
    loaded = Population.load(tmp_path / "p")
    assert proved == []
    loaded.save(tmp_path / "again")
    assert files_in(tmp_path / "again") == files_in(tmp_path / "p")
    loaded.with_members([nets[0]])
    assert len(proved) == 1


def test_a_members_proof_holds_for_its_numbers_program_and_versions_alone(
    tmp_path: Path, proved: list[nn.Module]
) -> None:
    population = Population.from_modules([Hand(5), Hand(5), Hand(7)], X)
    config = json.loads((population.save(tmp_path / "p") / "config.json").read_text())
    for version in ("consilience", "torch"):
        proved.clear()
        rewrite(tmp_path / "p", proved={**config["proved"], version: "0.0.1"})
        Population.load(tmp_path / "p", Hand())
        assert len(proved) == 3
    rewrite(tmp_path / "p", proved=config["proved"])
    proved.clear()
    Population.load(tmp_path / "p", Hand())
    assert proved == []
    Population.load(tmp_path / "p", Hand(activation="gelu"))  # the class has changed since
    assert len(proved) == 3

    proved.clear()
    with torch.no_grad():  # a member that was changed after its proof
        population.members[1].module.first.weight[0, 0] += 1
    population.save(tmp_path / "p")
    Population.load(tmp_path / "p", Hand())
    assert [bool(module.first.weight.equal(population.members[1].module.first.weight)) for module in proved] == [True]

    old = json.loads((tmp_path / "p" / "config.json").read_text())
    del old["proved"]  # as versions before 0.2 wrote it
    (tmp_path / "p" / "config.json").write_text(json.dumps(old))
    proved.clear()
    Population.load(tmp_path / "p", Hand())
    assert len(proved) == 3


def test_a_census_comes_back_with_its_population(tmp_path: Path) -> None:
    population, x = random_population([[5, 4], [6, 4], [4, 4]]), inputs(100)
    population.save(tmp_path / "p")
    census = Census(n_clusters={"hidden.0": 7}, n_resamples=2).fit(population, x)
    save_census(census, tmp_path / "c", tmp_path / "p")
    loaded = load_census(tmp_path / "c")
    for name, layer in census.layers_.items():
        other = loaded.layers_[name]
        for field in ("labels_", "frequency_", "size_", "stability_", "centroid_", "alive"):
            assert torch.equal(torch.as_tensor(getattr(layer, field)), torch.as_tensor(getattr(other, field)))
        assert (layer.at(3).labels == other.at(3).labels).all()
    save_census(loaded, tmp_path / "d", tmp_path / "p")
    assert files_in(tmp_path / "c") == files_in(tmp_path / "d")

    (tmp_path / "moved").mkdir()
    (tmp_path / "c").rename(tmp_path / "moved" / "c")
    with pytest.raises(ArtefactError):
        load_census(tmp_path / "moved" / "c")
    assert load_census(tmp_path / "moved" / "c", population).n_clusters == {"hidden.0": 7}
    with pytest.raises(ArtefactError, match="population must be the one the census in"):
        load_census(tmp_path / "moved" / "c", random_population([[5, 4], [6, 4], [4, 4]], seed=50))
    with pytest.raises(InputError, match="census must be fitted"):
        save_census(Census(), tmp_path / "e", tmp_path / "p")
    assert not (tmp_path / "e").exists()


def test_members_start_anew_each_from_its_own_seed(digits: Data) -> None:
    net = MLP(64, [4], 10)
    few, more = (train_population(net, digits.train, n, training=Training(epochs=1), random_state=5) for n in (2, 3))
    assert not torch.equal(few.members[0].module.readout.weight, few.members[1].module.readout.weight)
    torch.testing.assert_close(few.members[1].module.readout.weight, more.members[1].module.readout.weight)
    again = train_population(net, digits.train, 2, training=Training(epochs=1), random_state=5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(few.members[1].network.state.values(), again.members[1].network.state.values(), strict=True)
    )
    assert not torch.equal(net.readout.weight, initialise(net, 1).readout.weight)


def test_members_of_several_widths_take_turns(digits: Data) -> None:
    nets = [MLP(64, [4], 10), MLP(64, [6], 10)]
    population = train_population(nets, digits.train, 5, training=Training(epochs=1), random_state=0)
    assert population.widths("hidden.0") == (4, 6, 4, 6, 4)
    made = train_population(lambda: MLP(64, [3], 10), digits.train, 2, training=Training(epochs=1), random_state=0)
    assert made.widths("hidden.0") == (3, 3)


class NoReset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 64))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), self.weight)


def test_what_cannot_be_trained_is_refused_before_training(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("consilience.training.train"), "train_blocks", None)
    train = digits.train
    some = train.take((train.y != 3).nonzero()[:, 0])
    broken = Dataset(train.x.clone().fill_(torch.nan), train.y, train.ids)
    for arguments, message in (
        ((MLP(64, [4], 10), some, 2), "train.y must have rows of each class from 0 to 9, got none of class 3"),
        ((MLP(64, [4], 10), broken, 2), "must be finite"),
        ((MLP(60, [4], 10), train, 2), "example_input must be inputs that"),
        ((MLP(64, [4], 10), train, 0), "n_members must be an int >= 1, got 0"),
        ((NoReset(), train, 2), r"'' must have a method reset_parameters\(\), got a NoReset without"),
        (([], train, 2), "net must have at least one module, got an empty sequence"),
    ):
        with pytest.raises(InputError, match=message):
            train_population(*arguments)


def test_a_member_that_diverges_is_left_out_and_reported(digits: Data) -> None:
    def wild() -> nn.Module:
        net = MLP(64, [4], 10)
        if torch.initial_seed() == seed(0, INITIALISATION, 1):
            with torch.no_grad():
                net.readout.weight.fill_(torch.inf)
        return net

    population = train_population(wild, digits.train, 3, training=Training(epochs=1), random_state=0)
    assert len(population) == 2
    assert list(population.failed) == [1]
    assert "not finite" in population.failed[1]


def test_a_member_of_another_precision_is_refused() -> None:
    double = [member.module.double() for member in random_population([[4], [4]])]
    population = Population.from_modules(double, inputs(8).double())
    with pytest.raises(InputError, match="example_input must be inputs that"):
        population.with_members([random_population([[4]]).members[0].module])
    with pytest.raises(InputError, match="member 2 must be an nn.Module, got NoneType"):
        population.with_members([None])


class ScaledInside(nn.Module):
    """A member that scales bytes itself."""

    def __init__(self, net: MLP, mean: float, spread: float) -> None:
        super().__init__()
        self.net, self.mean, self.spread = net, mean, spread

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.spread)


def test_imagined_inputs_are_those_that_the_members_scale() -> None:
    plain = random_population([[5], [7]])
    x = imagine_inputs(plain, 50)
    modules = [ScaledInside(member.module, 128.0, 64.0) for member in plain]
    scaled = imagine_inputs(Population.from_modules(modules, X), 50)
    torch.testing.assert_close(scaled, 64 * x + 128, rtol=1e-4, atol=1e-2)


def test_inputs_that_pass_through_another_function_are_not_imagined() -> None:
    net = nn.Sequential(nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(InputError, match="inputs must reach '1' scaled and shifted one by one"):
        imagine_inputs(Population.from_modules([net], X), 50)


def test_populations_members_and_censuses_are_shown_in_one_line() -> None:
    population = random_population([[5, 4], [7, 4]])
    assert repr(population) == "<Population of 2 MLP: hidden.0 5–7, hidden.1 4>"
    assert repr(population[1]) == "<Member, a MLP: hidden.0 7, hidden.1 4>"
    census = Census(grounding="weights", distance="cosine", n_clusters=3, n_resamples=0)
    assert repr(census) == "<Census, not fitted>"
    shown = "<Census of 2 networks: hidden.0 12 units in 3 clusters, hidden.1 8 units in 3 clusters>"
    assert repr(census.fit(population)) == shown
