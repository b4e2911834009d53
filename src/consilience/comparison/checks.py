"""What a comparison is told, checked before any model runs on all samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from consilience.clustering.samples import CLUSTERERS, REDUCTIONS, check_seed
from consilience.comparison.consensus import METHODS
from consilience.comparison.inputs import Samples
from consilience.comparison.places import Calls
from consilience.comparison.similarity import get_measure
from consilience.errors import InputError
from consilience.signals.record import POSITIONS

if TYPE_CHECKING:
    from consilience.comparison.model_comparison import ModelComparison


def check_parameters(comparison: ModelComparison) -> None:
    """Refuse parameters that are unknown or make no sense.

    Raises
    ------
    InputError
        As said, or if UMAP is asked for and not installed.
    """
    get_measure(comparison.measure)
    for name, got, known in (
        ("reduction", comparison.reduction, REDUCTIONS),
        ("clusterer", comparison.clusterer, tuple(CLUSTERERS)),
        ("positions", comparison.positions, POSITIONS),
        ("consensus", comparison.consensus, (*METHODS, None)),
    ):
        if got not in known:
            raise InputError(f"unknown {name}", where=f"ModelComparison({name}=...)", got=repr(got),
                             expected=", ".join(map(repr, known)))  # fmt: skip
    for name, number, least in (
        ("n_clusters", comparison.n_clusters, 2),
        ("n_components", comparison.n_components, 1),
        ("n_null", comparison.n_null, 0),
    ):
        open_ = name == "n_clusters" and number is None
        if not open_ and (not isinstance(number, int) or number < least or (name == "n_null" and number == 1)):
            raise InputError(
                "a number that makes no sense", where=f"ModelComparison({name}=...)", got=repr(number),
                expected=f"an int ≥ {least}" + (", and not 1: a spread takes two" if name == "n_null" else ""),
            )  # fmt: skip
    check_seed(comparison.random_state, "ModelComparison(random_state=...)")
    if comparison.reduction == "umap":
        check_umap()


def check_umap() -> None:
    """Refuse UMAP where it is not installed.

    Raises
    ------
    InputError
        As said.
    """
    if find_spec("umap") is None:
        raise InputError("UMAP is not installed", where='reduction="umap"',
                         cure='pip install umap-learn, or use reduction="pca"')  # fmt: skip


def check_cache(cache: str | os.PathLike[str] | None) -> Path | None:
    """Return the directory of recorded activations, which need not exist.

    Raises
    ------
    InputError
        If it is a file.
    """
    if cache is None:
        return None
    if Path(cache).exists() and not Path(cache).is_dir():
        raise InputError("a file is in the way of the cache", where="ModelComparison(cache=...)", got=cache,
                         cure="name a directory")  # fmt: skip
    return Path(cache)


def resolve_n_clusters(n_clusters: int | None, samples: Samples, called: Mapping[str, Calls]) -> int:
    """Return how many clusters there should be: as told, as many as classes in y, or as outputs.

    Raises
    ------
    InputError
        If outputs do not tell it, or there are fewer samples.
    """
    found, outputs = n_clusters, {each.n_outputs for each in called.values()}
    if found is None and samples.y is not None:
        found = int(samples.y.max()) + 1
    elif found is None and len(outputs) == 1:
        found = next(iter(outputs))
    if found is None or found < 2:
        raise InputError(
            "the number of clusters is not known", where="ModelComparison(n_clusters=...)",
            got=f"{found} classes in y" if samples.y is not None
            else f"outputs (n, o) with o = {', '.join(map(str, sorted(map(str, outputs))))}",
            expected="at least 2", cure="set n_clusters, or pass y",
        )  # fmt: skip
    if len(samples) < found:
        raise InputError("fewer samples than clusters", where="X", got=len(samples), expected=f"at least {found}",
                         cure="give more samples, or set n_clusters")  # fmt: skip
    return found
