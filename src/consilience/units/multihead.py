"""``nn.MultiheadAttention`` in plain operations, with samples first, for tracing.

Torch's own form moves samples behind positions and merges them with heads. The proof compares the program with the
module's own forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import transformer


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, multi-head attention runs in plain operations, and no layer takes torch's fused path."""
    own, fused = nn.MultiheadAttention.forward, torch.backends.mha.get_fastpath_enabled()

    def forward(self: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Any:
        same = query is key and key is value and query.dim() == 3
        if not same or not self.batch_first or self.in_proj_weight is None or self.bias_k is not None:
            return own(self, query, key, value, *args, **kw)
        return _attend(self, query, *args, **kw)

    detect, transformer._detect_is_causal_mask = transformer._detect_is_causal_mask, lambda *_: False
    nn.MultiheadAttention.forward = forward  # type: ignore[method-assign]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect
        nn.MultiheadAttention.forward = own  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fused)


def _attend(
    module: nn.MultiheadAttention,
    x: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Self-attention of x (n, t, e); the arguments are those of the module."""
    parts = functional.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    q, k, v = (part.reshape(*x.shape[:2], -1, module.head_dim).transpose(1, 2) for part in parts)
    mask = None if attn_mask is None else _added(attn_mask, x.dtype)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (len(x), -1))
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, x.dtype)[:, None, None]
        mask = padding if mask is None else mask + padding
    attended = functional.scaled_dot_product_attention(q, k, v, mask)
    weights = None
    if need_weights:
        scores = q @ k.transpose(-1, -2) * module.head_dim**-0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = weights.mean(1) if average_attn_weights else weights
    return module.out_proj(attended.transpose(1, 2).flatten(2)), weights


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers that are added to scores: −∞ where a mask of truth values is true."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
