"""What many tasks, members and units cost: engines, training in blocks, censuses, trees over micro-clusters, kills.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--data FILE.npz] [--parts engines sleep train workers census …]

- ``engines``: milliseconds of an engine for each task that does nothing, of 300: by the clock, and of the processors
  for driver, scheduler and workers together.
- ``sleep``: 4 to 64 workers in one process, and ten tasks for each that sleep for a second: what the scheduler adds.
- ``train``: seconds by the clock of ``--members`` members (784-32-32-10 for MNIST), by engine; whether all are the same
  bytes; what went over the connections of Dask; peak memory of the driver, and of the largest worker.
- ``workers``: the same of censuses: of the first ``--members`` of ``--population``, and of 64 convolutional networks.
- ``census``: the first ``--members`` of the population in ``--population``, opened, their census on 5000 rows, and the
  assembly at twice their width; each number of members in a process of its own. Processor time, and the peak memory
  of the process.
- ``tree``: a layer's units as points (64 directions, 1500 groups with noise) into a tree over micro-clusters and 2048
  clusters. Where the exact tree can be made: their adjusted Rand index at 256 clusters, beside that of two exact trees
  on half the points each, to whose clusters all points are assigned by the nearest mean.
- ``layers``: the same for the first members of ``--population`` that have ``--exact`` units in a layer, with the test
  accuracy of assemblies at twice the members' width from either.
- ``kills``: ``--kills`` runs of ``consilience train``, ``census`` and ``compare`` on two processes; in each a worker or
  the driver is killed (-9) at a random moment, and the same command is run again. The result is compared byte by byte
  with an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from harness import Part, arguments, measured, resident, run, table, timed
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import consilience as cs
from consilience.clustering import clusterers, micro
from consilience.clustering.clusterers import Clustering, _exact
from consilience.clustering.distances import Points, unit_norm
from consilience.engines import Engine, call, engine
from consilience.report.style import WIDTH, styled
from consilience.training import blocks


def nothing(item: int) -> int:
    return item


# --- engines


@dataclass(frozen=True)
class Overhead:
    engine: str
    workers: int
    milliseconds: float  # for each task that does nothing
    processor: float  # the same of processor time, of all processes


def overheads(options: argparse.Namespace) -> Iterator[Overhead]:
    n = 20 if options.quick else 300
    for name, n_workers in (("serial", 1),) if options.quick else (("serial", 1), ("processes", 2), ("dask", 2)):
        with started(name, n_workers) as chosen:
            chosen.map(nothing, range(10 * n_workers))  # imports
            began = processor_seconds()
            seconds = timed(partial(chosen.map, nothing, range(n)))[1]
            yield Overhead(name, n_workers, 1000 * seconds / n, 1000 * (processor_seconds() - began) / n)


@contextlib.contextmanager
def started(name: str, n_workers: int, *, processes: bool = True) -> Iterator[Engine]:
    """An engine with so many workers; those of Dask are in this process without ``processes``."""
    if name != "dask":
        with engine(name if name == "serial" else f"{name}:{n_workers}") as chosen:
            yield chosen
        return
    from distributed import LocalCluster

    sizes = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": ":0", "host": "127.0.0.1"}
    if not processes:
        sizes |= {"processes": False, "protocol": "tcp", "memory_limit": 0}
    with LocalCluster(**sizes) as cluster, engine(f"dask:{cluster.scheduler_address}") as chosen:
        yield chosen


def processor_seconds() -> float:
    """Processor time of this process and of all that it has started and that run."""
    ticks = sum(int(words[11]) + int(words[12]) for words in processes().values())
    return ticks / os.sysconf("SC_CLK_TCK")


def processes() -> dict[int, list[str]]:
    """This process and all that it has started and that run, with what the system says of each (``stat``)."""
    found = dict[int, list[str]]()
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(place.parent.name)] = place.read_text().rpartition(")")[2].split()
    mine = {os.getpid()}
    while grown := {pid for pid, words in found.items() if int(words[1]) in mine} - mine:
        mine |= grown
    return {pid: found[pid] for pid in mine}


def overhead_lines(rows: list[Overhead]) -> list[str]:
    cells = [[row.engine, str(row.workers), f"{row.milliseconds:.2g}", f"{row.processor:.1f}"] for row in rows]
    return [*table(("engine", "workers", "ms a task", "processor ms"), cells), ""]


# --- many workers that sleep


@dataclass(frozen=True)
class Slept:
    workers: int
    tasks: int
    seconds: float  # that the tasks take without an engine
    taken: float


def second(item: int, *, seconds: float) -> int:
    time.sleep(seconds)
    return item


def sleeps(options: argparse.Namespace) -> Iterator[Slept]:
    seconds = 0.02 if options.quick else 1.0
    at_once = patch.object(call, "_one_at_a_time", contextlib.nullcontext())  # all workers are in this process here
    for n in (2,) if options.quick else (4, 16, 64):
        with at_once, started("dask", n, processes=False) as chosen:
            sleep = partial(chosen.map, second, shared={"seconds": seconds})
            sleep(range(n))
            taken = timed(partial(sleep, range(10 * n)))[1]
            yield Slept(n, 10 * n, 10 * seconds, taken)


def sleep_lines(rows: list[Slept]) -> list[str]:
    cells = []
    for row in rows:
        added = 1000 * (row.taken - row.seconds) / row.tasks
        cells.append(
            [str(row.workers), str(row.tasks), f"{row.taken:.1f}", f"{row.seconds / row.taken:.2f}", f"{added:.1f}"]
        )
    return [*table(("workers", "tasks", "s", "of the time used", "ms added for each task"), cells), ""]


# --- work by engine


@dataclass(frozen=True)
class Work:
    what: str
    engine: str
    workers: int
    seconds: float
    moved: float  # MB over the connections of Dask
    driver: float  # MB at most
    worker: float  # MB at most
    same_bytes: bool


ENGINES = (("serial", 1), ("processes", 2), ("dask", 1), ("dask", 2))


def by_engine(what: str, do: Callable[[], str], quick: bool) -> Iterator[Work]:
    """Time what returns a fingerprint on each engine, in a driver that is alone."""
    first = None
    for name, n_workers in ENGINES[:2] if quick else ENGINES:
        with started(name, n_workers) as chosen:
            chosen.map(nothing, range(10 * n_workers))  # imports
            before = loopback()
            found, seconds = timed(do)
            moved = (loopback() - before) / 1e6 if name == "dask" else 0.0
            workers = [resident("VmHWM", pid) for pid in processes() if pid != os.getpid()]
        first = first or found
        yield Work(what, name, n_workers, seconds, moved, resident("VmHWM"), max(workers, default=0.0), found == first)


def loopback() -> int:
    """Bytes that this machine has sent to itself."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.lstrip().startswith("lo:"))
    return int(line.split()[1])


