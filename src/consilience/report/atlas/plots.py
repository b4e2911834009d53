"""The two plots of an atlas: a map of the clusters, and how frequent and how recurrent they are.

Both show one `ColumnDataSource` through one view, so that Bokeh links selections and filters. The page's script sets
colors, sizes and the filter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
from bokeh.embed import json_item
from bokeh.layouts import row
from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d
from bokeh.plotting import figure

from consilience.report.atlas.contents import AtlasContents

HEIGHT, NARROWEST = 430, 300  # pixels; where there is less room, one plot stands below the other
MARGIN = 0.06  # of the range, on either side
SMALLEST, LARGEST = 5.0, 13.0  # marks, in pixels: the area grows with the number of units


def plots_json(contents: AtlasContents) -> str:
    """Return the plots as the JSON that ``Bokeh.embed.embed_item`` takes; the same contents, the same bytes."""
    clusters = contents.clusters
    size = np.sqrt([entry.size for entry in clusters])
    span = np.ptp(size) or 1.0
    measured = all(entry.recurrence is not None for entry in clusters)
    height = [entry.recurrence if measured else entry.stability for entry in clusters]
    source = ColumnDataSource(
        {
            "x": np.array([entry.x for entry in clusters], dtype=np.float32),
            "y": np.array([entry.y for entry in clusters], dtype=np.float32),
            "frequency": np.array([entry.frequency for entry in clusters], dtype=np.float32),
            "height": np.array([np.nan if value is None else value for value in height], dtype=np.float32),
            "size": (SMALLEST + (LARGEST - SMALLEST) * (size - size.min()) / span).astype(np.float32),
            "color": ["#888888"] * len(clusters),
            "name": [f"{contents.layers[entry.layer].name} / {entry.number}" for entry in clusters],
        },
        name="clusters",
    )
    view = CDSView(filter=BooleanFilter(booleans=[True] * len(clusters)))
    place = _figure(source, view, "x", "y", "map")
    place.xaxis.visible = place.yaxis.visible = False
    place.x_range, place.y_range = (_range([getattr(entry, axis) for entry in clusters]) for axis in ("x", "y"))
    beside = _figure(source, view, "frequency", "height", "chart")
    beside.xaxis.axis_label = "frequency: share of the members that own it"
    beside.yaxis.axis_label = (
        "recurrence: share of the other members with a like unit" if measured else "resampling stability"
    )
    beside.x_range, beside.y_range = Range1d(start=0, end=1.03), Range1d(start=-0.03, end=1.03)
    beside.xaxis.formatter = beside.yaxis.formatter = NumeralTickFormatter(format="0.0")
    plots = row(place, beside, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
    return _renumbered(json.dumps(json_item(plots, "plots"), separators=(",", ":")))  # type: ignore[arg-type]


def _figure(source: ColumnDataSource, view: CDSView, x: str, y: str, name: str) -> figure:
    plot = figure(
        name=name,
        height=HEIGHT,
        min_width=NARROWEST,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_select,tap,reset",
        active_scroll="wheel_zoom",
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    marks = plot.scatter(
        x,
        y,
        source=source,
        view=view,
        size="size",
        fill_color="color",
        line_color="color",
        fill_alpha=0.65,
        selection_fill_alpha=1.0,
        nonselection_fill_alpha=0.35,
        nonselection_line_alpha=0.35,
    )
    plot.add_tools(HoverTool(renderers=[marks], tooltips=[("", "@name"), ("frequency", "@frequency{0.00}")]))
    return plot


def _range(values: Sequence[float]) -> Range1d:
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 1.0
    return Range1d(start=low - margin, end=high + margin)


def _renumbered(text: str) -> str:
    """Number the models of a document from 1: Bokeh counts all that a process has made."""
    names: dict[str, str] = {}
    return re.sub(r'"p\d+"', lambda match: names.setdefault(match[0], f'"p{len(names) + 1}"'), text)
