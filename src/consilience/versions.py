"""Versions of what decides the bits of a result."""

from __future__ import annotations

from importlib import metadata


def versions() -> dict[str, str]:
    """Return the versions of this package and of torch."""
    import torch

    try:
        version = metadata.version("consilience")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        version = "unknown"
    return {"consilience": version, "torch": str(torch.__version__)}
