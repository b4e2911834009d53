"""The plain form of a user's module: without wrappers, weights in place of what computes them, in single precision.

- Wrappers that compute what the module inside computes are taken off, wherever they are.
- Weights that are computed before each forward pass (weight norm, spectral norm, pruning, parametrizations), or in the
  forward pass of a layer (`consilience.units.computed`), are computed once and stored.
- A parameter of two modules, as tied embeddings are, becomes two: they are merged apart.
- A network of Hugging Face's keeps no cache of keys and values.
- Half precision becomes float32, which this package computes in.
- A module that has no values, or no real ones, is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from consilience.checks import as_tensor, check_finite, describe
from consilience.errors import InputError, is_of_memory
from consilience.units.computed import store_computed
from consilience.units.configs import make_plain
from consilience.units.forward import eval_mode

# By package and class: the attribute that holds the module inside; None where the weights inside are not whole.
WRAPPERS: dict[tuple[str, str], str | None] = {
    ("torch", "DataParallel"): "module",
    ("torch", "DistributedDataParallel"): "module",
    ("torch", "AveragedModel"): "module",
    ("torch", "OptimizedModule"): "_orig_mod",
    ("torch", "FullyShardedDataParallel"): None,
    ("timm", "ModelEmaV2"): "module",
    ("timm", "ModelEmaV3"): "module",
    ("lightning", "_FabricModule"): "_original_module",
    ("deepspeed", "DeepSpeedEngine"): "module",
}
HALVES = (torch.float16, torch.bfloat16)
CODE = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)  # copies share it


def plain_copy(module: object, name: str) -> nn.Module:
    """Return a copy of a module in its plain form, which computes what the module computes in eval mode.

    ``name`` is what errors call it.

    Raises
    ------
    InputError : if it is no module, has no values or none of a floating point type, or cannot be copied.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"{name} must be an nn.Module, got {describe(module)}")
    module = unwrapped(module, name)
    _check_values(module, name)
    plain = _copy(module, name)
    for path, part in [*plain.named_modules(remove_duplicate=False)][1:]:
        inside = unwrapped(part, f"'{path}' of {name}")
        if inside is not part:
            parent, _, attribute = path.rpartition(".")
            setattr(plain.get_submodule(parent), attribute, inside)
    for part in plain.modules():
        _store_weights(part)
    _untie(plain)
    return single(plain)


def unwrapped(module: nn.Module, name: str) -> nn.Module:
    """Return the module inside a wrapper, or the module itself; ``name`` is what errors call it."""
    if isinstance(module, torch.jit.ScriptModule):
        cure = "pass the module that it was made from, with load_state_dict(scripted.state_dict())"
        raise InputError(f"{name} must be a module in Python, got TorchScript", cure=cure)
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(module).__mro__}
    for kind in kinds & WRAPPERS.keys():
        attribute = WRAPPERS[kind]
        if attribute is None:
            cure = "gather the full state dict, and load it into the module inside"
            raise InputError(f"{name} must hold its whole weights, got a {kind[1]}", cure=cure)
        return unwrapped(getattr(module, attribute), name)
    return module


def single(module: nn.Module) -> nn.Module:
    """Convert a module with a parameter in half precision to float32, in place; return it."""
    return module.float() if any(value.dtype in HALVES for value in module.parameters()) else module


def as_example(x: object, argument: str = "example_input") -> Tensor:
    """Return example inputs (n, ...), n ≥ 1, as a finite tensor: arrays in torch's default type, halves in float32."""
    tensor = as_tensor(x, argument)
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise InputError(f"{argument} must have shape (n, ...) with n >= 1, got {tuple(tensor.shape)}")
    if tensor.device.type != "cpu":
        raise InputError(f"{argument} must be on the CPU, got {tensor.device}", cure=f"{argument}.cpu()")
    if tensor.is_floating_point() and not isinstance(x, Tensor):
        tensor = tensor.to(torch.get_default_dtype())
    tensor = tensor.float() if tensor.dtype in HALVES else tensor
    check_finite(tensor, argument)
    return tensor


def first_names(module: nn.Module) -> dict[str, str]:
    """Return the first name of each tensor of a module by all its names; a part that it holds twice has two."""
    first = dict[int, str]()
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(value), name) for name, value in tensors}


def _check_values(module: nn.Module, name: str) -> None:
    for key, value in (*module.named_parameters(), *module.named_buffers()):
        what = f"'{key}' of {name}"
        if is_lazy(value) or value.is_meta:
            cure = (
                "run the module once on an input" if is_lazy(value) else "load its weights: to_empty, load_state_dict"
            )
            raise InputError(f"{what} must have values, got none yet", cure=cure)
        if value.device.type != "cpu":
            raise InputError(f"{what} must be on the CPU, got {value.device}", cure="pass module.cpu()")
        usable = value.layout == torch.strided and value.is_floating_point() and value.numel() > 0
        if isinstance(value, nn.Parameter) and not usable:
            got = f"{value.layout} {describe(value)}"
            raise InputError(f"{what} must be dense, of a floating point type and not empty, got {got}")
    for path, part in module.named_modules():
        if ".quantized" in type(part).__module__:
            cure = "pass the module as it was before quantization"
            raise InputError(f"'{path}' of {name} must have floating point weights, got {type(part)}", cure=cure)


def _store_weights(part: nn.Module) -> None:
    """Replace what computes a weight before each forward pass by the weight, as it is in eval mode."""
    if parametrize.is_parametrized(part):  # by hand: torch's removal changes the class, which a copy shares
        with eval_mode(part):  # no power iteration
            weights = {name: getattr(part, name).clone() for name in part.parametrizations}  # type: ignore[union-attr]
        del part.parametrizations
        part.__class__ = type(part).__mro__[1]
        for name, value in weights.items():
            part.register_parameter(name, nn.Parameter(value))
    for hook in list(part._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(part, hook._tensor_name)
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)
    store_computed(part)


def _untie(module: nn.Module) -> None:
    """Give each module a parameter of its own in place of one that it shares with another module."""
    met = set[int]()
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            if id(value) in met:
                setattr(part, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
            met.add(id(value))
    make_plain(module)


def _copy(module: nn.Module, name: str) -> nn.Module:
    """Return a deep copy, in which tensors with a history (kept activations) are without it."""
    with_history = [v for v in _reachable(module) if isinstance(v, Tensor) and v.grad_fn is not None]
    memo = {id(value): value.detach().clone() for value in with_history}
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception as error:
        if is_of_memory(error):
            raise
        at = next(_uncopyable(module, memo), "an attribute")
        got = f"{at}, of which it says {type(error).__name__}: {error}"
        message = f"{name} must be a module that copy.deepcopy can copy, got {got}"
        raise InputError(message, cure="delete that attribute before, and set it again after") from error


def _uncopyable(module: nn.Module, memo: dict[int, Tensor]) -> Iterator[str]:
    """Yield the attributes that cannot be copied, by name."""
    for path, part in module.named_modules():
        for attribute, value in vars(part).items():
            try:
                copy.deepcopy(None if attribute == "_modules" else value, dict(memo))
            except Exception:
                yield f"'{path}.{attribute}'".replace("'.", "'")


def _reachable(value: object) -> Iterator[object]:
    """Yield all that an object holds, in attributes and collections, each once; an object comes before its parts."""
    waiting, met = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in met or isinstance(value, CODE):
            continue
        met.add(id(value))
        yield value
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        if not isinstance(value, Tensor):
            waiting += getattr(value, "__dict__", {}).values()
