"""LSTM, GRU and RNN: hidden units with tied gates; full width is the ensemble, and copies are torch's modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from consilience.errors import TracingError
from consilience.population import Population
from consilience.units import recurrence

X = torch.randn(60, 3, 4, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(9, (60, 3), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A recurrence over sequences (n, steps, 4), and a readout of what ``function`` takes of it."""

    def __init__(
        self, function: Callable, width: int, kind: type[nn.RNNBase], factor: int = 1, **options: object
    ) -> None:
        super().__init__()
        self.function, self.words = function, nn.Embedding(9, 4)
        self.rnn = kind(4, width, **options)
        self.out = nn.Linear(factor * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, x))


def last(m: Net, x: Tensor) -> Tensor:
    return m.rnn(x)[0][:, -1]


def first_step(m: Net, x: Tensor) -> Tensor:
    return m.rnn(x.transpose(0, 1))[0][-1]


def state(m: Net, x: Tensor) -> Tensor:
    states = m.rnn(x)[1]
    return (states[0] if isinstance(states, tuple) else states)[-1]


def both_ends(m: Net, x: Tensor) -> Tensor:
    states = m.rnn(x)[1]
    states = states[0] if isinstance(states, tuple) else states
    return torch.cat([states[-2], states[-1]], 1)


BATCH = {"batch_first": True}
# name → what is read of the recurrence, hidden units read for each, options, inputs
NETWORKS: dict[str, tuple[Callable, int, dict[str, object], Tensor]] = {
    "last output": (last, 1, BATCH, X),
    "mean of the outputs": (lambda m, x: m.rnn(x)[0].mean(1), 1, BATCH, X),
    "last state": (state, 1, BATCH, X),
    "steps first": (first_step, 1, {}, X),
    "two layers": (state, 1, {**BATCH, "num_layers": 2, "dropout": 0.3}, X),
    "two directions": (both_ends, 2, {**BATCH, "bidirectional": True}, X),
    "without biases": (last, 1, {**BATCH, "bias": False}, X),
    "after an embedding": (lambda m, x: last(m, m.words(x)), 1, BATCH, WORDS),
}


def members(name: str, kind: type[nn.RNNBase], widths: tuple[int, ...] = (5, 7, 5)) -> tuple[list[nn.Module], Tensor]:
    function, factor, options, x = NETWORKS[name]
    return [Net(function, width, kind, factor, **options).eval() for width in widths], x


@pytest.mark.parametrize("kind", [nn.LSTM, pytest.param(nn.GRU, marks=pytest.mark.numerical), nn.RNN])
@pytest.mark.parametrize("name", NETWORKS)
def test_full_width_is_the_ensemble(name: str, kind: type[nn.RNNBase]) -> None:
    nets, x = members(name, kind)
    population = Population.from_modules(nets, x[:16], task="regression")
    (hidden,) = {layer.width for layer in population.architecture.hidden if layer.name.startswith("rnn")}
    assert hidden == 5
    with torch.no_grad():
        expected = torch.stack([net(x) for net in nets]).mean(0)
    assembler = cs.Assembler(cs.Census(n_resamples=0).fit(population, x))
    full = assembler.assemble("full")
    assert isinstance(full.rnn, kind)
    assert full.rnn.hidden_size == 17
    with torch.no_grad():
        assert torch.allclose(full(x), expected, atol=1e-5)
    narrow = assembler.assemble("1x", correction="none")
    assert cs.evaluate(narrow, x, population).error < 0.3 * cs.evaluate(narrow, x, population).member_error


def test_an_assembly_loads_into_torchs_own_module_and_runs_for_other_lengths(tmp_path: Path) -> None:
    nets, x = members("last output", nn.LSTM)
    (tmp_path / "runs").mkdir()
    for k, net in enumerate(nets):
        torch.save(net.state_dict(), tmp_path / "runs" / f"{k}.pt")
    population = Population.from_directory(tmp_path / "runs", members("last output", nn.LSTM, (3,))[0][0], x[:16])
    net = cs.assemble(cs.Census(n_resamples=0).fit(population, x), "2x")
    plain = Net(last, 10, nn.LSTM, **BATCH)
    plain.load_state_dict(net.state_dict())
    longer = torch.randn(3, 20, 4)
    assert type(plain.rnn) is nn.LSTM
    with torch.no_grad():
        assert torch.allclose(plain.eval()(longer), net(longer), atol=1e-6)


def test_a_recurrence_that_begins_elsewhere_is_refused() -> None:
    def begun(m: Net, x: Tensor) -> Tensor:
        return m.rnn(x, (torch.zeros(1, len(x), 5),) * 2)[0][:, -1]

    with pytest.raises(TracingError, match="LSTM must take one tensor, and begin from zeros"):
        Population.from_modules([Net(begun, 5, nn.LSTM, **BATCH)], X[:16])


def test_long_sequences_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "MOST_STEPS", 2)
    with pytest.raises(TracingError, match="LSTM must run for at most 2 steps to be traced, got 3"):
        Population.from_modules(members("last output", nn.LSTM)[0], X[:16])
