"""The multilayer perceptron: flatten, then linear layers with one elementwise activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS, check_activation


@dataclass(frozen=True)
class MLPConfig:
    """Everything needed to build an `MLP`; what `config.json` of a saved network holds."""

    n_inputs: int
    widths: tuple[int, ...]
    n_outputs: int
    activation: str = "relu"
    bias: bool = True
    dropout: float = 0.0


class MLP(nn.Module):
    """Linear layers ``hidden.0``, ``hidden.1``, …, then ``readout``.

    Parameters
    ----------
    n_inputs : features of one sample; inputs (n, ...) are flattened to (n, n_inputs).
    widths : units of each hidden layer, at least one layer.
    n_outputs : outputs (classes).
    activation : one of `ACTIVATIONS`.
    bias : whether the linear layers have biases.
    dropout : probability of dropping a hidden unit while training.

    Raises
    ------
    InputError
        If a size is not positive or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> net = MLP(64, [32, 16], 10)
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> net.config.widths
    (32, 16)
    """

    def __init__(
        self,
        n_inputs: int,
        widths: Sequence[int],
        n_outputs: int,
        activation: str = "relu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [n_inputs, *widths, n_outputs]
        if not widths or min(sizes) < 1:
            raise InputError(
                "an MLP needs positive sizes and at least one hidden layer",
                where="MLP",
                got=f"n_inputs={n_inputs}, widths={list(widths)}, n_outputs={n_outputs}",
                cure="e.g. MLP(64, [32, 32], 10)",
            )
        check_activation(activation, "MLP")
        self.activation = activation
        self.hidden = nn.ModuleList(nn.Linear(i, o, bias=bias) for i, o in pairwise(sizes[:-1]))
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(sizes[-2], n_outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (n, ...) to outputs (n, n_outputs)."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.dropout(ACTIVATIONS[self.activation](layer(x)))
        outputs: Tensor = self.readout(x)
        return outputs

    @property
    def config(self) -> MLPConfig:
        """The sizes as they are now: read from the layers, so that a resized network tells its new widths."""
        layers = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        return MLPConfig(
            n_inputs=layers[0].in_features,
            widths=tuple(layer.out_features for layer in layers),
            n_outputs=self.readout.out_features,
            activation=self.activation,
            bias=self.readout.bias is not None,
            dropout=self.dropout.p,
        )
