"""What the configs of Hugging Face's networks must have in common, compared before any network is traced.

Widths and numbers of heads may differ, and what matters to training alone. All other entries that a class of configs
declares are shared: integers among them where `SHARED` has them, since others may be sizes; entries of other types all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from consilience.errors import InputError
from consilience.units.configs import has_config

KINDS = "build one population for each kind"
# Entries that members share whatever their type, with words for them.
SHARED: dict[str, str] = {
    "model_type": "kind of network",
    "vocab_size": "vocabulary size",
    "type_vocab_size": "number of token types",
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
    "num_channels": "number of channels",
    "head_dim": "features of each head",
    "heads_of_a_key": "number of heads for each key",
}
# Of training, of generation, or of how a network is kept: members may differ in these.
BOOKKEEPING = re.compile(
    "drop|init|layerscale|loss|smoothing|jitter|noise|spec_augment|gradient|dtype|upcast|use_cache|token_id|tie_|"
    "pretraining|summary_|^output_|^return_|problem_type"
)


def check_configs(modules: Sequence[nn.Module]) -> None:
    """Raise where configs of networks of Hugging Face's differ in what members share."""
    configs = {k: _shared(module.config) for k, module in enumerate(modules) if has_config(module)}
    for k, entries in configs.items():
        first, theirs = next(iter(configs.items()))
        for name in (*theirs, *(name for name in entries if name not in theirs)):
            mine, other = entries.get(name), theirs.get(name)
            if mine != other and (name in SHARED or not _may_differ(mine, other)):
                words = SHARED.get(name, "config entry")
                cure = f"leave this member out, or {KINDS}"
                cure += "" if name in SHARED else "; where the networks do not use the entry, give both one value"
                wanted = f"member {k} must have the {words} of member {first}, {name}={other}"
                raise InputError(f"{wanted}, got {mine}", cure=cure)


def _shared(config: Any) -> dict[str, Any]:
    entries = {name: getattr(config, name, None) for name in SHARED}
    heads, size = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if isinstance(heads, int) and isinstance(size, int):
        entries["head_dim"] = entries["head_dim"] or size // heads
        entries["heads_of_a_key"] = heads // (getattr(config, "num_key_value_heads", None) or heads)
    return entries | {name: value for name, value in _declared(config).items() if name not in entries}


def _declared(config: Any) -> dict[str, Any]:
    """Entries that the class of a config declares, by their common names, with those of configs inside."""
    if not is_dataclass(type(config)):
        return {}
    base = next(kind for kind in reversed(type(config).__mro__) if hasattr(kind, "model_type"))
    common = {own: name for name, own in config.attribute_map.items()}
    entries: dict[str, Any] = {}
    for own in {entry.name: None for entry in fields(config)}.keys() - {entry.name for entry in fields(base)}:
        value = getattr(config, own, None)
        if hasattr(value, "model_type"):
            entries |= {f"{own}.{name}": inside for name, inside in _declared(value).items()}
        elif not BOOKKEEPING.search(own):
            entries[common.get(own, own)] = value
    return dict(sorted(entries.items()))


def _may_differ(mine: object, other: object) -> bool:
    """Whether both are sizes, or off."""
    return not (mine or other) or all(value is None or _is_size(value) for value in (mine, other))


def _is_size(value: object) -> bool:
    if isinstance(value, Mapping):
        return False
    if isinstance(value, list | tuple):
        return all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)
