"""A frequency atlas: the most frequent clusters of a layer, each with its weights and with what excites it most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from consilience.errors import InputError
from consilience.report.portraits import WEIGHTS, LayerAtlas, Patch, Portrait


@dataclass(frozen=True)
class PatchTile:
    """A patch in the field of a unit, of which it may lack what lies beyond the border of the image.

    Attributes
    ----------
    uri : its pixels.
    left, top, width, height : where they lie in the field, in %.
    """

    uri: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class AtlasRow:
    """What an atlas shows of one cluster.

    Attributes
    ----------
    owners : members that own it.
    percent : their share, in %.
    notes : number of units, and stability where it was measured.
    kernels : pictures of weights, the centroid's first.
    patches : what excites it, the strongest first.
    """

    owners: int
    percent: float
    notes: tuple[str, ...]
    kernels: tuple[str, ...]
    patches: tuple[PatchTile, ...]


def atlas_rows(layer: LayerAtlas) -> list[AtlasRow]:
    """Return a row for each cluster, in canonical order.

    Raises
    ------
    InputError
        If there is no cluster, or a cluster that nothing excites.
    """
    if not layer.portraits or not all(portrait.patches for portrait in layer.portraits):
        got = f"{len(layer.portraits)} clusters"
        raise InputError(f"the atlas of {layer.name} must have clusters, each with patches, got {got}")
    return [_row(portrait, layer) for portrait in layer.portraits]


def _row(portrait: Portrait, layer: LayerAtlas) -> AtlasRow:
    notes = [f"{portrait.size} unit{'' if portrait.size == 1 else 's'}"]
    if np.isfinite(portrait.stability):
        notes.append(f"stability {portrait.stability:.2f}")
    kernels = (portrait.centroid, *portrait.kernels) if portrait.centroid else ()
    return AtlasRow(
        owners=round(portrait.frequency * layer.n_members),
        percent=100 * portrait.frequency,
        notes=tuple(notes),
        kernels=tuple(kernel.uri(WEIGHTS) for kernel in kernels),
        patches=tuple(_tile(patch, layer) for patch in portrait.patches),
    )


def _tile(patch: Patch, layer: LayerAtlas) -> PatchTile:
    (rows, columns), (height, width), (top, left, bottom, right) = layer.patch_size, layer.image_size, patch.box
    x = 100 / columns * _before(left, right, width, columns)
    y = 100 / rows * _before(top, bottom, height, rows)
    return PatchTile(patch.picture.uri(), x, y, 100 * (right - left) / columns, 100 * (bottom - top) / rows)


def _before(start: int, stop: int, size: int, extent: int) -> int:
    """Return how many of ``extent`` lines of a field lie before the image, of which it sees ``start`` to ``stop``."""
    return extent - (stop - start) if start == 0 and stop < size else 0
