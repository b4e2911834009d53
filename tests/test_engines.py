"""Engines: the same results everywhere, whatever dies, and errors that name the task."""

from __future__ import annotations

import errno
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import consilience as cs
from conftest import random_population
from consilience import cli
from consilience.clustering import clusterers, micro, significance, stability
from consilience.comparison import representation_similarities, representations
from consilience.engines import Engine, current, engine
from consilience.engines.call import call
from consilience.engines.choice import open_engine
from consilience.engines.dask import CLIENT_LOG
from consilience.engines.processes import Processes
from consilience.errors import ArtefactError, EngineError, InputError, TrainingError
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery import fit
from consilience.recovery.student import Student
from consilience.signals import responses
from consilience.store import lock
from consilience.training import blocks
from consilience.training.resume import FILE, delete_resume_state
from consilience.units.same import same_outputs
from consilience.versions import versions
from engine_tasks import address, begins, imports, killed_until, nothing, refuses, scaled, succeeds_at

KINDS = ("serial", "processes", "dask")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers, in this process."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with distributed.LocalCluster(host="127.0.0.1", dashboard_address=":0", **options) as made:
        yield made.scheduler_address


@pytest.fixture(scope="module")
def engines(cluster: str) -> Iterator[dict[str, Engine]]:
    """One engine of each kind, which are expensive to start; none of them is the current one."""
    opened = {"serial": open_engine("serial"), "processes": open_engine("processes:2")}
    opened["dask"] = open_engine(f"dask:{cluster}")
    yield opened
    for each in opened.values():
        each.close()


@pytest.mark.parametrize("kind", KINDS)
def test_results_come_in_the_order_of_the_items(engines: dict[str, Engine], kind: str) -> None:
    done: list[tuple[int, int]] = []
    shared = {"x": torch.arange(3.0), "by": 0.5}
    results = engines[kind].map(scaled, range(6), shared=shared, progress=lambda *counts: done.append(counts))
    assert torch.stack(results).tolist() == [[0, i / 2, i] for i in range(6)]
    assert done == [(n, 6) for n in range(1, 7)]
    assert engines[kind].map(nothing, []) == []


def test_tensors_begin_in_workers_where_torch_puts_its_own(engines: dict[str, Engine]) -> None:
    shared = {"a": torch.ones(3, 1), "b": torch.arange(5) > 1, "c": torch.tensor(2.0), "d": torch.ones(0, 2)}
    shared |= {"e": torch.ones(4, 6, dtype=torch.bfloat16).T[1:]}
    (found,) = engines["processes"].map(begins, [1], shared=shared)
    assert found == begins(1, **{name: value.clone() for name, value in shared.items()})


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_all_workers_of_a_cluster_get_tasks_however_much_these_share(engines: dict[str, Engine]) -> None:
    shared = {"shared": bytes(100 * 2**20)}  # a second on the way, as the scheduler sees it
    assert len(set(engines["dask"].map(address, range(4), shared=shared))) == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_a_worker_keeps_the_memory_of_arrays_that_it_frees() -> None:
    code = """
import resource, torch
from consilience.engines.call import call_packed, packed
from engine_tasks import nothing

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.zeros(2**18)  # 256 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
call_packed(packed((nothing, 1)), packed({}), 1, {})
faults()
print(before, faults())
"""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    assert before > 50 * 200  # as Dask starts workers
    assert after < 50 * 10


