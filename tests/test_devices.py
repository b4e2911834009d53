"""Another device: what runs there gets no CPU tensors, and gives what the CPU gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import consilience as cs
from conftest import random_population
from consilience.assembly.distillation import Distillation, distill
from consilience.assembly.gauss_newton import gauss_newton
from consilience.devices import current_device, precise_device
from consilience.errors import InputError
from consilience.recovery import fit
from consilience.signals.responses import Responses
from second_device import Elsewhere, second_device

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A second device is in use."""
    adam = sys.modules["torch.optim.adam"]  # it asks for the name of a device that has a fused step
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    with second_device():
        yield


@pytest.mark.usefixtures("there")
def test_a_tensor_that_stayed_on_the_cpu_is_found() -> None:
    moved = X.to("meta")
    assert isinstance(moved * 2 + 1, Elsewhere)
    assert torch.equal((moved @ moved.T).cpu(), X @ X.T)
    with pytest.raises(
        RuntimeError, match=r"must get tensors on one device, got some of shapes \[\(40, 6\)\] on the CPU"
    ):
        moved + X


@pytest.mark.usefixtures("there")
def test_members_are_trained_there() -> None:
    net = nn.Sequential(cs.MLP(6, [4], 2), nn.BatchNorm1d(2), nn.Dropout(0.0))
    data, training = cs.Dataset(X, Y, torch.arange(40)), cs.Training(epochs=2, batch_size=16)
    here = cs.train_population(net, data, 2, training=training, validation=data, checkpoint_epochs=[1])
    with cs.device("meta"):
        other = cs.train_population(net, data, 2, training=training, validation=data, checkpoint_epochs=[1])
    assert other.fingerprint == here.fingerprint
    assert other.snapshots[1].fingerprint == here.snapshots[1].fingerprint


@pytest.mark.usefixtures("there")
def test_responses_are_computed_there() -> None:
    net = nn.Sequential(cs.ConvNet(1, [4, 3], 2, batch_norm=True), nn.Flatten())
    population, x = cs.Population.from_modules([net], torch.randn(2, 1, 6, 6)), torch.randn(9, 1, 6, 6)
    layer = population.architecture.free[0].name
    here = Responses(population.networks, x).read(layer)[0]
    with cs.device("meta"):
        other = Responses(population.networks, x).read(layer)[0]
    assert not isinstance(other, Elsewhere)
    assert torch.equal(other, here)


@pytest.mark.usefixtures("there")
def test_networks_are_distilled_there() -> None:
    population, options = random_population([[5], [4]]), Distillation(steps=6)
    student, teacher = (member.network for member in population.members)
    arguments = population.members[0].module, student.architecture, X, teacher
    here = distill(*arguments, options=options)
    with cs.device("meta"):
        other = distill(*arguments, options=options)
    assert not any(isinstance(value, Elsewhere) for value in other.state_dict().values())
    assert all(torch.equal(value, here.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("convolutional", [False, True])
def test_second_order_steps_are_taken_there(convolutional: bool) -> None:
    net: nn.Module = cs.MLP(6, [5, 4], 2)
    if convolutional:
        layers = (nn.Conv1d(1, 3, 3, dilation=2, bias=False), nn.BatchNorm1d(3), nn.ReLU(), nn.Conv1d(3, 4, 2))
        net = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    x = X[:, None] if convolutional else X
    network = cs.Population.from_modules([net], x[:2]).members[0].network
    reference = 3 * network(x).flip(1).tanh()
    here = gauss_newton(network, x, reference, "regression")
    with cs.device("meta"):
        other = gauss_newton(network, x, reference, "regression")
    assert any(not torch.equal(value, network.state[name]) for name, value in here.state.items())
    assert not any(isinstance(value, Elsewhere) for value in other.state.values())
    assert all(torch.equal(value, here.state[name]) for name, value in other.state.items())


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("method", fit.METHODS)
def test_students_are_fitted_there(method: str) -> None:
    students, y = [cs.MLP(6, [3], 1) for _ in range(2)], X[:, :1].tanh()
    here = fit.fit_precisely(students, X, y, method=method, max_iterations=1, warm_up=2)
    with cs.device("meta"):
        other = fit.fit_precisely(students, X, y, method=method, max_iterations=1, warm_up=2)
    assert torch.equal(other.losses, here.losses)
    assert not any(isinstance(value, Elsewhere) for value in other.modules[0].parameters())


def test_what_needs_float64_stays_on_the_cpu_where_a_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consilience.devices.open_device", torch.device)
    for name, precise in (("cuda:1", "cuda:1"), ("mps", "cpu")):
        with cs.device(name):
            assert (current_device(), precise_device()) == (name, precise)


def test_a_device_that_does_not_exist_is_one_error() -> None:
    with pytest.raises(InputError, match="device must be one that torch can use, got 'meta'"), cs.device("meta"):
        pass
    with pytest.raises(InputError, match="device must be cpu, cuda, cuda:N or mps, got 'cuda:x'"), cs.device("cuda:x"):
        pass
    assert current_device() == "cpu"
