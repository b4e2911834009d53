"""One assembly at several widths: the clusters are in order of importance, so a prefix of them is a smaller assembly.

All widths share the hyperplanes that read the inputs, by far the most parameters: a narrower network's are the first
rows of the widest one's. The layers above are stored for every width, each fitted to the prefix that it reads: a
readout alone would not do, for what lies between has been fitted to units that the prefix does not have
(docs/experiments.md).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from consilience.assembly.norms import with_statistics
from consilience.errors import ArtefactError, InputError
from consilience.store import read_artefact, write_artefact
from consilience.store.network import build_described, describe_network
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.maps import Map
from consilience.units.symmetry import rescale, symmetry_of

ELASTIC_CORRECTIONS = ("least-squares", "second-order")  # those that leave what reads the inputs as it is
KIND = "elastic"


class Elastic(nn.Module):
    """An assembly that can be narrowed. To train one width, take it out with `at_width`.

    Parameters
    ----------
    networks : by width, the narrowest first.
    shared : parameter name → dimension along which the parameter is a prefix of the widest network's.
    """

    def __init__(self, networks: Mapping[str, nn.Module], shared: Mapping[str, int]) -> None:
        super().__init__()
        self.widths, self.shared = tuple(networks), dict(shared)
        self.networks = nn.ModuleList(networks.values())
        widest = dict(self.networks[-1].named_parameters())
        for network in self.networks[:-1]:
            for name, parameter in network.named_parameters():
                if name in shared:  # one memory for all
                    parameter.data = widest[name].data.narrow(shared[name], 0, parameter.shape[shared[name]])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, o) of the widest network for inputs (n, ...)."""
        outputs: Tensor = self.networks[-1](x)
        return outputs

    def at_width(self, width: int | str) -> nn.Module:
        """Return the network of one stored width on its own, a plain module of the members' class."""
        if str(width) not in self.widths:
            stored = ", ".join(map(repr, self.widths))
            raise InputError(f"width must be one of {stored}, got {width!r}", cure="pass it to elastic(widths=...)")
        return copy.deepcopy(self.networks[self.widths.index(str(width))])

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write all widths as one artefact; shared parameters are in it once.

        Raises
        ------
        InputError : if the networks are not of `consilience.nets`, or shared parameters have been changed.
        ArtefactError : if the directory holds anything but such an artefact.
        """
        cure = "save single widths, save_network(net.at_width(...), directory)"
        nets = [describe_network(network) for network in self.networks]
        if "config" not in nets[0]:
            raise InputError(f"networks must be of consilience.nets, got {nets[0]['class']}", cure=cure)
        tensors = {f"width-{i}": dict(network.state_dict()) for i, network in enumerate(self.networks)}
        *narrower, widest = tensors.values()
        for own in narrower:
            for name, dim in self.shared.items():
                part = own.pop(name)
                if not torch.equal(part, widest[name].narrow(dim, 0, part.shape[dim])):
                    raise InputError(f"widths must share {name!r}, got one that has been changed", cure=cure)
        return write_artefact(directory, KIND, {"widths": self.widths, "shared": self.shared, "nets": nets}, tensors)


def load_elastic(directory: str | os.PathLike[str]) -> Elastic:
    """Read an artefact of `Elastic.save`."""
    artefact = read_artefact(directory, KIND)
    try:
        widths, shared, nets = (artefact.config[name] for name in ("widths", "shared", "nets"))
        networks = {width: build_described(net) for width, net in zip(widths, nets, strict=True)}
        widest = {name: p.shape for name, p in networks[widths[-1]].named_parameters()}
        if not all(shape.numel() and dim < len(shape) for name, dim in shared.items() for shape in (widest[name],)):
            raise ValueError("a shared parameter lacks its dimension")
    except Exception as error:  # the config may hold anything
        message = f"{artefact.directory} must describe an elastic network, got a config that fails with {error!r}"
        raise ArtefactError(message, cure="build it again") from error
    for i, (width, network) in enumerate(networks.items()):
        prefix, left_out = f"width-{i}/", () if width == widths[-1] else shared
        own = {name.removeprefix(prefix): t for name, t in artefact.tensors.items() if name.startswith(prefix)}
        tensors = network.state_dict(keep_vars=True)
        expected = {name: tuple(value.shape) for name, value in tensors.items() if name not in left_out}
        got = {name: tuple(value.shape) for name, value in own.items()}
        if got != expected:
            message = f"width {width} in {artefact.directory} must have parameters {expected}, got {got}"
            raise ArtefactError(message, cure="build it again")
        for name, value in tensors.items():
            value.data = own.get(name, value.data)
        network.eval()
    return Elastic(networks, shared)


def share_inputs(networks: Mapping[str, nn.Module], architecture: Architecture, x: Tensor) -> Elastic:
    """Return the elastic network of networks (narrowest first) that read the inputs with equal hyperplanes.

    Equal up to positive factors: every width has been balanced on its own. x (n, ...) are calibration inputs.
    """
    widest = list(networks.values())[-1]
    for network in networks.values():
        _take_scale(network, widest, architecture, x)
    names = (name for m in _stems(architecture) for name in (m.weight, m.bias if m.norm is None else None))
    return Elastic(networks, {name: 0 for name in names if name is not None})  # norms belong to one width


def _stems(architecture: Architecture) -> list[Map]:
    """The maps that read the inputs and write hidden layers."""
    hidden = {layer.name for layer in architecture.hidden}
    return [m for m in architecture.maps if not m.reads and m.writes in hidden]


def _take_scale(network: nn.Module, widest: nn.Module, architecture: Architecture, x: Tensor) -> None:
    """Rescale the units that read the inputs as they are in the widest network; the function stays."""
    own, wide = (
        TracedNetwork(architecture.with_widths(architecture.widths_in(read_state(module))), read_state(module))
        for module in (network, widest)
    )
    for m in _stems(architecture):
        layer = own.architecture.layer(m.writes)
        if symmetry_of(layer.activations).homogeneous:
            norms, wanted = (each.weights(m).matrix.double().norm(dim=1) for each in (own, wide))
            wanted = wanted[: layer.width]
            usable = (wanted > 0) & (norms > 0)
            own = rescale(own, m.writes, torch.where(usable, wanted / torch.where(norms > 0, norms, 1), 1))
    network.load_state_dict({**network.state_dict(), **with_statistics(own, x).state})
