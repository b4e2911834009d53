"""What the atlas of a census shows: its clusters, where they lie, what excites them, what they read and write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor

from consilience.census import Census, LayerCensus, Significance
from consilience.census.orientation import unit_signs
from consilience.data import Dataset
from consilience.data.subwords import Subwords
from consilience.data.vocabulary import Vocabulary
from consilience.errors import InputError
from consilience.motifs.edges import cluster_strengths, edges_of
from consilience.names import Placement
from consilience.report.atlas import AtlasContents, AtlasHeads, AtlasLayer, Entry, Example, Link, Sprite, Unit
from consilience.seeds import PLACES, seed
from consilience.studies.atlas_pictures import ImageShelf, WeightShelf
from consilience.studies.excitation import strongest
from consilience.studies.heads import heads_summary, output_names
from consilience.ties import rounded

MAX_SAMPLES = 1000  # that are searched for what excites clusters
N_EXAMPLES, N_LINKS = 8, 6  # of a cluster
MIN_TSNE = 10  # clusters
AROUND = 24  # characters of a text before and after the token
Floats = NDArray[np.float64]


def atlas_contents(
    census: Census,
    samples: Dataset,
    *,
    title: str,
    classes: Sequence[str] = (),
    vocabulary: Vocabulary | Subwords | None = None,
    significance: Mapping[str, Significance] | None = None,
    motifs: Mapping[str, Sequence[tuple[str, int]]] | None = None,
    placement: Placement = "pca",
    random_state: int = 0,
    obtained: Mapping[str, Any] | None = None,
) -> AtlasContents:
    """Return what the atlas of a census shows.

    Parameters
    ----------
    samples : inputs (n, ...) like those of the census, of which 1000 are searched for what excites clusters; y are
        labels where there are ``classes``, their names.
    vocabulary : what tokens stand for, where inputs are tokens (n, t).
    significance : as of `Census.significance`, for the layers where it was measured.
    motifs : name of each → its clusters, as layer and number; a cluster is in at most one.
    placement : "pca" or "tsne", of the clusters' responses.

    Raises
    ------
    InputError : if the census has no calibration data.
    """
    if census.calibration_ is None:
        raise InputError("census must have calibration data for an atlas, got none", cure="fit it with inputs")
    significance, motifs = significance or {}, motifs or {}
    motif_of = {node: number for number, nodes in enumerate(motifs.values()) for node in nodes}
    searched = samples.take(
        torch.arange(min(len(samples), MAX_SAMPLES)) * len(samples) // min(len(samples), MAX_SAMPLES)
    )
    architecture, notes = census.population_.architecture, list[str]()
    shown = {name: layer for name, layer in census.layers_.items() if not architecture.has_insides(name)}
    if len(shown) < len(census.layers_):
        notes.append("Heads of attention are not on it: what they attend to and write is shown at the end of the page.")
    if not shown:
        raise InputError("census must have a layer of units of one row each, got heads of attention only")
    shelf = ImageShelf.of(census, searched.x, shown)
    if shelf is not None:
        notes.append("A frame in an image is what a unit sees at the strongest position.")
    signs = {name: unit_signs(census, layer, searched.x) for name, layer in shown.items()}
    excitations = strongest(census, searched.x, signs, _most(shown))
    responses = np.concatenate([excitations[name].response.double().numpy() for name in shown], axis=1)
    spread = responses.std(0)
    standard = (responses - responses.mean(0)) / np.where(spread > 0, spread, 1)  # (n, clusters)
    places, said = _places(standard, placement, random_state)
    means, selectivity = _by_class(standard, searched.y.numpy(), len(classes)) if classes else (None, None)
    start = dict(zip(shown, np.cumsum([0, *(layer.n_clusters_ for layer in shown.values())]).tolist(), strict=False))
    reads, writes, without = _links(census, start)
    notes += without
    frame = _Frame(searched, shelf, vocabulary, bool(classes))
    layers, entries = list[AtlasLayer](), list[Entry]()
    for number, (name, layer) in enumerate(shown.items()):
        measured = significance.get(name)
        pictures = None if shelf is None else WeightShelf.of(census, layer, signs[name], searched.x.shape[1:])
        for c in range(layer.n_clusters_):
            at = start[name] + c
            entries.append(
                Entry(
                    layer=number,
                    number=c,
                    x=float(places[at, 0]),
                    y=float(places[at, 1]),
                    frequency=float(layer.frequency_[c]),
                    size=int(layer.size_[c]),
                    stability=_known(layer.stability_[c]),
                    recurrence=None if measured is None else float(measured.recurrence[c]),
                    chance=None if measured is None else float(measured.chance[c]),
                    q=None if measured is None else float(measured.q[c]),
                    selectivity=None if selectivity is None else float(selectivity[at]),
                    means=() if means is None else tuple(map(float, means[:, at])),
                    examples=_examples(standard[:, at], excitations[name].position[:, c], name, frame),
                    reads=reads[at],
                    writes=writes[at],
                    motif=motif_of.get((name, c)),
                    units=_units(layer, c, measured, pictures),
                    tile=None if pictures is None else pictures.centroids[c],
                )
            )
        layers.append(_layer(layer, measured, None if pictures is None else pictures.sprite))
    return AtlasContents(
        title=title,
        n_members=len(census.population_),
        layers=tuple(layers),
        clusters=tuple(entries),
        classes=tuple(classes),
        motifs=tuple(motifs),
        layout=said,
        n_samples=len(searched),
        image_size=None if shelf is None else shelf.size,
        images=None if shelf is None else shelf.sprite(),
        notes=tuple(notes),
        obtained=dict(obtained or {}),
        heads=tuple(_heads(census, output_names(architecture.n_outputs, vocabulary, classes))),
    )


def _heads(census: Census, outputs: Sequence[str]) -> Iterator[AtlasHeads]:
    """Yield what heads of attention do, layer by layer."""
    effects = census.head_effects()
    for name, roles in census.head_roles().items():
        frequency = tuple(census.layers_[name].frequency_.tolist())
        yield AtlasHeads(name, frequency, heads_summary(roles, effects.get(name), outputs))


@dataclass(frozen=True)
class _Frame:
    """What is shown of samples."""

    samples: Dataset
    shelf: ImageShelf | None
    vocabulary: Vocabulary | Subwords | None
    labelled: bool

    def text(self, sample: int, position: int) -> tuple[str, str, str] | None:
        """The text before a token, the token, and the text after it."""
        x = self.samples.x
        if x.dim() != 2 or x.is_floating_point() or position >= x.shape[1]:
            return None
        tokens = x[sample]
        parts = tokens[:position], tokens[position : position + 1], tokens[position + 1 :]
        if self.vocabulary is None:
            before, token, after = (" ".join(map(str, part.tolist())) for part in parts)
            before, after = f"{before} ", f" {after}"
        else:
            before, token, after = (_visible(self.vocabulary.decode(part)) for part in parts)
        return before[-AROUND:], token, after[:AROUND]


def _examples(response: Floats, position: Tensor, layer: str, frame: _Frame) -> tuple[Example, ...]:
    """The samples of strongest response (n,), the strongest first, at these positions (n,)."""
    examples = []
    for sample in np.argsort(-response, kind="stable")[:N_EXAMPLES].tolist():
        at = int(position[sample])
        examples.append(
            Example(
                sample=int(frame.samples.ids[sample]),
                response=float(response[sample]),
                tile=None if frame.shelf is None else frame.shelf.tile(sample),
                box=None if frame.shelf is None else frame.shelf.box(layer, at),
                text=frame.text(sample, at),
                label=int(frame.samples.y[sample]) if frame.labelled else None,
            )
        )
    return tuple(examples)


def _places(standard: Floats, placement: Placement, random_state: int) -> tuple[Floats, str]:
    """Places (clusters, 2) of clusters by their standardised responses (n, clusters), and how they were found."""
    points = standard.T - standard.T.mean(0)
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    flat = np.zeros((len(points), 2))
    flat[:, : len(values[:2])] = (left * values)[:, :2]
    largest = flat[rounded(np.abs(flat)).argmax(0), np.arange(2)]
    flat *= np.where(largest < 0, -1, 1)
    if placement == "pca" or len(points) < MIN_TSNE:
        share = float(np.square(values[:2]).sum() / max(np.square(values).sum(), 1e-300))
        axes = f"the two main axes of their responses, which have {share:.0%} of the variance"
        return flat, f"Clusters of all layers are placed by {axes}."
    start = 1e-4 * flat / max(float(flat[:, 0].std()), 1e-300)
    perplexity = min(30.0, (len(points) - 1) / 3)
    tsne = TSNE(init=start, perplexity=perplexity, random_state=seed(random_state, PLACES) % 2**32)
    said = (
        "Clusters of all layers are placed by t-SNE of their responses: near ones are alike, far ones need not differ."
    )
    return np.asarray(tsne.fit_transform(points.astype(np.float32)), dtype=np.float64), said


def _by_class(standard: Floats, y: NDArray[np.int64], n_classes: int) -> tuple[Floats, Floats]:
    """Mean standardised responses by class (classes, clusters), and the share of their variance between classes."""
    means = np.zeros((n_classes, standard.shape[1]))
    between = np.zeros(standard.shape[1])
    for c in range(n_classes):
        inside = y == c
        if inside.any():
            means[c] = standard[inside].mean(0)
            between += inside.mean() * np.square(means[c])
    return means, between


Links = list[tuple[Link, ...]]


def _links(census: Census, start: Mapping[str, int]) -> tuple[Links, Links, list[str]]:
    """The strongest edges from and to each cluster, and what is to be said where there are none."""
    n = sum(census.layers_[name].n_clusters_ for name in start)
    reads, writes = ([list[Link]() for _ in range(n)] for _ in range(2))
    try:
        every = edges_of(census)
    except InputError as error:
        return [()] * n, [()] * n, [f"No edges: {error.message}."]
    for edges in every:
        strength, owners = (part.numpy() for part in cluster_strengths(edges, census))
        for c, b in np.argwhere(owners >= 2).tolist():
            link = float(strength[c, b]), int(owners[c, b])
            reads[start[edges.writes] + c].append(Link(start[edges.reads] + b, *link))
            writes[start[edges.reads] + b].append(Link(start[edges.writes] + c, *link))

    def strongest_of(links: list[Link]) -> tuple[Link, ...]:
        return tuple(sorted(links, key=lambda link: (-abs(link.strength), link.cluster))[:N_LINKS])

    return [strongest_of(links) for links in reads], [strongest_of(links) for links in writes], []


def _units(layer: LayerCensus, c: int, measured: Significance | None, pictures: WeightShelf | None) -> tuple[Unit, ...]:
    return tuple(
        Unit(
            int(layer.member[unit]),
            int(layer.index[unit]),
            None if measured is None else _known(measured.unit_p[unit]),
            None if pictures is None else pictures.units.get(unit),
        )
        for unit in np.flatnonzero(layer.labels_ == c).tolist()
    )


def _layer(layer: LayerCensus, measured: Significance | None, weights: Sprite | None) -> AtlasLayer:
    turned = None if measured is None else measured.turned
    frequency = None if turned is None else float(turned.frequency.mean())
    known = np.array([]) if turned is None else turned.stability[np.isfinite(turned.stability)]
    stability = float(known.mean()) if len(known) else None
    return AtlasLayer(layer.name, layer.n_clusters_, layer.n_units, layer.n_dead_, frequency, stability, weights)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _most(layers: Mapping[str, LayerCensus]) -> int:
    return max(layer.n_clusters_ for layer in layers.values())


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "→")
