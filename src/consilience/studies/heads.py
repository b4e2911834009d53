"""What heads of attention do, as plain data of a report and as lines of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from consilience.census import HeadRoles
from consilience.report.portraits import Picture
from consilience.report.results import HeadsSummary

MOST_CLUSTERS, MOST_PLACES = 16, 32  # pictures, and the rows and columns of each


def heads_summary(roles: HeadRoles) -> HeadsSummary:
    """Return patterns of the first clusters as pictures, each in its own scale, and scores by cluster."""
    shown = torch.from_numpy(roles.patterns[:MOST_CLUSTERS])
    size = [min(MOST_PLACES, side) for side in shown.shape[1:]]
    small = functional.interpolate(shown[:, None], size, mode="area")
    scaled = (small / small.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)).sqrt().numpy()
    return HeadsSummary([*map(Picture.of, scaled)], {name: own.tolist() for name, own in roles.by_cluster.items()})


def lines_of(roles: Mapping[str, HeadRoles]) -> Sequence[str]:
    """Return a line for each layer of heads of networks of tokens: the highest score, and its cluster from 1 on."""
    lines = []
    for name, own in roles.items():
        best = {score: int(values.argmax()) for score, values in own.by_cluster.items()}
        found = (f"{score} {own.by_cluster[score][c]:.2f} (cluster {c + 1})" for score, c in best.items())
        if best:
            lines.append(f"heads of {name} on repeated random tokens, highest mean weight: {', '.join(found)}")
    return lines
