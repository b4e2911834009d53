"""What several tests share: small data and small populations, made once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from consilience import cli
from consilience.data import Data, load_data
from consilience.nets import MLP
from consilience.population import Population
from consilience.training import Training, train_population
from consilience.units import layers
from consilience.units.same import settings as settings_of

torch.set_num_threads(1)
settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")


class Seeded:
    """Every test, and every example in a docstring, begins with the same random numbers, whatever ran before it."""

    @pytest.fixture(autouse=True)
    def seeded(self) -> None:
        torch.manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Seeded())


def pytest_collection_finish() -> None:
    """Garbage collections need not look through all that was imported, which takes longer than many tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def traced_once() -> Iterator[None]:
    """Keep the programs of perceptrons: tests need a few, thousands of times, and a trace takes longer than most tests.

    The key is what a trace can depend on; networks of any other class are traced each time.
    """
    programs, trace = dict[tuple[object, ...], Any](), layers.trace

    def once(module: nn.Module, x: Tensor, output: Any = None) -> Any:
        if type(module) is not MLP or output is not None or not isinstance(x, Tensor) or not x.isfinite().all():
            return trace(module, x, output)
        parameters = tuple((name, p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters())
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
        key = settings_of(module), parameters, modes, x.shape, x.dtype, x.requires_grad, id(type(module).forward)
        if key not in programs:
            programs[key] = trace(module, x, output)
        return replace(programs[key])  # another program, as after another trace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "trace", once)
        yield


def random_mlp(
    widths: list[int], activation: str = "relu", *, bias: bool = True, seed: int = 0, n_inputs: int = 6
) -> MLP:
    """An untrained MLP with biases away from zero, so that nothing holds by accident."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MLP(n_inputs, widths, 3, activation=activation, bias=bias)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.7)
    return net.eval()


def random_population(
    widths: list[list[int]], activation: str = "relu", *, bias: bool = True, seed: int = 0
) -> Population:
    nets = [random_mlp(w, activation, bias=bias, seed=seed + k) for k, w in enumerate(widths)]
    return Population.from_modules(nets, inputs(8))


def inputs(n: int, seed: int = 99, n_inputs: int = 6) -> Tensor:
    return torch.randn(n, n_inputs, generator=torch.Generator().manual_seed(seed))


def blobs(n: int = 90, n_inputs: int = 6, k: int = 3, spread: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples around k centres, in no order, and which."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randperm(n, generator=generator) % k
    centres = 3 * torch.randn(k, n_inputs, generator=generator)
    return centres[y] + spread * torch.randn(n, n_inputs, generator=generator), y


@pytest.fixture(scope="session")
def digits() -> Data:
    return load_data("digits", random_state=0)


@pytest.fixture(scope="session")
def population(digits: Data) -> Population:
    """Six relu members that know the digits (about 94 %)."""
    training = Training(epochs=12, batch_size=64, learning_rate=3e-3)
    return train_population(MLP(64, [20, 16], 10), digits.train, 6, training=training, random_state=0)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints."""
    cli.main([str(a) for a in arguments])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that is refused says, without a trace of the program."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err