def test_a_process_that_is_killed_while_it_starts_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    new, pools = Processes._new, list[ProcessPoolExecutor]()

    def killed_once(self: Processes) -> ProcessPoolExecutor:
        pools.append(new(self))
        if len(pools) == 1:
            pools[0].submit(os.getpid)
            for process in pools[0]._processes.values():
                process.kill()
        return pools[-1]

    monkeypatch.setattr(Processes, "_new", killed_once)
    with engine("processes:1") as chosen:
        assert chosen.map(nothing, [3]) == [3]
    assert len(pools) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_package_is_raised_as_it_is(engines: dict[str, Engine], kind: str) -> None:
    with pytest.raises(InputError, match="item must be even, got 3") as raised:
        engines[kind].map(refuses, [3], names=["the third"])
    assert raised.value.cure == "double it"
    assert kind == "serial" or raised.value.__notes__ == ["in the third"]
    assert engines[kind].map(nothing, [1, 2]) == [1, 2]  # it goes on


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_task_has_three_attempts_and_the_others_end(engines: dict[str, Engine], kind: str, tmp_path: Path) -> None:
    items = [(needed, tmp_path / str(needed)) for needed in (1, 3, 4)]
    for _, place in items:
        place.mkdir()
    assert engines[kind].map(succeeds_at, items[:2]) == [1, 3]
    for _, place in items:
        for mark in place.iterdir():
            mark.unlink()
    with pytest.raises(EngineError, match=r"^members 4 to 5 must be computed, got 3 failures, .* OSError: not yet"):
        engines[kind].map(succeeds_at, [items[2], items[0], items[1]], names=["members 4 to 5", "b", "c"])
    assert [len([*place.iterdir()]) for _, place in items] == [1, 3, 3]


def test_the_tasks_of_a_process_that_dies_are_run_again(engines: dict[str, Engine], tmp_path: Path) -> None:
    items = [(needed, tmp_path / str(needed)) for needed in (1, 2)]
    for _, place in items:
        place.mkdir()
    assert engines["processes"].map(killed_until, items) == [1, 2]


@pytest.mark.slow
def test_a_task_that_kills_its_process_three_times_is_named(engines: dict[str, Engine], tmp_path: Path) -> None:
    items = [(needed, tmp_path / str(needed)) for needed in (1, 9)]
    for _, place in items:
        place.mkdir()
    message = "(?s)the last must be computed, got 3 failures, .*its process died.*cure: give workers more memory"
    with pytest.raises(EngineError, match=message):
        engines["processes"].map(killed_until, items, names=["the first", "the last"])


def test_what_cannot_be_sent_is_refused(engines: dict[str, Engine]) -> None:
    with pytest.raises(InputError, match="must be of a module"):
        engines["processes"].map(lambda item: item, [1])


