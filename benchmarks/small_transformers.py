"""Small transformers as people write them by hand: a family of the networks of `small_networks.py`.

Each is an embedding, one block and a readout; what differs is how positions, heads, masks and norms are written. After
nanoGPT, llama2.c and Meta's Llama, The Annotated Transformer, GPT-NeoX, T5, ALiBi, tutorials of torch, and ViTs whose
patches have a norm of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, HEAD, POSITIONS, TOKENS = 16, 4, 4, 6, 11
Attend = Callable[[Any, Tensor, Tensor, Tensor], Tensor]  # module, q, k, v (n, h, t, j) → what is read (n, h, t, j)


class Attention(nn.Module):
    """Attention with three weights and heads before positions; ``attend`` is what differs."""

    def __init__(self, attend: Attend, n_kv_heads: int = HEADS, **buffers: Tensor) -> None:
        super().__init__()
        self.attend, self.n_heads, self.n_kv_heads, self.head_dim = attend, HEADS, n_kv_heads, HEAD
        self.q, self.o = nn.Linear(WIDTH, HEADS * HEAD), nn.Linear(HEADS * HEAD, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, n_kv_heads * HEAD), nn.Linear(WIDTH, n_kv_heads * HEAD)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (n, t, d) to what is added to it."""
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.n_heads, self.head_dim).transpose(1, 2)
        k, v = (m(x).view(n, t, self.n_kv_heads, self.head_dim).transpose(1, 2) for m in (self.k, self.v))
        return self.o(self.attend(self, q, k, v).transpose(1, 2).contiguous().view(n, t, -1))  # type: ignore[no-any-return]


