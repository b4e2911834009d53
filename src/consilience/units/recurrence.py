"""LSTM, GRU and RNN as operations on units: while a module is traced, they are unrolled.

Their units are hidden units. Each gate is a layer, and the gates of a hidden unit are tied. Outside of tracing, torch's
own forward pass runs, so that the proof compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import TracingError

MOST_STEPS = 256  # that are unrolled
Step = Callable[[list[Tensor], list[Tensor], list[Tensor]], list[Tensor]]
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LSTM(nn.LSTM):
    """An `nn.LSTM` that can be traced."""

    def forward(self, x: Any, state: Any = None) -> Any:
        """Return the outputs, and the last states."""
        if not torch.compiler.is_exporting():
            return super().forward(x, state)
        outputs, states = _unrolled(self, x, state, 4, _lstm)
        return outputs, tuple(_last(own) for own in zip(*states, strict=True))


class GRU(nn.GRU):
    """An `nn.GRU` that can be traced."""

    def forward(self, x: Any, state: Any = None) -> Any:
        """Return the outputs, and the last states."""
        if not torch.compiler.is_exporting():
            return super().forward(x, state)
        outputs, states = _unrolled(self, x, state, 3, _gru)
        return outputs, _last([own[0] for own in states])


class RNN(nn.RNN):
    """An `nn.RNN` that can be traced."""

    def forward(self, x: Any, state: Any = None) -> Any:
        """Return the outputs, and the last states."""
        if not torch.compiler.is_exporting():
            return super().forward(x, state)
        outputs, states = _unrolled(self, x, state, 1, _tanh if self.nonlinearity == "tanh" else _relu)
        return outputs, _last([own[0] for own in states])


TRACEABLE: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}


def _lstm(read: list[Tensor], recurrent: list[Tensor], state: list[Tensor]) -> list[Tensor]:
    """i, f, g, o: ``c ← σ(f) c + σ(i) tanh(g)``, ``h = σ(o) tanh(c)``."""
    i, f, g, o = (a + b for a, b in zip(read, recurrent, strict=True))
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(cell), cell]


def _gru(read: list[Tensor], recurrent: list[Tensor], state: list[Tensor]) -> list[Tensor]:
    """r, z, n: ``h ← (1 − σ(z)) tanh(n + σ(r) n') + σ(z) h``."""
    r, z = (torch.sigmoid(a + b) for a, b in zip(read[:2], recurrent[:2], strict=True))
    n = torch.tanh(read[2] + r * recurrent[2])
    return [n * (1 - z) + state[0] * z]


def _tanh(read: list[Tensor], recurrent: list[Tensor], state: list[Tensor]) -> list[Tensor]:
    return [torch.tanh(read[0] + recurrent[0])]


def _relu(read: list[Tensor], recurrent: list[Tensor], state: list[Tensor]) -> list[Tensor]:
    return [torch.relu(read[0] + recurrent[0])]


def _unrolled(part: nn.RNNBase, x: Tensor, state: Any, gates: int, step: Step) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the outputs at all steps, and the last states of each layer and direction."""
    kind = type(part).__name__
    if state is not None or part.proj_size or not isinstance(x, Tensor) or x.dim() != 3:
        raise TracingError(f"{kind} must take one tensor, and begin from zeros, without proj_size, got another use")
    x = x if part.batch_first else x.transpose(0, 1)
    if x.shape[1] > MOST_STEPS:
        cure = "prove it on shorter sequences: its weights are the same for all"
        raise TracingError(f"{kind} must run for at most {MOST_STEPS} steps to be traced, got {x.shape[1]}", cure=cure)
    outputs, last = list[Tensor](), list[list[Tensor]]()
    for layer in range(part.num_layers):
        x = torch.stack(outputs, 1) if outputs else x
        directions = list[list[Tensor]]()
        for suffix in ("", "_reverse")[: 1 + part.bidirectional]:
            weights = [getattr(part, f"{name}_l{layer}{suffix}", None) for name in PARAMETERS]
            states = _states(x, weights, gates, step, backwards=bool(suffix))
            last.append(states[0 if suffix else -1])
            directions.append([own[0] for own in states])
        outputs = directions[0]
        if part.bidirectional:
            outputs = [torch.cat(both, 1) for both in zip(*directions, strict=True)]
    return torch.stack(outputs, 1 if part.batch_first else 0), last


def _states(x: Tensor, weights: list[Any], gates: int, step: Step, *, backwards: bool) -> list[list[Tensor]]:
    """The states at all steps of x (n, steps, d), in their order."""
    into, back, bias, bias_back = weights
    read = _gates(functional.linear(x, into, bias), gates)
    states, steps = dict[int, list[Tensor]](), range(x.shape[1])
    state = list[Tensor]()
    for t in reversed(steps) if backwards else steps:
        now = [gate.select(1, t) for gate in read]
        state = state or [now[-1] * 0.0] * 2  # zeros that index the hidden units
        state = step(now, _gates(functional.linear(state[0], back, bias_back), gates), state)
        states[t] = state
    return [states[t] for t in steps]


def _gates(values: Tensor, gates: int) -> list[Tensor]:
    return [*values.chunk(gates, -1)] if gates > 1 else [values]


def _last(states: Iterable[Tensor]) -> Tensor:
    each = list(states)
    return each[0].unsqueeze(0) if len(each) == 1 else torch.stack(each)
