"""Heads of attention with one weight, in which each head has its rows of queries, keys and values, as in GPT-NeoX."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from consilience.nets import GPT


class ByHead(nn.Module):
    """Causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, -1, 3 * self.head_width).transpose(1, 2).chunk(3, -1)
        read = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.o(read.transpose(1, 2).reshape(n, t, -1))
        return result


def gpt_by_head(vocabulary: int, positions: int, width: int, heads: int, mlp: int) -> GPT:
    """A GPT of one block with such heads."""
    net = GPT(vocabulary, positions, width=width, heads=(heads,), mlp_widths=(mlp,))
    net.blocks[0].attention = ByHead(width, heads)
    return net
