"""One network as a Hugging-Face-style directory: ``config.json`` and ``model.safetensors``.

A network of `consilience.nets` comes back from its directory alone, because its config says how to build it. Any other
module is stored by its numbers only: a config that named a class to import would run whatever lies under that name.

Norms with a group of units for each member, as at full width, have parameters like plain ones; the config has the
groups, and they are put back on loading.

A network is built without memory first, and its shapes are compared with those of the tensors on disk, so that a config
cannot ask for more memory than the file has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from consilience.checks import describe
from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.nets import build, config_of
from consilience.schema import AGAIN, read_object
from consilience.store.artefact import digest_of_file, read_artefact, write_artefact
from consilience.store.codec import plain
from consilience.store.config import BESIDE, CONFIG, config_text
from consilience.store.destination import UNFINISHED, check_destination, new_directory
from consilience.units.configs import has_config, unsayable
from consilience.units.follow import find_layers
from consilience.units.grouped import Grouping, groupings, regroup
from consilience.units.inputs import one_tensor
from consilience.units.modules import as_example, plain_copy, unwrapped
from consilience.units.multihead import packed_attentions, unpack, unpacked
from consilience.units.outputs import Pick
from consilience.units.resize import fill
from consilience.units.written_out import write_out

KIND = "network"
MODEL = "model.safetensors"
MOST = 5  # differences in a message
FOREIGN = "module"  # the type of a network that is not one of consilience.nets


def save_network(
    module: nn.Module,
    directory: str | os.PathLike[str],
    extra_config: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """Write a module, in place of an older network if there is one; return its directory.

    Parameters
    ----------
    module : one of `consilience.nets` (the config gets its type and sizes), or any other (only the name of its class).
    directory : where; it must be absent, empty, or a network.
    extra_config : further entries of ``config.json``, e.g. an accuracy; any names but ``net`` and those of the header.
    extra_files : further files by name, e.g. a ``README.md``.

    Raises
    ------
    InputError : if the config of one of this package's networks does not build one like it; nothing has been written.
    """
    if not isinstance(extra_config, Mapping | None):
        raise InputError(f"extra_config must be a mapping, got {describe(extra_config)}")
    module, extra = _as_module(module), dict(extra_config or {})
    if "net" in extra:
        raise InputError("extra_config must not use the name net", cure="rename it")
    net = describe_network(module)
    tensors = module.state_dict()
    if net["type"] != FOREIGN:
        built = build_described(plain(net, "net"), shapes_of(tensors), "net")
        differences = _differences(shapes_of(built.state_dict()), shapes_of(tensors))
        if differences:
            raise InputError(f"the config of {net['type']} must describe its parameters, got {differences}")
    return write_artefact(directory, KIND, {**extra, "net": net}, tensors, single_file=MODEL, extra_files=extra_files)


def is_sayable(module: nn.Module) -> bool:
    """Whether a module is of a class of transformers, with a config that says its sizes."""
    library = type(module).__module__.partition(".")[0]
    return library == "transformers" and has_config(module) and not unsayable(module)


def save_pretrained(
    module: nn.Module, directory: str | os.PathLike[str], extra_config: Mapping[str, Any] | None = None
) -> Path:
    """Write a module of transformers as `save_network` does, in the files of its own ``save_pretrained``.

    ``from_pretrained`` loads the directory, in which ``consilience.json`` says what it is.
    """
    network: Any = module
    extra = plain({**(extra_config or {}), "net": describe_network(module)}, "extra_config")
    check_destination(directory, KIND)
    with new_directory(directory) as new:
        network.save_pretrained(new)
        names = sorted({file.name for file in new.iterdir()} - {UNFINISHED})
        files = {name: digest_of_file(new / name) for name in names}
        (new / BESIDE).write_text(config_text(KIND, files, extra), encoding="utf-8")
    return Path(directory)


def load_network(
    directory: str | os.PathLike[str],
    module: nn.Module | None = None,
    example_input: object = None,
    *,
    output: Pick = None,
) -> nn.Module:
    """Read a network.

    Parameters
    ----------
    directory : what `save_network` wrote.
    module : a module like the one that was saved. It is filled in place and returned; its types, device and mode stay,
        so that float64 numbers are rounded if it is float32. Needed only if the network is not of `consilience.nets`.
    example_input : inputs (n, ...) of the module, if its widths are not those of the network: layers are found on them.
    output : with ``example_input``, which outputs are taken, as in `Population.from_modules`.

    Returns
    -------
    ``module``; with ``example_input``, a copy of it at the widths of the network; without a module, a new network on
    the CPU, in eval mode, of the types that were saved.

    Raises
    ------
    ArtefactError : if the directory is no network or damaged, or does not fit the module, which is then unchanged.
    """
    artefact = read_artefact(directory, KIND)
    source = artefact.directory / MODEL
    if (artefact.directory / BESIDE).is_file():
        name = str(artefact.config["net"]["class"]).rpartition(":")[2]
        message = f"directory must be what save_network wrote, got files of save_pretrained in {artefact.directory}"
        raise InputError(message, cure=f'transformers.{name}.from_pretrained("{artefact.directory}")')
    if module is None:
        net, where = artefact.config.get("net"), artefact.directory / CONFIG
        if is_foreign(net):
            message = (
                f"module must be given for a network that is not of consilience.nets, got none for {net.get('class')}"
            )
            raise InputError(message, cure="build such a module and call load_network(directory, module)")
        return build_network(net, artefact.tensors, f"net in {where}", source).eval()
    norms = norms_in(artefact.config.get("net"), f"net in {artefact.directory / CONFIG}")
    if example_input is not None:
        template = plain_copy(module, "module").eval()
        x = as_example(one_tensor([template], example_input))
        write_out([template], x, output)
        filled = fill(template, find_layers(template, x, output), artefact.tensors, source)
        regroup(filled, norms)
        return filled
    inside = _as_module(module)
    own, packed = inside.state_dict(), packed_attentions(inside, artefact.tensors)
    for path in packed:
        own = unpacked(own, path)
    differences = _differences(shapes_of(own), shapes_of(artefact.tensors))
    if differences:
        wanted = f"{source} must hold the parameters of a {type(module).__name__}"
        cure = "pass a module like the one that was saved, or example_input, inputs of a module of other widths"
        raise ArtefactError(f"{wanted}, got {differences}", cure=cure)
    spare = groupings(inside).keys() - norms.keys()
    if spare:
        wanted = f"module must have a plain norm at '{min(spare)}', as the saved network"
        raise ArtefactError(f"{wanted}, got one with groups of units", cure="pass a module like the one that was saved")
    try:
        regroup(inside, norms)
    except ValueError as error:
        raise ArtefactError(f"{source} must fit the norms in its config, but {error}", cure=AGAIN) from error
    for path in packed:
        unpack(inside.get_submodule(path))
    inside.load_state_dict(artefact.tensors)
    return module


def _as_module(module: object) -> nn.Module:
    """Return a module without its wrapper, or raise."""
    if not isinstance(module, nn.Module):
        raise InputError(f"module must be an nn.Module, got {describe(module)}")
    return unwrapped(module, "module")


def describe_network(module: nn.Module) -> dict[str, Any]:
    """Return what ``config.json`` says of a module: type and config, or the name of its class; and grouped norms."""
    norms = {path: plain(asdict(norm), path) for path, norm in groupings(module).items()}
    grouped = {"norms": norms} if norms else {}
    built_in = type(module).__module__.split(".")[:2] == ["consilience", "nets"]  # no subclasses by others
    config = getattr(module, "config", None)
    if built_in and is_dataclass(config) and not isinstance(config, type):
        return {"type": type(module).__name__, "config": plain(config, "config"), **grouped}
    return {"type": FOREIGN, "class": f"{type(module).__module__}:{type(module).__qualname__}", **grouped}


def norms_in(net: Any, place: str) -> dict[str, Grouping]:
    """Return the grouped norms in a description of a network, by path; ``place`` is where it is, for errors."""
    norms = net.get("norms", {}) if isinstance(net, Mapping) else {}
    if not isinstance(norms, Mapping):
        raise ArtefactError(f"norms of {place} must be an object, got {norms!r}", cure=AGAIN)
    return {path: read_object(Grouping, norm, f"norms of {place}") for path, norm in norms.items()}


def is_foreign(net: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a description in a config is of a module that is not one of ``consilience.nets``."""
    return isinstance(net, Mapping) and net.get("type") == FOREIGN