def work_lines(rows: list[Work]) -> list[str]:
    cells = []
    for row in rows:
        alone = {other.engine: other.seconds for other in rows if (other.what, other.workers) == (row.what, 1)}
        faster = alone.get(row.engine, alone["serial"]) / row.seconds
        numbers = (f"{number:.0f}" if number else "" for number in (row.moved, row.driver, row.worker))
        same = "yes" if row.same_bytes else "**no**"
        cells.append([row.what, row.engine, str(row.workers), f"{row.seconds:.1f}", f"{faster:.2f}", *numbers, same])
    heads = ("work", "engine", "workers", "s", "times one worker", "MB moved", "driver, MB", "worker, MB", "same bytes")
    return [
        *table(heads, cells, 2),
        "",
        "Times are by the clock, without other work on the machine.",
        "",
    ]


def train(options: argparse.Namespace) -> Iterator[Work]:
    data = cs.load_data(options.data or "digits", random_state=0)
    net = cs.MLP(data.train.x[0].numel(), [32, 32], 10)
    training, members = cs.Training(epochs=options.epochs), [4] if options.quick else options.members
    if options.quick:
        blocks.BLOCK = 2

    def fingerprint(n: int) -> str:
        return cs.train_population(net, data.train, n, training=training).fingerprint

    for n in members:
        yield from by_engine(f"{n} members", partial(fingerprint, n), options.quick)


def workers(options: argparse.Namespace) -> Iterator[Work]:
    data, quick = cs.load_data(options.data or "digits", random_state=0), options.quick

    def clusters(population: cs.Population) -> str:
        census = cs.Census().fit(population, data.calibration.x)
        labels = [layer.at(2 if quick else 16).labels.tobytes() for layer in census.layers_.values()]
        return sha256(b"".join(labels)).hexdigest()

    if options.population:
        population = cs.Population.open(options.population)
        for n in options.members:
            some = replace(population, members=population.members[:n])
            yield from by_engine(f"census of {n} networks", partial(clusters, some), quick)
    net, n = cs.ConvNet(data.train.x.shape[1], [2] if quick else [16, 32], 10), 2 if quick else 64
    some = data.train.take(range(1000))
    convolutional = cs.train_population(net, some, n, training=cs.Training(epochs=1))
    yield from by_engine(f"census of {n} ConvNets", partial(clusters, convolutional), quick)


