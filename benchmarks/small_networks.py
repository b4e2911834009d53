"""Small networks as people write them, by family: what `benchmarks/zoo.py` puts through the proof.

Choices
- A network is a function that takes its parts and the inputs, so that each fits on a few lines; parts are torch's own.
- Members differ in their initial values, and in scales and statistics where a norm has them.
- Networks that cannot be merged by design (a minimum of two critics, a mean over samples) are among them: an error that
  names the cause is what they should get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from small_transformers import IMAGES, LANGUAGE, POSITIONS, TOKENS
from torch import Tensor, nn
from torch.nn import functional

IMAGE, ROW, SEQUENCE = (2, 8, 8), (6,), (3, 12)
Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Parts by name, parameters and buffers by name, and a forward pass."""

    def __init__(self, forward: Forward, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        """Run the function."""
        return self.function(self, x)


@dataclass(frozen=True)
class Small:
    """One network: its family, what makes it, the shape of a sample, and which of its outputs is taken.

    Samples are normal numbers or, where ``n_tokens`` says how many there are, tokens.
    """

    family: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = ROW
    output: str | int | None = None
    n_tokens: int | None = None

    def inputs(self, n: int) -> Tensor:
        """Return n samples."""
        if self.n_tokens is None:
            return torch.randn(n, *self.shape)
        return torch.randint(self.n_tokens, (n, *self.shape))


def mlp(forward: Forward, width: int = 8, **parts: Callable[[], Any] | None) -> Callable[[], nn.Module]:
    """A hidden layer ``a``, a readout ``b`` of 3 outputs, and other parts, which each call initializes anew."""
    return lambda: Net(forward, **fresh({"a": linear(6, width), "b": linear(8, 3)} | parts))


def conv(forward: Forward, width: int = 8, **parts: Callable[[], Any] | None) -> Callable[[], nn.Module]:
    """Two convolutions ``a`` and ``b``, a readout ``c`` of 3 outputs, and other parts."""
    convs = {"a": lambda: nn.Conv2d(2, width, 3, padding=1), "b": lambda: nn.Conv2d(8, 6, 3, padding=1)}
    return lambda: Net(forward, **fresh({**convs, "c": linear(6, 3)} | parts))


def fresh(parts: dict[str, Any]) -> dict[str, Any]:
    """Parts with initial values of their own; those that are None are left out."""
    return {name: make() for name, make in parts.items() if make is not None}


def head(m: Any, h: Tensor) -> Tensor:
    """The rest of a small convolutional network: relu, convolution, mean over positions, readout."""
    return m.c(m.b(h.relu()).relu().mean((2, 3)))


def inside(part: Callable[[], nn.Module], width: int = 8) -> Callable[[], nn.Module]:
    """A part between two convolutions."""
    return conv(lambda m, x: head(m, m.p(m.a(x))), width, p=part)


def parameter(*shape: int, value: float = 1.0, spread: float = 0.3) -> Callable[[], Tensor]:
    """A parameter around a value."""
    return lambda: nn.Parameter(value + spread * torch.randn(shape))


def unet(m: Any, x: Tensor) -> Tensor:
    down = m.a(x).relu()
    low = m.low(functional.max_pool2d(down, 2)).relu()
    return m.out(torch.cat([down, functional.interpolate(low, scale_factor=2)], 1))


def dueling(m: Any, x: Tensor) -> Tensor:
    h = m.a(x).relu()
    advantage = m.b(h)
    return m.value(h) + advantage - advantage.mean(1, keepdim=True)


def channel_attention(m: Any, z: Tensor) -> Tensor:
    return z * m.up(m.down(z.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


def shuffle(z: Tensor) -> Tensor:
    n, c, h, w = z.shape
    return z.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffled_halves(m: Any, x: Tensor) -> Tensor:
    first, second = shuffle(m.a(x).relu()).chunk(2, 1)
    return head(m, shuffle(torch.cat([first, m.mix(second).relu()], 1)))


class Mixture(nn.Module):
    """Three experts, weighed by a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x).softmax(-1)
        return (gates.unsqueeze(-1) * torch.stack([expert(x) for expert in self.experts], 1)).sum(1)


def hidden(m: Any, x: Tensor) -> Tensor:
    return m.a(x).relu()


def linear(a: int, b: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(a, b)


NETWORKS: dict[str, Small] = {
    # outputs
    "dense map": Small(
        "outputs", lambda: nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)), IMAGE
    ),
    "U-Net": Small(
        "outputs",
        conv(unet, low=lambda: nn.Conv2d(8, 7, 3, padding=1), out=lambda: nn.Conv2d(15, 2, 1), b=None, c=None),
        IMAGE,
    ),
    "sequence to sequence": Small(
        "outputs", lambda: nn.Sequential(nn.Conv1d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv1d(8, 2, 1)), SEQUENCE
    ),
    "perceptron on each step": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x))), (5, 6)),
    "scalar squeezed": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x)).squeeze(-1), b=linear(8, 1)), ROW),
    "scalar indexed": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x))[:, 0], b=linear(8, 1)), ROW),
    "scalar flattened": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x)).view(-1), b=linear(8, 1)), ROW),
    "two outputs": Small("outputs", mlp(lambda m, x: (m.b(hidden(m, x)), m.v(hidden(m, x))), v=linear(8, 2))),
    "dict of outputs": Small(
        "outputs",
        mlp(lambda m, x: {"policy": m.b(hidden(m, x)), "value": m.v(hidden(m, x)).squeeze(1)}, v=linear(8, 1)),
    ),
    "dict with one entry": Small("outputs", mlp(lambda m, x: {"logits": m.b(hidden(m, x))})),
    "logits and features": Small("outputs", mlp(lambda m, x: (m.b(hidden(m, x)), hidden(m, x))), output=0),
    "dict picked": Small(
        "outputs",
        conv(lambda m, x: {"out": head(m, m.a(x)), "aux": m.v(m.a(x).mean((2, 3)))}, v=linear(8, 4)),
        IMAGE,
        "out",
    ),
    "concatenated heads": Small(
        "outputs", mlp(lambda m, x: torch.cat([m.b(hidden(m, x)), m.v(hidden(m, x))], 1), v=linear(8, 2))
    ),
    "stacked heads": Small(
        "outputs", mlp(lambda m, x: torch.stack([m.b(hidden(m, x)), m.v(hidden(m, x))], 1), v=linear(8, 3))
    ),
    "heads of a list": Small(
        "outputs",
        mlp(
            lambda m, x: torch.cat([h(hidden(m, x)) for h in m.b], -1),
            b=lambda: nn.ModuleList(nn.Linear(8, 1) for _ in range(4)),
        ),
    ),
    "mean and variance": Small(
        "outputs", mlp(lambda m, x: (m.b(hidden(m, x)), functional.softplus(m.v(hidden(m, x))) + 1e-6), v=linear(8, 3))
    ),
    "mean and log variance split": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x)).chunk(2, -1), b=linear(8, 4))),
    "outputs scaled by buffers": Small(
        "outputs",
        mlp(
            lambda m, x: m.b(hidden(m, x)) * m.std + m.mean,
            std=lambda: torch.tensor([2.0, 30.0, 0.5]),
            mean=lambda: torch.tensor([1.0, -4000.0, 0.0]),
        ),
    ),
    "inputs standardized by buffers": Small(
        "outputs",
        mlp(
            lambda m, x: m.b(m.a((x - m.mean) / m.std).relu()),
            std=lambda: torch.full((6,), 2.0),
            mean=lambda: torch.full((6,), 0.1),
        ),
    ),
    "residual to the inputs": Small("outputs", mlp(lambda m, x: x + m.b(hidden(m, x)), b=linear(8, 6))),
    "residual image": Small(
        "outputs",
        conv(lambda m, x: x - m.out(m.b(m.a(x).relu()).relu()), out=lambda: nn.Conv2d(6, 2, 1), c=None),
        IMAGE,
    ),
    "dueling": Small("outputs", mlp(dueling, value=linear(8, 1))),
    "centered outputs": Small("outputs", mlp(lambda m, x: (lambda y: y - y.mean(1, keepdim=True))(m.b(hidden(m, x))))),
    "sum of atoms": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x)).sum(1), b=linear(8, 1)), (5, 6)),
    "reshaped outputs": Small("outputs", mlp(lambda m, x: m.b(hidden(m, x)).view(-1, 3, 2), b=linear(8, 6))),
    "conv flattened to outputs": Small(
        "outputs", lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3), nn.Flatten()), IMAGE
    ),
    "minimum of two critics": Small(
        "by design", mlp(lambda m, x: torch.min(m.b(hidden(m, x)), m.v(hidden(m, x))), v=linear(8, 3))
    ),
    # tails
    "softmax": Small("tails", mlp(lambda m, x: m.b(hidden(m, x)).softmax(-1))),
    "log softmax": Small("tails", mlp(lambda m, x: functional.log_softmax(m.b(hidden(m, x)), dim=1))),
    "sigmoid": Small("tails", mlp(lambda m, x: m.b(hidden(m, x)).sigmoid())),
    "sigmoid map": Small(
        "tails", lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid()), IMAGE
    ),
    "sigmoid squeezed": Small("tails", mlp(lambda m, x: m.b(hidden(m, x)).sigmoid().squeeze(-1), b=linear(8, 1))),
    "tanh scaled": Small("tails", mlp(lambda m, x: 2.5 * torch.tanh(m.b(hidden(m, x))))),
    "softplus": Small("tails", mlp(lambda m, x: functional.softplus(m.b(hidden(m, x))))),
    "relu at the end": Small("tails", mlp(lambda m, x: m.b(hidden(m, x)).relu())),
    "temperature": Small("tails", mlp(lambda m, x: (m.b(hidden(m, x)) / 1.7).softmax(1))),
    "unit embedding": Small("tails", mlp(lambda m, x: functional.normalize(m.b(hidden(m, x)), dim=-1))),
    "clamped": Small("tails", mlp(lambda m, x: m.b(hidden(m, x)).clamp(-0.2, 0.2))),
    # unused
    "unused layer": Small("unused", mlp(lambda m, x: m.b(hidden(m, x)), old=linear(8, 3))),
    "auxiliary head in training": Small(
        "unused",
        mlp(
            lambda m, x: (m.b(hidden(m, x)), m.aux(hidden(m, x))) if m.training else m.b(hidden(m, x)), aux=linear(8, 3)
        ),
    ),
    "unused parameter": Small("unused", mlp(lambda m, x: m.b(hidden(m, x)), log_std=parameter(3))),
    # batch size
    "view(len(x))": Small(
        "batch size", conv(lambda m, x: m.v(m.a(x).relu().view(len(x), -1)), v=linear(512, 3), b=None, c=None), IMAGE
    ),
    "int(x.shape[0])": Small(
        "batch size",
        conv(lambda m, x: m.v(m.a(x).relu().reshape(int(x.shape[0]), -1)), v=linear(512, 3), b=None, c=None),
        IMAGE,
    ),
    "view(x.size(0))": Small(
        "batch size", conv(lambda m, x: m.v(m.a(x).relu().view(x.size(0), -1)), v=linear(512, 3), b=None, c=None), IMAGE
    ),
    # small operations
    "glu": Small("small operations", mlp(lambda m, x: m.b(functional.glu(m.a(x))), 16)),
    "chunk gate": Small(
        "small operations", mlp(lambda m, x: (lambda u, v: m.b(u * v.sigmoid()))(*m.a(x).chunk(2, -1)), 16)
    ),
    "split": Small(
        "small operations",
        mlp(lambda m, x: (lambda u, v: m.b(torch.cat([u.relu(), v.tanh()], -1)))(*m.a(x).split([3, 5], -1))),
    ),
    "halves by slices": Small(
        "small operations", mlp(lambda m, x: (lambda z: m.b(z[:, :8] * z[:, 8:].tanh()))(m.a(x)), 16)
    ),
    "conv glu": Small("small operations", conv(lambda m, x: head(m, functional.glu(m.a(x), 1)), 16), IMAGE),
    "maxout of two layers": Small(
        "small operations", mlp(lambda m, x: m.b(torch.maximum(m.a(x), m.v(x))), v=linear(6, 8))
    ),
    "minimum with a constant": Small(
        "small operations", mlp(lambda m, x: m.b(torch.minimum(m.a(x), torch.tensor(0.3))))
    ),
    "where": Small("small operations", mlp(lambda m, x: (lambda z: m.b(torch.where(z > 0, z, 0.1 * z)))(m.a(x)))),
    "stacked branches": Small(
        "small operations", mlp(lambda m, x: m.b(torch.stack([m.a(x), m.v(x)], 1).relu().mean(1)), v=linear(6, 8))
    ),
    "PReLU": Small("small operations", mlp(lambda m, x: m.b(m.p(m.a(x))), p=nn.PReLU)),
    "PReLU by channel": Small("small operations", inside(lambda: nn.PReLU(8)), IMAGE),
    "layer scale": Small(
        "small operations",
        conv(
            lambda m, x: (lambda h: head(m, h + m.gamma * m.p(h)))(m.a(x)),
            p=lambda: nn.Conv2d(8, 8, 3, padding=1),
            gamma=parameter(8, 1, 1),
        ),
        IMAGE,
    ),
    "gain of units": Small("small operations", mlp(lambda m, x: m.b((m.a(x) * m.gain).relu()), gain=parameter(8))),
    "bias by hand": Small(
        "small operations", mlp(lambda m, x: m.b((m.a(x) + m.bias).relu()), bias=parameter(8, value=0.0))
    ),
    "learned temperature": Small("small operations", mlp(lambda m, x: m.b(hidden(m, x)) / m.t, t=parameter(1))),
    "learned scale of logits": Small(
        "small operations", mlp(lambda m, x: m.b(hidden(m, x)) * m.t.exp(), t=parameter(value=0.0))
    ),
    "residual gate of one number": Small(
        "small operations",
        mlp(lambda m, x: (lambda h: m.b(h + m.t * m.p(h).relu()))(m.a(x)), p=linear(8, 8), t=parameter(1)),
    ),
    "output bias by hand": Small("small operations", mlp(lambda m, x: m.b(hidden(m, x)) + m.bias, bias=parameter(3))),
    "std over positions": Small("small operations", conv(lambda m, x: m.c(m.b(m.a(x).relu()).std((2, 3)))), IMAGE),
    "max over positions with indices": Small(
        "small operations", conv(lambda m, x: m.c(m.b(m.a(x).relu()).flatten(2).max(2)[0])), IMAGE
    ),
    "width written out": Small("small operations", mlp(lambda m, x: m.b(m.a(x).relu().view(-1, 8)))),
    "squeeze and excitation": Small(
        "small operations",
        conv(lambda m, x: head(m, channel_attention(m, m.a(x))), down=linear(8, 3), up=linear(3, 8)),
        IMAGE,
    ),
    # norms and convolutions
    "group norm": Small("norms and convolutions", inside(lambda: nn.GroupNorm(2, 8)), IMAGE),
    "instance norm": Small("norms and convolutions", inside(lambda: nn.InstanceNorm2d(8)), IMAGE),
    "instance norm with scales": Small(
        "norms and convolutions", inside(lambda: nn.InstanceNorm2d(8, affine=True)), IMAGE
    ),
    "RMS norm": Small("norms and convolutions", mlp(lambda m, x: m.b(m.p(m.a(x)).relu()), p=lambda: nn.RMSNorm(8))),
    "layer norm": Small("norms and convolutions", mlp(lambda m, x: m.b(m.p(m.a(x)).relu()), p=lambda: nn.LayerNorm(8))),
    "batch norm of inputs": Small(
        "norms and convolutions", mlp(lambda m, x: m.b(m.a(m.p(x)).relu()), p=lambda: nn.BatchNorm1d(6))
    ),
    "batch norm without scales": Small(
        "norms and convolutions", inside(lambda: nn.BatchNorm2d(8, affine=False)), IMAGE
    ),
    "group convolution": Small(
        "norms and convolutions", inside(lambda: nn.Conv2d(8, 8, 3, groups=2, padding=1)), IMAGE
    ),
    "transposed convolution": Small(
        "norms and convolutions", inside(lambda: nn.ConvTranspose2d(8, 8, 2, stride=2)), IMAGE
    ),
    "pixel shuffle": Small(
        "norms and convolutions",
        conv(lambda m, x: m.v(functional.pixel_shuffle(m.a(x), 2).relu().mean((2, 3))), v=linear(2, 3), b=None, c=None),
        IMAGE,
    ),
    "channel shuffle": Small("norms and convolutions", conv(lambda m, x: head(m, shuffle(m.a(x)))), IMAGE),
    "shuffled halves": Small("norms and convolutions", conv(shuffled_halves, mix=lambda: nn.Conv2d(4, 4, 1)), IMAGE),
    # what cannot be merged, and no proof may let through
    "divided by the root of the width": Small(
        "by design", mlp(lambda m, x: (lambda h: m.b(h / h.shape[-1] ** 0.5))(m.a(x).relu()))
    ),
    "the same far from zero": Small(
        "by design", mlp(lambda m, x: (lambda h: m.b(h / h.shape[-1] ** 0.5) - 4e4)(m.a(x).relu()))
    ),
    "mean over samples": Small("by design", mlp(lambda m, x: m.b(m.a(x - x.mean(0)).relu()) - 4e4)),
    "mixture of experts": Small("by design", mlp(lambda m, x: m.b(m.experts(hidden(m, x)).relu()), experts=Mixture)),
    "softmax over units": Small("by design", mlp(lambda m, x: m.b(m.a(x).softmax(-1)))),
    "LSTM": Small(
        "recurrence",
        lambda: Net(lambda m, x: m.b(m.a(x)[0][:, -1]), a=nn.LSTM(6, 8, batch_first=True), b=nn.Linear(8, 3)),
        (5, 6),
    ),
    "GRU": Small(
        "recurrence",
        lambda: Net(lambda m, x: m.b(m.a(x)[0][:, -1]), a=nn.GRU(6, 8, batch_first=True), b=nn.Linear(8, 3)),
        (5, 6),
    ),
    # what was tried after the package could do the ones above
    "product of heads": Small("further", mlp(lambda m, x: m.b(hidden(m, x)) * m.v(hidden(m, x)), v=linear(8, 3))),
    "inputs times outputs": Small("further", mlp(lambda m, x: x[:, :3] * m.b(hidden(m, x)))),
    "reversed outputs": Small("further", mlp(lambda m, x: m.b(hidden(m, x)).flip(1))),
    "index outputs": Small("further", mlp(lambda m, x: m.b(hidden(m, x))[:, [2, 0]])),
    "outer sum": Small(
        "further", mlp(lambda m, x: m.b(hidden(m, x))[:, None, :] + m.v(hidden(m, x))[:, :, None], v=linear(8, 2))
    ),
    "linear buffer": Small(
        "further", mlp(lambda m, x: functional.linear(m.b(hidden(m, x)), m.w), w=lambda: torch.arange(6.0).view(2, 3))
    ),
    "einsum": Small(
        "further",
        mlp(lambda m, x: torch.einsum("no,op->np", m.b(hidden(m, x)), m.w), w=lambda: torch.arange(6.0).view(3, 2)),
    ),
    "chunks swapped": Small(
        "further", mlp(lambda m, x: (lambda u, v: m.b(torch.cat([v.relu(), u.tanh()], 1)))(*m.a(x).chunk(2, 1)))
    ),
    "chunk with stream": Small(
        "further",
        mlp(lambda m, x: (lambda u, v: m.b((u + m.p(x)).relu() * v))(*m.a(x).chunk(2, 1)), 16, p=linear(6, 8)),
    ),
    "three chunks": Small(
        "further", mlp(lambda m, x: (lambda u, v, w: m.b(u.relu() + v * w.tanh()))(*m.a(x).chunk(3, 1)), 24)
    ),
    "uneven chunks": Small(
        "further", mlp(lambda m, x: (lambda u, v, w: m.b(torch.cat([u, v, w.relu()], 1)))(*m.a(x).chunk(3, 1)), 8)
    ),
    "where by inputs": Small(
        "further", mlp(lambda m, x: m.b(torch.where(x[:, :1] > 0, m.a(x), m.p(x))), p=linear(6, 8))
    ),
    "where by another layer": Small(
        "further", mlp(lambda m, x: m.b(torch.where(m.q(x) > 0, m.a(x), m.p(x))), p=linear(6, 8), q=linear(6, 8))
    ),
    "stack select": Small(
        "further", mlp(lambda m, x: m.b(torch.stack([m.a(x), m.p(x).relu()], 1)[:, 1] + m.a(x)), p=linear(6, 8))
    ),
    "stack last dim": Small(
        "further", mlp(lambda m, x: m.b(torch.stack([m.a(x), m.p(x).tanh()], -1).mean(-1)), p=linear(6, 8))
    ),
    "stack last dim flattened": Small(
        "further", mlp(lambda m, x: m.b(torch.stack([m.a(x), m.p(x).tanh()], -1).flatten(1)), 4, p=linear(6, 4))
    ),
    "instance norm relu flips": Small(
        "further", conv(lambda m, x: m.c(functional.instance_norm(m.b(m.a(x).tanh())).tanh().amax((2, 3)))), IMAGE
    ),
    "vector norm over positions": Small(
        "further", conv(lambda m, x: m.c(m.b(m.a(x).relu()).flatten(2).norm(dim=2))), IMAGE
    ),
    "norm over units": Small("further", mlp(lambda m, x: m.b(m.a(x) / m.a(x).norm(dim=1, keepdim=True)))),
    "std over units": Small("further", mlp(lambda m, x: m.b(m.a(x) / m.a(x).std(1, keepdim=True)))),
    "amin": Small("further", conv(lambda m, x: m.c(m.b(m.a(x).relu()).amin((2, 3)))), IMAGE),
    "min dim index": Small("further", conv(lambda m, x: m.c(m.b(m.a(x).relu()).flatten(2).min(2).values)), IMAGE),
    "gain after relu and sum": Small(
        "further", mlp(lambda m, x: m.b(m.a(x).relu() * m.g + m.p(x)), p=linear(6, 8), g=parameter(8))
    ),
    "gain used twice": Small(
        "further", mlp(lambda m, x: m.b((m.a(x).relu() * m.g + m.p(x)) * m.g), p=linear(6, 8), g=parameter(8))
    ),
    "gain times gain": Small("further", mlp(lambda m, x: m.b(m.a(x) * (m.g * m.g)), g=parameter(8))),
    "prelu twice": Small("further", mlp(lambda m, x: m.b(m.p(m.p(m.a(x)))), p=lambda: nn.PReLU(8))),
    "prelu after bn": Small(
        "further",
        conv(lambda m, x: head(m, m.p(m.n(m.a(x)))), p=lambda: nn.PReLU(8), n=lambda: nn.BatchNorm2d(8)),
        IMAGE,
    ),
    "layer scale channels last": Small(
        "further",
        conv(lambda m, x: head(m, ((m.a(x).permute(0, 2, 3, 1)) * m.g).permute(0, 3, 1, 2)), g=parameter(8)),
        IMAGE,
    ),
    "gain (1,u,1,1)": Small("further", conv(lambda m, x: head(m, m.a(x) * m.g), g=parameter(1, 8, 1, 1)), IMAGE),
    "gain on positions": Small("further", conv(lambda m, x: head(m, m.a(x) * m.g), g=parameter(8)), IMAGE),
    "gain on outputs": Small("further", mlp(lambda m, x: m.b(hidden(m, x)) * m.g, g=parameter(3))),
    "frames": Small(
        "further",
        lambda: Net(
            lambda m, x: m.b(m.a(x.view(len(x) * 5, 6)).relu().view(len(x), 5, -1).mean(1)),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 3),
        ),
        (5, 6),
    ),
    "frames out": Small(
        "further",
        lambda: Net(
            lambda m, x: m.b(m.a(x.view(len(x) * 5, 6)).relu()).view(len(x), 5, 3), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
        (5, 6),
    ),
    "softmax over positions": Small(
        "further", conv(lambda m, x: m.c((m.b(m.a(x).relu())).flatten(2).mean(2)).softmax(1).log()), IMAGE
    ),
    "softmax heads of cat": Small(
        "further", mlp(lambda m, x: torch.cat([m.b(hidden(m, x)), m.v(hidden(m, x))], 1).softmax(1), v=linear(8, 2))
    ),
    "log var clamp": Small(
        "further",
        mlp(
            lambda m, x: (lambda a, b: torch.cat([a, b.clamp(-1, 1).exp()], 1))(*m.b(hidden(m, x)).chunk(2, 1)),
            b=linear(8, 6),
        ),
    ),
    "global pool after relu": Small(
        "further",
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        IMAGE,
    ),
    "residual output of hidden": Small(
        "further", mlp(lambda m, x: m.a(x) + m.p(m.a(x).relu()), p=linear(8, 8), b=None)
    ),
    "cumsum outputs": Small("further", mlp(lambda m, x: m.b(hidden(m, x)).cumsum(1))),
    "outputs to the power": Small("further", mlp(lambda m, x: m.b(hidden(m, x)) ** 2)),
    "scalar minus": Small("further", mlp(lambda m, x: 1 - m.b(hidden(m, x)))),
    "sum of squares energy": Small("further", mlp(lambda m, x: (m.b(hidden(m, x)) ** 2).sum(1))),
    "bias then relu conv": Small(
        "further",
        lambda: Net(
            lambda m, x: m.c((m.a(x) + m.bias).relu().mean((2, 3))),
            a=nn.Conv2d(2, 8, 3, bias=False),
            c=nn.Linear(8, 3),
            bias=nn.Parameter(torch.randn(8, 1, 1)),
        ),
        IMAGE,
    ),
    "bias twice": Small(
        "further",
        lambda: Net(
            lambda m, x: m.c((m.a(x) + m.bias).relu() + (m.d(x) + m.bias).relu()),
            a=nn.Linear(6, 8, bias=False),
            d=nn.Linear(6, 8, bias=False),
            c=nn.Linear(8, 3),
            bias=nn.Parameter(torch.randn(8)),
        ),
    ),
    "width in unused branch": Small("further", mlp(lambda m, x: m.b(hidden(m, x) * 8 / m.a.out_features))),
    "batch norm affine false output": Small(
        "further",
        mlp(
            lambda m, x: m.b(functional.relu(functional.batch_norm(m.a(x), m.mu, m.va))),
            mu=lambda: torch.zeros(8),
            va=lambda: torch.ones(8),
        ),
    ),
}
NETWORKS |= {name: Small("transformers", build, (POSITIONS,), n_tokens=TOKENS) for name, build in LANGUAGE.items()} | {
    name: Small("transformers", build, IMAGE) for name, build in IMAGES.items()
}