def build_network(
    net: Any,
    tensors: Mapping[str, Tensor],
    place: str,
    source: object,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> nn.Module:
    """Return the network of ``consilience.nets`` that a description is of, with the values and types of these tensors.

    ``place`` is where the description is, and ``source`` where the tensors are, for errors; ``shapes`` are those of all
    tensors on disk, if there are others.
    """
    module = build_described(net, shapes or shapes_of(tensors), place)
    differences = _differences(shapes_of(module.state_dict()), shapes_of(tensors))
    if differences:
        message = f"{source} must hold the parameters of a {type(module).__name__} as its config describes it"
        raise ArtefactError(f"{message}, got {differences}", cure=AGAIN)
    for name, value in module.state_dict().items():
        if tensors[name].is_floating_point() != value.is_floating_point():
            raise ArtefactError(f"{name} in {source} must be {value.dtype}, got {tensors[name].dtype}", cure=AGAIN)
    module.load_state_dict({name: value.clone() for name, value in tensors.items()}, assign=True)
    return module


def build_described(net: Any, shapes: Mapping[str, tuple[int, ...]], place: str) -> nn.Module:
    """Return the network, without memory (on the meta device), that a description in a config is of.

    Raise an `ArtefactError` unless it describes one, whose sizes are among those of tensors of these shapes.
    """
    if not isinstance(net, Mapping) or not isinstance(net.get("type"), str):
        raise ArtefactError(f"{place} must have the type of the network, got {net}", cure=AGAIN)
    try:
        config = net["config"]
        sizes = {size for shape in shapes.values() for size in shape}
        free = getattr(config_of(net["type"]), "NOT_SIZES", ())
        checked = {name: value for name, value in config.items() if name not in free}
        wrong = [n for n in _ints(checked) if n not in sizes and n > len(shapes)]
        if wrong:
            raise ValueError(f"{wrong[0]} is the size of no tensor")
        with torch.device("meta"):
            built = build(net["type"], vars(read_object(config_of(net["type"]), config, "config")))
            regroup(built, norms_in(net, place))
            return built
    except Exception as error:  # the config may hold anything, and any of it may be refused at any depth
        reason = error.message if isinstance(error, ConsilienceError) else error
        message = f"{place} must describe a network, got {net}: {reason}"
        raise ArtefactError(message, cure="pass module=") from error


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _ints(value: Any) -> Iterator[int]:
    """Yield the numbers of a config, which are sizes, and the lengths of its lists, which are numbers of layers."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif isinstance(value, list):
        yield len(value)
    if isinstance(value, list):
        for part in value:
            yield from _ints(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield int(value)


def _differences(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> str:
    missing = [f"{name} is missing" for name in expected if name not in got]
    extra = [f"{name} is not expected" for name in got if name not in expected]
    shapes = [
        f"{name} is {got[name]}, not {shape}" for name, shape in expected.items() if got.get(name, shape) != shape
    ]
    problems = missing + extra + shapes
    return "; ".join(problems[:MOST] + [f"{len(problems) - MOST} more"] * (len(problems) > MOST))