class OneWeight(nn.Module):
    """Queries, keys and values of one weight: side by side, or head by head."""

    def __init__(self, heads: int = HEADS, *, by_head: bool = False) -> None:
        super().__init__()
        self.n_head, self.n_embd, self.head_dim, self.by_head = heads, WIDTH, WIDTH // heads, by_head
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("bias", torch.tril(torch.ones(POSITIONS, POSITIONS)).view(1, 1, POSITIONS, POSITIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (n, t, d) to what is added to it."""
        n, t, _ = x.shape
        if self.by_head:
            q, k, v = self.c_attn(x).view(n, t, -1, 3 * self.head_dim).transpose(1, 2).chunk(3, -1)
        else:
            parts = self.c_attn(x).split(self.n_embd, dim=2)
            q, k, v = (part.view(n, t, self.n_head, self.head_dim).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(n, t, -1))  # type: ignore[no-any-return]


class HeadsApart(nn.Module):
    """A module for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.ModuleDict({n: nn.Linear(WIDTH, HEAD) for n in "qkv"}) for _ in range(HEADS))
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (n, t, d) to what is added to it."""
        read = []
        for head in self.heads:
            q, k, v = (head[name](x) for name in "qkv")  # type: ignore[index]
            read.append((q @ k.transpose(-2, -1) * HEAD**-0.5).softmax(-1) @ v)
        return self.o(torch.cat(read, -1))  # type: ignore[no-any-return]


class RmsNorm(nn.Module):
    """RMS norm in single precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map values with features last to the same shape."""
        square = x.float().pow(2).mean(-1, keepdim=True)
        return (x.float() * torch.rsqrt(square + 1e-5)).type_as(x) * self.weight


class StdNorm(nn.Module):
    """A norm by the standard deviation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map values with features last to the same shape."""
        return self.a * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + self.b


class Language(nn.Module):
    """Tokens, positions, one block, and a readout at each position."""

    def __init__(
        self,
        attention: nn.Module,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        positions: nn.Module | Tensor | None = None,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.tokens, self.attention, self.gated = nn.Embedding(TOKENS, WIDTH), attention, gated
        if isinstance(positions, Tensor):
            self.register_buffer("positions", positions)
        else:
            self.positions = positions
        self.norm1, self.norm2, self.norm3 = norm(WIDTH), norm(WIDTH), norm(WIDTH)
        self.up, self.gate, self.down = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.read = nn.Linear(WIDTH, TOKENS)

    def forward(self, ids: Tensor) -> Tensor:
        """Map tokens (n, t) to logits (n, t, o)."""
        x = self.tokens(ids) * math.sqrt(16)
        if isinstance(self.positions, nn.Module):
            x = x + self.positions(torch.arange(ids.size(1)))
        elif self.positions is not None:
            x = x + self.positions[:, : ids.size(1)].requires_grad_(False)
        x = x + self.attention(self.norm1(x))
        inner = self.norm2(x)
        up = functional.silu(self.gate(inner)) * self.up(inner) if self.gated else functional.gelu(self.up(inner))
        return self.read(self.norm3(x + self.down(up)))  # type: ignore[no-any-return]


class Padded(nn.Module):
    """Tokens of which 0 is padding, a layer, and what is made of its positions."""

    def __init__(self, pooled: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.pooled, self.tokens = pooled, nn.Embedding(TOKENS, WIDTH, padding_idx=0)
        self.hidden, self.scores, self.read = nn.Linear(WIDTH, 24), nn.Linear(24, 1), nn.Linear(24, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Map tokens (n, t) to outputs (n, o)."""
        return self.read(self.pooled(self, torch.tanh(self.hidden(self.tokens(ids))), ids != 0))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """`nn.TransformerEncoder` as in torch's tutorials."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True)
        self.tokens, self.encoder, self.read = (
            nn.Embedding(TOKENS, WIDTH),
            nn.TransformerEncoder(layer, 1),
            nn.Linear(WIDTH, 5),
        )
        self.register_buffer("pe", sines())

    def forward(self, ids: Tensor) -> Tensor:
        """Map tokens (n, t) to logits (n, t, o)."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        return self.read(self.encoder(self.tokens(ids) + self.pe[:, : ids.size(1)], mask=mask))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """A ViT whose patches have a norm, with a class token or a mean."""

    def __init__(self, *, class_token: bool) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, WIDTH), nn.LayerNorm(WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH)) if class_token else None
        self.positions = nn.Parameter(torch.randn(1, 4 + class_token, WIDTH))
        self.norm, self.attention, self.last = nn.LayerNorm(WIDTH), Attention(fused), nn.LayerNorm(WIDTH)
        self.read = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, 2, 8, 8) to outputs (n, o)."""
        n = x.shape[0]
        z = self.patch(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(n, 4, 32))
        if self.token is not None:
            z = torch.cat([self.token.expand(n, -1, -1), z], 1)
        z = z + self.positions
        z = self.last(z + self.attention(self.norm(z)))
        return self.read(z[:, 0] if self.token is not None else z.mean(1))  # type: ignore[no-any-return]


def sines() -> Tensor:
    """Sines and cosines of positions: (1, t, d)."""
    angles = torch.arange(POSITIONS)[:, None] * torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(1e4) / WIDTH))
    return torch.stack([angles.sin(), angles.cos()], -1).view(1, POSITIONS, WIDTH)