# --- censuses


@dataclass(frozen=True)
class CensusRow:
    members: int
    opened: float  # s
    census: float
    assembly: float
    peak: float  # MB
    accuracy: float  # of the assembly


def censuses(options: argparse.Namespace) -> Iterator[CensusRow]:
    with tempfile.TemporaryDirectory() as place:
        source = options.population
        data = cs.load_data(options.data or "digits", random_state=0)
        if source is None:
            net, training = cs.MLP(data.train.x[0].numel(), [8], 10), cs.Training(epochs=1)
            source = cs.train_population(net, data.train, 4, training=training).save(Path(place, "population"))
        for n in [4] if options.quick else options.members:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                yield alone.submit(census_of, source, data.calibration.x.clone(), data.test, n).result()


def census_of(source: Path, x: Tensor, test: cs.Dataset, n: int) -> CensusRow:
    torch.set_num_threads(1)
    clock = [time.process_time()]
    population = cs.Population.open(source)
    opened = (time.process_time() - clock[0]) * n / len(population)
    population = replace(population, members=population.members[:n])
    clock.append(time.process_time())
    census = cs.Census().fit(population, x)
    clock.append(time.process_time())
    network = cs.assemble(census, "2x")
    clock.append(time.process_time())
    accuracy = cs.evaluate(network, test).quality
    return CensusRow(n, opened, clock[2] - clock[1], clock[3] - clock[2], resident("VmHWM"), accuracy)


def census_lines(rows: list[CensusRow]) -> list[str]:
    cells = []
    for row in rows:
        each = 1000 * (row.opened + row.census + row.assembly) / row.members
        numbers = (row.opened, row.census, row.assembly, each, row.peak)
        cells.append([str(row.members), *(f"{number:.0f}" for number in numbers), f"{100 * row.accuracy:.2f}"])
    heads = ("members", "open, s", "census, s", "assembly, s", "ms a member", "peak, MB", "accuracy")
    return [*table(heads, cells), ""]


# --- trees


@dataclass(frozen=True)
class TreeRow:
    units: int
    seconds: float
    megabytes: float
    agreement: float = math.nan  # with the exact tree at 256 clusters
    ceiling: float = math.nan  # of two exact trees on half the points each
    exact_seconds: float = math.nan


def trees(options: argparse.Namespace) -> Iterator[TreeRow]:
    for n in [600] if options.quick else options.units:
        if options.quick:
            micro.N_MICRO = 100
        points = units(n)
        clustering, seconds, megabytes = measured(lambda points=points: over_micro_clusters(points))
        clustering.cut(min(2048, clustering.n_leaves))
        if n > options.exact:
            yield TreeRow(n, seconds, megabytes)
            continue
        k = 16 if options.quick else 256
        exact, exact_seconds = timed(lambda points=points, k=k: _exact(points, "ward").cut(k))
        halves = [assigned(points, np.arange(part, n, 2), k) for part in (0, 1)]
        agreement = float(adjusted_rand_score(exact, clustering.cut(k)))
        yield TreeRow(n, seconds, megabytes, agreement, float(adjusted_rand_score(*halves)), exact_seconds)


def units(n: int) -> Points:
    g = np.random.default_rng(0)
    scale = np.linspace(2, 0.1, 64, dtype=np.float32)
    centers = g.standard_normal((1500, 64), dtype=np.float32)
    return Points(
        (centers[g.integers(1500, size=n)] + 0.5 * g.standard_normal((n, 64), dtype=np.float32)) * scale, False
    )


def over_micro_clusters(points: Points) -> Clustering:
    found = micro.micro_clusters(points, 0)
    means, labels = found.means()
    return Clustering(_exact(means, "ward").tree, labels)


