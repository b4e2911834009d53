"""What faults lead to: damaged artefacts, and a system that fails at each file operation of each command.

- ``fuzz``: small mutations of every kind of artefact (values of the config, bytes, files cut, emptied, gone, or linked
  to a place outside; half of them with the digests written anew). What reads it gives a result or one of our errors.
- ``faults``: a command is run with a fault at its n-th file operation, for every n: a full disk (the file is written in
  half), Ctrl-C, or a kill after which nothing can clean up. The same command is then run again, and gives the same
  bytes as without the fault.

What takes long and has nothing to do with files (fits, pages, tracing the same kind of module) is computed once.

The status is 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from harness import Part, arguments, run, table
from safetensors import SafetensorError

import consilience as cs
from consilience import cli
from consilience.assembly import load_elastic
from consilience.comparison.cache import recorded
from consilience.store import artefact
from consilience.studies import demo
from consilience.training import resume
from consilience.units import layers

ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, 10**9, 10**30, float("nan"), "", "x", "../x", [], [[]], {}, {"a": 1})
SMALL = ["--hidden", "5", "4", "--members", "3", "--epochs", "2", "--batch-size", "256"]
PAGED = ("report", "modularity", "compare", "recover")  # commands with a kind of their own
Words = Sequence[str]


# --- artefacts and what reads them


Uses = dict[str, tuple[Path, Callable[[], object]]]


def write_data(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write a small file of data; return its training rows and labels."""
    g = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (g.normal(size=(120, 6)) + y[:, None]).astype(np.float32)
    np.savez(root / "data.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    np.save(root / "x.npy", x[:, :2].astype(float))
    np.save(root / "y.npy", np.tanh(x[:, :2] @ [[1.0, -1.0], [0.5, 1.0]]) @ [[1.0], [2.0]])
    return x, y


def library_artefacts(root: Path) -> Uses:
    """Write one artefact of every kind that functions write; return where each is, and what reads and uses it."""
    x, y = write_data(root)
    inputs, ids = torch.from_numpy(x), tuple(range(len(x)))
    rows = cs.Dataset(inputs, torch.from_numpy(y), torch.arange(len(x)))
    training = cs.Training(epochs=2, batch_size=64)

    def train() -> cs.Population:
        options: dict[str, Any] = {"checkpoint": root / "state", "checkpoint_epochs": (1, 2)}
        return cs.train_population(cs.MLP(6, [5, 4], 3), rows, 3, training=training, **options)

    def activations() -> object:
        return list(recorded(module, ["hidden.0"], inputs, ids, "flatten", root / "cache", "net"))

    population = train()
    population.save(root / "p")
    census = cs.Census(n_resamples=0).fit(population, inputs)
    cs.save_census(census, root / "c", root / "p")
    module = population.members[0].module
    cs.save_network(module, root / "n")
    cs.elastic(census, (3, 5)).save(root / "e")
    activations()
    (layer,) = [path for path in (root / "cache").iterdir() if "-" not in path.name]
    return {
        "population": (root / "p", lambda: cs.Population.load(root / "p").logits(inputs)),
        "census": (root / "c", lambda: cs.assemble(cs.load_census(root / "c"), 4, correction="none")(inputs)),
        "network": (root / "n", lambda: cs.load_network(root / "n")(inputs)),
        "elastic": (root / "e", lambda: load_elastic(root / "e").at_width(3)(inputs)),
        "activations": (layer, activations),
        "activation-rows": (layer.with_name(f"{layer.name}-00000"), activations),
        "resume state": (root / "state", train),
    }


def command_artefacts(root: Path, only: Sequence[str] = ()) -> Uses:
    """Write one artefact with every command up to the last of ``only``; return where each is, and what reads it again.

    That is the same command, which finds it finished. The other commands write kinds that functions write, too.
    """
    write_data(root)
    names = [words[0] for words in commands(root)]
    used = commands(root)[: 1 + max((names.index(name) for name in only), default=len(names))]
    for words in used:
        if silently(words) == 2:
            raise RuntimeError(f"{words} is refused")
    return {words[0]: (Path(words[-1]), partial(silently, words)) for words in used if words[0] in PAGED}


def commands(root: Path) -> list[Words]:
    """Every command that writes, small, in an order in which they can be run."""
    data, here = str(root / "data.npz"), lambda name: str(root / name)
    population, census = here("population"), here("census")
    few = ["--clusters", "2", "--nulls", "2", "--circuits", "0"]
    fit = ["--units", "2", "--students", "3", "--activation", "tanh"]
    return [
        ["train", "--data", data, *SMALL, "--checkpoint-epochs", "1", "--out", population],
        ["census", population, "--resamples", "2", "--out", census],
        ["assemble", census, "--width", "4", "--out", here("network")],
        ["report", census, "--out", here("report")],
        ["modularity", population, *few, "--out", here("modularity")],
        ["compare", population, "--out", here("compare")],
        ["recover", "--inputs", here("x.npy"), "--outputs", here("y.npy"), *fit, "--out", here("recover")],
        ["demo", "--out", here("demo")],
    ]


def silently(words: Words) -> int:
    """Run a command; return its status."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as text:
        try:
            cli.main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
            if status not in (0, 1, 2, 130) or "Traceback" in text.getvalue():
                raise RuntimeError(text.getvalue()) from end
            return status
    return 0


# --- fuzz


@dataclass(frozen=True)
class FuzzRow:
    """What mutations of one kind of artefact led to."""

    kind: str
    mutations: int
    results: int
    errors: int  # of ours
    others: tuple[str, ...]  # other exceptions, with the mutation


def fuzz(options: argparse.Namespace) -> Iterator[FuzzRow]:
    """Mutate each kind of artefact so many times."""
    for make in (library_artefacts, command_artefacts)[: 1 if options.library else 2]:
        with tempfile.TemporaryDirectory() as folder, cheap():
            yield from fuzz_artefacts(Path(folder).resolve(), make, options.mutations, options.seed)


def fuzz_artefacts(root: Path, make: Callable[[Path], Uses], mutations: int, seed: int) -> Iterator[FuzzRow]:
    """Mutate artefacts of each kind so many times."""
    for kind, (directory, use) in make(root).items():
        counts, others, before = Counter[str](), list[str](), copy_of(root)
        for n in range(mutations):
            what = mutate(directory, random.Random(f"{seed} {kind} {n}"), root)
            try:
                status = use()
                counts["error" if isinstance(status, int) and status == 2 else "result"] += 1
            except cs.ConsilienceError:
                counts["error"] += 1
            except Exception as error:
                others.append(f"{what}: {type(error).__name__}: {str(error)[-200:]}")
            restore(root, before)
        yield FuzzRow(kind, sum(counts.values()) + len(others), counts["result"], counts["error"], tuple(others))


def mutate(directory: Path, rng: random.Random, root: Path) -> str:
    """Change one thing in an artefact; return what."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    configs = [path for path in files if path.suffix == ".json"]
    if configs and rng.random() < 0.6:
        return mutate_json(rng.choice(configs), rng)
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    way = rng.choice(["flip", "flip", "cut", "empty", "gone", "link", "directory", "more"])
    if way == "flip" and content:
        head = min(len(content), 400) if rng.random() < 0.5 else len(content)
        content[rng.randrange(head)] ^= rng.randrange(1, 256)
    elif way == "cut":
        content = content[: rng.randrange(len(content) + 1)]
    elif way == "empty":
        content.clear()
    elif way == "more":
        content += b"more"
    path.unlink()
    if way == "link":
        (root / "outside").write_bytes(content)
        path.symlink_to(root / "outside")
    elif way == "directory":
        path.mkdir()
    elif way != "gone":
        path.write_bytes(content)
        if rng.random() < 0.5:
            sign_again(directory)
    return f"{way} {path.name}"


def mutate_json(path: Path, rng: random.Random) -> str:
    """Change one value of a JSON file, at any depth."""
    whole = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            collect(value[key])

    collect(whole)
    parent, key = rng.choice(places)
    old = parent[key]
    way = rng.choice(["delete", "odd", "odd", "number", "wrap", "other", "rename"])
    if way == "delete":
        del parent[key]
    elif way == "number" and isinstance(old, int | float):
        parent[key] = rng.choice([-old, old + 1, old * 10**6, old / 3, str(old)])
    elif way == "wrap":
        parent[key] = rng.choice([[old], {"a": old}])
    elif way == "other":
        other = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[0][other[1]]))
    elif way == "rename" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    else:
        parent[key] = rng.choice(ODD)
    path.write_text(json.dumps(whole))
    if path.name != "config.json" and rng.random() < 0.7:
        sign_again(path.parent)
    return f"{way} {key!r} of {path.name} (was {str(old)[:40]})"


