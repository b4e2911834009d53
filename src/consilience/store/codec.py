"""What an artefact can hold: tensors by name, and JSON.

Nested names are joined by ``/`` and come apart again with `subset`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from consilience.errors import InputError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)
DTYPES = {*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}

Tensors: TypeAlias = "Mapping[str, Tensor | Tensors]"


def fingerprint(tensors: Tensors) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the tensors' names, types, shapes and bytes, in any order.

    >>> a, b = torch.zeros(2), torch.ones(3)
    >>> fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a}) != fingerprint({"a": b, "b": a})
    True
    """
    return digest(flatten(tensors).items())


def digest(items: Iterable[tuple[str, Tensor]]) -> str:
    """Return the `fingerprint` of tensors that come one by one, in the order of their names."""
    total = hashlib.sha256()
    for name, tensor in items:
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(_packed(tensor).reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def flatten(tensors: Tensors, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors by their names joined by ``/``, as in ``"a/b"`` for ``{"a": {"b": t}}``, in order."""
    flat: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not isinstance(key, str):
            raise InputError(f"names of tensors must be strings, got {prefix}{key!r}")
        name = prefix + key
        parts = flatten(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
        twice = sorted(flat.keys() & parts.keys())
        if twice:
            raise InputError(f"tensors must have different names, got two called {twice[0]}")
        if not isinstance(value, Mapping):
            check_tensor(name, value)
        flat |= parts
    return dict(sorted(flat.items()))


def subset(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def shards_of(tensors: Mapping[str, Tensor], shard_bytes: int) -> dict[str, dict[str, Tensor]]:
    """Return ``{file name: {name: tensor}}``, in order, each file as full as ``shard_bytes`` allows."""
    groups: list[dict[str, Tensor]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if not groups or size > room:
            groups.append({})
            room = shard_bytes
        groups[-1][name] = tensor
        room -= size
    return {f"tensors-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, start=1)}


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return packed tensors, no two of which share memory (safetensors refuses those)."""
    packed: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        value = _packed(tensor)
        address = value.untyped_storage().data_ptr()
        packed[name] = value.clone() if address in addresses else value
        addresses.add(address)
    return packed


def check_tensor(name: str, value: Any) -> None:
    """Raise an `InputError` unless a file can hold this under this name."""
    if name == "__metadata__":  # the one name that the file format keeps for itself
        raise InputError(f"tensors must not be called {name}", cure="rename it")
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(value).__name__}", cure="put it into the config")
    if is_lazy(value) or value.is_meta:
        raise InputError(f"{name} must have values, got none yet", cure="run the module once on an input")
    if value.dtype not in DTYPES or value.layout != torch.strided:
        got, cure = f"{value.dtype}, {value.layout}", "convert it, e.g. .to(torch.float64) or .to_dense()"
        raise InputError(f"{name} must be a dense tensor of a common type, got {got}", cure=cure)


def _packed(tensor: Tensor) -> Tensor:
    """Return it as plain values in a row on the CPU; lazily negated or conjugated views would be stored unchanged."""
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def plain(value: Any, where: str) -> Any:
    """Return the value, which errors call ``where``, as JSON holds it: dataclasses as objects, arrays as lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"keys of {where} must be strings, got {key!r}")
        return {key: plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist(), where)
    raise InputError(f"{where} must be something that JSON can hold, got {type(value).__name__}")


def finite(value: Any) -> Any:
    """Return a `plain` value with None for infinities and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def result_text(body: Mapping[str, Any], where: str) -> str:
    """Return results as JSON; ``where`` is the file, for errors. Numbers that are not finite are null."""
    return json.dumps(finite(plain(body, where)), indent=1) + "\n"
