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
from consilience.data import Dataset
from consilience.population import Population
from consilience.report.comparison import ComparisonResult, DisputedSample, comparison_sentences, comparison_table
from consilience.report.portraits import Picture
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
    """Fit a comparison to populations by name and labeled samples, and return what the page shows.

    Of snapshots, () takes all epochs that the populations share; ``barriers`` (m, m) may be missing.
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
    disputed = _disputed(comparison, place, samples)
    of_numbers = samples.y.is_floating_point()
    return ComparisonResult(comparison, families, agreement, place, disputed, barriers, obtained, of_numbers)


def found_text(result: ComparisonResult) -> str:
    """Return the text of ``comparison.json``; numbers that are not finite are null."""
    comparison = result.comparison
    body = {
        "summary": comparison_sentences(result),
        "table": comparison_table(result).markdown(),
        "names": comparison.names_,
        "families": result.families,
        "measure": result.measure.name,
        "layers": comparison.places_,
        "n_samples": len(comparison.ids_),
        "n_clusters": comparison.n_clusters_,
        "matrices": comparison.matrix_,
        "z": comparison.z_,
        "epochs": {str(epoch): matrices for epoch, matrices in comparison.epochs_.items()},
        "combined": comparison.combined_,
        "groups": {
            place: {"labels": groups.labels, "silhouette": groups.silhouette}
            for place, groups in comparison.groups_.items()
        },
        "agreement_with_families": result.agreement,
        "purity": comparison.purity_,
        "disputed": {"place": result.disputed_place, "ids": [sample.id for sample in result.disputed]},
        "barriers": result.barriers,
    }
    return result_text(body, "comparison.json")


def _clearest(groups: Mapping[str, Groups], agreement: Mapping[str, float]) -> str:
    """The place whose groups are nearest to the families or, with one family, stand farthest apart."""

    def clear(place: str) -> tuple[float, float]:
        return tuple(-1.0 if np.isnan(v) else float(v) for v in (agreement[place], groups[place].silhouette))  # type: ignore[return-value]

    return max(groups, key=clear)


def _disputed(comparison: ModelComparison, place: str, samples: Dataset) -> list[DisputedSample]:
    consensus, groups = comparison.consensus_[place], comparison.groups_[place].labels
    ids, every = comparison.ids_, comparison.labels_[place]
    of_numbers, of_tokens = samples.y.is_floating_point(), len(ids) != len(samples)  # tokens have no pictures
    if of_numbers:
        y = samples.y.reshape(len(samples), -1).double().numpy()
        told = np.stack([_cluster_means(labels, y) for labels in every])  # (m, n, o)
    else:
        y = samples.y.flatten().numpy()
        told = np.stack([majority_labels(labels, y) for labels in every])  # (m, n)
    view = _mean_view if of_numbers else _view
    return [
        DisputedSample(
            str(ids[i]),
            None if of_tokens else _picture(samples.x[i].numpy()),
            f"target {_numbers(y[i])}" if of_numbers else f"class {y[i]}",
            float(consensus.disagreement[i]),
            [view(group, told[groups == group, i]) for group in np.unique(groups)],
        )
        for i in consensus.disputed[:DISPUTED].tolist()
    ]


def _cluster_means(labels: NDArray[np.int64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of numbers (n, o) over each sample's cluster."""
    rows = np.unique(labels, return_inverse=True)[1]
    sums = np.stack([np.bincount(rows, weights=column) for column in y.T], 1)
    means: NDArray[np.float64] = (sums / np.bincount(rows)[:, None])[rows]
    return means


def _mean_view(group: int, means: NDArray[np.float64]) -> str:
    """The mean target of the samples with which models of a group put a sample, mean over the models."""
    return f"group {group}: with targets of mean {_numbers(means.mean(0))}"


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _view(group: int, labels: NDArray[np.int64]) -> str:
    """The class with which most models of a group put a sample, of those of all its models."""
    (label, count), *_ = Counter(labels.tolist()).most_common(1)
    return f"group {group}: with {label}s, {count} of {len(labels)}"


def _picture(x: NDArray[np.float32]) -> Picture | None:
    """A sample as a picture, from its smallest value to its largest; None if it is no image."""
    if x.ndim != 3 or len(x) not in (1, 3):
        return None
    low, high = float(x.min()), float(x.max())
    return Picture.of((x.astype(np.float64) - low) / (high - low or 1.0))