def sign_again(directory: Path) -> None:
    """Write the digests of an artefact anew, so that a change reaches what reads its content."""
    path = directory / "config.json"
    with contextlib.suppress(Exception):
        config = json.loads(path.read_text())
        for name in config["files"]:
            config["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        path.write_text(json.dumps(config))


def copy_of(root: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def restore(root: Path, content: Mapping[str, bytes]) -> None:
    """Bring a directory back to what `copy_of` returned."""
    for path in sorted(root.rglob("*"), reverse=True):
        name = str(path.relative_to(root))
        if path.is_symlink() or (path.is_file() and name not in content):
            path.unlink()
        elif path.is_dir() and not any(kept.startswith(f"{name}/") for kept in content):
            shutil.rmtree(path)
    for name, data in content.items():
        path = root / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


# --- faults


class KilledError(BaseException):
    """What the death of a process looks like from the inside: nothing after it reaches the disk."""


@dataclass(frozen=True)
class FaultRow:
    """What a fault at each file operation of one command led to."""

    command: str
    fault: str
    operations: int
    same: int  # reruns that gave the same bytes, and left nothing else
    others: tuple[str, ...]


OPERATIONS = (
    *((os, name) for name in ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "ftruncate", "write")),
    *((io, "open"), (artefact, "save_file"), (resume, "save_file"), (shutil, "copymode")),
)
CLEANING = ("unlink", "rmdir")  # what a full disk allows
OPEN = os.open
BY_NUMBER = ("fsync", "ftruncate", "write")  # of an open file


class HalfWritten:
    """A file that a full disk holds a half of."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Faults:
    """Counts the file operations below a directory, and lets the n-th fail."""

    def __init__(self, root: Path, fault: str, nth: int) -> None:
        self.root, self.fault, self.nth, self.count = root, fault, nth, 0

    def __call__(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            paths = [str(arg) for arg in args[:2] if isinstance(arg, str | Path)]
            here = name in BY_NUMBER or any(path.startswith(str(self.root)) for path in paths)
            if not here:
                return function(*args, **kwargs)
            if self.fault == "full" and (name in CLEANING or (name == "open" and not self._writes(args, kwargs))):
                return function(*args, **kwargs)
            self.count += 1
            if self.count == self.nth and self.fault == "full":
                if name == "open" and function is not OPEN:
                    return HalfWritten(function(*args, **kwargs))
                if name == "save_file":
                    function(*args, **kwargs)
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
                    raise SafetensorError("I/O error: No space left on device (os error 28)")
            if self.count == self.nth or (self.count > self.nth > 0 and self.fault != "interrupt"):
                raise self._error()
            return function(*args, **kwargs)

        return operation

    @staticmethod
    def _writes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        mode = kwargs.get("mode", args[1] if len(args) > 1 else "r")
        return bool(mode & os.O_CREAT) if isinstance(mode, int) else bool({*mode} & {*"wax+"})

    def _error(self) -> BaseException:
        if self.fault == "full":
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return KeyboardInterrupt() if self.fault == "interrupt" else KilledError()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let every operation pass here."""
        with contextlib.ExitStack() as stack:
            for module, name in OPERATIONS:
                wrapped = self(getattr(module, name), name)
                stack.enter_context(mock.patch.object(module, name, wrapped))
            yield


def faults(options: argparse.Namespace) -> Iterator[FaultRow]:
    """Let each command fail at each of its file operations, then run it again."""
    with tempfile.TemporaryDirectory() as folder, cheap():
        root = Path(folder).resolve()
        command_artefacts(root, options.only or ())
        everything = copy_of(root)
        for words in commands(root):
            if options.only and words[0] not in options.only:
                continue
            out = Path(words[-1])
            others = {name: data for name, data in everything.items() if not name.startswith(f"{out.name}/")}
            for fault in ("full", "interrupt", "kill"):
                counting = Faults(root, fault, 0)
                restore(root, others)
                with counting.installed():
                    silently(words)
                wrong, step = list[str](), max(1, counting.count // options.most) if options.most else 1
                tried = range(1, counting.count + 1, step)
                for nth in tried:
                    restore(root, others)
                    problem = failing(words, Faults(root, fault, nth)) or again(words, root, everything)
                    wrong += [f"{words[0]}, {fault} at operation {nth}: {problem}"] if problem else []
                yield FaultRow(words[0], fault, len(tried), len(tried) - len(wrong), tuple(wrong))


def failing(words: Words, injected: Faults) -> str:
    """Run a command with a fault; return what is wrong with its end, if anything."""
    expected = {"full": (0, 1, 2), "interrupt": (0, 1, 130), "kill": (0, 1)}[injected.fault]
    try:
        with injected.installed():
            status = silently(words)
    except KilledError:
        return ""
    except BaseException as error:
        return f"ends with {type(error).__name__}: {str(error)[-300:]}"
    return "" if status in expected else f"ends with status {status}"


def again(words: Words, root: Path, expected: Mapping[str, bytes]) -> str:
    """Run a command that has failed again; return what differs from a run without a fault."""
    try:
        status = silently(words)
    except BaseException as error:
        return f"the rerun ends with {type(error).__name__}: {str(error)[-300:]}"
    left = copy_of(root)
    differing = sorted(name for name in {*left, *expected} if left.get(name) != expected.get(name))
    return f"the rerun (status {status}) differs in {', '.join(differing[:4])}" if differing else ""


@contextlib.contextmanager
def cheap() -> Iterator[None]:
    """Compute and draw each result once, since a report holds seconds, and trace each kind of module once."""
    names: tuple[str, ...]
    names = ("experiment.run_experiment", "modularity_result.run_modularity", "comparison_result.run_comparison")
    names = (*names, "significance.measured_significance")
    pages = ("render_page", "modularity.render_modularity", "comparison.render_comparison", "recovery.render_recovery")
    names = (*(f"studies.{name}" for name in names), *(f"report.{page}" for page in pages))
    results: dict[str, Any] = {}
    fit, trace, assemble = cs.ExpandAndCluster.fit, layers.trace, cs.Assembler.assemble

    def assemble_once(assembler: cs.Assembler, width: Any, **options: Any) -> torch.nn.Module:
        key = f"{assembler.census.population_.fingerprint} {width} {options}"
        return results.get(key) or results.setdefault(key, assemble(assembler, width, **options))

    def trace_once(module: torch.nn.Module, x: torch.Tensor, *options: Any) -> Any:
        key = f"{module} {getattr(module, 'config', None)} {x.shape} {x.dtype} {options}"
        return results.get(key) or results.setdefault(key, trace(module, x, *options))

    def fit_once(estimator: cs.ExpandAndCluster, *args: Any) -> cs.ExpandAndCluster:
        fitted = results.get("fit") or results.setdefault("fit", fit(estimator, *args))
        vars(estimator).update(vars(fitted))
        return estimator

    with contextlib.ExitStack() as stack:
        for name in names:
            module, _, attribute = f"consilience.{name}".rpartition(".")
            __import__(module)
            function = getattr(sys.modules[module], attribute)

            def once(*args: Any, name: str = name, function: Callable[..., Any] = function, **kwargs: Any) -> Any:
                if name not in results:
                    fewer = {"widths": ("1x",), "corrections": ("none",)} if "run_experiment" in name else {}
                    results[name] = function(*args, **kwargs | fewer)
                return results[name]

            stack.enter_context(mock.patch.object(sys.modules[module], attribute, once))
        stack.enter_context(mock.patch.object(cs.ExpandAndCluster, "fit", fit_once))
        stack.enter_context(mock.patch.object(layers, "trace", trace_once))
        stack.enter_context(mock.patch.object(cs.Assembler, "assemble", assemble_once))
        for option, value in {"HIDDEN": (4,), "MEMBERS": 2, "EPOCHS": 1, "BATCH_SIZE": 512}.items():
            stack.enter_context(mock.patch.object(demo, option, value))
        yield


def fuzz_text(rows: Sequence[FuzzRow]) -> Iterator[str]:
    heads = ("artefact", "mutations", "a result", "an error of ours", "other exceptions")
    lines = [(r.kind, str(r.mutations), str(r.results), str(r.errors), str(len(r.others))) for r in rows]
    total = [str(sum(int(line[i]) for line in lines)) for i in range(1, 5)]
    yield from table(heads, [*lines, ("all", *total)])
    yield from (f"- {row.kind}: {other}" for row in rows for other in row.others)


def faults_text(rows: Sequence[FaultRow]) -> Iterator[str]:
    heads = ("command", "fault", "operations", "same bytes after a rerun")
    yield from table(heads, [(r.command, r.fault, str(r.operations), str(r.same)) for r in rows], 2)
    yield from (f"- {other}" for row in rows for other in row.others)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", action="store_true", help="only artefacts that functions write, not commands")
    parser.add_argument("--only", nargs="+", help="commands that fail")
    parser.add_argument("--most", type=int, default=0, help="operations of a command that fail; 0 for all")
    bad = list[str]()

    def quick(options: argparse.Namespace) -> argparse.Namespace:
        if options.quick:
            options.mutations, options.most, options.library, options.only = 5, 2, True, options.only or ["train"]
        return options

    def line(row: FuzzRow | FaultRow) -> str:
        bad.extend(row.others)
        return str(row)

    parts = {
        "fuzz": Part("Damaged artefacts", lambda o: fuzz(quick(o)), fuzz_text, row=FuzzRow),
        "faults": Part("A system that fails", lambda o: faults(quick(o)), faults_text, row=FaultRow),
    }
    run("Faults", parts, parser, line=line)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