def assigned(points: Points, rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Labels of all points by the nearest mean of the clusters of some."""
    labels = _exact(Points(points.coordinates[rows], False), "ward").cut(k)
    means = np.stack([points.coordinates[rows][labels == c].mean(0) for c in range(k)])
    return micro._nearest(points.coordinates, centers=means)


def tree_lines(rows: list[TreeRow]) -> list[str]:
    cells = []
    for row in rows:
        values = (row.seconds, row.megabytes, row.exact_seconds, row.agreement, row.ceiling)
        shown = zip(values, (0, 0, 0, 2, 2), strict=True)
        cells.append([f"{row.units:,}", *("" if np.isnan(v) else f"{v:.{digits}f}" for v, digits in shown)])
    heads = ("units", "processor s", "MB added", "exact tree, s", "agreement", "two exact trees of halves")
    return [*table(heads, cells), ""]


# --- layers of real members


@dataclass(frozen=True)
class LayerRow:
    layer: str
    units: int
    agreement: float  # of the tree over micro-clusters and the exact tree, at 256 clusters
    ceiling: float  # of two exact trees on half the points each
    exact: float  # accuracy of an assembly at twice the members' width, from the exact trees
    micro: float  # the same, from the trees over micro-clusters


def layers(options: argparse.Namespace) -> Iterator[LayerRow]:
    data, k = cs.load_data(options.data or "digits", random_state=0), 8 if options.quick else 256
    if options.population is None:
        net, training = cs.MLP(data.train.x[0].numel(), [16], 10), cs.Training(epochs=1)
        population = cs.train_population(net, data.train, 8, training=training)
    else:
        population = cs.Population.open(options.population)
    first = population.architecture.free[0].name
    n = max(1, options.exact // population.widths(first)[0]) if options.population else len(population)
    population = replace(population, members=population.members[:n])
    n_units = sum(population.widths(first))
    found, accuracies = [], []
    for large in (n_units, 1):
        clusterers.LARGE, micro.N_MICRO = large, 64 if options.quick else 4096
        census = cs.Census(n_resamples=0).fit(population, data.calibration.x)
        found.append({name: layer.at(k).labels for name, layer in census.layers_.items()})
        accuracies.append(cs.evaluate(cs.assemble(census, "2x"), data.test).quality)
    for name, exact in found[0].items():
        z = unit_norm(census.responses_.units(name)[census.layers_[name].alive]).numpy()
        halves = [assigned(Points(z, False), np.arange(part, len(z), 2), k) for part in (0, 1)]
        pair = (float(adjusted_rand_score(a, b)) for a, b in ((exact, found[1][name]), halves))
        yield LayerRow(name, len(exact), *pair, *accuracies)


def layer_lines(rows: list[LayerRow]) -> list[str]:
    cells = []
    for row in rows:
        shown = (f"{row.agreement:.2f}", f"{row.ceiling:.2f}", f"{100 * row.exact:.2f}", f"{100 * row.micro:.2f}")
        cells.append([row.layer, f"{row.units:,}", *shown])
    heads = ("layer", "units", "agreement", "two exact trees of halves", "accuracy, exact", "accuracy, micro")
    return [*table(heads, cells), ""]


# --- kills


@dataclass(frozen=True)
class Kill:
    command: str
    victim: str
    after: float  # s
    status: int  # of the command that was disturbed
    same_bytes: bool
    stray: int  # files


DRIVER = """
import sys
from consilience import cli
from consilience.clustering import significance, stability
from consilience.training import blocks

if __name__ == "__main__":
    blocks.BLOCK, significance.BLOCK, significance.WORTH, stability.WORTH = 2, 2, 0, 0
    cli.main(sys.argv[1:])
"""


def kills(options: argparse.Namespace) -> Iterator[Kill]:
    source = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        script, out = root / "driver.py", root / "out"
        script.write_text(DRIVER)
        words = {
            "train": ["train", "--members", "6", "--epochs", "10", "--hidden", "16"],
            "census": ["census", str(root / "train")],
            "compare": ["compare", str(root / "train")],
        }

        def start(command: str, directory: Path) -> subprocess.Popen[bytes]:
            line = [*words[command], "--engine", "processes:2", "--out", str(directory)]
            return subprocess.Popen([sys.executable, str(script), *line], stdout=subprocess.DEVNULL)

        lengths, expected = {}, {}
        for command in words:
            began = time.monotonic()
            assert start(command, out).wait() == 0
            lengths[command] = time.monotonic() - began
            expected[command] = content(out)
            out.rename(root / command)
        for number in range(2 if options.quick else options.kills):
            command, victim = [*words][number // 2 % len(words)], ("worker", "driver")[number % 2]
            after = source.uniform(0.2, 1) * lengths[command]
            driver = start(command, out)
            time.sleep(after)
            if victim == "driver":
                driver.kill()
            else:
                kill_a_worker(driver.pid, source)
            status = driver.wait()
            assert start(command, out).wait() == 0
            stray = {path.name for path in root.iterdir()} - {"driver.py", "out", *words}
            yield Kill(command, victim, after, status, content(out) == expected[command], len(stray))
            shutil.rmtree(out)


def content(directory: Path) -> dict[str, bytes]:
    """The files of a result."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def kill_a_worker(driver: int, source: random.Random) -> None:
    children = Path(f"/proc/{driver}/task/{driver}/children")
    workers = [int(child) for child in (children.read_text().split() if children.exists() else ())]
    workers = [pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if workers:
        os.kill(source.choice(workers), signal.SIGKILL)


def kill_lines(rows: list[Kill]) -> list[str]:
    cells = []
    for command, victim in dict.fromkeys((row.command, row.victim) for row in rows):
        mine = [row for row in rows if (row.command, row.victim) == (command, victim)]
        counts = len(mine), sum(row.status == 0 for row in mine), sum(row.same_bytes for row in mine)
        cells.append([command, victim, *map(str, (*counts, sum(row.stray for row in mine)))])
    return [
        *table(("command", "killed", "kills", "ended without a rerun", "same bytes", "stray files"), cells, 2),
        "",
        ENDED,
        "",
    ]


# --- plots


@styled
def census_plot(rows: Sequence[CensusRow]) -> Figure:
    """Processor time for a member, and the largest memory, by the number of members."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    members = [row.members for row in rows]
    for label, part in (("census", "census"), ("assembly", "assembly"), ("opening", "opened")):
        time_axes.plot(members, [1000 * getattr(row, part) / row.members for row in rows], "o-", label=label)
    time_axes.set(xlabel="members", ylabel="processor time for a member (ms)", ylim=(0, None))
    time_axes.legend()
    memory_axes.plot(members, [row.peak / 1000 for row in rows], "o-")
    memory_axes.set(xlabel="members", ylabel="peak memory (GB)", ylim=(0, None))
    return figure


@styled
def tree_plot(rows: Sequence[TreeRow]) -> Figure:
    """Processor time of trees by the number of units."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([row.units for row in rows], [row.seconds for row in rows], "o-", label="over micro-clusters")
    exact = [(row.units, row.exact_seconds) for row in rows if not math.isnan(row.exact_seconds)]
    axes.plot(*zip(*exact, strict=True), "s-", label="exact")
    axes.set(xscale="log", yscale="log", xlabel="units of a layer", ylabel="processor time (s)")
    axes.legend()
    return figure


@styled
def sleep_plot(rows: Sequence[Slept]) -> Figure:
    """Share of workers' time that tasks take, by the number of workers."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([row.workers for row in rows], [100 * row.seconds / row.taken for row in rows], "o-")
    axes.set(xscale="log", xlabel="workers", ylabel="time that tasks take (%)", ylim=(0, 103))
    axes.set_xticks([row.workers for row in rows], [str(row.workers) for row in rows])
    axes.minorticks_off()
    return figure


ENDED = "What had ended before the moment of its kill is counted as ended without a rerun."
PARTS = {
    "engines": Part("What an engine costs", overheads, overhead_lines, row=Overhead),
    "sleep": Part("Many workers", sleeps, sleep_lines, {"": sleep_plot}, row=Slept),
    "train": Part("Training in blocks", train, work_lines, row=Work),
    "workers": Part("Censuses by engine", workers, work_lines, row=Work),
    "census": Part("Censuses and assemblies", censuses, census_lines, {"": census_plot}, row=CensusRow),
    "tree": Part("Large layers", trees, tree_lines, {"": tree_plot}, row=TreeRow),
    "layers": Part("Layers of real members", layers, layer_lines, row=LayerRow),
    "kills": Part("Kills", kills, kill_lines, row=Kill),
}


def introduction(_: object) -> list[str]:
    """What holds for all parts."""
    return [
        "Measured on a machine of two cores. Censuses, trees and kills were measured while other work kept it busy "
        "(load 4 to 8): their times are processor time. Points of the table of trees have 64 coordinates and are in "
        "memory before; a tree over micro-clusters ends with 2048 clusters. The population of the censuses is that of "
        "`consilience train --data mnist.npz --members 1000 --hidden 32 32 --epochs 1`. With `--epochs 3 --engine "
        "processes:2` that command took 269 s by the clock, 506 s of processor time in all (driver and two workers)."
    ]


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--members", type=int, nargs="+", default=[125, 256])
    parser.add_argument("--population", type=Path, help="of the part census; by default a small one is trained")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--units", type=int, nargs="+", default=[10_000, 20_000, 100_000, 1_000_000])
    parser.add_argument("--exact", type=int, default=20_000, help="most units with an exact tree")
    parser.add_argument("--kills", type=int, default=50)
    run("Scale", PARTS, parser, introduction=introduction)


if __name__ == "__main__":
    main()
