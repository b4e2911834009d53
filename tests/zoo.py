"""Small versions of well-known networks, and for each its layers as a person reads them off the code.

Choices
- Depths and wiring are the originals', widths are 2 to 9, and axes of one tensor differ in size wherever they may, so
  that one axis taken for another cannot go unnoticed.
- Batch norms have random statistics and scales of either sign: nothing holds because a scale is 1 or a mean 0.
- A layer is told by its name (the first module that writes it, in the order of the forward pass), its width, the
  modules that write it, and the layer whose order of units it shares, if it only shares the order. A batch norm right
  after a convolution is part of it, and no layer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.population import Population

N_SAMPLES = 11  # more than any width


@dataclass(frozen=True)
class Expected:
    """One hidden layer.

    Attributes
    ----------
    name : the first module that writes it.
    width : number of units.
    writers : the modules that write it.
    tied : the layer whose order of units it shares, while its scale is its own; None where the order is its own too.
    """

    name: str
    width: int
    writers: frozenset[str]
    tied: str | None


def layer(name: str, width: int, *others: str, tied: str | None = None) -> Expected:
    """The layer that module ``name``, and perhaps others after it, write."""
    return Expected(name, width, frozenset([name, *others]), tied)


@dataclass(frozen=True)
class Specimen:
    """One network of the zoo.

    Attributes
    ----------
    build : returns the module, with whatever parameters.
    shape : of one sample.
    hidden : its hidden layers.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    hidden: tuple[Expected, ...]

    def module(self, seed: int = 0) -> nn.Module:
        """The network in eval mode, with random parameters."""
        return shaken(self.build(), seed)

    def inputs(self, n: int = N_SAMPLES) -> Tensor:
        """Samples (n, ...)."""
        return torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(99))


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """Fill parameters and running statistics at random, the same way for the same seed, and return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator)

    def between(value: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(value.shape, generator=generator)

    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            role = name.rpartition(".")[2]
            if value.dim() >= 2:
                value.copy_(normal(value) * (2 / value[0].numel()) ** 0.5)
            elif "var" in role:
                value.copy_(between(value, 0.5, 2.0))
            elif "weight" in role:  # the scale of a norm
                value.copy_(between(value, 0.5, 1.5) * normal(value).sign())
            elif value.is_floating_point():
                value.copy_(0.5 * normal(value))
    return module.eval()


def chain(*rows: Sequence[nn.Module]) -> nn.Sequential:
    """Rows of parts, one after the other."""
    return nn.Sequential(*(part for row in rows for part in row))


class Made(nn.Module):
    """Parts by name, and a function that says what to do with them."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# --------------------------------------------------------------------------------------------------- plain convolutions


class LeNet(nn.Module):
    """Convolutions, flattened into linear layers; of the original (LeCun et al. 1998) with tanh and average pooling."""

    def __init__(self, activation: Callable[[], nn.Module], pool: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 5, 3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(5 * 3 * 2, 7), nn.Linear(7, 6), nn.Linear(6, 3)
        self.activation, self.pool = activation(), pool(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.activation(self.conv1(x)))
        x = self.pool(self.activation(self.conv2(x)))
        x = x.view(x.size(0), -1)
        return self.fc3(self.activation(self.fc2(self.activation(self.fc1(x)))))


LENET = (layer("conv1", 4), layer("conv2", 5), layer("fc1", 7), layer("fc2", 6))


class VGG11(nn.Module):
    """VGG 11 with batch norm: all eight convolutions and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        parts, n_inputs = list[nn.Module](), 3
        for width in (4, "pool", 5, "pool", 6, 7, "pool", 8, 9, "pool", 7, 6, "pool"):
            if isinstance(width, int):
                parts += [nn.Conv2d(n_inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                n_inputs = width
            else:
                parts.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*parts)
        self.pool = nn.AdaptiveAvgPool2d((2, 1))
        self.classifier = chain(
            (nn.Linear(6 * 2, 8), nn.ReLU(inplace=True), nn.Dropout()),
            (nn.Linear(8, 5), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(5, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def tanh_convnet() -> nn.Module:
    """Every layer can be flipped; max pooling, which is not odd, comes after relu only."""
    return chain(
        (nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Tanh(), nn.AvgPool2d(2)),
        (nn.Conv2d(5, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Tanh()),
        (nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        (nn.Flatten(), nn.Linear(6 * 2 * 1, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)),
    )


def tanh_and_max_pool() -> nn.Module:
    """Tanh is odd, a maximum is not: no unit may be flipped."""
    return chain(
        (nn.Conv2d(2, 5, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 2), nn.Tanh(), nn.AdaptiveMaxPool2d(1)),
        (nn.Flatten(), nn.Linear(4, 3)),
    )


def sigmoid_and_zero_padding() -> nn.Module:
    """Sigmoid is odd up to a constant, which the next bias takes only where no zeros are padded around it."""
    return chain(
        (
            nn.Conv2d(2, 5, 3),
            nn.Sigmoid(),
            nn.Conv2d(5, 4, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(4, 6, 2),
            nn.Sigmoid(),
        ),
        (nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(6 * 3 * 2, 3)),
    )


def poolings() -> nn.Module:
    return chain(
        (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False)),
        (nn.Conv2d(4, 5, 2), nn.ReLU(), nn.AdaptiveMaxPool2d((5, 4))),
        (nn.Conv2d(5, 6, 2), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(2)),
        (nn.Flatten(), nn.Linear(6 * 2 * 2, 3)),
    )


def dropouts() -> nn.Module:
    return chain(
        (nn.Dropout(0.2), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 5, 3), nn.ELU()),
        (nn.Flatten(), nn.Dropout(), nn.Linear(5 * 4 * 3, 6), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(6, 3)),
    )


def strides() -> nn.Module:
    """Strides, paddings and dilations, equal along the two axes of an image or not."""
    return chain(
        (nn.Conv2d(2, 4, (3, 5), stride=(2, 1), padding=(0, 2)), nn.ReLU()),
        (nn.Conv2d(4, 5, 3, padding="same", dilation=2), nn.ReLU()),
        (nn.Conv2d(5, 6, (2, 3), padding="valid", dilation=(1, 2)), nn.ReLU()),
        (nn.Conv2d(6, 7, 3, stride=2, padding=2, bias=False), nn.ReLU()),
        (nn.Flatten(), nn.Linear(7 * 3 * 4, 3)),
    )


def paddings() -> nn.Module:
    """Every way to pad an image other than with the zeros of a convolution."""
    return chain(
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        (nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"), nn.ReLU()),
        (nn.Conv2d(5, 6, 3, padding=1, padding_mode="replicate"), nn.ReLU(), nn.ZeroPad2d((1, 0, 2, 0))),
        (nn.Conv2d(6, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 8 * 5, 3)),
    )


def norm_after_activation() -> nn.Module:
    """A batch norm that sees activations, or pooled ones, has nothing to be folded into."""
    return chain(
        (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 2), nn.MaxPool2d(2), nn.BatchNorm2d(5)),
        (nn.ReLU(), nn.Flatten(), nn.Linear(5 * 3 * 2, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
    )


def fully_convolutional() -> nn.Module:
    """The outputs are the channels of a convolution, pooled."""
    return chain(
        (nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)),
        (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class Convolutions1d(nn.Module):
    """Over sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain(
            (nn.Conv1d(2, 4, 5), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)),
            (nn.Conv1d(4, 5, 3, dilation=2), nn.GELU(), nn.AvgPool1d(2)),
            (nn.Conv1d(5, 5, 3, groups=5), nn.Tanh(), nn.Conv1d(5, 6, 1, bias=False), nn.ReLU()),
        )
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.body(x).mean(-1))


