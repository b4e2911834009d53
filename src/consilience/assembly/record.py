"""What an assembly was made of, and why: plain data that stays with the network as ``network.assembly_``.

Errors are those by which networks are compared (`consilience.assembly.nearness`), on held-out calibration rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from consilience.assembly.distillation import Distilled
from consilience.bases.grounding import Groups
from consilience.census.census import Census


@dataclass(frozen=True)
class LayerRecord:
    """The clusters of one layer.

    Attributes
    ----------
    width : number of clusters.
    members : member → how many of its units are clusters of their own.
    merged : clusters of several units.
    """

    width: int
    members: Mapping[int, int]
    merged: int


@dataclass(frozen=True)
class Candidate:
    """A network that was compared with others.

    Attributes
    ----------
    choice : how its clusters were chosen: "member 3", "members 3, 5", "reconstruction" or "cut".
    correction : what it was corrected by; "none" where it is as it was constructed.
    error : on held-out calibration rows.
    top1 : share of held-out rows on which the largest output is the ensemble's; None for numbers.
    """

    choice: str
    correction: str
    error: float
    top1: float | None


@dataclass(frozen=True)
class Assembled:
    """What an assembly was made of.

    Attributes
    ----------
    choice, correction : of the network.
    layers : by layer, its clusters.
    candidates : the networks compared, the one that was kept among them; none where there was nothing to compare.
    distillation : what the distillation of the nearest of them did; None where nothing was distilled.
    """

    choice: str
    correction: str
    layers: Mapping[str, LayerRecord]
    candidates: tuple[Candidate, ...] = field(default=())
    distillation: Distilled | None = None


def layer_records(census: Census, groups: Mapping[str, Groups]) -> dict[str, LayerRecord]:
    """Return what each free layer's clusters are."""
    records = {}
    for name, chosen in groups.items():
        alone = chosen.sizes[chosen.clusters] == 1
        owners = torch.from_numpy(census.layers_[name].member)[chosen.units[alone]]
        counts = torch.bincount(owners).tolist()
        members = {k: count for k, count in enumerate(counts) if count}
        records[name] = LayerRecord(chosen.n_clusters, members, int((chosen.sizes > 1).sum()))
    return records
