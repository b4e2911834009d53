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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consilience.assembly.norms import with_statistics
from consilience.errors import ArtefactError, InputError
from consilience.store import read_artefact, write_artefact
from consilience.store.config import CONFIG
from consilience.store.network import build_described, build_network, describe_network, shapes_of
from consilience.units.architecture import Architecture, TracedNetwork, read_state, write_state
from consilience.units.maps import Map
from consilience.units.symmetry import rescale, symmetry_of

ELASTIC_CORRECTIONS = ("least-squares", "second-order")  # those that leave what reads the inputs as it is
KIND = "elastic"
CURE = "build it again"


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
    entries, where, shapes = artefact.entries(_Entries), artefact.directory / CONFIG, shapes_of(artefact.tensors)
    last = len(entries.nets) - 1
    if not 0 <= last == len({*entries.widths}) - 1 == len(entries.widths) - 1:
        raise ArtefactError(f"nets in {where} must be one for each of widths, got {last + 1}", cure=CURE)
    widest, networks = artefact.part(f"width-{last}"), dict[str, nn.Module]()
    for name in entries.shared:
        if name not in widest:
            raise ArtefactError(f"shared in {where} must name parameters, got {name!r}", cure=CURE)
    for i, (width, net) in enumerate(zip(entries.widths, entries.nets, strict=True)):
        tensors, place = artefact.part(f"width-{i}"), f"nets[{i}] in {where}"
        for name, value in build_described(net, shapes, place).named_parameters() if i < last else ():
            dim = entries.shared.get(name, -1)
            wide = widest.get(name)
            if wide is None or dim not in range(min(value.dim(), wide.dim())) or value.shape[dim] > wide.shape[dim]:
                continue
            tensors[name] = wide.narrow(dim, 0, value.shape[dim])
        source = f"width {width} in {artefact.directory}"
        networks[width] = build_network(net, tensors, place, source, shapes).eval()
    return Elastic(networks, entries.shared)


@dataclass(frozen=True)
class _Entries:
    """What the config has beside its header."""

    widths: tuple[str, ...]  # the narrowest first
    shared: Mapping[str, int]
    nets: tuple[Mapping[str, Any], ...]  # descriptions


def share_inputs(networks: Mapping[str, nn.Module], architecture: Architecture, x: Tensor) -> Elastic:
    """Return the elastic network of networks (narrowest first) that read the inputs with equal hyperplanes.

    Equal up to positive factors: every width has been balanced on its own. x (n, ...) are calibration inputs.
    """
    widest = list(networks.values())[-1]
    cut = [m.name for m in _stems(architecture) if len(architecture.divided[m.weight, m.dim]) > 1]
    if cut:
        message = f"a layer that reads the inputs must have a weight of its own, got parts of {cut[0]!r}"
        raise InputError(message, cure="assemble single widths")
    for network in networks.values():
        _take_scale(network, widest, architecture, x)
    shared = {m.weight: m.dim for m in _stems(architecture)}
    biases = (m.bias for m in _stems(architecture) if m.norm is None)  # norms belong to one width
    return Elastic(networks, shared | {name: 0 for name in biases if name is not None})


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
    write_state(network, with_statistics(own, x).state)
