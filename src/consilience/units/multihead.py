"""``nn.MultiheadAttention`` in plain operations, with samples first.

Torch's own form moves samples behind positions and merges them with heads.

- Self-attention is put into plain operations while a module is traced; the proof compares the program with the module's
  own forward pass.
- Cross-attention reads two values with one weight, whose axis of inputs would be units of two layers. It becomes a
  class with a weight for each; what the module returns is compared with what it returned before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
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


class CrossAttention(nn.MultiheadAttention):
    """An `nn.MultiheadAttention`, samples first, with layers ``q``, ``k`` and ``v`` in place of its packed weights."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Any:
        """Return what is attended to, and the weights if they are needed; the arguments are torch's."""
        return _attended(self, self.q(query), self.k(key), self.v(value), *args, **kw)


PARTS = ("q", "k", "v")
PACKED = ("in_proj_weight", "in_proj_bias", *(f"{part}_proj_weight" for part in PARTS))


def cross_attentions(module: nn.Module, call: Callable[[], object]) -> list[nn.MultiheadAttention]:
    """Return the parts of a module that attend from one value to another, samples first, in a call that runs it."""
    found = dict[nn.MultiheadAttention, None]()

    def note(part: nn.Module, args: tuple[Any, ...], kw: dict[str, Any]) -> None:
        query, key, value = (*args, *(kw[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        assert isinstance(part, nn.MultiheadAttention)
        plain = part.batch_first and part.bias_k is None and not part.add_zero_attn and query.dim() == 3
        if plain and not (query is key and key is value):
            found[part] = None

    parts = [part for part in module.modules() if type(part) is nn.MultiheadAttention]
    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in parts]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return [*found]


def packed_attentions(module: nn.Module, state: Collection[str]) -> list[str]:
    """Return the paths of attentions with packed weights in a module, where a state has a `CrossAttention`."""
    parts = module.named_modules()
    return [path for path, part in parts if type(part) is nn.MultiheadAttention and f"{path}.q.weight" in state]


def unpack(part: nn.Module) -> None:
    """Make an `nn.MultiheadAttention` a `CrossAttention`, in place."""
    state = unpacked({name: value.detach() for name, value in part.named_parameters()}, "")
    for name in PACKED:
        part.register_parameter(name, None)
    for name in PARTS:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight.clone())
        layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.clone()))
        part.add_module(name, layer)
    part.__class__ = CrossAttention


def unpacked(state: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Return a state with the parameters of a `CrossAttention` in place of the packed ones at a path."""
    at, left = f"{path}.".lstrip("."), dict(state)
    weight, bias, *apart = (left.pop(f"{at}{name}", None) for name in PACKED)
    weights = apart if weight is None else [*weight.chunk(3)]
    biases = [None] * 3 if bias is None else [*bias.chunk(3)]
    for kind, values in (("weight", weights), ("bias", biases)):
        named = zip(PARTS, values, strict=True)
        left |= {f"{at}{name}.{kind}": value for name, value in named if value is not None}
    return left


def _attend(module: nn.MultiheadAttention, x: Tensor, *args: Any, **kw: Any) -> tuple[Tensor, Tensor | None]:
    """Self-attention of x (n, t, e); the other arguments are those of the module."""
    q, k, v = functional.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    return _attended(module, q, k, v, *args, **kw)


def _attended(
    module: nn.MultiheadAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of queries (n, t, e) to keys and values (n, s, e); the other arguments are those of the module."""
    q, k, v = (part.reshape(*part.shape[:2], -1, module.head_dim).transpose(1, 2) for part in (q, k, v))
    mask = None if attn_mask is None else _added(attn_mask, q.dtype)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (len(q), -1))
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, q.dtype)[:, None, None]
        mask = padding if mask is None else mask + padding
    dropout = module.dropout if module.training else 0.0
    attended = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
    weights = None
    if need_weights:
        scores = q @ k.transpose(-1, -2) * module.head_dim**-0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = weights.mean(1) if average_attn_weights else weights
    return module.out_proj(attended.transpose(1, 2).flatten(2)), weights


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers that are added to scores: −∞ where a mask of truth values is true."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