def fused(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own operation."""
    return functional.scaled_dot_product_attention(q, k, v)


def masked(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores to which a mask of −∞ is added."""
    t = q.shape[2]
    return (q @ k.transpose(-1, -2) / math.sqrt(HEAD) + m.mask[:t, :t]).softmax(-1) @ v


def filled(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores in which a mask is filled with a large number."""
    earlier = torch.tril(torch.ones(1, q.shape[2], q.shape[2], dtype=torch.bool)).unsqueeze(1)
    return (q @ k.transpose(-1, -2) / math.sqrt(HEAD)).masked_fill(earlier == 0, -1e9).softmax(-1) @ v


def biased(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Learned biases of relative positions."""
    t = torch.arange(q.shape[2])
    return (q @ k.transpose(-1, -2) + m.relative(t[None] - t[:, None] + POSITIONS).permute(2, 0, 1)[None]).softmax(
        -1
    ) @ v


def sloped(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A slope for each head, times the distance."""
    t = torch.arange(q.shape[2])
    distances = (t[None] - t[:, None]).abs().float() * m.slopes[:, None, None]
    return (q @ k.transpose(-1, -2) / math.sqrt(HEAD) - distances).softmax(-1) @ v


def repeated(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values repeated for groups of queries."""
    n, heads, t, j = k.shape
    k, v = (a[:, :, None].expand(n, heads, HEADS // 2, t, j).reshape(n, heads * (HEADS // 2), t, j) for a in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def turned(turn: Callable[[Any, Tensor], Tensor]) -> Attend:
    """Rotary positions."""

    def attend(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(turn(m, q), turn(m, k), v, is_causal=True)

    return attend


def halves(m: Any, a: Tensor) -> Tensor:
    """The first half of a head's features turned with the second."""
    cos, sin = (torch.cat([wave, wave], -1) for wave in (m.angles.cos(), m.angles.sin()))
    first, second = a.chunk(2, -1)
    return a * cos + torch.cat([-second, first], -1) * sin


def neighbours(m: Any, a: Tensor) -> Tensor:
    """Neighbouring features turned with each other."""
    x, y = a.reshape(*a.shape[:-1], -1, 2).unbind(-1)
    cos, sin = m.angles.cos(), m.angles.sin()
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1).flatten(3)


def complex_numbers(m: Any, a: Tensor) -> Tensor:
    """The same as products of complex numbers."""
    pairs = torch.view_as_complex(a.float().reshape(*a.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(m.angles), m.angles)).flatten(3).type_as(a)


ANGLES = torch.arange(POSITIONS)[:, None] * torch.tensor([1.0, 0.1])
INFINITE = torch.full((POSITIONS, POSITIONS), float("-inf")).triu(1)
SLOPES = 2.0 ** -torch.arange(1, HEADS + 1)


def relative() -> Attention:
    """Attention with learned biases."""
    made = Attention(biased)
    made.relative = nn.Embedding(2 * POSITIONS, HEADS)
    return made


def learned() -> nn.Embedding:
    """Learned positions."""
    return nn.Embedding(POSITIONS, WIDTH)


LANGUAGE: dict[str, Callable[[], nn.Module]] = {
    "one weight, mask filled in (nanoGPT)": lambda: Language(OneWeight(), positions=learned()),
    "one weight, one head": lambda: Language(OneWeight(1), positions=learned()),
    "one weight by head (GPT-NeoX)": lambda: Language(OneWeight(by_head=True)),
    "sines in a buffer (Annotated Transformer)": lambda: Language(Attention(filled), positions=sines()),
    "norm by std (Annotated Transformer)": lambda: Language(Attention(filled), StdNorm, sines()),
    "mask of infinities in a buffer": lambda: Language(Attention(masked, mask=INFINITE), positions=learned()),
    "rotary by halves": lambda: Language(Attention(turned(halves), angles=ANGLES), RmsNorm, gated=True),
    "rotary by neighbours (llama2.c)": lambda: Language(
        Attention(turned(neighbours), angles=ANGLES), RmsNorm, gated=True
    ),
    "rotary by complex numbers (Llama)": lambda: Language(
        Attention(turned(complex_numbers), angles=ANGLES), RmsNorm, gated=True
    ),
    "grouped queries": lambda: Language(Attention(repeated, 2), RmsNorm, gated=True),
    "biases of relative positions (T5)": lambda: Language(relative(), RmsNorm),
    "slopes of distances (ALiBi)": lambda: Language(Attention(sloped, slopes=SLOPES)),
    "a module for each head": lambda: Language(HeadsApart(), positions=learned()),
    "torch's encoder": Encoder,
    "mean of what is not padded": lambda: Padded(
        lambda m, z, own: (z * own[..., None]).sum(1) / own.sum(1, keepdim=True).clamp(min=1)
    ),
    "mean of what is filled with zeros": lambda: Padded(
        lambda m, z, own: z.masked_fill(~own[..., None], 0).sum(1) / own.sum(1, keepdim=True).clamp(min=1)
    ),
    "largest of what is not padded": lambda: Padded(lambda m, z, own: z.masked_fill(~own[..., None], -1e9).amax(1)),
    "attention pooling": lambda: Padded(
        lambda m, z, own: (z * m.scores(z).masked_fill(~own[..., None], -1e4).softmax(1)).sum(1)
    ),
    "attention pooling, squeezed": lambda: Padded(
        lambda m, z, own: (z * m.scores(z).squeeze(-1).masked_fill(~own, -1e4).softmax(1)[..., None]).sum(1)
    ),
}
IMAGES: dict[str, Callable[[], nn.Module]] = {
    "norm of patches, class token": lambda: Patches(class_token=True),
    "norm of patches, mean": lambda: Patches(class_token=False),
}
