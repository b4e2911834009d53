"""Figures as SVG inside a page."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

NOWHERE = {"Date": None, "Creator": None, "Format": None, "Type": None}  # nothing that differs between runs or versions


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an ``<svg>`` element whose ids all begin with ``name``, so that two in one page do not mix.

    Text is drawn as outlines: it is as wide on every machine as when its place was chosen. Same figure, same string.
    """
    buffer = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's style is
        mpl.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "path", "image.composite_image": False})
        figure.savefig(buffer, format="svg", metadata=NOWHERE)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="image[0-9a-f]+"', "", text)  # equal images would have equal ids, to which nothing refers
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text).strip()
