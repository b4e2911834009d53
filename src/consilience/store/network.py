"""One network as a Hugging-Face-style directory: ``config.json`` and ``model.safetensors``.

A network of `consilience.nets` comes back from its directory alone, because its config says how to build it. Any other
module is stored by its numbers only: a config that named a class to import would run whatever lies under that name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consilience.errors import ArtefactError, InputError
from consilience.nets import build
from consilience.store.artefact import Artefact, read_artefact, write_artefact
from consilience.store.codec import plain
from consilience.store.config import CONFIG

KIND = "network"
MODEL = "model.safetensors"
FOREIGN = "module"  # the type of a network that is not one of consilience.nets


def save_network(
    module: nn.Module, directory: str | os.PathLike[str], extra_config: Mapping[str, Any] | None = None
) -> Path:
    """Write a module, in place of an older network if there is one; return its directory.

    Parameters
    ----------
    module : one of `consilience.nets` (the config gets its type and sizes), or any other (only the name of its class).
    directory : where; it must be absent, empty, or a network.
    extra_config : further entries of ``config.json``, e.g. an accuracy; any names but ``net`` and those of the header.

    Raises
    ------
    InputError : if the config of one of this package's networks does not build one like it; nothing has been written.
    """
    extra = dict(extra_config or {})
    if "net" in extra:
        raise InputError("extra_config must not use the name net", cure="rename it")
    net = describe_network(module)
    tensors = module.state_dict()
    if net["type"] != FOREIGN:
        differences = _differences(build_described(net).state_dict(), tensors)
        if differences:
            raise InputError(f"the config of {net['type']} must describe its parameters, got {differences}")
    return write_artefact(directory, KIND, {**extra, "net": net}, tensors, single_file=MODEL)


def load_network(directory: str | os.PathLike[str], module: nn.Module | None = None) -> nn.Module:
    """Read a network.

    Parameters
    ----------
    directory : what `save_network` wrote.
    module : a module like the one that was saved. It is filled in place and returned; its types, device and mode stay,
        so that float64 numbers are rounded if it is float32. Needed only if the network is not of `consilience.nets`.

    Returns
    -------
    ``module``; or, without it, a new network on the CPU, in eval mode, of the types that were saved.

    Raises
    ------
    ArtefactError : if the directory is no network or damaged, or does not fit the module, which is then unchanged.
    """
    artefact = read_artefact(directory, KIND)
    built = module is None
    if module is None:
        module = _build(artefact)
    differences = _differences(module.state_dict(), artefact.tensors)
    if differences:
        wanted = f"{artefact.directory / MODEL} must hold the parameters of a {type(module).__name__}"
        raise ArtefactError(f"{wanted}, got {differences}", cure="pass a module like the one that was saved")
    if built:
        for name, value in module.state_dict(keep_vars=True).items():
            value.data = value.data.to(artefact.tensors[name].dtype)
        module.eval()
    module.load_state_dict(artefact.tensors)
    return module


def describe_network(module: nn.Module) -> dict[str, Any]:
    """Return what ``config.json`` says of a module: its type and config, or only the name of its class."""
    built_in = type(module).__module__.split(".")[:2] == ["consilience", "nets"]  # no subclasses by others
    config = getattr(module, "config", None)
    if built_in and is_dataclass(config) and not isinstance(config, type):
        return {"type": type(module).__name__, "config": plain(config, "config")}
    return {"type": FOREIGN, "class": f"{type(module).__module__}:{type(module).__qualname__}"}


def build_described(net: Mapping[str, Any]) -> nn.Module:
    """Return a new network of ``consilience.nets`` from what `describe_network` says of it."""
    with torch.random.fork_rng(devices=[]):  # initial values are thrown away, and must not cost random numbers
        return build(net["type"], net["config"])


def _build(artefact: Artefact) -> nn.Module:
    where = artefact.directory / CONFIG
    net = artefact.config.get("net")
    if not isinstance(net, dict) or "type" not in net:
        raise ArtefactError(f"net in {where} must have the type of the network, got {net}")
    if net["type"] == FOREIGN:
        message = f"module must be given for a network that is not of consilience.nets, got none for {net.get('class')}"
        raise InputError(message, cure="build such a module and call load_network(directory, module)")
    try:
        return build_described(net)
    except Exception as error:  # the config may hold anything, and any of it may be refused at any depth
        message = f"net in {where} must describe a network, got {net}: {error}"
        raise ArtefactError(message, cure="pass module=") from error


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not expected" for name in found if name not in expected]
    shapes = [(name, tuple(found[name].shape), tuple(value.shape)) for name, value in expected.items() if name in found]
    return "; ".join(missing + extra + [f"{name} is {a}, not {b}" for name, a, b in shapes if a != b])
