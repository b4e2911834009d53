"""Networks in directories that Hugging Face's ``save_pretrained`` has written, as modules.

They are built by the library's own class that the config names, from local files: no remote code, nothing unpickled.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from consilience.checks import as_path, describe
from consilience.errors import ConsilienceError, InputError, in_one_line
from consilience.population.config_entries import KINDS
from consilience.population.tokenizers import check_tokenizers

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
INSTALL = "pip install 'consilience[hf]'"
MOST_TIED = 2  # values of a network for each value in a file, where weights are tied


def as_paths(directories: object) -> list[Path]:
    """Return the directories in a list, or raise."""
    if isinstance(directories, str | os.PathLike) or not isinstance(directories, Iterable):
        cure = "put it into a list"
        raise InputError(f"directories must be a list of directories, got {describe(directories)}", cure=cure)
    paths = [as_path(directory, "directory") for directory in directories]
    if not paths:
        raise InputError("directories must have at least one directory, got none")
    return paths


def load_pretrained(directories: Sequence[Path], auto: str | None = None) -> list[nn.Module]:
    """Return the networks in directories, in eval mode and in float32; see `Population.from_pretrained`."""
    library = _library()
    if auto is not None:
        _check_auto(library, auto)
    check_tokenizers(directories, f"tokens are compared by their numbers: {KINDS}")
    with _without_progress_bars(library):
        return [_loaded(library, directory, auto) for directory in directories]


def pretrained_in(folder: Path) -> list[Path]:
    """Return the directories in a folder that ``save_pretrained`` has written, in the order of their names."""
    return [path.parent for path in sorted(folder.glob("*/config.json")) if is_pretrained(path.parent)]


def is_pretrained(directory: Path) -> bool:
    """Whether ``save_pretrained`` has written a directory."""
    return (directory / "config.json").is_file() and "architectures" in _config(directory)


def n_tokens(directory: Path) -> int | None:
    """Return the vocabulary size in the config of a network; None if it reads no tokens."""
    size = _config(directory).get("vocab_size")
    return size if isinstance(size, int) else None


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "transformers must be installed to read pretrained networks, got none", cure=INSTALL
        ) from error
    return transformers


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cure = "pass directories that save_pretrained has written"
        raise InputError(
            f"{path} must be the config of a network, got {type(error).__name__}: {error}", cure=cure
        ) from error
    return config if isinstance(config, Mapping) else {}


def _loaded(library: Any, folder: Path, auto: str | None) -> nn.Module:
    kind, name = _class_of(library, folder, auto)
    n_values = _n_values(folder)
    cure = "check its config.json: the number of heads must divide the width, and sizes be those of the weights"
    try:
        configs = getattr(kind, "config_class", None) or library.AutoConfig
        config = configs.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):  # what the config describes, without its memory
            built = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        n_wanted = sum(value.numel() for value in built.parameters())
        if n_wanted > MOST_TIED * n_values:
            message = f"{folder} must have weights for its config, {n_wanted} values for a {name}, got {n_values}"
            raise InputError(message, cure="check the sizes in its config.json")
        module, report = kind.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which the report names
        )
    except InputError:
        raise
    except Exception as error:  # of the library, at any depth
        wanted = f"{folder} must be a network that {name} loads"
        raise InputError(f"{wanted}, got {in_one_line(error)}", cure=cure) from error
    for weight, theirs, ours in sorted(report["mismatched_keys"]):
        wanted = f"'{weight}' in {folder} must have the shape that its config says, {tuple(ours)}"
        raise InputError(f"{wanted}, got {tuple(theirs)}", cure=cure)
    for weight in sorted(report["missing_keys"]):
        message = f"{folder} must have all weights of a {name}, got none of {weight}"
        raise InputError(message, cure="pass auto=, the class that it was saved from, or check its config.json")
    loaded: nn.Module = module.eval()
    return loaded


def _class_of(library: Any, folder: Path, auto: str | None) -> tuple[Any, str]:
    """The class that loads a directory, and its name."""
    entries = _config(folder)
    name = auto or _architecture(entries.get("architectures"), folder)
    kind: Any = getattr(library, name, None)
    if not _is_of_networks(library, kind):
        cure = "pass auto=, as in auto='AutoModelForCausalLM'; code that comes with weights is never run"
        raise InputError(f"{folder} must name a class of transformers in its architectures, got {name}", cure=cure)
    configs = getattr(kind, "config_class", None)  # None where the class loads any kind of network
    parts = [entries, *(part for part in entries.values() if isinstance(part, Mapping))]
    types = [part["model_type"] for part in parts if "model_type" in part]
    if configs is not None and types and configs.model_type not in types and configs.base_config_key not in entries:
        cure = "leave auto out" if auto else "pass auto=, the class that it was saved from"
        wanted = f"model_type in {folder / 'config.json'} must be {configs.model_type!r}, which {name} loads"
        raise InputError(f"{wanted}, got {types[0]!r}", cure=cure)
    return kind, name


def _architecture(names: object, folder: Path) -> str:
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    wanted = f"architectures in {folder / 'config.json'} must be a list with the name of a class"
    raise InputError(f"{wanted}, got {names!r}", cure="pass auto=, as in auto='AutoModelForCausalLM'")


def _check_auto(library: Any, auto: object) -> None:
    if isinstance(auto, str) and _is_of_networks(library, getattr(library, auto, None)):
        return
    name = auto.__name__ if isinstance(auto, type) else str(auto)
    near = get_close_matches(name, [known for known in dir(library) if "For" in known or "Model" in known], 1)
    cure = f"pass auto={near[0] if near else 'AutoModelForCausalLM'!r}"
    raise InputError(f"auto must be the name of a class of networks in transformers, got {auto!r}", cure=cure)


def _is_of_networks(library: Any, kind: object) -> bool:
    return isinstance(kind, type) and (issubclass(kind, library.PreTrainedModel) or hasattr(kind, "from_config"))


def _n_values(folder: Path) -> int:
    """Number of values in the weights of a directory; an error where a file is missing or damaged."""
    single, index = (folder / name for name in WEIGHTS)
    if not single.is_file() and not index.is_file():
        cure = "write it with save_pretrained(directory, safe_serialization=True); pickles are not read"
        raise InputError(f"{folder} must have {WEIGHTS[0]} or its shards, got none", cure=cure)
    path, n_values = single, 0
    try:
        if not single.is_file():
            path = index
            shards = sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        for name in [single.name] if single.is_file() else shards:
            path = folder / name
            with safe_open(path, "pt") as file:
                n_values += sum(math.prod(file.get_slice(weight).get_shape()) for weight in file.keys())  # noqa: SIM118
    except Exception as error:  # of JSON, of the system, or of safetensors
        cure = "copy or write the directory again: the file is missing, damaged or incomplete"
        raise InputError(f"{path} must be a file of weights, got {in_one_line(error)}", cure=cure) from error
    return n_values


@contextmanager
def directories_named(directories: Sequence[Path]) -> Iterator[None]:
    """Add the directories of the members that an error is about to its notes."""
    try:
        yield
    except ConsilienceError as error:
        said = "\n".join([str(error), *getattr(error, "__notes__", [])])
        for k in sorted({int(number) for number in re.findall(r"\bmember (\d+)\b", said)}):
            error.add_note(f"member {k} is {directories[k]}")
        raise


@contextmanager
def _without_progress_bars(library: Any) -> Iterator[None]:
    """Draw no bars while networks are loaded: one for each member would be many."""
    shown = library.logging.is_progress_bar_enabled()
    if shown:
        library.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library.logging.enable_progress_bar()
