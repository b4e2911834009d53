"""The residual network for small images of He et al. (2016), section 4.2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS
from consilience.nets.net import Net, check_config, check_widths, of_type


@dataclass(frozen=True)
class ResNetConfig:
    """The arguments of a `ResNet`; what `config.json` of a saved network holds."""

    n_channels: int
    widths: tuple[int, ...] = (16, 32, 64)
    n_outputs: int = 10
    blocks_per_stage: int = 1
    activation: str = "relu"
    batch_norm: bool = True
    inner_widths: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        check_config(self)
        inner = self.inner_widths
        if inner is None:
            inner = tuple((width,) * self.blocks_per_stage for width in self.widths)
        object.__setattr__(self, "inner_widths", tuple(map(tuple, inner)))
        for widths in inner:
            check_widths("inner_widths of a stage", widths)
        if [len(widths) for widths in inner] != [self.blocks_per_stage] * len(self.widths):
            wanted = f"{len(self.widths)} stages of {self.blocks_per_stage} widths each"
            cure = "leave it out; the blocks are then as wide inside as their stream"
            raise InputError(f"inner_widths must be {wanted}, got {inner}", cure=cure)


class Block(nn.Module):
    """``f(norm2(conv2(f(norm1(conv1(x))))) + shortcut(x))`` with the activation f.

    ``inner`` are the channels between the two convolutions. With a stride, ``conv1`` and a 1×1 convolution as shortcut
    have it; else the shortcut is the identity, and ``n_inputs`` must be ``width``. Without norms there are biases.
    """

    def __init__(self, n_inputs: int, inner: int, width: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, inner, 3, stride, padding=1, bias=not batch_norm)
        self.norm1 = _norm(inner, batch_norm)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=not batch_norm)
        self.norm2 = _norm(width, batch_norm)
        project = stride > 1
        self.shortcut = nn.Conv2d(n_inputs, width, 1, stride, bias=not batch_norm) if project else nn.Identity()
        self.shortcut_norm = _norm(width, batch_norm and project)

    def forward(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Map a stream (n, n_inputs, h, w) to (n, width, h', w')."""
        inner = activation(self.norm1(self.conv1(x)))
        return activation(self.norm2(self.conv2(inner)) + self.shortcut_norm(self.shortcut(x)))


class ResNet(Net):
    """``stem``, then stages of blocks ``stages.0.0``, ``stages.0.1``, …, ``stages.1.0``, …, then ``readout``.

    The stem is a 3×3 convolution, ``stem_norm`` and the activation. All blocks of a stage write into one residual
    stream; the first block of every stage but the first halves height and width and projects the stream of the stage
    before with a 1×1 convolution. The readout reads each channel's mean over positions.

    Parameters
    ----------
    n_channels : channels of the inputs (n, n_channels, h, w), of any height and width.
    widths : channels of each stage's residual stream.
    n_outputs : outputs (classes).
    blocks_per_stage : b; with three stages it is the ResNet-(6b + 2): 1 gives ResNet-8, 2 gives ResNet-14.
    activation : one of `ACTIVATIONS`.
    batch_norm : whether every convolution is followed by a batch norm, and has no bias. Otherwise norms do nothing.
    inner_widths : for each stage, channels between the two convolutions of each block; by default, the stream's.

    References
    ----------
    He, Zhang, Ren and Sun (2016), Deep residual learning for image recognition, CVPR; option B for the shortcuts.

    Examples
    --------
    >>> import torch
    >>> net = ResNet(3, (8, 16), 10, inner_widths=((6,), (12,)))
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    >>> net.config.widths, net.config.inner_widths
    ((8, 16), ((6,), (12,)))
    """

    Config = ResNetConfig

    def build(self, config: ResNetConfig) -> None:
        """Make the layers."""
        assert config.inner_widths is not None
        below, normed = config.widths[0], config.batch_norm
        self.stem = nn.Conv2d(config.n_channels, below, 3, padding=1, bias=not normed)
        self.stem_norm = _norm(below, normed)
        self.stages = nn.ModuleList()
        for number, (width, inner) in enumerate(zip(config.widths, config.inner_widths, strict=True)):
            first = Block(below, inner[0], width, 2 if number else 1, normed)
            self.stages.append(nn.ModuleList([first, *(Block(width, i, width, 1, normed) for i in inner[1:])]))
            below = width
        self.readout = nn.Linear(below, config.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (n, n_channels, h, w) to outputs (n, n_outputs)."""
        activation = ACTIVATIONS[self.activation]
        x = activation(self.stem_norm(self.stem(x)))
        for stage in self._blocks:
            for block in stage:
                x = block(x, activation)
        outputs: Tensor = self.readout(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return outputs

    @property
    def config(self) -> ResNetConfig:
        """The arguments that give a network of these sizes."""
        return ResNetConfig(
            n_channels=self.stem.in_channels,
            widths=tuple(blocks[-1].conv2.out_channels for blocks in self._blocks),
            n_outputs=self.readout.out_features,
            blocks_per_stage=len(self._blocks[0]),
            activation=self.activation,
            batch_norm=isinstance(self.stem_norm, nn.BatchNorm2d),
            inner_widths=tuple(tuple(block.conv1.out_channels for block in blocks) for blocks in self._blocks),
        )

    @property
    def _blocks(self) -> list[list[Block]]:
        return [of_type(stage, Block) for stage in of_type(self.stages, nn.ModuleList)]


def _norm(width: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(width) if batch_norm else nn.Identity()
