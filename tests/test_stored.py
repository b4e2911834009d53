"""Members on disk: the same numbers, and memory that does not grow with their number."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import inputs, random_mlp, random_population
from consilience.assembly import assemble
from consilience.census import Census
from consilience.errors import ArtefactError, ConsilienceError
from consilience.evaluation import evaluate
from consilience.population import Population
from consilience.signals.responses import Responses
from consilience.signals.shelf import Room
from consilience.units.states import StoredState

X = inputs(60)


def numbers(population: Population) -> list[Tensor]:
    """What a census, assemblies and a comparison with the ensemble come to."""
    census = Census(n_clusters=6).fit(population, X)
    nets = [assemble(census, width) for width in (6, "full")]
    layers = [(layer.labels_, layer.stability_, layer.centroid_) for layer in census.layers_.values()]
    closeness = [value or 0.0 for value in vars(evaluate(nets[0], X, population)).values()]
    arrays = [torch.from_numpy(np.asarray(array)) for layer in layers for array in layer]
    return [*arrays, *(value for net in nets for value in net.state_dict().values()), torch.tensor(closeness)]


def test_a_population_on_disk_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    population = random_population([[6, 5], [5, 5], [7, 4], [6, 5]])
    expected = numbers(population)
    population.save(tmp_path / "population")
    monkeypatch.setattr("consilience.units.states.ROOM", 0)
    monkeypatch.setattr("consilience.signals.shelf.ROOM", 0)
    stored = Population.open(tmp_path / "population")
    assert all(isinstance(network.state, StoredState) for network in stored.networks)
    assert stored.fingerprint == population.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(numbers(stored), expected, strict=True))


def test_a_population_on_disk_is_saved_and_extended(tmp_path: Path) -> None:
    population = random_population([[6, 5], [5, 5]]).with_snapshot(0, [random_mlp([6, 5]), random_mlp([5, 5])])
    population.save(tmp_path / "one")
    stored = Population.open(tmp_path / "one")
    assert stored.snapshots[0].fingerprint == population.snapshots[0].fingerprint != stored.fingerprint
    stored.save(tmp_path / "two")
    assert (tmp_path / "one" / "config.json").read_bytes() == (tmp_path / "two" / "config.json").read_bytes()
    assert stored.with_members([random_mlp([9, 5])]).widths("hidden.0") == (6, 5, 9)


def test_what_replaces_a_directory_does_not_reach_a_population_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consilience.units.states.ROOM", 0)
    random_population([[6, 5], [5, 5], [4, 4]]).save(tmp_path / "population")
    stored = Population.open(tmp_path / "population")
    before = stored.logits(X)
    random_population([[6, 5], [5, 5], [4, 4]], seed=9).save(tmp_path / "population")
    assert torch.equal(stored.logits(X), before)


class Own(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu())
        return out


def test_members_of_the_users_own_class_are_opened(tmp_path: Path) -> None:
    population = Population.from_modules([Own(4), Own(7)], X[:4])
    population.save(tmp_path)
    assert torch.equal(Population.open(tmp_path, Own(1)).logits(X), population.logits(X))


def test_a_damaged_population_is_not_opened(tmp_path: Path) -> None:
    random_population([[6, 5]]).save(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ArtefactError, match="must have SHA-256"):
        Population.open(tmp_path)


class Full(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consilience.signals.shelf.TemporaryFile", lambda **_: Full())
    with pytest.raises(ConsilienceError, match="must have room for 1 MiB of responses, got No space left on device"):
        Room(0).shelf([torch.zeros(2**18)])


def test_a_shelf_keeps_what_has_room_and_finds_the_rest() -> None:
    tensors = [torch.randn(3, 5), torch.randn(4), torch.zeros(0, 2), torch.randn(2, 2).double(), torch.arange(6)]
    for room in (0, 60, 10**6):
        shelf = Room(room).shelf(tensors)
        assert all(torch.equal(shelf[k], tensor) for k, tensor in enumerate(tensors))
        assert (shelf[0] is tensors[0]) == (room >= 60)


LIMITED = """
import resource, sys
import torch
import consilience as cs
from consilience.assembly import assemble
from consilience.signals import shelf
from consilience.units import states

torch.set_num_threads(1)
shelf.ROOM, states.ROOM = 2**22, 2**22
few, many = sys.argv[2:]
x = torch.randn(40, 16_000, generator=torch.Generator().manual_seed(0))


def use(population):
    census = cs.Census(n_clusters=4, n_resamples=0).fit(population, x)
    cs.evaluate(assemble(census, 2, correction="none"), x, population)


use(cs.Population.open(few))  # what is imported and allocated once
(peak,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmPeak"))
resource.setrlimit(resource.RLIMIT_AS, (peak * 2**10 + 24 * 2**20, resource.RLIM_INFINITY))
try:
    use(getattr(cs.Population, sys.argv[1])(many))
except (MemoryError, RuntimeError):
    print("no memory")
    raise
else:
    print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the address space of a process")
def test_memory_does_not_grow_with_the_number_of_members(tmp_path: Path) -> None:
    """72 members are enough to allocate what is allocated once; 405 have 52 MB of parameters, and get 24 MiB more."""
    nets = [random_mlp([2], seed=k, n_inputs=16_000) for k in range(9)]
    some = Population.from_modules(nets, torch.randn(4, 16_000))
    for name, times in (("few", 8), ("many", 45)):
        Population(some.members * times, some.example_input).save(tmp_path / name)
    for how, said in (("open", "done"), ("load", "no memory")):
        command = [sys.executable, "-c", LIMITED, how, str(tmp_path / "few"), str(tmp_path / "many")]
        steady = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the address space at once
        done = subprocess.run(command, env=steady, capture_output=True, text=True, check=False)
        assert done.stdout.startswith(said), done.stderr


def test_many_units_are_compared_on_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = random_population([[6, 5], [5, 5], [7, 4]]).networks
    responses = Responses(networks, X)
    assert responses.units("hidden.0").shape == (18, 60)
    monkeypatch.setattr("consilience.signals.responses.FEWEST_SAMPLES", 2)
    for numbers, rows in ((18 * 31, 30), (18 * 30, 30), (18 * 29, 20), (1, 12)):  # every so many; 14 for 7 units: 12
        monkeypatch.setattr("consilience.signals.responses.MOST_NUMBERS", numbers)
        some = Responses(networks, X)
        assert some.units("hidden.0").shape == (18, rows)
        assert torch.equal(some.units("hidden.0"), responses.units("hidden.0")[:, some.compared("hidden.0")])
