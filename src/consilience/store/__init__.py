"""Artefacts on disk: a directory each, readable text and safetensors, complete or not there at all."""

from __future__ import annotations

from consilience.store.artefact import Artefact, open_artefact, read_artefact, write_artefact
from consilience.store.codec import check_tensor, digest, fingerprint, finite, flatten, plain, result_text, subset
from consilience.store.config import FORMAT_VERSION, read_config
from consilience.store.destination import atomic_write, check_destination, new_file, partial_path
from consilience.store.lock import lock
from consilience.store.network import load_network, save_network

__all__ = [
    "FORMAT_VERSION",
    "Artefact",
    "atomic_write",
    "check_destination",
    "check_tensor",
    "digest",
    "fingerprint",
    "finite",
    "flatten",
    "load_network",
    "lock",
    "new_file",
    "open_artefact",
    "partial_path",
    "plain",
    "read_artefact",
    "read_config",
    "result_text",
    "save_network",
    "subset",
    "write_artefact",
]
