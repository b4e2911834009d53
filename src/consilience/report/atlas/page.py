"""The page of an atlas: one HTML file with its data, its pictures and Bokeh, which needs no network.

``templates/atlas.js`` draws it: it keeps what is chosen in the hash of the URL, and asks Bokeh for the two plots.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from bokeh.resources import Resources
from markupsafe import Markup

from consilience.errors import InputError
from consilience.report.atlas.contents import AtlasContents, Entry, Link
from consilience.report.atlas.plots import plots_json
from consilience.report.page import ENVIRONMENT

GENERATOR = "consilience atlas"  # by which a file is known to be one
LARGEST = 8_000_000  # bytes


def render_atlas(contents: AtlasContents) -> str:
    """Return an atlas as one self-contained HTML page.

    Raises
    ------
    InputError : if there are no clusters, or the page would be larger than 8 MB.
    """
    if not contents.clusters:
        raise InputError("an atlas must have clusters, got none")
    page = ENVIRONMENT.get_template("atlas.html.j2").render(
        contents=contents,
        generator=GENERATOR,
        bokeh=Markup(Resources(mode="inline").js_raw[0]),
        plots=_script(plots_json(contents)),
        data=_script(json.dumps(_plain(contents), separators=(",", ":"), ensure_ascii=False, allow_nan=False)),
    )
    if len(page.encode()) > LARGEST:
        raise InputError(
            f"an atlas must have at most {LARGEST:,} bytes, got {len(page.encode()):,} for {len(contents.clusters):,} "
            "clusters",
            cure="take a census with fewer clusters",
        )
    return page


def _script(text: str) -> Markup:
    """JSON that may stand in a ``<script>``: nothing in it ends the element, or begins a comment."""
    return Markup(text.replace("<", "\\u003c"))


def _plain(contents: AtlasContents) -> dict[str, Any]:
    return {
        "members": contents.n_members,
        "layers": [asdict(layer) for layer in contents.layers],
        "classes": contents.classes,
        "motifs": contents.motifs,
        "images": None if contents.images is None else asdict(contents.images),
        "imageSize": contents.image_size,
        "clusters": [_entry(entry) for entry in contents.clusters],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "layer": entry.layer,
        "number": entry.number,
        "frequency": _short(entry.frequency),
        "size": entry.size,
        "stability": _short(entry.stability),
        "recurrence": _short(entry.recurrence),
        "chance": _short(entry.chance),
        "q": _short(entry.q, 4),
        "selectivity": _short(entry.selectivity),
        "favourite": entry.favourite,
        "means": [_short(mean, 2) for mean in entry.means],
        "examples": [[e.sample, _short(e.response, 2), e.tile, e.box, e.text, e.label] for e in entry.examples],
        "reads": [_link(link) for link in entry.reads],
        "writes": [_link(link) for link in entry.writes],
        "motif": entry.motif,
        "units": [[u.member, u.index, _short(u.p, 4), u.tile] for u in entry.units],
        "tile": entry.tile,
    }


def _link(link: Link) -> list[Any]:
    return [link.cluster, _short(link.strength, 2), link.members, link.recurs]


def _short(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(float(value), digits)
