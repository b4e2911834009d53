import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.nets import MLP
from consilience.store import (
    FORMAT_VERSION,
    atomic_write,
    check_destination,
    fingerprint,
    load_network,
    lock,
    read_artefact,
    read_config,
    save_network,
    write_artefact,
)
from consilience.store import artefact as artefact_module
from consilience.store import destination as destination_module

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": {"c": torch.tensor(True), "d": {"e": torch.empty(0, 4)}}}
SHARD = "tensors-00001-of-00001.safetensors"
in_one_folder = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(error: type[ConsilienceError], *texts: str):
    """Expect an error that says all of this, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, texts)))


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the bytes of everything under a folder, hidden names included."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


class Killed(BaseException):
    """What a process that dies looks like from the inside, if nothing can clean up (see `kill_at`)."""


@pytest.fixture
def kill_at(monkeypatch):
    """Let the process die at the n-th call of a function, leaving the disk as it is at that moment."""

    def install(module, name: str, nth: int = 1) -> None:
        function, calls = getattr(module, name), iter(range(1, 10**6))

        def die(*args, **kwargs):
            if next(calls) == nth:
                for cleaner in ("unlink", "rmdir", "touch"):
                    monkeypatch.setattr(Path, cleaner, lambda self, **_: None)
                for cleaner in ("rename", "replace"):
                    monkeypatch.setattr(os, cleaner, lambda *_: None)
                raise Killed
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, die)

    yield install
    monkeypatch.undo()


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    @dataclass(frozen=True)
    class Sizes:
        widths: tuple[int, ...]

    config = {"seed": np.int64(3), "sizes": Sizes((4, 5)), "loss": torch.tensor([0.5, 0.25]), "none": None, "é": "ü"}
    path = write_artefact(tmp_path / "new" / "thing", "thing", config, TENSORS, extra_files={"README.md": "hé"})
    assert path == tmp_path / "new" / "thing"
    assert sorted(os.listdir(path)) == ["README.md", "config.json", SHARD]
    assert (path / "README.md").read_text(encoding="utf-8") == "hé"

    found = read_artefact(path, "thing")
    assert found.directory == path
    assert list(found.tensors) == ["a", "b/c", "b/d/e"]
    assert torch.equal(found.tensors["a"], TENSORS["a"])
    assert found.tensors["b/c"].dtype == torch.bool
    assert found.tensors["b/d/e"].shape == (0, 4)
    assert {key: found.config[key] for key in config} == {
        "seed": 3,
        "sizes": {"widths": [4, 5]},
        "loss": [0.5, 0.25],
        "none": None,
        "é": "ü",
    }
    assert found.config == read_config(path)


def test_the_header_tells_kind_format_versions_and_sums(tmp_path):
    path = write_artefact(tmp_path / "thing", "thing", {"z": 1}, TENSORS, extra_files={"note.txt": b"note"})
    text = (path / "config.json").read_text()
    config = json.loads(text)
    assert config["kind"] == "thing"
    assert config["format_version"] == FORMAT_VERSION == 1
    assert config["versions"]["torch"] == torch.__version__
    assert set(config["versions"]) == {"consilience", "torch"}
    assert config["files"] == {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in (SHARD, "note.txt")
    }
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    assert str(tmp_path) not in text


@in_one_folder
@given(
    tensors=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    ),
    shard_bytes=st.integers(1, 200),
)
def test_any_names_types_and_shapes_survive_any_sharding(tmp_path, tensors, shard_bytes):
    given_ = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in tensors.items()}
    path = write_artefact(tmp_path / "thing", "thing", {}, given_, shard_bytes=shard_bytes)
    found = read_artefact(path, "thing").tensors
    assert list(found) == sorted(given_)
    for name, tensor in given_.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    assert fingerprint(found) == fingerprint(given_)


def test_shards_are_filled_in_order_and_one_tensor_is_never_cut(tmp_path):
    tensors = {name: torch.zeros(size) for name, size in {"a": 10, "b": 10, "c": 50, "d": 5, "e": 15, "f": 1}.items()}
    path = write_artefact(tmp_path / "thing", "thing", {}, tensors, shard_bytes=80)
    names = [f"tensors-{i:05}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert sorted(read_config(path)["files"]) == names
    assert [sorted(load_file(path / name)) for name in names] == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_an_artefact_may_have_no_tensors(tmp_path):
    path = write_artefact(tmp_path / "thing", "thing", {"x": 1}, {})
    assert os.listdir(path) == ["config.json"]
    assert read_artefact(path, "thing").tensors == {}


def test_memory_layout_does_not_matter(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "all": base,
        "again": base,
        "rows": base[:2],
        "overlap": base[1:],
        "column": base[:, 1],
        "turned": base.T,
        "same": torch.ones(1).expand(5),
        "grad": nn.Parameter(base),
        "conj": (base * (1 + 2j)).conj(),
    }
    found = read_artefact(write_artefact(tmp_path / "thing", "thing", {}, tensors), "thing").tensors
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.detach()), name
        assert found[name].is_contiguous()


def test_what_is_read_is_a_copy_of_the_file(tmp_path):
    path = write_artefact(tmp_path / "thing", "thing", {}, TENSORS)
    read_artefact(path, "thing").tensors["a"].zero_()
    assert torch.equal(read_artefact(path, "thing").tensors["a"], TENSORS["a"])


def test_the_same_content_gives_the_same_bytes(tmp_path):
    tensors = {f"t{i}": torch.rand(4, 3) for i in range(6)}
    backwards = {name: tensors[name].T.contiguous().T for name in reversed(tensors)}  # other strides, other order
    one = write_artefact(tmp_path / "one", "thing", {"a": 1, "b": {"c": 2, "d": 3}}, tensors, shard_bytes=100)
    two = write_artefact(tmp_path / "two", "thing", {"b": {"d": 3, "c": 2}, "a": 1}, backwards, shard_bytes=100)
    assert snapshot(one) == snapshot(two)
    assert len(snapshot(one)) == 4


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_files_can_be_read_by_whoever_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        path = write_artefact(tmp_path / "thing", "thing", {}, TENSORS, extra_files={"README.md": ""})
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {"0o644"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"config": {"kind": 1, "files": 2}}, ("names of the header", "kind, files")),
        ({"config": {"a": {"b": [1, {"c": object()}]}}}, ("config.a.b[1].c", "object")),
        ({"config": {"a": {1: 2}}}, ("keys of config.a must be strings, got 1",)),
        ({"tensors": {"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)}}, ("two called a/b",)),
        ({"tensors": {"a": {"b": [1.0]}}}, ("a/b must be a tensor, got list",)),
        ({"tensors": {1: torch.ones(1)}}, ("names of tensors must be strings, got 1",)),
        ({"tensors": {"__metadata__": torch.ones(1)}}, ("tensors must not be called __metadata__",)),
        ({"tensors": {"a": torch.ones(2, dtype=torch.complex128)}}, ("a must be a dense tensor", "complex128")),
        ({"tensors": {"a": torch.eye(2).to_sparse()}}, ("a must be a dense tensor", "sparse_coo", "to_dense")),
        ({"tensors": {"a": torch.ones(2, device="meta")}}, ("a must have values",)),
        ({"tensors": nn.LazyLinear(2).state_dict()}, ("must have values, got none yet",)),
        ({"shard_bytes": 0}, ("shard_bytes must be an int >= 1, got 0",)),
        ({"extra_files": {"../escape": b""}}, ("extra_files must have names such as README.md, got ", "../escape")),
        ({"extra_files": {"config.json": b""}}, ("extra_files must have names", "config.json")),
        ({"extra_files": {"more.safetensors": b""}}, ("extra_files must have names",)),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, arguments, text):
    with refused(InputError, *text):
        write_artefact(tmp_path / "a" / "thing", "thing", **{"config": {}, "tensors": {}, **arguments})
    assert snapshot(tmp_path) == {}


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def thing(tmp_path) -> Path:
    tensors = {"a": torch.arange(100.0), "b": torch.arange(100)}
    return write_artefact(tmp_path / "thing", "thing", {"seed": 0}, tensors, shard_bytes=400)


SECOND = "tensors-00002-of-00002.safetensors"


def test_missing_and_foreign_directories_are_told_apart(tmp_path, thing):
    with refused(ArtefactError, "absent must be the directory of an artefact, got no directory", "check the path"):
        read_artefact(tmp_path / "absent", "thing")
    with refused(ArtefactError, "config.json must be the directory of an artefact"):
        read_artefact(thing / "config.json", "thing")
    (thing / "config.json").unlink()
    with refused(ArtefactError, "thing must be an artefact with a config.json, got tensors-00001-of-00002.safetensors"):
        read_artefact(thing, "thing")


def test_another_kind_is_refused_but_its_config_can_be_read(thing):
    with refused(ArtefactError, "thing must be an artefact of kind census, got thing"):
        read_artefact(thing, "census")
    assert read_config(thing)["seed"] == 0


@pytest.mark.parametrize("content", [b"", b'{"kind": "thi', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_config_that_is_no_json_is_damaged(thing, content):
    (thing / "config.json").write_bytes(content)
    with refused(ArtefactError, "config.json must be JSON, got ", "write it again"):
        read_config(thing)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"model_type": "bert"}', '{"kind": "x", "format_version": 1}'])
def test_a_config_of_something_else_is_refused(thing, content):
    (thing / "config.json").write_text(content)
    with refused(
        ArtefactError, "config.json must be a config of consilience, with kind, format_version, versions, files"
    ):
        read_config(thing)


@pytest.mark.parametrize(
    ("version", "cure"), [(2, "pip install --upgrade consilience"), (0, "write it again"), ("1", "write it again")]
)
def test_an_unknown_format_version_is_told_with_its_cure(thing, version, cure):
    edit_config(thing, format_version=version)
    with refused(ArtefactError, f"config.json must have format version 1, got {version!r}\n", cure):
        read_artefact(thing, "thing")


@pytest.mark.parametrize("files", [{"../secret.safetensors": "0"}, {"/etc/passwd": "0"}, {"a": 1}, ["a"], {"..": ""}])
def test_files_outside_the_directory_are_never_read(thing, files):
    edit_config(thing, files=files)
    with refused(ArtefactError, "must list files inside its directory, got "):
        read_artefact(thing, "thing")


def test_a_missing_shard_is_named(thing):
    (thing / SECOND).unlink()
    with refused(ArtefactError, f"{SECOND} must be a file of the artefact, got none"):
        read_artefact(thing, "thing")


@in_one_folder
@given(length=st.floats(0, 0.999))
def test_a_truncated_shard_is_named(tmp_path, length):
    path = write_artefact(tmp_path / "cut", "thing", {}, {"a": torch.arange(50.0)})
    content = (path / SHARD).read_bytes()
    (path / SHARD).write_bytes(content[: int(length * len(content))])
    with refused(ArtefactError, f"{SHARD} must have SHA-256 ", ", got "):
        read_artefact(path, "thing")


@in_one_folder
@given(place=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_one_changed_byte_is_enough(tmp_path, place, flip):
    path = write_artefact(tmp_path / "flipped", "thing", {}, {"a": torch.arange(50.0)})
    content = bytearray((path / SHARD).read_bytes())
    content[int(place * len(content))] ^= flip
    (path / SHARD).write_bytes(content)
    with refused(ArtefactError, f"{SHARD} must have SHA-256 "):
        read_artefact(path, "thing")


def test_a_shard_that_was_never_safetensors_is_refused(thing):
    (thing / SECOND).write_bytes(b"pickle")
    files = {SECOND: hashlib.sha256(b"pickle").hexdigest()}
    edit_config(thing, files=files)
    with refused(ArtefactError, f"{SECOND} must be a safetensors file, got "):
        read_artefact(thing, "thing")


@pytest.mark.parametrize("change", [lambda path: path.write_text("a better card"), Path.unlink])
def test_every_listed_file_is_compared(tmp_path, change):
    path = write_artefact(tmp_path / "thing", "thing", {}, TENSORS, extra_files={"README.md": "card"})
    change(path / "README.md")
    with refused(ArtefactError, "README.md must "):
        read_artefact(path, "thing")


@pytest.mark.parametrize("name", ["config.json", SHARD])
def test_a_link_to_a_file_outside_is_not_followed(tmp_path, name):
    path = write_artefact(tmp_path / "thing", "thing", {}, TENSORS)
    (path / name).rename(tmp_path / "outside")
    (path / name).symlink_to(tmp_path / "outside")
    with refused(ArtefactError, f"{name} must lie in the artefact, got a link to ", "outside", "copy the file there"):
        read_artefact(path, "thing")
    (tmp_path / "linked").symlink_to(path)
    (path / name).unlink()
    (tmp_path / "outside").rename(path / name)
    assert len(read_artefact(tmp_path / "linked", "thing").tensors) == 3


# --- the destination --------------------------------------------------------------------------------------------------


def test_a_free_place_and_an_empty_directory_will_do(tmp_path):
    assert check_destination(tmp_path / "a" / "b", "thing") is False
    (tmp_path / "empty").mkdir()
    assert check_destination(tmp_path / "empty", "thing") is False
    assert sorted(snapshot(tmp_path)) == ["empty"]
    write_artefact(tmp_path / "empty", "thing", {}, TENSORS)
    assert check_destination(tmp_path / "empty", "thing") is True


def test_an_artefact_that_lacks_a_file_is_not_finished(thing):
    (thing / SECOND).unlink()
    assert check_destination(thing, "thing") is False


def user_folder(path: Path) -> tuple[str, ...]:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    return "place must be free, empty, or an artefact of kind thing, got thesis.tex", "choose another directory"


def user_file(path: Path) -> tuple[str, ...]:
    path.write_text("years of work")
    return "place must be free, empty, or an artefact of kind thing, got a file", ""


def other_kind(path: Path) -> tuple[str, ...]:
    write_artefact(path, "census", {}, {})
    return "an artefact of kind thing, got one of kind census", "choose another directory"


def newer_format(path: Path) -> tuple[str, ...]:
    write_artefact(path, "thing", {}, {})
    edit_config(path, format_version=2)
    return (
        "place must be free, empty, or an artefact of kind thing, got config.json",
        "must have format version 1, got 2",
    )


def other_config(path: Path) -> tuple[str, ...]:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "bert"}')
    return "place must be free, empty, or an artefact of kind thing, got config.json", "a config of consilience"


def note_inside(path: Path) -> tuple[str, ...]:
    write_artefact(path, "thing", {}, {})
    (path / "my-notes.txt").write_text("years of work")
    return "place must hold the artefact's files alone, got my-notes.txt", "move them away"


def artefact_inside(path: Path) -> tuple[str, ...]:
    write_artefact(path, "thing", {}, {})
    write_artefact(path / "inner", "thing", {}, TENSORS)
    return "place must hold the artefact's files alone, got inner", "move them away"


def file_above(path: Path) -> tuple[str, ...]:
    path.parent.rmdir()
    path.parent.write_text("years of work")
    return "above must be a writable directory, got a file", ""


def taken_temporary(path: Path) -> tuple[str, ...]:
    user_folder(path.with_name(".place.tmp"))
    return ".place.tmp must be free for a moment", "move it away"


def taken_old(path: Path) -> tuple[str, ...]:
    user_file(path.with_name(".place.old"))
    return ".place.old must be free for a moment", "move it away"


@pytest.mark.parametrize(
    "occupy",
    [
        user_folder,
        user_file,
        other_kind,
        newer_format,
        other_config,
        note_inside,
        artefact_inside,
        file_above,
        taken_temporary,
        taken_old,
    ],
)
def test_whatever_is_in_the_way_is_refused_and_stays(tmp_path, occupy):
    place = tmp_path / "above" / "place"
    place.parent.mkdir()
    text = occupy(place)
    before = snapshot(tmp_path)
    with refused(ArtefactError, *text):
        check_destination(place, "thing")
    with refused(ArtefactError, *text):
        write_artefact(place, "thing", {}, TENSORS)
    assert snapshot(tmp_path) == before


def test_the_current_directory_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused(ArtefactError, "got the current directory", "choose a directory inside it"):
        check_destination(".", "thing")
    write_artefact("inside", "thing", {}, TENSORS)
    assert check_destination(tmp_path / "inside", "thing")


def test_a_link_to_a_directory_is_followed_and_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "thing")
    for seed in (0, 1):
        write_artefact(tmp_path / "link", "thing", {"seed": seed}, TENSORS)
        assert (tmp_path / "link").is_symlink()
        assert read_config(tmp_path / "disk" / "thing")["seed"] == seed


def test_an_artefact_of_the_same_kind_is_replaced_without_a_trace(tmp_path):
    write_artefact(tmp_path / "thing", "thing", {"seed": 0}, TENSORS, shard_bytes=1, extra_files={"README.md": "old"})
    write_artefact(tmp_path / "thing", "thing", {"seed": 1}, {"new": torch.ones(1)})
    assert read_artefact(tmp_path / "thing", "thing").config["seed"] == 1
    assert sorted(snapshot(tmp_path)) == ["thing", "thing/config.json", f"thing/{SHARD}"]


# --- dying on the way -------------------------------------------------------------------------------------------------


FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_RUST = SafetensorError("Error while serializing: I/O error: File too large (os error 27)")


@pytest.mark.parametrize("error", [FULL, FULL_RUST, KeyboardInterrupt()])
@pytest.mark.parametrize("replacing", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, error, replacing):
    expected = refused(
        ArtefactError,
        "thing must be writable, got an error of the system: ",
        "; what was there is kept",
        "free some space",
    )
    if replacing:
        write_artefact(tmp_path / "thing", "thing", {"seed": 0}, TENSORS)
    before = snapshot(tmp_path)

    def fail(*_):
        raise error

    for module, name in ((artefact_module, "save_file"), (artefact_module, "config_text"), (os, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, **__: fail())
            with pytest.raises(KeyboardInterrupt) if error is not FULL and error is not FULL_RUST else expected:
                write_artefact(tmp_path / "thing", "thing", {"seed": 1}, TENSORS)
        assert snapshot(tmp_path) == before


def test_a_failure_of_the_second_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    place = write_artefact(tmp_path / "thing", "thing", {"seed": 0}, TENSORS)
    before = snapshot(tmp_path)
    rename = os.rename

    def fail_for_the_new_one(source, target):
        if Path(source).name == ".thing.tmp":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with refused(ArtefactError, "input/output error; what was there is kept", "choose a directory that can be written"):
        write_artefact(place, "thing", {"seed": 1}, TENSORS)
    assert snapshot(tmp_path) == before


STEPS = [
    (artefact_module, "save_file"),
    (artefact_module, "config_text"),
    (destination_module, "_sync"),
    (os, "rename"),
]


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize(("module", "name"), STEPS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path, kill_at, monkeypatch, replacing, module, name, nth):
    place = tmp_path / "thing"
    if replacing:
        write_artefact(place, "thing", {"seed": 0}, TENSORS, shard_bytes=8)
    kill_at(module, name, nth)
    try:
        write_artefact(place, "thing", {"seed": 1}, TENSORS, shard_bytes=8)
        died = False
    except Killed:
        died = True
    monkeypatch.undo()

    finished = check_destination(place, "thing")
    assert finished or not replacing
    if finished:
        found = read_artefact(place, "thing")
        assert found.config["seed"] in ((0, 1) if replacing else (1,))
        assert len(found.tensors) == 3
    else:
        assert died
        assert not place.exists()
    write_artefact(place, "thing", {"seed": 2}, TENSORS)
    assert read_artefact(place, "thing").config["seed"] == 2
    assert os.listdir(tmp_path) == ["thing"]  # nothing of the dead process is left


def test_the_kill_between_the_renames_is_told_to_readers_and_mended_for_writers(tmp_path, kill_at, monkeypatch):
    place = write_artefact(tmp_path / "thing", "thing", {"seed": 0}, TENSORS)
    kill_at(os, "rename", 2)
    with pytest.raises(Killed):
        write_artefact(place, "thing", {"seed": 1}, TENSORS)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == [".thing.lock", ".thing.old", ".thing.tmp"]
    with refused(ArtefactError, "got no directory", "rename", ".thing.old back", "died"):
        read_artefact(place, "thing")
    assert check_destination(place, "thing") is True
    assert read_artefact(place, "thing").config["seed"] == 0


def test_stale_names_of_a_dead_process_are_removed(tmp_path):
    place = tmp_path / "thing"
    for suffix in ("tmp", "old"):
        stale = tmp_path / f".thing.{suffix}"
        stale.mkdir()
        (stale / "UNFINISHED").touch()
        (stale / SHARD).write_bytes(b"half a sha")
    assert check_destination(place, "thing") is False
    write_artefact(place, "thing", {}, TENSORS)
    assert os.listdir(tmp_path) == ["thing"]


# --- two writers ------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from consilience.store import lock
with lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_has_died(tmp_path):
    place = write_artefact(tmp_path / "thing", "thing", {"seed": 0}, TENSORS)
    command = [sys.executable, "-c", HOLDER, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with refused(ArtefactError, "thing must be written by one process", f"process {holder.pid} is", "wait until"):
            write_artefact(place, "thing", {"seed": 1}, TENSORS)
        assert read_artefact(place, "thing").config["seed"] == 0
        holder.kill()
    assert sorted(os.listdir(tmp_path)) == [".thing.lock", "thing"]
    write_artefact(place, "thing", {"seed": 1}, TENSORS)
    assert os.listdir(tmp_path) == ["thing"]


def test_a_lock_is_of_one_thread_which_may_take_it_again(tmp_path):
    with lock(tmp_path / "a" / "thing"), lock(tmp_path / "a" / "thing"):
        write_artefact(tmp_path / "a" / "thing", "thing", {}, TENSORS)
        with ThreadPoolExecutor(1) as other, refused(ArtefactError, f"one that process {os.getpid()} is writing"):
            other.submit(write_artefact, tmp_path / "a" / "thing", "thing", {}, TENSORS).result()
    with lock(tmp_path / "b" / "c" / "thing"):
        pass
    assert sorted(snapshot(tmp_path)) == ["a", "a/thing", "a/thing/config.json", f"a/thing/{SHARD}"]


def test_a_lock_file_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("years of work")
    for i, place in enumerate((lambda p: p.write_text("years of work"), lambda p: p.symlink_to("notes"), Path.mkdir)):
        place(tmp_path / ".thing.lock")
        before = snapshot(tmp_path)
        with refused(ArtefactError, ".thing.lock must be free for a moment", "move it away"):
            write_artefact(tmp_path / "thing", "thing", {}, TENSORS)
        assert snapshot(tmp_path) == before
        os.rename(tmp_path / ".thing.lock", tmp_path / f"elsewhere-{i}")


def test_what_changes_while_it_is_replaced_is_not_lost(tmp_path, monkeypatch):
    place, copy = tmp_path / "thing", write_artefact(tmp_path / "copy", "thing", {"seed": 7}, TENSORS)
    text = artefact_module.config_text
    monkeypatch.setattr(artefact_module, "config_text", lambda *a: (shutil.copytree(copy, place), text(*a))[1])
    with refused(ArtefactError, "thing must stay as it is while it is replaced"):
        write_artefact(place, "thing", {"seed": 1}, TENSORS)
    assert read_artefact(place, "thing").config["seed"] == 7
    assert sorted(os.listdir(tmp_path)) == ["copy", "thing"]


# --- fingerprint, atomic_write ----------------------------------------------------------------------------------------


def test_a_fingerprint_depends_on_content_alone():
    base = torch.arange(6.0).reshape(2, 3)
    expected = fingerprint({"a": base, "b": {"c": base[0]}})
    assert re.fullmatch("[0-9a-f]{64}", expected)
    assert fingerprint({"b/c": base[0].clone(), "a": base.T.contiguous().T}) == expected
    changed = base.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = [
        {"a": changed, "b/c": base[0]},
        {"A": base, "b/c": base[0]},
        {"a": base.reshape(3, 2), "b/c": base[0]},
        {"a": base.double(), "b/c": base[0]},
        {"a": base.view(torch.int32), "b/c": base[0]},
        {"a": base},
        {},
        {"a": base, "b/c": base[0], "d": torch.empty(0)},
    ]
    assert len({expected, *map(fingerprint, others)}) == len(others) + 1


def test_atomic_write_replaces_a_file_whole(tmp_path):
    atomic_write(tmp_path / "new" / "page.html", b"one")
    atomic_write(tmp_path / "new" / "page.html", b"two")
    assert snapshot(tmp_path / "new") == {"page.html": b"two"}
    with refused(ArtefactError, "new must be the path of a file, got a directory"):
        atomic_write(tmp_path / "new", b"")


@pytest.mark.parametrize("module_and_name", [(destination_module, "_sync"), (os, "replace")])
def test_an_atomic_write_that_dies_leaves_the_old_content(tmp_path, kill_at, monkeypatch, module_and_name):
    path = tmp_path / "page.html"
    atomic_write(path, b"old")
    kill_at(*module_and_name)
    with pytest.raises(Killed):
        atomic_write(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    atomic_write(path, b"newer")
    assert snapshot(tmp_path) == {"page.html": b"newer"}


def test_an_atomic_write_that_fails_cleans_up(tmp_path, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr(os, "replace", full)
    with refused(ArtefactError, "page.html must be writable", "no space left on device", "free some space"):
        atomic_write(tmp_path / "page.html", b"new")
    assert snapshot(tmp_path) == {}


# --- networks ---------------------------------------------------------------------------------------------------------


@in_one_folder
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    activation=st.sampled_from(["relu", "tanh"]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_network_of_ours_comes_back_from_its_directory(tmp_path, widths, activation, bias, dtype):
    net = MLP(6, widths, 3, activation=activation, bias=bias, dropout=0.5).to(dtype).eval()
    loaded = load_network(save_network(net, tmp_path / "net"))
    assert type(loaded) is MLP
    assert loaded.config == net.config
    assert not loaded.training
    x = torch.rand(4, 6, dtype=dtype)
    assert torch.equal(loaded(x), net(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_directory_of_a_network_is_readable_by_others(tmp_path):
    net = MLP(6, [4, 5], 3)
    path = save_network(net, tmp_path / "net", {"accuracy": 0.5})
    assert sorted(os.listdir(path)) == ["config.json", "model.safetensors"]
    config = read_config(path)
    assert (config["kind"], config["format_version"], config["accuracy"]) == ("network", 1, 0.5)
    sizes = {"n_inputs": 6, "widths": [4, 5], "n_outputs": 3, "activation": "relu", "bias": True, "dropout": 0.0}
    assert config["net"]["type"] == "MLP"
    assert config["net"]["config"].items() >= sizes.items()
    assert load_file(path / "model.safetensors").keys() == net.state_dict().keys()
    assert (path / "model.safetensors").read_bytes()[8:].startswith(b'{"__metadata__":{"format":"pt"}')


def test_saving_and_loading_cost_no_random_numbers(tmp_path):
    net = MLP(6, [4], 3)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_network(save_network(net, tmp_path / "net"))
    assert torch.equal(torch.rand(1), expected)


class Tied(nn.Module):
    """Two names for one parameter, and a buffer that is a view."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.ones(2, 3)[0])


