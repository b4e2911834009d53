"""Recorded activations, one layer at a time, kept on disk if a directory is given.

A layer of a model is an artefact without tensors, named by a key, and artefacts of rows beside it, ``KEY-00000`` and so
on. The rows are written while the model runs, and the layer's own artefact last: a layer is complete or missing.

The key is a hash of the model's parameters and buffers, the inputs, the ids, the layer's name, the treatment of
positions, and the layer's values on the first samples, as models with equal parameters may compute different functions.

Axis legend: ``n`` sample, ``d`` feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.comparison.inputs import Ids
from consilience.errors import ArtefactError
from consilience.signals.record import record, stream
from consilience.store import check_destination, fingerprint, read_artefact, write_artefact

KIND, ROWS = "activations", "activation-rows"
SHARD_BYTES = 2**26  # of rows of all layers together that wait in memory
N_PROBE = 16  # samples whose values are part of the key


def recorded(
    module: nn.Module, names: Sequence[str], x: Tensor, ids: Ids, positions: str, cache: Path | None, model: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, activations (n, d) in float32) for each of a model's layers, in order; the caller may change them.

    Without a cache, all layers are recorded in one pass. With one, missing layers are recorded to disk in one pass,
    with `SHARD_BYTES` and a batch in memory; then one layer at a time is read.
    """
    names = list(dict.fromkeys(names))
    if cache is None:
        values = record(module, names, x, positions, model)
        for name in names:
            yield name, values.pop(name)
        return
    keys = _keys(module, names, x, ids, positions, model)
    missing = [name for name in names if not check_destination(cache / keys[name], KIND)]
    if missing:
        _write(module, {name: keys[name] for name in missing}, x, ids, positions, cache, model)
    for name in names:
        yield name, _read(cache, keys[name], ids)


def _keys(module: nn.Module, names: Sequence[str], x: Tensor, ids: Ids, positions: str, model: str) -> dict[str, str]:
    shared = [fingerprint(module.state_dict()), fingerprint({"x": x}), ids, positions]
    keys = {}
    for name, rows in record(module, names, x[:N_PROBE], positions, model).items():
        text = json.dumps([*shared, name, fingerprint({"probe": torch.from_numpy(rows)})])
        keys[name] = hashlib.sha256(text.encode()).hexdigest()
    return keys


def _write(
    module: nn.Module, keys: Mapping[str, str], x: Tensor, ids: Ids, positions: str, cache: Path, model: str
) -> None:
    waiting: dict[str, list[NDArray[np.float32]]] = {name: [] for name in keys}
    n_shards, width = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)

    def flush(name: str) -> None:
        rows = torch.from_numpy(np.concatenate(waiting[name]))
        write_artefact(_shard(cache, keys[name], n_shards[name]), ROWS, {}, {"rows": rows})
        n_shards[name], width[name] = n_shards[name] + 1, rows.shape[1]
        waiting[name].clear()

    for batch in stream(module, list(keys), x, positions, model):
        for name, rows in batch.items():
            waiting[name].append(rows)
        if sum(rows.nbytes for batches in waiting.values() for rows in batches) >= SHARD_BYTES:
            for name in waiting:
                flush(name)
    for name, key in keys.items():
        if waiting[name]:
            flush(name)
        config = {"layer": name, "model": model, "positions": positions, "ids": ids}
        write_artefact(cache / key, KIND, {**config, "n_features": width[name], "n_shards": n_shards[name]}, {})


def _read(cache: Path, key: str, ids: Ids) -> NDArray[np.float32]:
    layer = read_artefact(cache / key, KIND).entries(_Layer)
    if layer.ids != tuple(ids):
        raise ArtefactError(f"{cache / key} must be of the samples given, got other ids", cure="delete it")
    cure = f"delete {cache / key}*; the layer is then recorded again"
    shards = []
    for index in range(layer.n_shards):
        try:
            shards.append(read_artefact(_shard(cache, key, index), ROWS).tensors["rows"])
        except (ArtefactError, KeyError) as error:
            reason = error.message if isinstance(error, ArtefactError) else f"no {error}"
            raise ArtefactError(f"recorded activations are missing or damaged: {reason}", cure=cure) from error
    shapes = {tuple(rows.shape[1:]) for rows in shards} | {(layer.n_features,)}
    if len(shapes) > 1 or sum(map(len, shards)) != len(ids) or any(rows.dtype != torch.float32 for rows in shards):
        message = f"rows of {cache / key} must be float32 ({len(ids)}, {layer.n_features})"
        raise ArtefactError(f"recorded activations are missing or damaged: {message}", cure=cure)
    rows: NDArray[np.float32] = torch.cat(shards).numpy()
    return rows


@dataclass(frozen=True)
class _Layer:
    """What the config of a layer has beside its header, ``model`` and ``positions``."""

    layer: str
    ids: tuple[int | str, ...]
    n_features: int
    n_shards: int


def _shard(cache: Path, key: str, index: int) -> Path:
    return cache / f"{key}-{index:05}"
