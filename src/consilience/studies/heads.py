"""What heads of attention do, as plain data of a report and as lines of a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from consilience.census import HeadEffects, HeadRoles
from consilience.data.subwords import Subwords
from consilience.data.vocabulary import Vocabulary
from consilience.report.portraits import Picture
from consilience.report.results import HeadsSummary, Writing
from consilience.ties import descending

MOST_CLUSTERS, MOST_PLACES = 16, 32  # pictures, and the rows and columns of each
MOST_OUTPUTS, LEAST = 6, 0.25  # named on each side, and the least move of one, as a share of the largest


def heads_summary(roles: HeadRoles, effects: HeadEffects | None = None, outputs: Sequence[str] = ()) -> HeadsSummary:
    """Return patterns of the first clusters as pictures, each in its own scale, scores by cluster, and what they write.

    ``outputs`` are names of the outputs, by default their numbers.
    """
    shown = torch.from_numpy(roles.patterns[:MOST_CLUSTERS])
    size = [min(MOST_PLACES, side) for side in shown.shape[1:]]
    small = functional.interpolate(shown[:, None], size, mode="area")
    scaled = (small / small.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)).sqrt().numpy()
    scores = {name: own.tolist() for name, own in roles.by_cluster.items()}
    writings = [] if effects is None else [*_writings(effects, outputs)]
    return HeadsSummary([*map(Picture.of, scaled)], scores, writings)


def output_names(n: int, vocabulary: Vocabulary | Subwords | None, classes: Sequence[str]) -> list[str]:
    """Return what each of n outputs stands for: a token of a text, a class, or nothing but its number."""
    if vocabulary is not None and len(vocabulary) == n:
        return [_visible(vocabulary.decode([i])) for i in range(n)]
    return [*classes] if len(classes) == n else [*map(str, range(n))]


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "→").replace(" ", "␣")


def _writings(effects: HeadEffects, names: Sequence[str]) -> Iterator[Writing]:
    """Yield what the first clusters write."""
    for move, share in zip(effects.outputs[:MOST_CLUSTERS], effects.share.tolist(), strict=False):
        largest = float(np.abs(move).max())
        raised, lowered = (
            [names[i] if names else str(i) for i in descending(own)[:MOST_OUTPUTS] if own[i] > LEAST * largest]
            for own in (move, -move)
        )
        yield Writing(raised, lowered, largest, share)


def lines_of(roles: Mapping[str, HeadRoles]) -> Sequence[str]:
    """Return a line for each layer of heads of networks of tokens: the highest score, and its cluster from 1 on."""
    lines = []
    for name, own in roles.items():
        best = {score: int(values.argmax()) for score, values in own.by_cluster.items()}
        found = (f"{score} {own.by_cluster[score][c]:.2f} (cluster {c + 1})" for score, c in best.items())
        if best:
            lines.append(f"heads of {name} on repeated random tokens, highest mean weight: {', '.join(found)}")
    return lines