def test_any_module_is_filled_in_place(tmp_path):
    source, target = Tied(), Tied()
    source.norm.running_mean.fill_(3)
    source.norm.num_batches_tracked.fill_(7)
    path = save_network(source, tmp_path / "net")
    assert read_config(path)["net"] == {"type": "module", "class": f"{__name__}:Tied"}
    assert load_network(path, target) is target
    assert target.training
    assert target.two.weight is target.one.weight
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_a_module_of_others_asks_for_a_module(tmp_path):
    path = save_network(nn.Linear(2, 2), tmp_path / "net")
    with refused(
        InputError, "module must be given", "got none for torch.nn.modules.linear:Linear", "load_network(directory"
    ):
        load_network(path)


def test_a_subclass_of_ours_is_a_module_of_others(tmp_path):
    class Noisy(MLP):
        def forward(self, x):
            return super().forward(x) + 1

    assert read_config(save_network(Noisy(2, [2], 2), tmp_path / "net"))["net"]["type"] == "module"


@pytest.mark.parametrize(
    ("module", "texts"),
    [
        (nn.Linear(4, 3), ("weight is (3, 2), not (3, 4)",)),
        (nn.Linear(2, 3, bias=False), ("bias is not expected",)),
        (nn.Sequential(nn.Linear(2, 3)), ("0.weight is missing; 0.bias is missing", "weight is not expected")),
    ],
)
def test_a_module_that_does_not_fit_is_told_how_and_left_alone(tmp_path, module, texts):
    path = save_network(nn.Linear(2, 3), tmp_path / "net")
    before = fingerprint(module.state_dict())
    with refused(ArtefactError, "model.safetensors must hold the parameters of a ", *texts):
        load_network(path, module)
    assert fingerprint(module.state_dict()) == before


