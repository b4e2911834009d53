"""A comparison of networks as its page shows it, and as JSON holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from consilience.clustering.samples import majority_labels
from consilience.comparison import Groups, ModelComparison
from consilience.comparison.consensus import MAX_SAMPLES
from consilience.comparison.similarity import get_measure
from consilience.data import Dataset
from consilience.population import Population
from consilience.report.comparison import (
    ComparisonResult,
    DisputedSample,
    GroupsOf,
    comparison_sentences,
    comparison_table,
)
from consilience.store import result_text

DISPUTED = 12  # samples shown


def run_comparison(
    comparison: ModelComparison,
    populations: Mapping[str, Population],
    samples: Dataset,
    epochs: Sequence[int],
    barriers: NDArray[np.float64] | None,
    obtained: Mapping[str, Any],
) -> ComparisonResult:
    """Return what the page shows of the networks of several populations, or of one.

    Parameters
    ----------
    comparison : not yet fitted.
    populations : name → networks.
    samples : labelled; their ids are kept.
    epochs : of snapshots; () for all that the populations share.
    barriers : loss barriers (m, m), if they were measured.
    obtained : command, seed and versions, for the page.

    Raises
    ------
    InputError
        If the networks cannot be compared in this way; see `ModelComparison.fit`.
    """
    shared = sorted(set.intersection(*(set(population.snapshots) for population in populations.values())))
    epochs = tuple(epochs) or tuple(shared)
    comparison.consensus = "average" if len(samples) <= MAX_SAMPLES else "spectral"
    comparison.fit(populations, samples.x, samples.y, samples.ids.tolist(), epochs)
    families = tuple(name for name, population in populations.items() for _ in population)
    agreement = {
        place: adjusted_rand_score(families, groups.labels) if len(populations) > 1 else float("nan")
        for place, groups in comparison.groups_.items()
    }
    place = _clearest(comparison.groups_, agreement)
    measure = get_measure(comparison.measure)
    return ComparisonResult(
        names=comparison.names_, families=families, measure=measure.name,
        larger_is_more_similar=measure.larger_is_more_similar, value_range=measure.range,
        n_samples=len(samples), n_clusters=comparison.n_clusters_, layers=comparison.places_,
        matrices=comparison.matrix_, z=comparison.z_, epochs=comparison.epochs_, combined=comparison.combined_,
        layer_matrix=comparison.layer_matrix_, layer_index=comparison.layer_index_,
        groups={name: GroupsOf(g.labels, g.silhouette, g.tree.to_linkage()) for name, g in comparison.groups_.items()},
        purity=comparison.purity_, agreement_with_families=agreement, disputed_place=place,
        disputed=_disputed(comparison, place, samples), barriers=barriers, obtained=obtained,
    )  # fmt: skip


def found_text(result: ComparisonResult) -> str:
    """Return the text of ``comparison.json``; numbers that are not finite are null."""
    body = {
        "summary": comparison_sentences(result), "table": comparison_table(result), "names": result.names,
        "families": result.families, "measure": result.measure, "layers": result.layers,
        "n_samples": result.n_samples, "n_clusters": result.n_clusters, "matrices": result.matrices, "z": result.z,
        "epochs": {str(epoch): matrices for epoch, matrices in result.epochs.items()}, "combined": result.combined,
        "groups": {
            place: {"labels": g.labels, "silhouette": g.silhouette} for place, g in result.groups.items()
        },
        "agreement_with_families": result.agreement_with_families, "purity": result.purity,
        "disputed": {"place": result.disputed_place, "ids": [sample.id for sample in result.disputed]},
        "barriers": result.barriers,
    }  # fmt: skip
    return result_text(body, "comparison.json")


def _clearest(groups: Mapping[str, Groups], agreement: Mapping[str, float]) -> str:
    """The place whose groups are nearest to the families or, with one family, stand farthest apart."""

    def clear(place: str) -> tuple[float, float]:
        return tuple(-1.0 if np.isnan(v) else float(v) for v in (agreement[place], groups[place].silhouette))  # type: ignore[return-value]

    return max(groups, key=clear)


def _disputed(comparison: ModelComparison, place: str, samples: Dataset) -> list[DisputedSample]:
    consensus, groups = comparison.consensus_[place], comparison.groups_[place].labels
    y = samples.y.numpy()
    said = np.stack([majority_labels(labels, y) for labels in comparison.labels_[place]])  # (m, n)
    return [
        DisputedSample(
            str(int(samples.ids[i])),
            _image(samples.x[i].numpy()),
            str(y[i]),
            float(consensus.disagreement[i]),
            [_view(group, said[groups == group, i]) for group in np.unique(groups)],
        )
        for i in consensus.disputed[:DISPUTED].tolist()
    ]


def _view(group: int, said: NDArray[np.int64]) -> str:
    """What the models of one group put a sample with, (models of the group,)."""
    (label, count), *_ = Counter(said.tolist()).most_common(1)
    return f"group {group}: with {label}s, {count} of {len(said)}"


def _image(x: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """A sample as a picture from 0 to 1: (h, w), or (h, w, 3)."""
    if x.ndim != 3 or len(x) not in (1, 3):
        return None
    low, high = float(x.min()), float(x.max())
    scaled = (x.astype(np.float64) - low) / (high - low or 1.0)
    return scaled[0] if len(x) == 1 else scaled.transpose(1, 2, 0)
