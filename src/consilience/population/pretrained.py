"""Networks in directories that Hugging Face's ``save_pretrained`` has written, as modules.

They are built by the library's own class that the config names, from local files: no remote code, nothing unpickled. In
a population, networks of one library class must agree in what their configs say beyond sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from consilience.checks import as_path, describe
from consilience.errors import InputError
from consilience.units.configs import has_config

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model")
INSTALL = "pip install 'consilience[hf]'"
KINDS = "build one population for each kind"
# Entries of configs that members share, with words for them. Others are compared by what the networks compute.
SHARED: dict[str, str] = {
    "model_type": "kind of network",
    "vocab_size": "vocabulary size",
    "num_hidden_layers": "depth",
    "rope_parameters": "rotary positions",
    "use_parallel_residual": "placement of norms and residuals",
    "hidden_act": "activation",
    "activation_function": "activation",
    "activation": "activation",
    "max_position_embeddings": "number of positions",
    "num_labels": "number of labels",
    "image_size": "image size",
    "patch_size": "patch size",
    "head_dim": "features of each head",
    "heads_of_a_key": "number of heads for each key",
}


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
    check_tokenizers(directories)
    return [_loaded(library, directory, auto) for directory in directories]


def check_configs(modules: Sequence[nn.Module]) -> None:
    """Raise where configs of networks of Hugging Face's differ in what members share."""
    shared = [_shared(module.config) for module in modules if has_config(module)]
    for k, entries in enumerate(shared):
        for name, first in shared[0].items():
            if entries[name] != first:
                wanted = f"member {k} must have the {SHARED[name]} of member 0, {name}={first}"
                raise InputError(f"{wanted}, got {entries[name]}", cure=f"leave this member out, or {KINDS}")


def _shared(config: Any) -> dict[str, Any]:
    entries = {name: getattr(config, name, None) for name in SHARED}
    heads, size = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if isinstance(heads, int) and isinstance(size, int):
        entries["head_dim"] = entries["head_dim"] or size // heads
        entries["heads_of_a_key"] = heads // (getattr(config, "num_key_value_heads", None) or heads)
    return entries


def check_tokenizers(folders: Sequence[Path]) -> None:
    """Raise where tokenizers in directories differ; directories without one are not compared."""
    for name in TOKENIZERS:
        found = {folder: _vocabulary(folder / name) for folder in folders if (folder / name).is_file()}
        first = next(iter(found), None)
        for folder, digest in found.items():
            if first is not None and digest != found[first]:
                message = f"{folder / name} must have the tokens of {first / name}, got others"
                raise InputError(message, cure=f"tokens are compared by their numbers: {KINDS}")


def pretrained_in(folder: Path) -> list[Path]:
    """Return the directories in a folder that ``save_pretrained`` has written, in the order of their names."""
    return [path.parent for path in sorted(folder.glob("*/config.json")) if "architectures" in _config(path.parent)]


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
    config = _config(folder)
    if not any((folder / name).is_file() for name in WEIGHTS):
        cure = "write it with save_pretrained(directory, safe_serialization=True); pickles are not read"
        raise InputError(f"{folder} must have {WEIGHTS[0]} or its shards, got none", cure=cure)
    name = auto or (config.get("architectures") or [None])[0]
    kind = getattr(library, name, None) if isinstance(name, str) else None
    if kind is None or not hasattr(kind, "from_pretrained"):
        cure = "pass auto=, as in auto='AutoModelForCausalLM'; code that comes with weights is never run"
        raise InputError(f"{folder} must name a class of transformers in its architectures, got {name}", cure=cure)
    try:
        module, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of the library, at any depth
        first_line = (str(error).strip().splitlines() or [""])[0]
        wanted = f"{folder} must be a network that {name} loads"
        cure = "check its config.json: the number of heads must divide the width, and sizes be those of the weights"
        raise InputError(f"{wanted}, got {type(error).__name__}: {first_line}", cure=cure) from error
    missing = sorted(report["missing_keys"])
    if missing:
        message = f"{folder} must have all weights of a {name}, got none of {missing[0]}"
        raise InputError(message, cure="pass auto=, the class that it was saved from")
    loaded: nn.Module = module.eval()
    return loaded


def _vocabulary(path: Path) -> str:
    """A digest of the tokens in a file of a tokenizer, without its options of padding and truncation."""
    content = path.read_bytes()
    if path.name == "tokenizer.json":
        content = json.dumps(json.loads(content).get("model"), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()
