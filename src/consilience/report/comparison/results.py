"""Results of a comparison of models as plain data, and what follows from them at once.

Axis legend: ``m`` model, ``P`` places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.errors import InputError

Array = NDArray[np.float64]
END, TOGETHER = "end", "all epochs"


@dataclass(frozen=True, eq=False)
class GroupsOf:
    """Groups of models at a place.

    Attributes
    ----------
    labels : (m,) group of each model, from 0.
    silhouette : mean over the models; NaN for a single group.
    merges : SciPy's linkage matrix (m − 1, 4).
    """

    labels: NDArray[np.int64]
    silhouette: float
    merges: Array

    @property
    def n_groups(self) -> int:
        """How many there are."""
        return len(np.unique(self.labels))


@dataclass(frozen=True, eq=False)
class DisputedSample:
    """A sample that models see differently.

    Attributes
    ----------
    id : its name.
    image : (h, w), or (h, w, 3), in 0…1; None if it is no picture.
    label : its class; None if unknown.
    disagreement : from 0 (all models agree on what is like it) to 1.
    views : what each group of models makes of it, a line each.
    """

    id: str
    image: Array | None
    label: str | None
    disagreement: float
    views: Sequence[str]


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """Everything on the page of a comparison. A place is one layer in every model.

    Attributes
    ----------
    names : of m ≥ 2 models.
    families : (m,) where each model comes from; models of one family are expected to be alike.
    measure : its name.
    larger_is_more_similar : whether it is a similarity, else it is a distance.
    value_range : its least and largest value, which may be infinite.
    n_samples, n_clusters : of the data, and in each clustering.
    layers : place → the name of its module, or its names in all models.
    matrices : place → (m, m) values of the measure.
    z : place → (m, m) values in standard deviations from those of shuffled samples; empty if there are none.
    epochs : epoch → place → (m, m), in the course of training; empty without.
    combined : place → (m, m) of models that are seen at all the epochs together; empty without.
    layer_matrix : (m P, m P) values between all layers; None without.
    layer_index : (model, place) of each of its rows.
    groups : place → groups of models.
    purity : place → (m,) share of samples in a cluster whose majority is of their class; empty without classes.
    agreement_with_families : place → adjusted Rand index of groups and families; NaN if there is one family.
    disputed_place : where ``disputed`` was found; "" without.
    disputed : samples that groups see most differently, the worst first.
    barriers : (m, m) loss barriers, NaN where there is none; None without.
    obtained : command, seed, versions, settings.

    Raises
    ------
    InputError
        If there are fewer than two models, nothing was compared, or numbers of models differ.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    measure: str
    larger_is_more_similar: bool
    value_range: tuple[float, float]
    n_samples: int
    n_clusters: int
    layers: Mapping[str, str | Sequence[str]]
    matrices: Mapping[str, Array]
    groups: Mapping[str, GroupsOf]
    z: Mapping[str, Array] = field(default_factory=dict)
    epochs: Mapping[int, Mapping[str, Array]] = field(default_factory=dict)
    combined: Mapping[str, Array] = field(default_factory=dict)
    layer_matrix: Array | None = None
    layer_index: Sequence[tuple[str, str]] = ()
    purity: Mapping[str, Array] = field(default_factory=dict)
    agreement_with_families: Mapping[str, float] = field(default_factory=dict)
    disputed_place: str = ""
    disputed: Sequence[DisputedSample] = ()
    barriers: Array | None = None
    obtained: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        m = len(self.names)
        if m < 2 or not self.matrices:
            raise InputError(
                "there is nothing to compare", where="ComparisonResult",
                got=f"{m} models at {len(self.matrices)} places", expected="2 models or more, 1 place or more",
            )  # fmt: skip
        if len(self.families) != m:
            raise InputError("each model needs a family", where="families", got=len(self.families), expected=m)
        square = {f"matrices['{place}']": values for place, values in self.matrices.items()}
        square |= {f"z['{place}']": values for place, values in self.z.items()}
        square |= {f"combined['{place}']": values for place, values in self.combined.items()}
        for epoch, found in self.epochs.items():
            square |= {f"epochs[{epoch}]['{place}']": values for place, values in found.items()}
        square |= {} if self.barriers is None else {"barriers": self.barriers}
        for where, values in square.items():
            if np.shape(values) != (m, m):
                raise InputError("not a value for every two models", where=where, got=np.shape(values), expected=(m, m))
        for place, groups in self.groups.items():
            if np.shape(groups.labels) != (m,) or np.shape(groups.merges) != (m - 1, 4):
                raise InputError(
                    "groups and tree are not of these models", where=f"groups['{place}']",
                    got=f"labels {np.shape(groups.labels)}, merges {np.shape(groups.merges)}",
                    expected=f"({m},), ({m - 1}, 4)",
                )  # fmt: skip
        rows = len(self.layer_index)
        if self.layer_matrix is not None and np.shape(self.layer_matrix) != (rows, rows):
            raise InputError(
                "each row of the layers needs a model and a place", where="layer_index", got=rows,
                expected=f"as many as rows of layer_matrix, of shape {np.shape(self.layer_matrix)}",
            )  # fmt: skip

    @property
    def family_names(self) -> tuple[str, ...]:
        """Each family once, in the order of their first models."""
        return tuple(dict.fromkeys(self.families))

    @property
    def measure_name(self) -> str:
        """The measure in words."""
        words = self.measure.replace("_", " ").replace("rand", "Rand").replace("cka", "CKA").replace("rsa", "RSA")
        return f"{words} index" if words.endswith("Rand") else words

    @cached_property
    def moments(self) -> dict[str, Mapping[str, Array]]:
        """Row of the picture → place → (m, m): each epoch, the end if it is none of them, and all epochs together."""
        rows: dict[str, Mapping[str, Array]] = {f"epoch {epoch}": self.epochs[epoch] for epoch in sorted(self.epochs)}
        last = next(reversed(rows.values()), {})
        seen = (place in last and np.array_equal(last[place], v, equal_nan=True) for place, v in self.matrices.items())
        if not all(seen):
            rows[END] = self.matrices
        return {**rows, TOGETHER: self.combined} if self.combined else rows

    @property
    def in_time(self) -> dict[str, Mapping[str, Array]]:
        """The moments without that of all epochs together."""
        return {moment: found for moment, found in self.moments.items() if moment != TOGETHER}

    @property
    def clearest(self) -> str | None:
        """The place whose groups have the best silhouette; of equals the first; None if no models were grouped."""
        scores = {place: np.nan_to_num(groups.silhouette, nan=-2.0) for place, groups in self.groups.items()}
        return max(scores, key=lambda place: scores[place]) if scores else None

    def order_of(self, place: str | None) -> list[int]:
        """Return the models in the order of the leaves at a place, families as much together as its tree allows.

        Without a tree families follow each other.
        """
        number = [self.family_names.index(family) for family in self.families]
        if place is None or place not in self.groups:
            return [int(i) for i in np.argsort(number, kind="stable")]
        below = self.groups[place].merges[:, :2].astype(int)
        leaves = [[i] for i in range(len(self.names))]
        for pair in below:
            left, right = sorted(
                (leaves[node] for node in pair), key=lambda own: (np.mean([number[i] for i in own]), own)
            )
            leaves.append(left + right)
        return leaves[-1]

    def distances(self, values: Array) -> Array:
        """Return values of the measure (m, m) as distances: symmetric, 0 on the diagonal; NaN stays."""
        apart = self.value_range[1] - values if self.larger_is_more_similar else np.array(values, dtype=np.float64)
        apart = np.maximum((apart + apart.T) / 2, 0)
        np.fill_diagonal(apart, 0)
        return apart


def runs(keys: Sequence[Any]) -> list[tuple[int, int]]:
    """Return where equal neighbours begin and end.

    >>> runs("aabca")
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    return list(zip(starts, [*starts[1:], len(keys)], strict=True))
