"""Callbacks: what one would write into a plain loop, each member's own, known to checkpoints; and snapshots."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import test_training
from conftest import inputs, random_mlp, random_population
from consilience.data import Dataset
from consilience.errors import ArtefactError, InputError
from consilience.nets import MLP, ConvNet
from consilience.population import Population
from consilience.store.config import HEADER
from consilience.training import Callback, Trained, Training, train_population
from consilience.training import stack as stacks
from consilience.training.fit import fit_block
from consilience.training.resume import FILE
from consilience.training.sampling import epoch_order
from test_population import files_in
from test_training import difference, interrupt_at, make_data, make_images, make_members, plain_loop, same_bits

SGD = Training(epochs=3, batch_size=16, optimizer="sgd", learning_rate=0.1, momentum=0.5)  # 6 steps an epoch
X, Y = make_data(torch.float64)


def fit(modules: Sequence[nn.Module], callbacks: Sequence[Callback] = (), **changes: Any) -> Trained:
    arguments: dict[str, Any] = {"x": X, "y": Y, "training": SGD}
    return test_training.fit(modules, **(arguments | changes), callbacks=callbacks)


def members(count: int) -> list[nn.Module]:
    return make_members(count, dtype=torch.float64)


def same_state(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(value.equal(b[name]) for name, value in a.items())


@dataclass(frozen=True)
class Decay(Callback):
    strength: float

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor:
        trained = [value for value in module_parameters.values() if value.requires_grad]
        return self.strength / 2 * torch.stack([value.square().sum() for value in trained]).sum()


@dataclass(frozen=True)
class Own(Callback):
    """Something else for each member: an L1 norm as strong as its number, on the readout alone."""

    strength: float = 0.01

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor | None:
        return self.strength * member * module_parameters["readout.weight"].abs().sum() if member else None


@dataclass(frozen=True)
class Mask(Callback):
    """Weights that stay 0: every second column, from the member's number on."""

    layer: str

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        parameters[self.layer][:, member % 2 :: 2] = 0


@dataclass(frozen=True)
class Kick(Callback):
    """A change that depends on the step of the whole run."""

    size: float

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        parameters["readout.bias"][member % 3] += self.size * math.cos(step)


@dataclass(frozen=True)
class Poisoned(Callback):
    """NaN once the bias of the readout is large, and where it is made large."""

    member: int
    step: int

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor:
        bias = module_parameters["readout.bias"]
        return bias.square().sum() * (math.nan if bias.max() > 100 else 0.01)

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        if (member, step) == (self.member, self.step):
            parameters["readout.bias"] += 200  # of all outputs: the loss stays as it is


@dataclass(frozen=True)
class Record(Callback):
    """What a callback gets to see."""

    penalties: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> None:
        self.penalties.append((member, {name: value.detach().clone() for name, value in module_parameters.items()}))

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        assert not torch.is_grad_enabled()
        self.steps.append((member, step))


def loop(module: nn.Module, member: int, callbacks: Sequence[Callback], training: Training, steps: int) -> nn.Module:
    """Train one member as one would without this package, with callbacks called by hand."""
    net = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(net.parameters(), training.learning_rate, training.momentum)
    if training.optimizer == "adam":
        optimizer = torch.optim.Adam(net.parameters(), training.learning_rate)
    done = epoch = 0
    while done < steps:
        order = epoch_order(torch.arange(len(X)), epoch, member, "independent", 0, len(X))
        for rows in order.split(training.batch_size)[: steps - done]:
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(X[rows]), Y[rows])
            for callback in callbacks:
                penalty = callback.penalty(member, dict(net.named_parameters()))
                loss = loss if penalty is None else loss + penalty
            loss.backward()
            optimizer.step()
            done += 1
            with torch.no_grad():
                for callback in callbacks:
                    callback.after_step(member, done, dict(net.named_parameters()))
        epoch += 1
    return net


# --- equal to a loop -------------------------------------------------------------------------------------------------


def test_a_penalty_of_squares_is_weight_decay() -> None:
    modules = members(3)
    trained = fit(modules, [Decay(0.03)], max_steps=20)
    decayed = dataclasses.replace(SGD, weight_decay=0.03)
    assert difference(trained, plain_loop(modules, X, Y, decayed, 20)) < 1e-12
    assert difference(trained, plain_loop(modules, X, Y, SGD, 20)) > 1e-3


