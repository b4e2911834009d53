"""Does a network split into parts? One page about a measurement of modularity."""

from __future__ import annotations

import math
from html import escape

import matplotlib as mpl
import numpy as np

from consilience.report.definitions import definitions
from consilience.report.modularity.cuts import eigenvalue_gaps, n_cuts
from consilience.report.modularity.networks import html_of_networks
from consilience.report.modularity.parts import graph_embedding, weight_matrices
from consilience.report.modularity.specialists import class_circuits, class_clusters, cluster_lesions
from consilience.report.modularity.verdicts import ModularityResult, modularity_sentences
from consilience.report.page import framed, shell

READING = (
    "The n-cut adds up, over the parts, the share of edge weight that leaves each: 0 for parts without edges between "
    "them. It is low by chance too, so shuffled copies stand beside it. z counts their standard deviations, and grows "
    "with the size of a network; \u201cbelow\u201d, the distance to the copies' mean in % of it, does not. Of twenty "
    "networks without any structure, one has p ≤ 0.05."
)
TABLE = (
    "No edge: units that nothing is connected with. Shuffled: mean ± standard deviation of the copies' n-cuts. C: the "
    "share of squared weights that stay within clusters found in each weight matrix by itself, mean over matrices, "
    "beside the same for shuffled ones."
)
CUTS = (
    "Above, the network shown in detail among its shuffled copies; below, every network beside its own. What lies left "
    "of its bar is more modular than by chance."
)
EMBEDDING = (
    "Units near each other are connected with the same units. This is the plane in which the clusters' means (numbers) "
    "lie farthest apart, but a plane has no room for many clusters: those that mix here may be apart in others."
)
MATRICES = (
    "Absolute weights, dark is large, each matrix in its own scale. Rows are units written, columns units read, in the "
    "order of the clusters whose colours stand beside them: parts show as dark blocks where equal colours meet. C is "
    "that of clusters found in the matrix by itself, beside shuffled matrices."
)
CLASSES = (
    "Above, red: accuracy that a class loses with one cluster off. Below: what each class is left with when only one "
    "cluster is on. 100 % for one class and nothing for the others is a network that always gives the same answer."
)
CIRCUITS = (
    "Weights that a class needs: all others can be zero without its criterion getting worse. TPR is the share of the "
    "class's samples, TNR of all others, that the circuit gets right; with a low TNR it says its class of everything."
)
LESIONS = (
    "Accuracy lost with all units of a cluster off. Filled: more than with as many random units of the same layers, by "
    "over two standard deviations."
)
DOUBLE = " Right, red: two clusters that can stand in for each other cost more together than the sum of both."


def render_modularity(result: ModularityResult) -> str:
    """Return the report of a measurement of modularity as one self-contained HTML page.

    Sections about what was not measured are left out.

    Raises
    ------
    InputError
        If there is no network, or something in the result cannot be drawn.
    """
    first, *rest = modularity_sentences(result)
    n_units, n = sum(len(of.labels) for of in result.groups.values()), len(result.rows)
    copies = f"{result.n_null} shuffled copies{' of each' if n > 1 else ''} ({result.null})"
    known = (
        f"{n_units:,} units" if n_units else "", f"{result.n_clusters} parts", f"{n} networks" if n > 1 else "",
        copies if result.n_null else "",
    )  # fmt: skip
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style the user has set
        sections = [
            _networks(result), _against_chance(result), _units(result), _weights(result), _classes(result),
            _needed(result), _cost(result), _obtained(result),
        ]  # fmt: skip
    summary = "<br>\n".join([f"<strong>{escape(first)}</strong>", *map(escape, rest)])
    title, subtitle = f"How modular is {result.name}?", " · ".join(text for text in known if text)
    return shell(title, subtitle, summary, READING, sections)


def _networks(result: ModularityResult) -> str:
    table = html_of_networks(result.rows)
    return f'<h2>Networks</h2>\n<div class="wide">\n{table}\n</div>\n<p class="note">{escape(TABLE)}</p>'


def _against_chance(result: ModularityResult) -> str:
    parts = list[str]()
    if len(result.known) or any(math.isfinite(row.n_cut) for row in result.rows):
        ax = n_cuts(result.rows, result.known, result.n_cut, result.name)
        parts.append(framed(ax, "cuts", "n-cuts of the networks and of their shuffled copies", CUTS))
    if len(result.eigenvalues) > 2 and np.isfinite(result.eigenvalues).all():
        ax = eigenvalue_gaps(result.eigenvalues, result.n_clusters)
        parts.append(framed(ax, "eigenvalues", "Eigenvalues and the gaps between them", _gaps(result)))
    return "\n".join(["<h2>More than chance?</h2>", *parts]) if parts else ""


def _gaps(result: ModularityResult) -> str:
    gaps, k = np.diff(result.eigenvalues), result.n_clusters
    largest = int(gaps[1:].argmax()) + 2
    text = "A network of k parts that hardly touch has k small eigenvalues, and a large gap after them."
    if len(gaps) < 3:
        return text
    text += f" Here the largest gap after the first is that after eigenvalue {largest} ({gaps[largest - 1]:.2g})"
    if largest == k:
        return f"{text}: {k} clusters were made."
    return text + (f"; after {k}, the number of clusters made, it is {gaps[k - 1]:.2g}." if k <= len(gaps) else ".")


def _units(result: ModularityResult) -> str:
    if not any((of.labels >= 0).any() for of in result.groups.values()):
        return ""
    picture = framed(graph_embedding(result.groups), "units", "Units in the plane, coloured by cluster", EMBEDDING)
    return "<h2>The units</h2>\n" + picture


def _weights(result: ModularityResult) -> str:
    if not result.matrices:
        return ""
    ax = weight_matrices(result.matrices, result.groups)
    return "<h2>The weights</h2>\n" + framed(ax, "weights", "Weight matrices in the order of the clusters", MATRICES)


def _classes(result: ModularityResult) -> str:
    if result.probe is None:
        return ""
    picture = framed(class_clusters(result.probe), "classes", "Accuracy by class and cluster", CLASSES)
    return "<h2>What is each part for?</h2>\n" + picture


def _needed(result: ModularityResult) -> str:
    if not any(math.isfinite(circuit.size) for circuit in result.circuits):
        return ""
    picture = framed(class_circuits(result.circuits), "circuits", "Weights that each class needs", CIRCUITS)
    return "<h2>What does each class need?</h2>\n" + picture


def _cost(result: ModularityResult) -> str:
    effects = result.lesions
    if effects is None or not np.isfinite(effects.drop).any():
        return ""
    caption = LESIONS + DOUBLE * effects.says_more
    picture = framed(cluster_lesions(effects), "lesions", "Accuracy lost with clusters off", caption)
    return "<h2>What does the network lose?</h2>\n" + picture


def _obtained(result: ModularityResult) -> str:
    return f"<h2>How every number was obtained</h2>\n{definitions(result.obtained)}" if result.obtained else ""
