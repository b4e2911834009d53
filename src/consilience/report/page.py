"""Pages: one HTML file that needs no scripts, no fonts and no network; for screens, in dark mode too, and for paper.

Templates lie in ``templates/``: ``page.html.j2`` is the frame of every page, ``parts.html.j2`` has macros for pictures,
tables and lists of definitions. All text is escaped. The same results give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from consilience.report.numbers import counted
from consilience.report.style import WIDTH

OPTIONS: Any = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
ENVIRONMENT = Environment(loader=PackageLoader("consilience.report"), **OPTIONS)

UNDATED = {"Date": None, "Creator": None, "Format": None, "Type": None}  # nothing that differs between runs or versions


@dataclass(frozen=True)
class Illustration:
    """A figure of a page, and whether it is as wide as the page."""

    svg: Markup
    is_broad: bool


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an ``<svg>`` element whose ids all begin with ``name``, so that two in one page do not mix.

    Text is drawn as outlines: it is as wide on every machine as in the layout. Same figure, same string.
    """
    buffer = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's style is
        mpl.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "path", "image.composite_image": False})
        figure.savefig(buffer, format="svg", metadata=UNDATED)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="image[0-9a-f]+"', "", text)  # equal images would have equal ids, to which nothing refers
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text).strip()


def render(template: str, figures: Mapping[str, Figure], **context: Any) -> str:
    """Return the page that a template makes of figures, by name, and of a context: ``summary``, ``table``, …"""
    sizes = {name: figure.get_figwidth() for name, figure in figures.items()}
    pictures = {name: Illustration(Markup(svg(f, name)), sizes[name] == WIDTH) for name, f in figures.items()}
    return ENVIRONMENT.get_template(template).render(pictures=pictures, **context)


def unbroken(text: str) -> str:
    """Keep a number, its error and its unit on one line."""
    space = "\N{NO-BREAK SPACE}"
    return text.replace(" ± ", f"{space}±{space}").replace(" %", f"{space}%").replace("± ", f"±{space}")


ENVIRONMENT.filters |= {"unbroken": unbroken, "counted": counted}