@pytest.mark.parametrize("training", [SGD, Training(batch_size=16, learning_rate=0.01)])
@pytest.mark.parametrize(
    "callbacks", [[Own()], [Mask("hidden.0.weight")], [Kick(0.1)], [Own(), Decay(0.1), Mask("readout.weight"), Kick(1)]]
)
def test_callbacks_do_what_they_would_in_a_plain_loop(callbacks: list[Callback], training: Training) -> None:
    modules = members(3)
    trained = fit(modules, callbacks, training=training, max_steps=20)
    by_hand = [loop(module, k, callbacks, training, 20) for k, module in enumerate(modules)]
    assert difference(trained, by_hand) < 1e-12
    assert difference(trained, plain_loop(modules, X, Y, training, 20)) > 1e-3


@settings(max_examples=5)
@given(chosen=st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
def test_a_member_does_not_depend_on_who_else_has_callbacks(chosen: list[int]) -> None:
    modules, callbacks = members(5), [Own(0.1), Kick(0.1)]
    everyone = fit(modules, callbacks)
    some = fit([modules[k] for k in chosen], callbacks, members=chosen, n_members=5)
    for k, state in zip(chosen, some.states, strict=True):
        for name, value in state.items():
            torch.testing.assert_close(value, everyone.states[k][name], rtol=0, atol=1e-12)


def test_a_mask_keeps_weights_at_zero() -> None:
    trained = fit(members(2), [Mask("hidden.1.weight")])
    for member, state in enumerate(trained.states):
        weight = state["hidden.1.weight"]
        assert not weight[:, member::2].any()
        assert weight[:, 1 - member :: 2].all()


def test_a_callback_that_does_nothing_changes_no_bit() -> None:
    modules = members(3)
    assert same_bits(fit(modules), fit(modules, [Callback()]))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.readout, self.idle = nn.Linear(6, 3), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(x)


@dataclass(frozen=True)
class OnIdle(Callback):
    member: int

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor | None:
        return module_parameters["idle"].square().sum() if member == self.member else None


def test_a_penalty_on_an_unused_parameter_leaves_that_of_the_others_alone() -> None:
    torch.manual_seed(0)
    modules = [Unused().double() for _ in range(2)]
    training = dataclasses.replace(SGD, weight_decay=0.1)
    first, none = (fit(modules, [OnIdle(member)], training=training) for member in (0, 5))
    assert same_state(first.states[1], none.states[1])
    assert bool((first.states[0]["idle"] < none.states[0]["idle"]).all())


class Summed(nn.Module):
    """Its two biases have one gradient, and torch returns it as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.readout, self.more = nn.Linear(6, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.readout.weight) + (self.readout.bias + self.more)


def test_a_penalty_on_one_of_two_parameters_with_one_gradient_leaves_the_other_alone() -> None:
    @dataclass(frozen=True)
    class OnMore(Callback):
        def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor:
            return module_parameters["more"].sum()

    torch.manual_seed(0)
    modules = [Summed().double() for _ in range(2)]
    without, trained = fit(modules, max_steps=1), fit(modules, [OnMore()], max_steps=1)
    assert trained.states[0]["readout.bias"].equal(without.states[0]["readout.bias"])
    torch.testing.assert_close(trained.states[0]["more"], without.states[0]["more"] - SGD.learning_rate)


@pytest.mark.parametrize("positions", [1, math.inf])
def test_callbacks_see_all_of_their_member_as_it_is(positions: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "POSITIONS_IN_TURN", positions)
    x, y = make_images(torch.float64)
    torch.manual_seed(0)
    modules: list[nn.Module] = [ConvNet(2, (4,), 3, batch_norm=True).double() for _ in range(2)]
    modules[0].readout.bias.requires_grad_(False)  # a stack of its own
    record = Record()
    fit(modules, [record], x=x, y=y, max_steps=4)
    once, called = record.penalties[:2], record.penalties[2:]  # each is evaluated once before training
    for member, module in enumerate(modules):
        assert same_state(dict(once)[member], module.state_dict())
        seen = [state for number, state in called if number == member]
        for step in range(1, 4):
            for name, value in plain_loop(modules, x, y, SGD, step)[member].state_dict().items():
                torch.testing.assert_close(seen[step][name], value, rtol=0, atol=1e-10)
    assert sorted(record.steps) == [(member, step) for member in (0, 1) for step in (1, 2, 3, 4)]


def test_metrics_are_of_the_task() -> None:
    modules, still = members(2), dataclasses.replace(SGD, learning_rate=1e-30, epochs=1)
    assert fit(modules, [Decay(1e3)], training=still).metrics == fit(modules, training=still).metrics


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_member_whose_penalty_is_not_finite_is_frozen_and_the_others_keep_their_bits() -> None:
    modules, record = members(3), Record()
    healthy = fit(modules, [Poisoned(member=9, step=8)])
    trained = fit(modules, [Poisoned(member=1, step=8), record])
    assert trained.failed == {1: "penalty not finite at epoch 2, step 3"}
    assert same_state(trained.states[0], healthy.states[0])
    assert same_state(trained.states[2], healthy.states[2])
    assert same_state(trained.states[1], fit(modules, [Poisoned(member=1, step=8)], max_steps=8).states[1])
    assert [record["epoch"] for record in trained.metrics if record["member"] == 1] == [1]
    assert max(step for member, step in record.steps if member == 1) == 8
    assert [sum(number == member for number, _ in record.penalties) for member in range(3)] == [1 + 18, 1 + 9, 1 + 18]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_constant_that_is_not_finite_is_a_penalty_too(value: float) -> None:
    @dataclass(frozen=True)
    class Constant(Callback):
        def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor | None:
            return torch.tensor(value) if member else None

    modules = members(2)
    trained = fit(modules, [Constant()])
    assert trained.failed == {1: "penalty not finite at epoch 1, step 1"}
    assert same_state(trained.states[1], modules[1].state_dict())
    assert same_state(trained.states[0], fit(modules).states[0])


def test_a_member_whose_loss_is_not_finite_takes_no_further_part() -> None:
    modules, record = members(3), Record()
    healthy = fit(modules, [Own(0.1)])
    nn.init.constant_(modules[1].readout.bias, math.inf)
    trained = fit(modules, [Own(0.1), record])
    assert trained.failed == {1: "loss not finite at epoch 1, step 1"}
    assert same_state(trained.states[0], healthy.states[0])
    assert same_state(trained.states[2], healthy.states[2])
    assert [member for member, _ in record.penalties].count(1) == 1  # before training
    assert 1 not in dict(record.steps)


def test_a_change_that_is_not_finite_is_found_after_the_last_step() -> None:
    @dataclass(frozen=True)
    class Last(Callback):
        def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
            if member == 1 and step == 18:
                parameters["readout.bias"].fill_(math.nan)

    assert fit(members(2), [Last()]).failed == {1: "parameters not finite after the last step"}


# --- checkpoints -----------------------------------------------------------------------------------------------------


CALLBACKS = (Own(0.1), Poisoned(member=2, step=3), Mask("hidden.0.weight"), Kick(0.1))


@settings(max_examples=6)
@given(step=st.integers(1, 35), optimizer=st.sampled_from(["adam", "sgd"]))
def test_an_interrupted_run_with_callbacks_and_snapshots_resumes_to_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, step: int, optimizer: str
) -> None:
    torch.manual_seed(0)
    modules = [MLP(6, widths, 3).double() for widths in ([8], [5], [8])]  # 2 stacks, 36 steps
    arguments: dict = {
        "training": dataclasses.replace(SGD, optimizer=optimizer),
        "callbacks": CALLBACKS,
        "snapshot_epochs": [1, 3],
    }
    undisturbed = fit(modules, **arguments)
    where = tmp_path_factory.mktemp("checkpoint")
    with pytest.raises(KeyboardInterrupt):
        fit(modules, **arguments, checkpoint=where, checkpoint_every=0, progress=interrupt_at(step))
    for again in range(2):  # the second time, all that is left to do is to read the result
        resumed = fit(modules, **arguments, checkpoint=where, checkpoint_every=0)
        assert same_bits(undisturbed, resumed), again
        assert list(resumed.snapshots) == [1, 3]
        for epoch, states in resumed.snapshots.items():
            assert all(map(same_state, states, undisturbed.snapshots[epoch]))
        assert resumed.metrics == undisturbed.metrics
        assert resumed.failed == undisturbed.failed == {2: "penalty not finite at epoch 1, step 4"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"callbacks": [Decay(0.2)]}, "callbacks = ['Decay(strength=0.2)'], got callbacks = ['Decay(strength=0.1)']"),
        (
            {"callbacks": [Decay(0.1)] * 2},
            "callbacks = ['Decay(strength=0.1)', 'Decay(strength=0.1)'], got callbacks = ['",
        ),
        ({"callbacks": ()}, "callbacks = None, got callbacks = ['Decay(strength=0.1)']"),
        ({"snapshot_epochs": [2]}, "snapshot_epochs = [2], got snapshot_epochs = [1, 2]"),
        ({"snapshot_epochs": ()}, "snapshot_epochs = None, got snapshot_epochs = [1, 2]"),
    ],
)
def test_the_checkpoint_of_other_callbacks_or_epochs_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    arguments: dict = {"callbacks": [Decay(0.1)], "snapshot_epochs": [1, 2], "checkpoint": tmp_path}
    fit(members(2), **arguments)
    with pytest.raises(ArtefactError) as error:
        fit(members(2), **(arguments | changes))
    start = f"{tmp_path / FILE} must be the resume state of this run, with "
    assert str(error.value).startswith(start + message)


def test_a_checkpoint_without_callbacks_and_snapshots_is_that_of_older_versions(tmp_path: Path) -> None:
    fit(members(1), checkpoint=tmp_path)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        identity = json.loads(file.metadata()["identity"])
    known = {"random_state", "steps", "members", "data", "networks"}
    assert set(identity) == known | {entry.name for entry in dataclasses.fields(Training)} - {"schedule"}  # constant


def test_a_checkpoint_that_lacks_a_snapshot_is_damaged(tmp_path: Path) -> None:
    fit(members(2), snapshot_epochs=[1], checkpoint=tmp_path)
    tensors = load_file(tmp_path / FILE)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        metadata = file.metadata()
    del tensors["snapshot/1/1/readout.bias"]
    save_file({name: value.clone() for name, value in tensors.items()}, tmp_path / FILE, metadata=metadata)
    with pytest.raises(
        ArtefactError, match="must be a complete resume state, got KeyError: 'snapshot/1/1/readout.bias'"
    ):
        fit(members(2), snapshot_epochs=[1], checkpoint=tmp_path)


class Nameless(Callback):
    """Its repr has an address."""


@dataclass(frozen=True)
class Long(Callback):
    values: Tensor


@pytest.mark.parametrize("callback", [Nameless(), Long(torch.zeros(2000))])
def test_a_callback_that_cannot_be_told_from_others_needs_a_run_without_a_checkpoint(
    tmp_path: Path, callback: Callback
) -> None:
    fit(members(1), [callback], max_steps=1)
    with pytest.raises(InputError) as error:
        fit(members(1), [Decay(0.1), callback], checkpoint=tmp_path / "new")
    assert str(error.value) == (
        "callbacks[1] must have a repr with all settings, without an address or an ellipsis, for a run that can be "
        f"resumed, got {callback!r}\n  cure: make the callback a dataclass, or give it a __repr__"
    )
    assert not (tmp_path / "new").exists()


# --- refusals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong(Callback):
    term: Callable[[Tensor], object]

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Any:
        return self.term(module_parameters["readout.weight"])


PENALTY = "Wrong.penalty of member 0 must"


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Decay, "callbacks[0] must be an instance of a subclass of Callback, got <class 'test_callbacks.Decay'>"),
        (lambda member, parameters: None, "callbacks[0] must be an instance of a subclass of Callback, got <function "),
        (Wrong(lambda weight: 0.5), f"{PENALTY} return a tensor () of floats, or None, got float"),
        (Wrong(lambda weight: weight.sum(1)), f"{PENALTY} return a tensor () of floats, or None, got float64 (3,)"),
        (Wrong(lambda weight: (weight > 0).sum()), f"{PENALTY} return a tensor () of floats, or None, got int64 ()"),
        (
            Wrong(lambda weight: weight.detach().sum()),
            f"{PENALTY} depend on the parameters, got a tensor without a grad",
        ),
    ],
)
def test_what_is_no_callback_is_refused_before_any_work(callback: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        fit(members(2), [callback], progress=lambda *done: pytest.fail("work was done"))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("epochs", [[-1, 1], [4], [2, 1], [1, 1], [1.0], [True], ["1"], 2])
def test_epochs_out_of_range_or_order_are_refused_before_any_work(epochs: Any) -> None:
    message = f" must be ascending ints from 0 to 3, each once, got {epochs}"
    with pytest.raises(InputError) as error:
        fit(members(2), snapshot_epochs=epochs, progress=lambda *done: pytest.fail("work was done"))
    assert str(error.value) == "snapshot_epochs" + message
    with pytest.raises(InputError) as error:
        train_population(random_mlp([4]), images(), 2, training=Training(epochs=3), checkpoint_epochs=epochs)
    assert str(error.value) == "checkpoint_epochs" + message


# --- snapshots -------------------------------------------------------------------------------------------------------


def images() -> Dataset:
    x, y = make_images()
    return Dataset(x, y, torch.arange(len(y)))


def train(net: Any, epochs: int = 3, n_members: int = 3, **more: Any) -> Population:
    training = Training(epochs=epochs, batch_size=16, learning_rate=0.01)
    return train_population(net, images(), n_members, training=training, random_state=4, **more)


def same_members(a: Population, b: Population) -> bool:
    return len(a) == len(b) and all(
        same_state(mine.module.state_dict(), theirs.module.state_dict()) for mine, theirs in zip(a, b, strict=True)
    )


NETS: dict[str, Any] = {
    "flat": nn.Sequential(nn.Flatten(), nn.Linear(128, 5), nn.ReLU(), nn.Linear(5, 3)),
    "batch norm and dropout": ConvNet(2, (4,), 3, batch_norm=True, dropout=0.2),
    "two widths": [ConvNet(2, (4,), 3), ConvNet(2, (5,), 3)],
}


@pytest.mark.parametrize("name", ["batch norm and dropout", "two widths"])
def test_a_snapshot_is_what_a_shorter_run_gives(name: str) -> None:
    net = NETS[name]
    population = train(net, checkpoint_epochs=[1, 3], callbacks=[Decay(0.1)])
    without = train(net, callbacks=[Decay(0.1)])
    assert same_members(population, without)
    assert list(population.snapshots) == [1, 3]
    for epoch, snapshot in population.snapshots.items():
        alone = train(net, epochs=epoch, callbacks=[Decay(0.1)]) if epoch < 3 else without
        assert same_members(snapshot, alone)
        assert same_members(snapshot, population) == (epoch == 3)
        assert snapshot.metrics == alone.metrics
        assert snapshot.provenance == {**population.provenance, "epoch": epoch}
        assert snapshot.snapshots == {}
        assert snapshot.example_input is population.example_input
        assert snapshot.architecture.program is population.architecture.program  # not traced again
        hidden = snapshot.architecture.hidden[0].name
        assert snapshot.widths(hidden) == population.widths(hidden)
    assert population.provenance["callbacks"] == ["Decay(strength=0.1)"]
    assert "callbacks" not in train(NETS["flat"], epochs=1, n_members=2).provenance


def test_a_callback_without_a_repr_is_named_by_its_class() -> None:
    population = train(NETS["flat"], epochs=1, n_members=1, callbacks=[Nameless()])
    assert population.provenance["callbacks"] == ["Nameless"]


def test_fit_members_keeps_states_as_they_were() -> None:
    modules = members(2)
    trained = fit(modules, snapshot_epochs=[1, 3])
    assert all(map(same_state, trained.snapshots[3], trained.states))
    assert all(map(same_state, trained.snapshots[1], fit(modules, max_steps=6).states))
    assert fit(modules).snapshots == {}
    cut = fit(modules, max_steps=8, snapshot_epochs=[2])  # an epoch that is cut short
    assert all(map(same_state, cut.snapshots[2], cut.states))


def test_a_member_that_fails_is_in_no_snapshot() -> None:
    population = train(NETS["two widths"], n_members=4, callbacks=[Poisoned(1, 4)], checkpoint_epochs=[1, 2])
    assert population.failed == {1: "penalty not finite at epoch 2, step 2"}
    healthy = train(NETS["two widths"], n_members=4, checkpoint_epochs=[1, 2], callbacks=[Poisoned(9, 4)])
    for epoch, snapshot in population.snapshots.items():
        assert len(snapshot) == 3
        assert snapshot.failed == population.failed
        kept = [member for k, member in enumerate(healthy.snapshots[epoch]) if k != 1]
        assert same_members(snapshot, dataclasses.replace(snapshot, members=tuple(kept)))


def test_snapshots_are_saved_and_loaded(tmp_path: Path) -> None:
    population = train(NETS["batch norm and dropout"], checkpoint_epochs=[1, 3], callbacks=[Poisoned(1, 4)])
    population.save(tmp_path / "a")
    loaded = Population.load(tmp_path / "a")
    assert same_members(loaded, population)
    assert list(loaded.snapshots) == [1, 3]
    for epoch, snapshot in loaded.snapshots.items():
        assert same_members(snapshot, population.snapshots[epoch])
        assert list(snapshot.metrics) == list(population.snapshots[epoch].metrics)
        assert snapshot.failed == population.failed
        assert snapshot.provenance["epoch"] == epoch
        assert snapshot.architecture.program is loaded.architecture.program
    loaded.save(tmp_path / "b")
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    loaded.snapshots[1].save(tmp_path / "c")
    assert same_members(Population.load(tmp_path / "c"), population.snapshots[1])


def test_snapshots_of_ones_own_class_are_loaded_with_a_module(tmp_path: Path) -> None:
    population = train(NETS["flat"], checkpoint_epochs=[2])
    population.save(tmp_path / "p")
    loaded = Population.load(tmp_path / "p", copy.deepcopy(NETS["flat"]))
    assert same_members(loaded.snapshots[2], population.snapshots[2])


def test_a_population_without_snapshots_is_saved_as_before(tmp_path: Path) -> None:
    config = json.loads((random_population([[5]]).save(tmp_path / "p") / "config.json").read_text())
    assert set(config) == {"members", "failed", "provenance", "proved", "task", "output", *HEADER}


def test_an_interrupted_population_still_has_its_early_snapshots(tmp_path: Path) -> None:
    net, arguments = NETS["flat"], {"checkpoint_epochs": [1, 3], "callbacks": [Decay(0.1)]}
    undisturbed = train(net, **arguments)
    create = "consilience.training.blocks.fit_block"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, lambda *a, **k: fit_block(*a, **k, checkpoint_every=0))
        with pytest.raises(KeyboardInterrupt):
            train(net, **arguments, checkpoint=tmp_path, progress=interrupt_at(6))  # after the second epoch
    calls: list[int] = []
    resumed = train(net, **arguments, checkpoint=tmp_path, progress=lambda done, total: calls.append(done))
    assert calls == [9]
    assert same_members(resumed, undisturbed)
    for epoch in (1, 3):
        assert same_members(resumed.snapshots[epoch], undisturbed.snapshots[epoch])


def test_further_members_leave_snapshots_behind() -> None:
    population = random_population([[4], [5]]).with_snapshot(1, [random_mlp([4]), random_mlp([5])])
    assert list(population.snapshots) == [1]
    assert population.with_members([random_mlp([4])]).snapshots == {}
    assert list(population.snapshots) == [1]


def test_snapshots_are_in_the_order_of_training_and_the_last_one_given_counts() -> None:
    nets = [random_mlp([4], seed=seed) for seed in range(3)]
    population = Population.from_modules([nets[0]], inputs(8), metrics=[{"epoch": e} for e in (1, 2, 3, 4)])
    population = population.with_snapshot(3, [nets[0]]).with_snapshot(2, [nets[1]]).with_snapshot(3, [nets[2]])
    assert list(population.snapshots) == [2, 3]
    assert torch.equal(population.snapshots[3].logits(inputs(8))[0], nets[2](inputs(8)))
    assert list(population.snapshots[2].metrics) == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize(
    ("epoch", "modules", "message"),
    [
        (-1, [random_mlp([4]), random_mlp([5])], "epoch must be an int >= 0, got -1"),
        (1, [random_mlp([4])], "modules must be 2, each with tensors of its member's shapes, got 1 modules"),
        (
            1,
            [random_mlp([4]), random_mlp([4])],
            "modules must be 2, each with tensors of its member's shapes, got other",
        ),
        (1, [random_mlp([4]), None], "member 1 must be an nn.Module, got NoneType"),
        (1, [random_mlp([4], "tanh"), random_mlp([5])], "member 0 must have the activations of member 0, "),
    ],
)
def test_a_snapshot_of_something_else_is_refused(epoch: int, modules: list, message: str) -> None:
    with pytest.raises(InputError) as error:
        random_population([[4], [5]]).with_snapshot(epoch, modules)
    assert str(error.value).startswith(message)


def test_a_member_of_a_snapshot_that_is_refused_is_counted_as_in_the_snapshot() -> None:
    population, bad = random_population([[4], [5]]), random_mlp([5])
    nn.init.constant_(bad.readout.bias, math.nan)
    with pytest.raises(InputError, match=r"'readout.bias' of member 1 must be finite"):
        population.with_snapshot(1, [random_mlp([4]), bad])