@pytest.mark.parametrize(
    ("net", "texts"),
    [
        (None, ("must have the type of the network, got None",)),
        ("MLP", ("must have the type of the network, got MLP",)),
        ({"type": "os:system", "config": {}}, ("must describe a network, got ", "os:system")),
        ({"type": "MLP", "config": {"n_inputs": 6}}, ("config.json must describe a network, got ",)),
        ({"type": "MLP"}, ("must describe a network, got ",)),
        (
            {"type": "MLP", "config": {"n_inputs": 6, "widths": [5], "n_outputs": 3}},
            ("config.json must describe a network, got ", "5 is the size of no tensor"),
        ),
        (
            {"type": "MLP", "config": {"n_inputs": 10**9, "widths": [10**9], "n_outputs": 3}},
            ("1000000000 is the size of no tensor",),
        ),
        (
            {"type": "ResNet", "config": {"n_channels": 6, "widths": [4], "n_outputs": 3, "blocks_per_stage": 10**12}},
            ("1000000000000 is the size of no tensor",),
        ),
        (
            {"type": "MLP", "config": {"n_inputs": 6, "widths": [6], "n_outputs": 3}},
            ("must hold the parameters of a MLP", "hidden.0.weight is (4, 6), not (6, 6)"),
        ),
        (
            {"type": "MLP", "config": {"n_inputs": 6, "widths": [4], "n_outputs": 3, "bias": "no"}},
            ("config.json must describe a network, got ", "config.bias must be bool, got 'no'"),
        ),
        (
            {"type": "MLP", "config": {"n_inputs": 6, "widths": [4, 4], "n_outputs": 3}},
            ("must hold the parameters of a MLP", "hidden.1.weight is missing"),
        ),
    ],
)
def test_a_config_that_does_not_fit_is_told(tmp_path, net, texts):
    path = save_network(MLP(6, [4], 3), tmp_path / "net")
    edit_config(path, net=... if net is None else net)
    with refused(ArtefactError, *texts):
        load_network(path)


