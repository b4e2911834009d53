"""What an atlas shows, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consilience.report.atlas.sprites import Sprite
from consilience.report.results import HeadsSummary


@dataclass(frozen=True)
class Link:
    """An edge to another cluster."""

    cluster: int  # its number in the atlas
    strength: float  # mean over the members that own both, in standard deviations of what is written
    members: int  # that own both
    recurs: bool | None = None  # beyond chance, at a false discovery rate of 0.05; None where it was not tested


@dataclass(frozen=True)
class Example:
    """A sample that excites a cluster."""

    sample: int  # its number in the data
    response: float  # in standard deviations of the cluster's responses, from their mean
    tile: int | None = None  # of the images
    box: tuple[int, int, int, int] | None = None  # top, left, bottom, right: what a unit sees of it
    text: tuple[str, str, str] | None = None  # before the token, the token, after it
    label: int | None = None


@dataclass(frozen=True)
class Unit:
    """A unit of a member."""

    member: int
    index: int
    p: float | None  # of units as near in other members by chance
    tile: int | None = None  # of its layer's weights


@dataclass(frozen=True)
class Entry:
    """One cluster."""

    layer: int  # number of its layer in the atlas
    number: int  # in its layer, in canonical order
    x: float
    y: float
    frequency: float
    size: int
    stability: float | None
    recurrence: float | None
    chance: float | None  # recurrence where members are turned at random
    q: float | None
    selectivity: float | None  # share of the variance of its responses that lies between classes
    means: tuple[float, ...]  # by class, in standard deviations of its responses
    examples: tuple[Example, ...]
    reads: tuple[Link, ...]
    writes: tuple[Link, ...]
    motif: int | None
    units: tuple[Unit, ...]
    tile: int | None = None  # of its layer's weights: the centroid

    @property
    def favourite(self) -> int | None:
        """The class to which it responds most."""
        return max(range(len(self.means)), key=self.means.__getitem__) if self.means else None


@dataclass(frozen=True)
class AtlasLayer:
    """One layer."""

    name: str
    n_clusters: int
    n_units: int
    n_dead: int
    frequency_by_chance: float | None  # means over clusters, where members are turned at random
    stability_by_chance: float | None
    weights: Sprite | None = None


@dataclass(frozen=True)
class AtlasHeads:
    """One layer of heads of attention, which have no places on the map."""

    name: str
    frequency: tuple[float, ...]  # of its clusters, in canonical order
    summary: HeadsSummary


@dataclass(frozen=True)
class AtlasContents:
    """A census, to walk in."""

    title: str
    n_members: int
    layers: tuple[AtlasLayer, ...]
    clusters: tuple[Entry, ...]
    classes: tuple[str, ...]
    motifs: tuple[str, ...]  # what each is called
    layout: str  # how clusters were placed
    n_samples: int  # that were searched
    image_size: tuple[int, int] | None
    images: Sprite | None
    notes: tuple[str, ...] = ()
    obtained: Mapping[str, Any] = field(default_factory=dict)
    heads: tuple[AtlasHeads, ...] = ()
