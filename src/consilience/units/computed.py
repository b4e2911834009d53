"""Weights that a linear layer or convolution of a class of its own computes in its forward pass, stored as they are.

Weight standardization, learned scales of a weight and the like compute it of parameters alone; the layer then is one
of torch's with that weight. This is checked on inputs of two sizes: all that is done with the input is to give it to
the operation as it is, and what this returns is returned. The state dict of the layer must have more in it than a
weight and a bias: otherwise one with the weight as it is stored would fit the layer, and be another function.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from consilience.units.forward import COMPUTED_FROM, eval_mode

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SHARE = 1e-5  # of the largest output, by which the layer with a stored weight may differ


def store_computed(part: nn.Module) -> None:
    """Make a linear layer or convolution whose weight is computed one of torch's, with that weight, in place."""
    kind = next((kind for kind in PLAIN if isinstance(part, kind)), None)
    if kind is None or type(part) is kind or part._modules or {*part.state_dict()} <= {"weight", "bias"}:
        return
    names, inputs = {*part._parameters, *part._buffers}, [_inputs(part, more) for more in (0, 1)]
    with eval_mode(part), torch.no_grad():
        noted = [_Weights(x) for x in inputs]
        try:
            outputs = [_run(part, x, weights) for x, weights in zip(inputs, noted, strict=True)]
        except Exception:  # an error of the user's, which tracing reports
            return
        one, other = (weights.noted for weights in noted)
        if any(weights.more for weights in noted) or not (len(one) == len(other) == 1):
            return
        if any(y is not weights.returned for y, weights in zip(outputs, noted, strict=True)):
            return
        if not all(_same(a, b) for a, b in zip(one[0], other[0], strict=True)):
            return
        plain = _plain(part, kind, *one[0])
        try:
            ours = [plain(x) for x in inputs]
        except RuntimeError:
            return
    if all(_near(a, b) for a, b in zip(ours, outputs, strict=True)):
        part.__class__ = kind
        training = part.training
        part.__dict__.clear()
        part.__dict__.update(vars(plain) | {"training": training, COMPUTED_FROM: names - {"weight", "bias"}})


def computes_weights(module: nn.Module) -> bool:
    """Whether a module has a layer that `store_computed` replaces, so that its state dict is not that of its copies."""
    for part in module.modules():
        if isinstance(part, PLAIN) and type(part) not in PLAIN and not part._modules:
            stored = copy.deepcopy(part)
            store_computed(stored)
            if type(stored) is not type(part):
                return True
    return False


def _run(part: nn.Module, x: Tensor, weights: _Weights) -> Any:
    with weights:
        return part(x)


class _Weights(TorchFunctionMode):
    """Inside, what linear layers and convolutions of x are called with is noted, and whether more is done with x."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.returned, self.more = x, None, False
        self.noted: list[tuple[Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | named
        if (func is functional.linear or func in CONVOLUTIONS) and given["input"] is self.x:
            self.noted.append((given["weight"], given.get("bias")))
            self.returned = result
        elif any(each is self.x for each in (*args, *named.values())):
            self.more = True
        return result


def _inputs(part: Any, more: int) -> Tensor:
    """Inputs that a layer takes, of a size that grows with ``more``."""
    generator, reads = torch.Generator().manual_seed(0), part.in_features if isinstance(part, nn.Linear) else 0
    if reads:
        return torch.randn(2, reads, generator=generator, dtype=part.weight.dtype)
    positions = [(k - 1) * d + 3 + more for k, d in zip(part.kernel_size, part.dilation, strict=True)]
    return torch.randn(2, part.in_channels, *positions, generator=generator, dtype=part.weight.dtype)


def _plain(part: nn.Module, kind: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer of torch's with a weight and bias, and the settings of a part."""
    plain = copy.copy(part)
    plain.__class__ = kind
    plain.__dict__ = vars(part) | {"_parameters": {}, "_buffers": {}, "_non_persistent_buffers_set": set()}
    for name, value in (("weight", weight), ("bias", bias)):
        plain.register_parameter(name, None if value is None else nn.Parameter(value.detach().clone()))
    return plain


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return torch.equal(a, b) if a is not None and b is not None else a is b


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= SHARE * b.abs().max())
