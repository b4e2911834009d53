"""What transformers are made of: attention, MLPs, the blocks that add both to a stream, and positions.

Axis legend: ``n`` sample, ``t`` position, ``d`` stream, ``h`` head, ``j`` inside a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.nets.activations import ACTIVATIONS

SPREAD = 0.02  # of initial embeddings, positions and class tokens, as in GPT-2


class Rotation(nn.Module):
    """Rotary positions: turns the numbers i and i + j/2 of a head of width j by the angle ``t · base^(-2i/j)``."""

    cos: Tensor
    sin: Tensor

    def __init__(self, n_positions: int, head_width: int, base: float) -> None:
        super().__init__()
        self.base = base
        speeds = base ** (-torch.arange(0, head_width, 2) / head_width)
        angles = torch.outer(torch.arange(n_positions), speeds).repeat(1, 2)  # (t, j)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys (n, h, t, j)."""
        t = x.shape[2]
        first, second = x.chunk(2, -1)
        return x * self.cos[:t] + torch.cat([-second, first], -1) * self.sin[:t]


class Attention(nn.Module):
    """Queries ``q``, keys ``k`` and values ``v`` of the heads, and ``o``, which writes what the heads have read.

    With ``queries_per_key`` > 1, that many consecutive heads share a key and a value. ``rotate`` may be a `Rotation`.
    """

    def __init__(
        self, width: int, heads: int, head_width: int, *, causal: bool, bias: bool = True, queries_per_key: int = 1
    ) -> None:
        super().__init__()
        self.head_width, self.causal, self.grouped = head_width, causal, queries_per_key > 1
        inner = heads * head_width
        self.q = nn.Linear(width, inner, bias=bias)
        self.k = nn.Linear(width, inner // queries_per_key, bias=bias)
        self.v = nn.Linear(width, inner // queries_per_key, bias=bias)
        self.o = nn.Linear(inner, width, bias=bias)
        self.rotate: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map a normed stream (n, t, d) to what is added to the stream."""
        n, t, _ = x.shape
        q, k, v = (part(x).view(n, t, -1, self.head_width).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.rotate(q), self.rotate(k)
        if self.grouped:
            read = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=True)
        else:
            read = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        outputs: Tensor = self.o(read.transpose(1, 2).reshape(n, t, -1))
        return outputs


class FeedForward(nn.Module):
    """``down(f(up(x)))`` with the activation f, or, if gated, ``down(f(gate(x)) · up(x))``."""

    def __init__(self, width: int, inner: int, activation: str, *, gated: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.gate = nn.Linear(width, inner, bias=bias) if gated else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map a normed stream (n, t, d) to what is added to the stream."""
        activation = ACTIVATIONS[self.activation]
        inner = activation(self.up(x)) if self.gate is None else activation(self.gate(x)) * self.up(x)
        outputs: Tensor = self.down(inner)
        return outputs


class Block(nn.Module):
    """Adds what ``attention`` gives to the stream, then what ``mlp`` gives; each reads the stream through its norm."""

    def __init__(self, norms: tuple[nn.Module, nn.Module], attention: Attention, mlp: FeedForward) -> None:
        super().__init__()
        self.norm1, self.attention = norms[0], attention
        self.norm2, self.mlp = norms[1], mlp

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (n, t, d) to the stream after this block."""
        between: Tensor = x + self.attention(self.norm1(x))
        after: Tensor = between + self.mlp(self.norm2(between))
        return after


class Tokens(nn.Embedding):
    """An embedding with small initial values; with torch's, of spread 1, the first steps hardly change the stream."""

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        nn.init.normal_(self.weight, std=SPREAD)


class Positions(nn.Module):
    """Adds a learned vector to the stream at each position."""

    def __init__(self, n_positions: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_positions, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (n, t, d) to itself plus the vectors of its positions."""
        return x + self.weight[: x.shape[1]]


class ClassToken(nn.Module):
    """Puts a learned vector before the first position of the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (n, t, d) to (n, 1 + t, d)."""
        return torch.cat([self.weight.expand(x.shape[0], -1, -1), x], 1)