def test_a_network_whose_config_lies_is_not_saved(tmp_path):
    net = MLP(6, [4], 3)
    net.register_buffer("scale", torch.ones(1))
    with refused(InputError, "the config of MLP must describe its parameters, got scale is not expected"):
        save_network(net, tmp_path / "net")
    assert snapshot(tmp_path) == {}


def test_the_name_net_and_the_header_are_taken(tmp_path):
    with refused(InputError, "extra_config must not use the name net"):
        save_network(nn.Linear(1, 1), tmp_path / "net", {"net": 1})
    with refused(InputError, "names of the header", "kind"):
        save_network(nn.Linear(1, 1), tmp_path / "net", {"kind": 1})


def test_a_network_is_checked_and_replaced_like_any_artefact(tmp_path):
    path = save_network(MLP(6, [4], 3), tmp_path / "net")
    save_network(MLP(6, [5], 3), path)
    assert load_network(path).config.widths == (5,)
    assert check_destination(path, "network") is True
    shutil.copytree(path, tmp_path / "copy")
    assert load_network(tmp_path / "copy").config.widths == (5,)
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1])
    with refused(ArtefactError, "model.safetensors must have SHA-256 "):
        load_network(path)
    write_artefact(tmp_path / "thing", "thing", {}, {})
    with refused(ArtefactError, "must be an artefact of kind network, got thing"):
        load_network(tmp_path / "thing")
    with refused(ArtefactError, "an artefact of kind network, got one of kind thing"):
        save_network(MLP(6, [4], 3), tmp_path / "thing")