def test_a_full_directory_of_temporary_files_is_told(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_on_full_disk(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "arrays":
            raise OSError(errno.ENOSPC, "No space left on device")
        return there(path, *args, **options)

    there = Path.open
    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(EngineError, match=r"(?s)must hold what tasks share, got OSError.*cure: free some space there"):
        engines["processes"].map(nothing, [1])


# --- the choice of an engine


def test_an_engine_is_current_inside_its_block() -> None:
    outside = current()
    with engine("serial") as inside:
        assert current() is inside is not outside
    assert current() is outside


@pytest.mark.parametrize("name", ["processes:0", "processes:", "processes:two", "dask:", "threads:2", "", None, 3])
def test_a_name_that_is_no_engine_is_refused(name: Any) -> None:
    with (
        pytest.raises(InputError, match="engine must be serial, processes:N with N from 1 to 9999, or dask:ADDRESS"),
        engine(name),
    ):
        pass


def test_the_command_line_refuses_an_engine_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--engine", "processes:0", "--out", str(tmp_path / "p")])
    assert "--engine must be serial, processes:N" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_what_answers_and_is_no_scheduler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("consilience.engines.dask.CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"dask:tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineError, match=r"a scheduler that answers, got \w+"), engine(name):
            pass


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    made: list[Any] = []

    class Client(distributed.Client):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr("consilience.engines.dask.CONNECT", 1)
    silences = [*CLIENT_LOG.filters]
    message = f"engine dask:{address} must be the address of a scheduler that answers, got"
    with pytest.raises(EngineError, match=message), engine(f"dask:{address}"):
        pass
    assert [client.status for client in made] == ["closed"]
    assert silences == CLIENT_LOG.filters


def test_what_the_client_prints_is_kept_back_while_an_engine_is_open(
    cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = [*CLIENT_LOG.filters]
    opened = open_engine(f"dask:{cluster}")
    CLIENT_LOG.error("a traceback")
    opened.close()
    assert before == CLIENT_LOG.filters
    assert "a traceback" not in caplog.text


def test_an_address_where_another_protocol_is_spoken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    def reads_a_length(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 3.07 EiB")

    monkeypatch.setattr(distributed.Client, "__init__", reads_a_length)
    monkeypatch.setattr(distributed.Client, "close", lambda self: None)
    with (
        pytest.raises(
            EngineError, match=r"(?s)a scheduler that answers, got MemoryError.*cure: write the address that"
        ),
        engine("dask:tcp://127.0.0.1:9"),
    ):
        pass


def test_a_worker_with_other_kernels_is_told(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consilience.engines.dask.kernels", _other_kernels_on_workers)
    with pytest.warns(UserWarning, match=r"computes with kernels for old, and this process for new: the last digits"):
        open_engine(f"dask:{cluster}").close()


def _other_kernels_on_workers() -> str:
    return "new" if threading.current_thread() is threading.main_thread() else "old"


def test_a_class_that_workers_cannot_import_is_told_at_once(engines: dict[str, Engine], tmp_path: Path) -> None:
    message = (
        "what tasks are given must be of modules that workers can import, got ModuleNotFoundError: No module named"
    )
    with pytest.raises(EngineError, match=message):
        engines["dask"].map(imports, [tmp_path])
    assert len([*tmp_path.iterdir()]) == 1  # attempt


def test_a_scheduler_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("consilience.engines.dask.CONNECT", 1)
    options = {"n_workers": 0, "processes": False, "host": "127.0.0.1", "dashboard_address": ":0"}
    with distributed.LocalCluster(protocol="tcp", **options) as empty:
        name = f"dask:{empty.scheduler_address}"
        with pytest.raises(EngineError, match="must have a worker, got none within 1 s"), engine(name):
            pass


def test_another_version_is_refused(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**versions(), "torch": "1.0"}
    with pytest.raises(EngineError, match=r"this worker must have torch 1\.0, as here, got 2"):
        call(nothing, 1, {}, 1, other)
    monkeypatch.setattr("consilience.engines.dask.versions", _others_on_workers)
    with (
        pytest.raises(EngineError, match=r"worker tcp.* must have torch 2.*, as here, got 1\.0"),
        engine(f"dask:{cluster}"),
    ):
        pass


def _others_on_workers() -> dict[str, str]:
    driver = threading.current_thread() is threading.main_thread()  # workers of the cluster are other threads
    return versions() if driver else {**versions(), "torch": "1.0"}


def test_a_directory_that_workers_do_not_see_is_refused(
    engines: dict[str, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KINDS:
        engines[name].check_directory(tmp_path / "not there yet")
    monkeypatch.setattr("consilience.engines.dask._exists", _sees_nothing)
    with pytest.raises(EngineError, match="must be a directory that every worker sees"):
        engines["dask"].check_directory(tmp_path)
    assert [*tmp_path.iterdir()] == []


def _sees_nothing(path: str) -> bool:
    return False


# --- training


@pytest.fixture
def in_blocks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 2)


def train(**options: Any) -> cs.Population:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    data = cs.Dataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0), torch.arange(40))
    training = cs.Training(epochs=2, batch_size=8, subset="bootstrap")
    nets = [cs.MLP(6, [5], 3, dropout=0.1), cs.MLP(6, [4], 3)]
    options = {"training": training, "validation": data, "checkpoint_epochs": (1,), "random_state": 3} | options
    return cs.train_population(nets, data, 5, **options)


def same(one: cs.Population, other: cs.Population) -> bool:
    pairs = ((one, other), (one.snapshots[1], other.snapshots[1]))
    return all(a.fingerprint == b.fingerprint for a, b in pairs) and one.metrics == other.metrics


@pytest.mark.usefixtures("in_blocks_of_two")
def test_every_engine_trains_the_same_bytes(
    engines: dict[str, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    populations = []
    for name in KINDS:
        monkeypatch.setattr(blocks, "current", lambda name=name: engines[name])
        populations.append(train(checkpoint=tmp_path / "state"))
        delete_resume_state(tmp_path / "state")
    assert same(populations[0], populations[1])
    assert same(populations[0], populations[2])
    assert [*tmp_path.iterdir()] == []
    records = [(record["epoch"], record["member"]) for record in populations[0].metrics]
    assert records == [(epoch, k) for epoch in (1, 2) for k in range(5)]


@pytest.mark.parametrize("large", [20_000, 10])
def test_every_engine_takes_the_same_census(
    engines: dict[str, Engine], large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws of stability and members turned at random are tasks, of exact trees and of micro-clusters."""
    population, x, censuses = random_population([[6, 5], [5, 5], [7, 4]]), torch.randn(60, 6), []
    for room, name, value in ((significance, "BLOCK", 2), (clusterers, "LARGE", large), (micro, "N_MICRO", 9)):
        monkeypatch.setattr(room, name, value)
    for kind in KINDS:
        asked = list[bool]()
        for room in (stability, significance):
            monkeypatch.setattr(
                room, "current", lambda worth, kind=kind, asked=asked: asked.append(worth) or engines[kind]
            )
        census = cs.Census(n_clusters=4, n_resamples=3).fit(population, x)
        arrays = [array for layer in census.layers_.values() for array in (layer.labels_, layer.stability_)]
        for own in census.significance().values():
            arrays += [own.unit_p, own.chance, own.turned.stability]
        censuses.append(arrays)
        assert asked == [False] * 6  # so little work is sent to workers in this test alone
    for other in censuses[1:]:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(censuses[0], other, strict=True))


def test_every_engine_records_the_same_responses(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    population, x, found = random_population([[6, 5], [5, 5], [7, 4]]), torch.randn(60, 6), []
    monkeypatch.setattr(responses, "BLOCK", 2)
    for kind, least in (*((kind, 0.0) for kind in ("serial", "dask")), ("dask", math.inf)):
        chosen = list[Engine]()

        def choose(worth: bool = True, kind: str = kind, chosen: list[Engine] = chosen) -> Engine:
            chosen.append(engines[kind if worth else "serial"])
            return chosen[-1]

        monkeypatch.setattr(responses, "WORTH", least)
        monkeypatch.setattr(responses, "current", choose)
        recorded = responses.Responses(population.networks, x, population.kind)
        found.append([*recorded.written("hidden.0"), *recorded.read("hidden.1")])
        assert chosen[-1] is engines["serial" if least else kind]  # so few multiplications are not worth it
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("method", fit.METHODS)
def test_every_engine_fits_the_same_students(
    engines: dict[str, Engine], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    students, x = [Student(3, [4], 1, ACTIVATIONS["identity"]) for _ in range(3)], torch.randn(40, 3)
    monkeypatch.setattr(fit, "block_size", lambda *_: 2)
    fits, options = [], {"method": method, "max_iterations": 3, "warm_up": 5}
    for kind in ("serial", "dask"):
        monkeypatch.setattr(fit, "current", lambda worth, kind=kind: engines[kind if worth else "serial"])
        fits.append(fit.fit_precisely(students, x, x.tanh().sum(1, keepdim=True), **options))
    for other in fits:
        assert torch.equal(other.losses, fits[0].losses)
        assert len(other.modules) == 3
        for mine, theirs in zip(fits[0].modules, other.modules, strict=True):
            assert all(map(torch.equal, mine.parameters(), theirs.parameters()))


def test_blocks_of_students_take_some_seconds_each() -> None:
    x, y = torch.randn(1000, 10), torch.randn(1000, 2)
    sizes = [fit.block_size(Student(10, [width], 2, torch.tanh), x, y, fit.METHODS[0]) for width in (5, 100)]
    assert sizes[0] > 100 > sizes[1] == math.ceil(fit.BLOCK_WORK / (30 * 2000 * 1302**2))


@pytest.mark.parametrize("measure", ["cka", "unbiased_cka", "procrustes"])
def test_every_engine_gives_the_same_similarities(
    engines: dict[str, Engine], measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    activations, found = [np.random.default_rng(k).normal(size=(30, 4 + k)) for k in range(5)], []
    for kind in KINDS:
        monkeypatch.setattr(representations, "current", lambda worth, kind=kind: engines[kind])
        found.append(representation_similarities(activations, measure))
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


def test_a_member_is_the_same_network_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train()
    monkeypatch.setattr(blocks, "BLOCK", 2)
    x = torch.randn(30, 6)
    for k, (a, b) in enumerate(zip(whole.networks, train().networks, strict=True)):
        if k % 2:  # without dropout, whose noise is drawn by blocks
            assert same_outputs(a(x), b(x))


@pytest.mark.usefixtures("in_blocks_of_two")
def test_finished_blocks_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train()
    trained: list[range] = []
    original = blocks.train_block

    def stopped(members: range, **options: Any) -> Any:
        if members.start == 4 and len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(members)
        return original(members, **options)

    monkeypatch.setattr(blocks, "train_block", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / "state")
    files = [tmp_path / "state" / f"members-{k:06}" / FILE for k in (0, 2)]
    written = [file.stat().st_mtime_ns for file in files]
    assert same(train(checkpoint=tmp_path / "state"), undisturbed)
    assert [file.stat().st_mtime_ns for file in files] == written


@pytest.mark.usefixtures("in_blocks_of_two")
def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    code = f"from consilience.store import lock\nwith lock({str(tmp_path / 'state')!r}): print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ArtefactError, match=f"one process at a time, got one that process {other.pid}"):
            train(checkpoint=tmp_path / "state")
        other.kill()
        other.wait()
    train(checkpoint=tmp_path / "state")


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    code = f"from consilience.store import lock\nwith lock({str(tmp_path / 'x')!r}): print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        with pytest.raises(ArtefactError, match="one process at a time"), lock(tmp_path / "x", wait=0.3):
            pass
        other.stdin.write(b"\n")
        other.stdin.flush()
        with lock(tmp_path / "x", wait=60):
            pass
        assert other.wait() == 0


@pytest.mark.usefixtures("in_blocks_of_two")
def test_members_that_fail_are_told_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    diverging = cs.Training(epochs=2, batch_size=8, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"every member failed by epoch \d: member 0: .*; member 1: .*; member 2: "):
        train(training=diverging)


COMMAND = ["train", "--members", "6", "--epochs", "3", "--hidden", "6", "--engine", "processes:2"]
DRIVER = """
import sys
from consilience import cli
from consilience.training import blocks

if __name__ == "__main__":
    blocks.BLOCK = 2
    cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.usefixtures("in_blocks_of_two")
def test_drivers_and_workers_that_are_killed_change_nothing(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), *COMMAND, "--out", str(out)], stdout=subprocess.DEVNULL)

    whole, out = tmp_path / "whole", tmp_path / "out"
    cli.main([*COMMAND[:-2], "--out", str(whole)])
    driver = start(out)
    _wait_for_files(tmp_path, ".out.checkpoint/members-*/*.safetensors", 1, driver)
    _kill_a_worker(driver)
    _wait_for_files(tmp_path, ".out.checkpoint/members-*/*.safetensors", 2, driver)
    driver.kill()
    driver.wait(300)
    assert start(out).wait(300) == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    assert {p.name for p in tmp_path.iterdir()} == {"driver.py", "whole", "out"}


def _kill_a_worker(driver: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
            return


def _wait_for_files(place: Path, pattern: str, n: int, driver: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while len([*place.glob(pattern)]) < n and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
