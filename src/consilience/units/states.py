"""Parameters of networks that are read, or computed, when they are asked for, and forgotten to make room for others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from consilience.units.architecture import TracedNetwork

ROOM = 2**28  # bytes of parameters that stay in memory
FEWEST = 2  # networks that do, however large


class States:
    """Parameters of networks by number; of those that were used last, `ROOM` bytes stay."""

    def __init__(self, make: Callable[[int], Mapping[str, Tensor]]) -> None:
        self._make, self._bytes = make, 0
        self._kept: OrderedDict[int, Mapping[str, Tensor]] = OrderedDict()

    def of(self, number: int) -> Mapping[str, Tensor]:
        """Return the parameters of one network by name, for a while."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        state = self._kept[number] = self._make(number)
        self._bytes += _size(state)
        while self._bytes > ROOM and len(self._kept) > FEWEST:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return state


class StoredState(Mapping[str, Tensor]):
    """The parameters of one network by name, which are in memory only while they are used."""

    def __init__(self, states: States, number: int) -> None:
        self._states, self._number = states, number

    def __getitem__(self, name: str) -> Tensor:
        return self._states.of(self._number)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states.of(self._number))

    def __len__(self) -> int:
        return len(self._states.of(self._number))


def changed(
    networks: Sequence[TracedNetwork], change: Callable[[TracedNetwork], TracedNetwork]
) -> tuple[TracedNetwork, ...]:
    """Return networks with other parameters: at once, or where theirs are stored, when they are asked for."""
    if not all(isinstance(network.state, StoredState) for network in networks):
        return tuple(change(network) for network in networks)
    states = States(lambda k: change(networks[k]).state)
    return tuple(TracedNetwork(network.architecture, StoredState(states, k)) for k, network in enumerate(networks))


def _size(state: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in state.values())
