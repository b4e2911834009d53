"""The main report: an `Experiment` as one page (``templates/report.html.j2``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from consilience.errors import InputError
from consilience.report import figures
from consilience.report.atlas import atlas_rows
from consilience.report.page import Illustration, illustration, render
from consilience.report.portraits import WEIGHTS, LayerAtlas, Picture
from consilience.report.results import Experiment, LayerSummary
from consilience.report.scores import score_table
from consilience.report.style import new_figure, styled
from consilience.report.summary import FULL, summary_sentences

SHOWN = 64  # centroids


def render_page(experiment: Experiment) -> str:
    """Return the report of an experiment as one self-contained HTML page.

    Raises
    ------
    InputError
        If the table is empty, or something in the experiment cannot be drawn.
    """
    return render(
        "report.html.j2",
        title=experiment.title,
        subtitle=_subtitle(experiment),
        summary=summary_sentences(experiment),
        table=score_table(experiment.table),
        width=_width(experiment),
        learning=_learning(experiment),
        layers=[(layer, _layer(layer, i, experiment.n_members)) for i, layer in enumerate(experiment.layers)],
        centroids=_centroids(experiment),
        atlas=[(layer, atlas_rows(layer), _atlas_caption(layer)) for layer in experiment.atlas],
        obtained={
            "Command, seed, versions": experiment.obtained,
            "Data": experiment.data,
            "Members": experiment.population,
            "Census": experiment.census,
        },
    )


def write_page(experiment: Experiment, path: Path) -> None:
    """Write `render_page` of an experiment to a file; nothing is written if anything fails."""
    from consilience.store import atomic_write  # imports torch, which nothing else here needs

    atomic_write(path, render_page(experiment).encode())


def _subtitle(experiment: Experiment) -> str:
    n_members, data, n_layers = experiment.n_members, experiment.data.get("name"), len(experiment.layers)
    parts = (
        f"{n_members} members" if n_members else "",
        f"data: {data}" if data else "",
        f"{n_layers} layer{'' if n_layers == 1 else 's'}" if n_layers else "",
    )
    return " · ".join(part for part in parts if part)


def _width(experiment: Experiment) -> Illustration:
    table = experiment.table
    full = "; at full width an assembly is the ensemble" if any(row.width == FULL for row in table) else ""
    grey = any(row.role.group == "alternative" for row in table)
    caption = (
        "Test accuracy against the number of parameters; bars are ± 1 standard error. Lines: assemblies of one census, "
        f"one line for each correction{full}. {'Single points: alternatives. ' if grey else ''}Horizontal lines: the "
        "members and their ensemble, whose band is ± 1 standard error. Points of one width are drawn side by side."
    )
    return illustration(figures.accuracy_against_width(table), "width", "Accuracy against parameters", caption)


def _learning(experiment: Experiment) -> Illustration | None:
    if not experiment.learning:
        return None
    ax = figures.learning_curves(dict(sorted(experiment.learning.items())), experiment.table)
    caption = (
        "Test accuracy against gradient steps; bands are ± 1 standard error. Steps count from the start of each curve, "
        "without those that trained the members. The range fits the second half of the curves."
    )
    return illustration(ax, "learning", "Accuracy against gradient steps", caption)


@styled
def _layer(layer: LayerSummary, index: int, n_members: int | None) -> Illustration | str:
    caption = _counts(layer, n_members)
    if not layer.frequency:
        return caption
    left, right = new_figure(2.6).subplots(1, 2)
    figures.size_curve(layer, right)
    ax = figures.frequency_curve(layer, left)
    return illustration(ax, f"layer{index}", f"Frequency, stability and size of the clusters of {layer.name}", caption)


def _counts(layer: LayerSummary, n_members: int | None) -> str:
    frequency, n = np.asarray(layer.frequency, float), len(layer.frequency)
    dead = f", {layer.n_dead:,} of them dead," if layer.n_dead else ""
    text = f"{layer.n_units:,} units of all members{dead} in {n or 'no'} cluster{'' if n == 1 else 's'}."
    if not n:
        return text
    shared, half = (int((frequency > share - 1e-9).sum()) for share in (1, 0.5))
    single = f", {int((frequency < 1.5 / n_members).sum())} by only one" if n_members else ""
    text += f" {shared} {'is' if shared == 1 else 'are'} owned by every member, {half} by at least half{single}."
    return text if np.isfinite(np.asarray(layer.stability, float)).any() else f"{text} Stability was not measured."


def _centroids(experiment: Experiment) -> Mapping[str, Any] | None:
    """Return the most frequent centroids as pictures, each in its own scale, with the share of members that own it."""
    if not experiment.centroids or not experiment.layers:
        return None
    weights, frequency = experiment.centroids, experiment.layers[0].frequency
    if len(frequency) < len(weights):
        raise InputError(f"every centroid must have a frequency, got {len(weights)} and {len(frequency)}")
    n, shown = len(weights), min(len(weights), SHOWN)
    pictures = [Picture.of_weights(np.asarray(each, float)) for each in weights[:shown]]
    channels, *size = pictures[0].shape
    which = f"{n} centroids" if n <= shown else f"The {shown} most frequent of {n} centroids"
    seen = _pixels(tuple(size), tuple((experiment.data.get("image_shape") or [channels, *size])[1:]))
    return {
        "tiles": [(_share(f, experiment.n_members), p.uri(WEIGHTS)) for f, p in zip(frequency, pictures, strict=False)],
        "n_columns": 16 if shown > 36 else 12 if shown > 16 else 8,
        "caption": f"{which} of {experiment.layers[0].name}, each with the share of the members that own it: the "
        f"weights of a unit from {seen} ({_colors(channels)}). Every image has its own scale, symmetric around 0: "
        "patterns can be compared, strengths cannot.",
    }


def _share(frequency: float, n_members: int | None) -> str:
    owners = frequency * n_members if n_members else math.nan
    return f"{owners:.0f}/{n_members}" if abs(owners - round(owners, 0)) < 1e-5 else f"{100 * frequency:.0f} %"


def _atlas_caption(layer: LayerAtlas) -> str:
    n, boxes = len(layer.portraits), {patch.box for portrait in layer.portraits for patch in portrait.patches}
    weights = next((portrait.centroid for portrait in layer.portraits if portrait.centroid), None)
    which = f"All {n} clusters" if n == layer.n_clusters else f"The first {n} of {layer.n_clusters:,} clusters"
    text = f"{which} of {layer.name}, with the share of the {layer.n_members} members that own each."
    if weights is not None:
        text += (
            f" Left: the weights of the centroid and of units, each of another member, from "
            f"{_pixels(weights.shape[1:], layer.image_size)} ({_colors(weights.shape[0])}), in one scale for each row."
        )
    if boxes == {(0, 0, *layer.image_size)}:
        return f"{text} Right: the images, of {layer.n_images:,}, that excite it most, the strongest first."
    rows, columns = layer.patch_size
    clipped = any((bottom - top, right - left) != (rows, columns) for top, left, bottom, right in boxes)
    border = " What lies beyond the border of an image is tinted." if clipped else ""
    return (
        f"{text} Right: the parts of images that excite it most, of {layer.n_images:,} images, the strongest first: "
        f"{rows} × {columns} pixels, all that a unit sees from one position.{border}"
    )


def _pixels(size: tuple[int, ...], image_size: tuple[int, ...]) -> str:
    """Return the pixels that weights of some size belong to, in words."""
    return (
        "the pixels of the input"
        if size == image_size
        else f"{size[0]} × {size[1]} pixels of the input, at any position"
    )


def _colors(channels: int) -> str:
    return "grey is 0, brighter colors are above 0" if channels == 3 else "red is above 0, blue below, white is 0"
