"""What is to be seen in each figure, in words; no more than the experiment has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consilience.report.portraits import LayerAtlas
from consilience.report.results import Experiment, LayerSummary, Row
from consilience.report.roles import FULL, REFERENCES, role

TABLE = (
    "Accuracy ± one standard error over samples. Bold: the best of its column within its group of rows, often within "
    "noise of the next. Parameters are those used at inference: an ensemble counts all its members. Steps and seconds "
    "are those taken beyond the training of the members."
)
LEARNING = (
    "Test accuracy against gradient steps; bands are ± 1 standard error. Steps count from the start of each curve: "
    "those that trained the members of an assembly are not among them. The range fits the second half of the curves."
)
LAYERS = (
    "The units of each layer, of all members together, were clustered. Clusters are in canonical order: by frequency, "
    "then size, then stability. Frequency is the share of the members that own at least one unit of a cluster; size is "
    "the number of its units; stability is how well it is found again when members are resampled (mean best Jaccard "
    "overlap). Dotted lines mark 1, 2, 4, … times the median width of the members: an assembly of width 2x takes what "
    "lies left of 2x."
)
ATLAS = (
    "The most frequent clusters of each layer, one a row, with what excites them most: the parts of images on which "
    "the mean pre-activation of a cluster's units, of all members together, is largest, at most one of each image."
)


def of_widths(table: Sequence[Row]) -> str:
    """Return the caption of `accuracy_against_width`."""
    has_full = any(row.width == FULL for row in table)
    full = "; at full width an assembly is the ensemble" if has_full else ""
    grey = any(row.group != "assembly" and role(row) not in REFERENCES for row in table)
    return (
        "Test accuracy against the number of parameters; bars are ± 1 standard error. Blue lines: assemblies of one "
        f"census, a line for each correction{full}. {'Grey points: alternatives. ' if grey else ''}Horizontal lines: "
        "the members and their ensemble, whose band is ± 1 standard error. Points of one width stand a little beside "
        "each other so that their bars can be seen."
    )


def of_layer(layer: LayerSummary, n_members: int | None) -> str:
    """Return the caption of the figures of one layer."""
    frequency, n = np.asarray(layer.frequency, float), len(layer.frequency)
    dead = f", {layer.n_dead:,} of them dead," if layer.n_dead else ""
    text = f"{layer.n_units:,} units of all members{dead} in {n or 'no'} cluster{'' if n == 1 else 's'}."
    if n:
        shared, half = (int((frequency > share - 1e-9).sum()) for share in (1, 0.5))
        single = f", {int((frequency < 1.5 / n_members).sum())} by only one" if n_members else ""
        text += f" {shared} {'is' if shared == 1 else 'are'} owned by every member, {half} by at least half{single}."
        if not np.isfinite(np.asarray(layer.stability, float)).any():
            text += " Stability was not measured."
    return text


def of_centroids(experiment: Experiment, shown: int) -> str:
    """Return the caption of `centroid_images`."""
    n, name = len(experiment.centroids), experiment.layers[0].name
    which = f"{n} centroids of {name}" if n <= shown else f"The {shown} most frequent of {n} centroids of {name}"
    channels, *size = np.shape(experiment.centroids[0])
    seen = _pixels(size, (experiment.data.get("image_shape") or [channels, *size])[1:])
    return (
        f"{which}, each with the share of the members that own it: the weights of a unit from {seen} "
        f"({_colours(channels)}). Every image has its own scale, symmetric around 0: patterns can be compared, "
        "strengths cannot."
    )


def of_atlas(layer: LayerAtlas) -> str:
    """Return the caption of `frequency_atlas`."""
    n, boxes = len(layer.portraits), np.array([patch.box for each in layer.portraits for patch in each.patches])
    weights = next((each.centroid for each in layer.portraits if each.centroid), None)
    which = f"All {n} clusters" if n == layer.n_clusters else f"The first {n} of {layer.n_clusters:,} clusters"
    text = f"{which} of {layer.name}, with the share of the {layer.n_members} members that own each."
    if weights is not None:
        text += (
            f" Left: the weights of the centroid and of units, each of another member, from "
            f"{_pixels(weights.shape[1:], layer.image_size)} ({_colours(weights.shape[0])}), in one scale for each row."
        )
    if (boxes == (0, 0, *layer.image_size)).all():
        return f"{text} The images, of {layer.n_images:,}, that excite it most, the strongest first."
    sides = boxes[:, 2:] - boxes[:, :2]
    rows, columns = sides.max(0)
    border = " What lies beyond the border of an image is tinted." if (sides != sides[0]).any() else ""
    return (
        f"{text} The parts of images that excite it most, of {layer.n_images:,} images, the strongest first: "
        f"{rows} × {columns} pixels, all that a unit sees from one position.{border}"
    )


def _pixels(size: Sequence[int], image_size: Sequence[int]) -> str:
    """What of the inputs weights of some size belong to."""
    whole = list(size) == list(image_size)
    return "the pixels of the input" if whole else f"{size[0]} × {size[1]} pixels of the input, at any position"


def _colours(channels: int) -> str:
    rgb = channels == 3
    return "grey is 0, a colour brighter than grey is above it" if rgb else "red is above 0, blue below, white 0"
