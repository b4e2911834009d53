"""A plain convolutional network: 3×3 convolutions with pooling between them, then the mean over positions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from consilience.nets.activations import ACTIVATIONS
from consilience.nets.net import Net, check_config, of_type


@dataclass(frozen=True)
class ConvNetConfig:
    """The arguments of a `ConvNet`; what `config.json` of a saved network holds."""

    n_channels: int
    widths: tuple[int, ...]
    n_outputs: int
    activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_config(self)


class ConvNet(Net):
    """Convolutions ``hidden.0``, ``hidden.1``, … with norms ``norms.0``, ``norms.1``, …, then ``readout``.

    Each 3×3 convolution with padding 1 is followed by its norm, the activation and 2×2 max pooling, which is left out
    once a map is one pixel wide or high. The readout reads each channel's mean over positions.

    Parameters
    ----------
    n_channels : channels of the inputs (n, n_channels, h, w), of any height and width.
    widths : channels of each convolution, at least one.
    n_outputs : outputs (classes).
    activation : one of `ACTIVATIONS`.
    batch_norm : whether the norms are batch norms; the convolutions then have no biases. Otherwise norms do nothing.
    dropout : probability of dropping a channel's mean before the readout while training.

    Examples
    --------
    >>> import torch
    >>> net = ConvNet(3, [16, 32], 10, batch_norm=True)
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    >>> net.config
    ConvNetConfig(n_channels=3, widths=(16, 32), n_outputs=10, activation='relu', batch_norm=True, dropout=0.0)
    """

    Config = ConvNetConfig

    def build(self, config: ConvNetConfig) -> None:
        """Make the layers."""
        sizes, normed = (config.n_channels, *config.widths), config.batch_norm
        self.hidden = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=not normed) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if normed else nn.Identity() for width in config.widths)
        self.dropout = nn.Dropout(config.dropout)
        self.readout = nn.Linear(sizes[-1], config.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (n, n_channels, h, w) to outputs (n, n_outputs)."""
        for convolution, norm in zip(self.hidden, self.norms, strict=True):
            x = ACTIVATIONS[self.activation](norm(convolution(x)))
            if min(x.shape[2:]) > 1:
                x = functional.max_pool2d(x, 2)
        means = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        outputs: Tensor = self.readout(self.dropout(means))
        return outputs

    @property
    def config(self) -> ConvNetConfig:
        """The arguments that give a network of these sizes."""
        layers = of_type(self.hidden, nn.Conv2d)
        widths, n_outputs = tuple(layer.out_channels for layer in layers), self.readout.out_features
        normed = isinstance(self.norms[0], nn.BatchNorm2d)
        return ConvNetConfig(layers[0].in_channels, widths, n_outputs, self.activation, normed, self.dropout.p)
