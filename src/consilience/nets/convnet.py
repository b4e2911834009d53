"""A plain convolutional network: 3×3 convolutions with pooling between them, then the mean over positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS, check_activation


@dataclass(frozen=True)
class ConvNetConfig:
    """Everything needed to build a `ConvNet`; what `config.json` of a saved network holds."""

    n_channels: int
    widths: tuple[int, ...]
    n_outputs: int
    activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0


class ConvNet(nn.Module):
    """Convolutions ``hidden.0``, ``hidden.1``, … with norms ``norms.0``, ``norms.1``, …, then ``readout``.

    Each 3×3 convolution with padding 1 is followed by its norm, the activation and 2×2 max pooling, which is left out
    once a map is one pixel wide or high. The readout sees each channel's mean over positions.

    Parameters
    ----------
    n_channels : channels of the inputs (n, n_channels, h, w), of any height and width.
    widths : channels of each convolution, at least one.
    n_outputs : outputs (classes).
    activation : one of `ACTIVATIONS`.
    batch_norm : whether norms are batch normalisation. The convolutions then have no biases, which it would take away;
        otherwise they have, and norms do nothing.
    dropout : probability of dropping a channel's mean before the readout while training.

    Raises
    ------
    InputError
        If a size is not positive or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> net = ConvNet(3, [16, 32], 10, batch_norm=True)
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    >>> net.config
    ConvNetConfig(n_channels=3, widths=(16, 32), n_outputs=10, activation='relu', batch_norm=True, dropout=0.0)
    """

    def __init__(
        self,
        n_channels: int,
        widths: Sequence[int],
        n_outputs: int,
        activation: str = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [n_channels, *widths]
        if not widths or min(*sizes, n_outputs) < 1:
            raise InputError(
                "a ConvNet needs positive sizes and at least one convolution",
                where="ConvNet",
                got=f"n_channels={n_channels}, widths={list(widths)}, n_outputs={n_outputs}",
                cure="e.g. ConvNet(3, [16, 32], 10)",
            )
        check_activation(activation, "ConvNet")
        self.activation = activation
        self.hidden = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=not batch_norm) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if batch_norm else nn.Identity() for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(sizes[-1], n_outputs)

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
        """The sizes as they are now: read from the layers, so that a resized network tells its new widths."""
        convolutions = [layer for layer in self.hidden if isinstance(layer, nn.Conv2d)]
        return ConvNetConfig(
            n_channels=convolutions[0].in_channels,
            widths=tuple(convolution.out_channels for convolution in convolutions),
            n_outputs=self.readout.out_features,
            activation=self.activation,
            batch_norm=isinstance(self.norms[0], nn.BatchNorm2d),
            dropout=self.dropout.p,
        )