# ---------------------------------------------------------------------------------------------------- residual networks


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; relu after the sum."""

    def __init__(self, n_inputs: int, inner: int, n_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(n_inputs, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, n_outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(n_outputs)
        self.relu, self.shortcut = nn.ReLU(inplace=True), projection(n_inputs, n_outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1; relu after the sum."""

    def __init__(self, n_inputs: int, inner: int, n_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(n_inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, inner + 1, 3, stride, 1, bias=False), nn.BatchNorm2d(inner + 1)
        self.conv3, self.norm3 = nn.Conv2d(inner + 1, n_outputs, 1, bias=False), nn.BatchNorm2d(n_outputs)
        self.relu, self.shortcut = nn.ReLU(inplace=True), projection(n_inputs, n_outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.relu(out)


def projection(n_inputs: int, n_outputs: int, stride: int) -> nn.Module | None:
    """A 1×1 convolution with batch norm where the shapes of a block's two ends differ; otherwise nothing."""
    if stride == 1 and n_inputs == n_outputs:
        return None
    return nn.Sequential(nn.Conv2d(n_inputs, n_outputs, 1, stride, bias=False), nn.BatchNorm2d(n_outputs))


class ResNet(nn.Module):
    """He et al. 2016: stages, each at half the resolution of the one before."""

    def __init__(
        self, stem: nn.Module, block: type[nn.Module], depths: Sequence[int], streams: Sequence[int], inner: list[int]
    ) -> None:
        super().__init__()
        self.stem, self.stages, n_inputs = stem, nn.Sequential(), 4
        for s, (depth, stream, width) in enumerate(zip(depths, streams, inner, strict=True)):
            blocks = nn.Sequential()
            for b in range(depth):
                blocks.append(block(n_inputs, width, stream, stride=2 if s and not b else 1))
                n_inputs = stream
            self.stages.append(blocks)
        self.pool, self.readout = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(n_inputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


def resnet18() -> nn.Module:
    """With the stem for large images."""
    stem = nn.Sequential(
        nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )
    return ResNet(stem, BasicBlock, (2, 2, 2, 2), (4, 5, 7, 8), [6, 3, 2, 9])


def bottlenecks() -> nn.Module:
    """With the stem for small images."""
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return ResNet(stem, Bottleneck, (2, 3, 1), (5, 6, 7), [2, 3, 4])


RESNET18 = (
    layer("stem.0", 4, "stages.0.0.conv2", "stages.0.1.conv2"),
    layer("stages.0.0.conv1", 6),
    layer("stages.0.1.conv1", 6),
    layer("stages.1.0.conv1", 3),
    layer("stages.1.0.conv2", 5, "stages.1.0.shortcut.0", "stages.1.1.conv2"),
    layer("stages.1.1.conv1", 3),
    layer("stages.2.0.conv1", 2),
    layer("stages.2.0.conv2", 7, "stages.2.0.shortcut.0", "stages.2.1.conv2"),
    layer("stages.2.1.conv1", 2),
    layer("stages.3.0.conv1", 9),
    layer("stages.3.0.conv2", 8, "stages.3.0.shortcut.0", "stages.3.1.conv2"),
    layer("stages.3.1.conv1", 9),
)
BOTTLENECKS = (
    layer("stem.0", 4),
    layer("stages.0.0.conv3", 5, "stages.0.0.shortcut.0", "stages.0.1.conv3"),
    layer("stages.1.0.conv3", 6, "stages.1.0.shortcut.0", *(f"stages.1.{b}.conv3" for b in range(1, 3))),
    layer("stages.2.0.conv3", 7, "stages.2.0.shortcut.0"),
    *(layer(f"stages.0.{b}.conv1", 2) for b in range(2)),
    *(layer(f"stages.0.{b}.conv2", 3) for b in range(2)),
    *(layer(f"stages.1.{b}.conv1", 3) for b in range(3)),
    *(layer(f"stages.1.{b}.conv2", 4) for b in range(3)),
    layer("stages.2.0.conv1", 4),
    layer("stages.2.0.conv2", 5),
)


class PreActivationBlock(nn.Module):
    """Batch norm and relu before each convolution; the stream itself is never touched (He et al. 2016b)."""

    def __init__(self, n_inputs: int, inner: int, n_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(n_inputs), nn.Conv2d(n_inputs, inner, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, n_outputs, 3, 1, 1, bias=False)
        self.shortcut = None if n_inputs == n_outputs else nn.Conv2d(n_inputs, n_outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return shortcut + self.conv2(torch.relu(self.norm2(self.conv1(out))))


class PreActivationResNet(nn.Module):
    """The first norm follows a convolution, yet is not part of it: the stream reads that convolution without it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            PreActivationBlock(4, 2, 4), PreActivationBlock(4, 5, 6, stride=2), PreActivationBlock(6, 7, 6)
        )
        self.norm, self.readout = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


class InvertedResidual(nn.Module):
    """MobileNet v2 (Sandler et al. 2018): expand, filter every channel on its own, project."""

    def __init__(self, n_inputs: int, expanded: int, n_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.expand = None
        if expanded != n_inputs:
            self.expand = nn.Sequential(
                nn.Conv2d(n_inputs, expanded, 1, bias=False), nn.BatchNorm2d(expanded), nn.ReLU6(inplace=True)
            )
        self.depthwise = chain(
            (nn.Conv2d(expanded, expanded, 3, stride, 1, groups=expanded, bias=False),),
            (nn.BatchNorm2d(expanded), nn.ReLU6(inplace=True)),
        )
        self.project = nn.Sequential(nn.Conv2d(expanded, n_outputs, 1, bias=False), nn.BatchNorm2d(n_outputs))
        self.skips = stride == 1 and n_inputs == n_outputs

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand is None else self.expand(x)
        out = self.project(self.depthwise(out))
        return x + out if self.skips else out


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(inplace=True))
        self.blocks = chain(
            (InvertedResidual(4, 4, 2), InvertedResidual(2, 7, 5, stride=2), InvertedResidual(5, 8, 5)),
            (InvertedResidual(5, 9, 5),),
        )
        self.head = nn.Sequential(nn.Conv2d(5, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean([2, 3]))


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: every channel is multiplied by a gate that sees the whole image."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = nn.Conv2d(width, reduced, 1), nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(self.pool(x)))))


class LinearSqueezeExcite(nn.Module):
    """The same, written with linear layers."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(width, reduced, bias=False), nn.Linear(reduced, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.hardsigmoid(self.expand(torch.tanh(self.reduce(x.mean((2, 3))))))
        return gate[:, :, None, None] * x


class SqueezeExciteNet(nn.Module):
    """Once on its own, once inside a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
        self.excite1 = SqueezeExcite(5, 2)
        self.conv, self.norm = nn.Conv2d(5, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.excite2 = LinearSqueezeExcite(5, 4)
        self.readout = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.excite1(self.stem(x))
        x = torch.relu(x + self.excite2(self.norm(self.conv(x))))
        return self.readout(x.mean((2, 3)))


# -------------------------------------------------------------------------------------------------- concatenated layers


class DenseLayer(nn.Module):
    """Reads all that came before in its block, and adds ``growth`` channels to it."""

    def __init__(self, n_inputs: int, inner: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(n_inputs), nn.Conv2d(n_inputs, inner, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        x = torch.cat(earlier, 1)
        return self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))


class DenseBlock(nn.Module):
    """Three layers, and the concatenation of them all."""

    def __init__(self, n_inputs: int, inner: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(n_inputs + k * growth, inner, growth) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for part in self.layers:
            features.append(part(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Huang et al. 2017: two blocks with a transition between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.block1 = DenseBlock(4, 5, 2)
        self.transition = nn.Sequential(
            nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 6, 1, bias=False), nn.AvgPool2d(2, 2)
        )
        self.block2 = DenseBlock(6, 7, 3)
        self.norm, self.readout = nn.BatchNorm2d(15), nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.readout(functional.adaptive_avg_pool2d(torch.relu(self.norm(x)), 1).flatten(1))


def dense_block(block: str, source: str, n_inputs: int, inner: int, growth: int, reader: str) -> tuple[Expected, ...]:
    """The layers of a dense block and of the norm ``reader`` that follows: each norm writes one for each it reads."""
    grown = [f"{block}.layers.{k}.conv2" for k in range(3)]
    read = [(source, n_inputs), *((name, growth) for name in grown)]
    norms = [*(f"{block}.layers.{k}.norm1" for k in range(3)), reader]
    return (
        *(layer(f"{block}.layers.{k}.conv1", inner) for k in range(3)),
        *(layer(name, growth) for name in grown),
        *(
            layer(norm if not i else f"{norm}[{name}]", width, tied=name)
            for k, norm in enumerate(norms)
            for i, (name, width) in enumerate(read[: k + 1])
        ),
    )


class UNet(nn.Module):
    """Down, up, and across (Ronneberger et al. 2015), with one output for the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU())
        self.bottom = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
        self.up2 = nn.Sequential(nn.Conv2d(5 + 7, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.up1 = nn.Sequential(nn.Conv2d(6 + 4, 8, 3, padding=1), nn.ReLU())
        self.pool, self.upsample, self.readout = nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool(skip1))
        x = self.bottom(self.pool(skip2))
        x = self.up2(torch.cat([skip2, self.upsample(x)], dim=1))
        x = functional.interpolate(x, size=skip1.shape[2:], mode="bilinear", align_corners=False)
        return self.readout(self.up1(torch.cat((x, skip1), dim=-3)).mean(dim=(-1, -2)))


# ----------------------------------------------------------------------------------------- without convolutions, mostly


class MixerBlock(nn.Module):
    """Two perceptrons: one along the tokens, the same for every channel, and one along the channels."""

    def __init__(self, width: int, n_tokens: int, token_width: int, channel_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(n_tokens, token_width), nn.GELU(), nn.Linear(token_width, n_tokens))
        self.channels = nn.Sequential(nn.Linear(width, channel_width), nn.GELU(), nn.Linear(channel_width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Tolstikhin et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(2, 5, (4, 3), stride=(4, 3))
        self.blocks = nn.Sequential(MixerBlock(5, 6, 4, 7), MixerBlock(5, 6, 9, 8))
        self.norm, self.readout = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)  # (n, tokens, channels)
        return self.readout(self.norm(self.blocks(x)).mean(1))


def layer_norm_mlp() -> nn.Module:
    """A layer norm keeps the order of units, and gives them scales of their own."""
    return nn.Sequential(
        nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 3)
    )


class Gated(nn.Module):
    """A gated linear unit (Shazeer 2020): two layers of one order, each with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(6, 5), nn.Linear(6, 5, bias=False), nn.Linear(5, 4)
        self.readout = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        x = self.down(up * functional.silu(self.gate(x)))
        return self.readout(x * torch.sigmoid(x))  # swish by hand: of degree 1 nowhere, though x alone is


class ResidualMLP(nn.Module):
    """First around the inputs, whose order is given, then around tanh units, which can be flipped together."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 5), nn.Linear(5, 6)
        self.embed, self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.readout = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.outer(torch.relu(self.inner(x)))
        x = self.embed(x)
        x = x + torch.tanh(self.first(x))
        x = x - torch.tanh(self.second(x))
        return self.readout(x)


# ------------------------------------------------------------------------------------------------ ways to write it down


class UsedTwice(nn.Module):
    """One linear layer applied twice in a row, one activation module everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.shared, self.readout = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.embed(x))
        for _ in range(2):
            x = self.activation(self.shared(x))
        return self.readout(x)


class ConvolutionUsedTwice(nn.Module):
    """A convolution with its batch norm, applied twice in a row, inside a residual stream the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.shared, self.norm = nn.Conv2d(5, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.activation, self.readout = nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.stem(x))
        x = self.activation(self.norm(self.shared(x)))
        x = self.activation(x + self.norm(self.shared(x)))
        return self.readout(x.mean((2, 3)))


class ControlFlow(nn.Module):
    """Python decides what is computed, and never by looking into a tensor."""

    def __init__(self, widths: Sequence[int] = (4, 5, 6), *, pooled: bool = True, normed: bool = False) -> None:
        super().__init__()
        self.pooled, self.normed = pooled, normed
        self.register_buffer("mean", torch.zeros(2, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in zip((2, *widths), widths, strict=False))
        self.activations = nn.ModuleDict({"even": nn.ReLU(), "odd": nn.Tanh()})
        if normed:
            self.norm = nn.BatchNorm2d(widths[-1])
        self.heads = nn.ModuleDict({"readout": nn.Linear(widths[-1], 3)})

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"images expected, got {x.dim()} axes")
        x = (x - self.mean) / 0.25
        for k, conv in enumerate(self.convs):
            x = self.activations["odd" if k % 2 else "even"](conv(x))
        if self.normed:
            x = self.norm(x)
        while x.dim() > 2:
            x = x.mean(-1) if self.pooled else x.amax(-1)
        return self.heads["readout"](x)


class Functional(nn.Module):
    """Parameters of its own, functions for everything, and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel1, self.weight1, self.bias1 = parameter(5, 2, 3, 3), parameter(5), parameter(5)
        self.register_buffer("mean1", torch.zeros(5))
        self.register_buffer("var1", torch.ones(5))
        self.kernel2, self.bias2 = parameter(5, 5, 3, 3), parameter(5)
        self.kernel3, self.kernel4 = parameter(4, 2, 1, 3), parameter(6, 9, 2, 2)
        self.matrix, self.offset = parameter(3, 6), parameter(3)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.conv2d(image, self.kernel1, padding=1)
        x = functional.batch_norm(x, self.mean1, self.var1, self.weight1, self.bias1)
        functional.relu_(x)
        y = functional.conv2d(x, self.kernel2, self.bias2, padding=1)
        y += x
        x = functional.relu_(y) + x
        z = functional.leaky_relu(functional.conv2d(image, self.kernel3, padding=(0, 1)), 0.1)
        x = functional.max_pool2d(torch.cat([z, x], 1), 2)
        x = torch.tanh(functional.conv2d(x, self.kernel4))
        x = functional.dropout(x, 0.5, training=self.training)
        return functional.linear(x.mean((2, 3)), self.matrix, self.offset)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


# -------------------------------------------------------------------------------------------------------------- traps


def between(function: Callable[[Tensor], Tensor], read: int = 5) -> Callable[[], nn.Module]:
    """Two linear layers with something done to the five units of the first, of which the second reads ``read``."""
    return lambda: Made(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(6, 5), b=nn.Linear(read, 3))


def two_branches(function: Callable[[Tensor, Tensor], Tensor], read: int = 5) -> Callable[[], nn.Module]:
    """Two linear layers of five units that read the same, and something done to both before a third reads it."""
    parts = {"a": (6, 5), "b": (6, 5), "c": (read, 3)}
    return lambda: Made(
        lambda m, x: m.c(function(m.a(x), m.b(x))), **{name: nn.Linear(*sizes) for name, sizes in parts.items()}
    )


def stream(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A residual stream that two layers write to through an activation, and read again."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.a(x)
        x = x + function(m.b(x))
        return m.d(x + function(m.c(x)))

    return lambda: Made(forward, a=nn.Linear(6, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 5), d=nn.Linear(5, 3))


def convolutions(function: Callable[[Tensor], Tensor], read: int = 5) -> Callable[[], nn.Module]:
    """A convolution to five channels, something done to its images, and a linear layer."""
    return lambda: Made(lambda m, x: m.b(function(m.a(x))), a=nn.Conv2d(2, 5, 3), b=nn.Linear(read, 3))


def mixed_tokens(activation: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Token mixing without a norm: its bias, which all channels share, allows them neither scales nor signs."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.embed(x)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h * w)
        return m.readout((x + m.tokens2(activation(m.tokens1(x)))).mean(-1))

    return lambda: Made(
        forward,
        embed=nn.Conv2d(2, 5, 2, 2),
        tokens1=nn.Linear(12, 7),
        tokens2=nn.Linear(7, 12),
        readout=nn.Linear(5, 3),
    )


def masked(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 0.0, 1.0, 2.0, 1.0])


def one_unit_wide() -> nn.Module:
    return chain(
        (
            nn.Conv2d(2, 1, 3),
            nn.ReLU(),
            nn.Conv2d(1, 1, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1 * 5 * 4, 1),
            nn.Tanh(),
        ),
        (nn.Linear(1, 3),),
    )


def perceptron(*widths: int) -> nn.Module:
    parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*parts[:-1])


def depthwise_of_three() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv1d(3, 3, 2, groups=3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 5, 4))


def norm_of_outputs() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3), nn.BatchNorm1d(3))


def norm_after_sigmoid() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def sigmoids() -> nn.Module:
    """Flips move a constant into the next bias, through a norm, past flattened positions."""
    return chain(
        (
            nn.Conv2d(2, 5, 3),
            nn.Sigmoid(),
            nn.Conv2d(5, 4, 2, bias=False),
            nn.BatchNorm2d(4),
            nn.Sigmoid(),
            nn.Flatten(),
        ),
        (nn.Linear(4 * 5 * 4, 7), nn.Sigmoid(), nn.Linear(7, 3)),
    )


def siamese() -> nn.Module:
    """One convolution for both halves of the input."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        left, right = (m.conv(half).relu() for half in x.chunk(2, dim=1))
        return m.readout(torch.cat([left * right, (left - right).abs()], 1).mean((2, 3)))

    return Made(forward, conv=nn.Conv2d(1, 5, 3), readout=nn.Linear(10, 3))


def tokens_as_samples() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        n, t, f = x.shape
        hidden = torch.relu(m.a(x.reshape(n * t, f)))
        return m.b(hidden.view(n, t, -1).mean(1))

    return Made(forward, a=nn.Linear(6, 5), b=nn.Linear(5, 3))


class ConvNextBlock(nn.Module):
    """Liu et al. 2022, without the scales: depthwise, then a layer norm and a perceptron with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(5, 5, 5, padding=2, groups=5), nn.LayerNorm(5)
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(functional.gelu(self.up(out), approximate="tanh")).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return chain(
        (nn.Conv2d(2, 5, 2, stride=2), ConvNextBlock(), ConvNextBlock(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (nn.LayerNorm(5), nn.Linear(5, 3)),
    )


def depthwise_residual() -> nn.Module:
    """A depthwise convolution that writes into what it reads: its units keep their order and have no scale apart."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = torch.relu(x + m.norm(m.depthwise(x)))
        return m.readout(x.mean((2, 3)))

    return Made(
        forward,
        stem=nn.Conv2d(2, 5, 3),
        depthwise=nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False),
        norm=nn.BatchNorm2d(5),
        readout=nn.Linear(5, 3),
    )


def spatial_pyramid(x: Tensor) -> Tensor:
    """He et al. 2014: poolings of several sizes, side by side for each channel."""
    pooled = [functional.adaptive_avg_pool2d(x, size).flatten(2) for size in (1, 2)]
    return torch.cat([*pooled, functional.adaptive_max_pool2d(x, 3).flatten(2)], 2).flatten(1).relu()


TRAPS: dict[str, Specimen] = {
    "told-apart-by-a-mask": Specimen(
        lambda: Made(
            lambda m, x: m.c(m.b(masked(m.a(x))).relu()), a=nn.Linear(6, 5), b=nn.Linear(5, 4), c=nn.Linear(4, 3)
        ),
        (6,),
        (layer("b", 4),),
    ),
    "mixed-tokens-relu": Specimen(mixed_tokens(torch.relu), (2, 8, 6), (layer("embed", 5), layer("tokens1", 7))),
    "mixed-tokens-tanh": Specimen(mixed_tokens(torch.tanh), (2, 8, 6), (layer("embed", 5), layer("tokens1", 7))),
    "mixed-tokens-linear": Specimen(mixed_tokens(lambda z: z), (2, 8, 6), (layer("embed", 5), layer("tokens1", 7))),
    "one-unit-wide": Specimen(one_unit_wide, (2, 8, 7), (layer("0", 1), layer("2", 1), layer("5", 1))),
    "two-units": Specimen(lambda: perceptron(6, 2, 3), (6,), (layer("0", 2),)),
    "three-units": Specimen(lambda: perceptron(6, 3, 4), (6,), (layer("0", 3),)),
    "equal-widths": Specimen(lambda: perceptron(6, 5, 5, 5, 3), (6,), (layer("0", 5), layer("2", 5), layer("4", 5))),
    "depthwise-of-three": Specimen(depthwise_of_three, (2, 8), (layer("0", 3), layer("1", 3, tied="0"))),
    "norm-of-outputs": Specimen(norm_of_outputs, (6,), (layer("0", 5),)),
    "norm-after-sigmoid": Specimen(norm_after_sigmoid, (6,), (layer("0", 5), layer("2", 5, tied="0"))),
    "sigmoids": Specimen(sigmoids, (2, 8, 7), (layer("0", 5), layer("2", 4), layer("6", 7))),
    "siamese": Specimen(siamese, (2, 8, 7), (layer("conv", 5),)),
    "tokens-as-samples": Specimen(tokens_as_samples, (7, 6), (layer("a", 5),)),
    "convnext": Specimen(
        convnext,
        (2, 12, 8),
        (
            layer("0", 5, "1.down", "2.down"),
            layer("1.depthwise", 5, tied="0"),
            layer("1.norm", 5, tied="0"),
            layer("1.up", 7),
            layer("2.depthwise", 5, tied="0"),
            layer("2.norm", 5, tied="0"),
            layer("2.up", 7),
            layer("5", 5, tied="0"),
        ),
    ),
    "depthwise-residual": Specimen(depthwise_residual, (2, 8, 7), (layer("stem", 5, "depthwise"),)),
    "spatial-pyramid": Specimen(convolutions(spatial_pyramid, 5 * (1 + 4 + 9)), (2, 8, 7), (layer("a", 5),)),
    "mean-and-max": Specimen(
        convolutions(lambda z: torch.cat([z.mean((2, 3)), z.amax((2, 3))], 1), 10), (2, 8, 7), (layer("a", 5),)
    ),
    "both-signs": Specimen(between(lambda z: torch.cat([z, -z], 1).relu(), 10), (6,), (layer("a", 5),)),
    "unsqueezed-and-squeezed": Specimen(
        convolutions(lambda z: functional.adaptive_max_pool2d(z, 1).relu().squeeze(-1).squeeze(-1)),
        (2, 8, 7),
        (layer("a", 5),),
    ),
    "inputs-again": Specimen(
        lambda: Made(lambda m, x: m.b(torch.cat([x, m.a(x).relu()], 1)), a=nn.Linear(6, 5), b=nn.Linear(11, 3)),
        (6,),
        (layer("a", 5),),
    ),
    "shifted": Specimen(between(lambda z: (z + 1).relu()), (6,), (layer("a", 5),)),
    "scaled": Specimen(between(lambda z: (z / 3).relu() * 2), (6,), (layer("a", 5),)),
    "squared": Specimen(between(lambda z: z.relu() ** 2), (6,), (layer("a", 5),)),
    "times-itself": Specimen(between(lambda z: z.relu() * z), (6,), (layer("a", 5),)),
    "times-its-mean": Specimen(
        convolutions(lambda z: (z * z.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))), (2, 8, 7), (layer("a", 5),)
    ),
    "before-and-after-sigmoid": Specimen(
        lambda: Made(
            lambda m, x: m.b(m.a(x)) + m.c(m.a(x).sigmoid()), a=nn.Linear(6, 5), b=nn.Linear(5, 3), c=nn.Linear(5, 3)
        ),
        (6,),
        (layer("a", 5),),
    ),
    "stream-of-relus": Specimen(stream(torch.relu), (6,), (layer("a", 5, "b", "c"),)),
    "stream-of-sigmoids": Specimen(stream(torch.sigmoid), (6,), (layer("a", 5, "b", "c"),)),
    "sum-of-two-sigmoids": Specimen(two_branches(lambda a, b: a.sigmoid() + b.sigmoid()), (6,), (layer("a", 5, "b"),)),
    "sum-of-unlike-activations": Specimen(
        two_branches(lambda a, b: torch.add(a.relu(), b.tanh(), alpha=2)), (6,), (layer("a", 5, "b"),)
    ),
    "gate-first": Specimen(two_branches(lambda a, b: a.sigmoid() * b), (6,), (layer("a", 5), layer("b", 5, tied="a"))),
    "gate-of-relus": Specimen(
        two_branches(lambda a, b: a.relu() * b.relu()), (6,), (layer("a", 5), layer("b", 5, tied="a"))
    ),
    "gate-of-tanhs": Specimen(
        two_branches(lambda a, b: torch.tanh(a.tanh() * b.tanh())), (6,), (layer("a", 5), layer("b", 5, tied="a"))
    ),
    "rest-of-a-gate": Specimen(between(lambda z: z * (1 - z.sigmoid())), (6,), (layer("a", 5),)),
    "norm-of-three-copies": Specimen(
        lambda: Made(
            lambda m, x: m.b(m.norm(torch.cat([m.a(x)] * 3, 1)).relu()),
            a=nn.Linear(6, 5),
            norm=nn.BatchNorm1d(15),
            b=nn.Linear(15, 3),
        ),
        (6,),
        (layer("a", 5), *(layer(name, 5, tied="a") for name in ("norm", "norm[a]", "norm[a]1"))),
    ),
    "one-position": Specimen(convolutions(lambda z: z.select(3, 0).select(2, -1)), (2, 8, 7), (layer("a", 5),)),
    "quotient": Specimen(
        two_branches(lambda a, b: a.relu() / (1 + b.exp())), (6,), (layer("a", 5), layer("b", 5, tied="a"))
    ),
}


ZOO: dict[str, Specimen] = {
    "lenet-tanh": Specimen(partial(LeNet, nn.Tanh, nn.AvgPool2d), (1, 20, 18), LENET),
    "lenet-relu": Specimen(partial(LeNet, nn.ReLU, nn.MaxPool2d), (1, 20, 18), LENET),
    "vgg11-bn": Specimen(
        VGG11,
        (3, 32, 32),
        (
            layer("features.0", 4),
            layer("features.4", 5),
            layer("features.8", 6),
            layer("features.11", 7),
            layer("features.15", 8),
            layer("features.18", 9),
            layer("features.22", 7),
            layer("features.25", 6),
            layer("classifier.0", 8),
            layer("classifier.3", 5),
        ),
    ),
    "resnet18": Specimen(resnet18, (3, 32, 28), RESNET18),
    "bottlenecks": Specimen(bottlenecks, (3, 12, 8), BOTTLENECKS),
    "pre-activation-resnet": Specimen(
        PreActivationResNet,
        (3, 10, 8),
        (
            layer("stem", 4, "blocks.0.conv2"),
            layer("blocks.0.norm1", 4, tied="stem"),
            layer("blocks.0.conv1", 2),
            layer("blocks.1.norm1", 4, tied="stem"),
            layer("blocks.1.shortcut", 6, "blocks.1.conv2", "blocks.2.conv2"),
            layer("blocks.1.conv1", 5),
            layer("blocks.2.norm1", 6, tied="blocks.1.shortcut"),
            layer("blocks.2.conv1", 7),
            layer("norm", 6, tied="blocks.1.shortcut"),
        ),
    ),
    "mobilenet": Specimen(
        MobileNet,
        (3, 16, 12),
        (
            layer("stem.0", 4),
            layer("blocks.0.depthwise.0", 4, tied="stem.0"),
            layer("blocks.0.project.0", 2),
            layer("blocks.1.expand.0", 7),
            layer("blocks.1.depthwise.0", 7, tied="blocks.1.expand.0"),
            layer("blocks.1.project.0", 5, "blocks.2.project.0", "blocks.3.project.0"),
            layer("blocks.2.expand.0", 8),
            layer("blocks.2.depthwise.0", 8, tied="blocks.2.expand.0"),
            layer("blocks.3.expand.0", 9),
            layer("blocks.3.depthwise.0", 9, tied="blocks.3.expand.0"),
            layer("head.0", 6),
        ),
    ),
    "squeeze-excite": Specimen(
        SqueezeExciteNet,
        (2, 8, 7),
        (
            layer("stem.0", 5, "conv"),
            layer("excite1.reduce", 2),
            layer("excite1.expand", 5, tied="stem.0"),
            layer("excite2.reduce", 4),
            layer("excite2.expand", 5, tied="stem.0"),
        ),
    ),
    "densenet": Specimen(
        DenseNet,
        (3, 8, 10),
        (
            layer("stem.0", 4),
            *dense_block("block1", "stem.0", 4, 5, 2, "transition.0"),
            layer("transition.2", 6),
            *dense_block("block2", "transition.2", 6, 7, 3, "norm"),
        ),
    ),
    "unet": Specimen(
        UNet,
        (2, 12, 8),
        (
            layer("down1.0", 4),
            layer("down2.0", 5),
            layer("bottom.0", 7),
            layer("up2.0", 6),
            layer("up1.0", 8),
        ),
    ),
    "mixer": Specimen(
        Mixer,
        (2, 8, 9),
        (
            layer("embed", 5, "blocks.0.norm1", "blocks.0.channels.2", "blocks.1.norm1", "blocks.1.channels.2"),
            layer("blocks.0.tokens.0", 4),
            layer("blocks.0.norm2", 5, tied="embed"),
            layer("blocks.0.channels.0", 7),
            layer("blocks.1.tokens.0", 9),
            layer("blocks.1.norm2", 5, tied="embed"),
            layer("blocks.1.channels.0", 8),
            layer("norm", 5, tied="embed"),
        ),
    ),
    "convolutions-1d": Specimen(
        Convolutions1d,
        (2, 32),
        (layer("body.0", 4), layer("body.4", 5), layer("body.7", 5, tied="body.4"), layer("body.9", 6)),
    ),
    "tanh-convnet": Specimen(tanh_convnet, (2, 12, 9), (layer("0", 5), layer("4", 4), layer("7", 6), layer("12", 7))),
    "tanh-and-max-pool": Specimen(tanh_and_max_pool, (2, 8, 10), (layer("0", 5), layer("3", 4))),
    "sigmoid-and-zero-padding": Specimen(
        sigmoid_and_zero_padding, (2, 7, 6), (layer("0", 5), layer("2", 4), layer("4", 6))
    ),
    "poolings": Specimen(poolings, (2, 9, 8), (layer("0", 4), layer("3", 5), layer("6", 6))),
    "dropouts": Specimen(dropouts, (2, 8, 7), (layer("1", 4), layer("4", 5), layer("8", 6))),
    "strides": Specimen(strides, (2, 12, 10), (layer("0", 4), layer("2", 5), layer("4", 6), layer("6", 7))),
    "paddings": Specimen(paddings, (2, 8, 6), (layer("0", 4), layer("2", 5), layer("4", 6), layer("7", 7))),
    "norm-after-activation": Specimen(
        norm_after_activation,
        (2, 9, 7),
        (
            layer("0", 4),
            layer("2", 4, tied="0"),
            layer("3", 5),
            layer("5", 5, tied="3"),
            layer("8", 6),
            layer("10", 6, tied="8"),
        ),
    ),
    "fully-convolutional": Specimen(fully_convolutional, (2, 8, 7), (layer("0", 5), layer("3", 4))),
    "layer-norm-mlp": Specimen(
        layer_norm_mlp,
        (6,),
        (layer("0", 5), layer("1", 5, tied="0"), layer("3", 4), layer("4", 4, tied="3")),
    ),
    "gated": Specimen(Gated, (6,), (layer("up", 5), layer("gate", 5, tied="up"), layer("down", 4))),
    "residual-mlp": Specimen(ResidualMLP, (6,), (layer("inner", 5), layer("embed", 4, "first", "second"))),
    "used-twice": Specimen(UsedTwice, (6,), (layer("embed", 5, "shared"),)),
    "convolution-used-twice": Specimen(ConvolutionUsedTwice, (2, 8, 7), (layer("stem", 5, "shared"),)),
    "control-flow": Specimen(ControlFlow, (2, 9, 8), (layer("convs.0", 4), layer("convs.1", 5), layer("convs.2", 6))),
    "control-flow-the-other-way": Specimen(
        partial(ControlFlow, pooled=False, normed=True),
        (2, 9, 8),
        (layer("convs.0", 4), layer("convs.1", 5), layer("convs.2", 6), layer("norm", 6, tied="convs.2")),
    ),
    "functional": Specimen(
        Functional, (2, 8, 10), (layer("kernel1", 5, "kernel2"), layer("kernel3", 4), layer("kernel4", 6))
    ),
}


MIXED_TOKENS, COUPLED, TOLD_APART = {"mixer"}, {"layer-norm-mlp"}, {"residual-mlp"}
OWN_DATA = {"control-flow", "control-flow-the-other-way"}  # these scale their inputs, each in its way
LONG = {"bottlenecks"}  # built of the same parts as resnet18
MERGED = [name for name in ZOO if name not in MIXED_TOKENS | COUPLED | TOLD_APART | OWN_DATA | LONG]


@cache
def population_of(name: str) -> Population:
    """Two members where they can be merged, else one."""
    specimen = (ZOO | TRAPS)[name]
    seeds = (0, 1) if name in {*MERGED, *MIXED_TOKENS, *TOLD_APART} else (0,)
    return Population.from_modules([specimen.module(seed) for seed in seeds], specimen.inputs())
