"""The multilayer perceptron: flatten, then linear layers with one elementwise activation between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from consilience.nets.activations import ACTIVATIONS
from consilience.nets.net import Net, check_config, of_type


@dataclass(frozen=True)
class MLPConfig:
    """The arguments of an `MLP`; what `config.json` of a saved network holds."""

    n_inputs: int
    widths: tuple[int, ...]
    n_outputs: int
    activation: str = "relu"
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_config(self)


class MLP(Net):
    """Linear layers ``hidden.0``, ``hidden.1``, …, then ``readout``.

    Parameters
    ----------
    n_inputs : features of one sample; inputs (n, ...) are flattened to (n, n_inputs).
    widths : units of each hidden layer, at least one layer.
    n_outputs : outputs (classes).
    activation : one of `ACTIVATIONS`.
    bias : whether the linear layers have biases.
    dropout : probability of dropping a hidden unit while training.

    Examples
    --------
    >>> import torch
    >>> net = MLP(64, [32, 16], 10)
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> net.config.widths
    (32, 16)
    """

    Config = MLPConfig

    def build(self, config: MLPConfig) -> None:
        """Make the layers."""
        sizes = (config.n_inputs, *config.widths)
        self.hidden = nn.ModuleList(nn.Linear(i, o, bias=config.bias) for i, o in pairwise(sizes))
        self.dropout = nn.Dropout(config.dropout)
        self.readout = nn.Linear(sizes[-1], config.n_outputs, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (n, ...) to outputs (n, n_outputs)."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.dropout(ACTIVATIONS[self.activation](layer(x)))
        outputs: Tensor = self.readout(x)
        return outputs

    @property
    def config(self) -> MLPConfig:
        """The arguments that give a network of these sizes."""
        layers = of_type(self.hidden, nn.Linear)
        widths, n_outputs = tuple(layer.out_features for layer in layers), self.readout.out_features
        bias = self.readout.bias is not None
        return MLPConfig(layers[0].in_features, widths, n_outputs, self.activation, bias, self.dropout.p)
