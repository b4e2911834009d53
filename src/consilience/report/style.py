"""How all figures look: one small style, one colour per method, and axes that leave no trace outside themselves.

- Blues, from light to dark, are the assemblies in the order of what their correction costs; black is the ensemble,
  greys are the members and the alternatives; the two trained networks stand out in vermilion and purple. The order of
  the blues and the difference of the others survive every common colour blindness; every series has a marker besides.
- Figures are `matplotlib.figure.Figure` objects: no pyplot, no window, nothing to close.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from consilience.report.roles import BEST_MEMBER, ENSEMBLE, FINE_TUNED, MEAN_MEMBER, SCRATCH

P = ParamSpec("P")
T = TypeVar("T")

INK, MUTED, GRID = "#222222", "#666666", "#e4e4e4"
FREQUENCY, STABILITY, SIZE = "#4a6fa5", "#b3541e", "#6b6f76"
WIDTH = 8.8  # inches, 845 CSS pixels: fills the column of the page, so that text has the size chosen here
FONT = "DejaVu Sans"  # ships with matplotlib, so that a text is as wide everywhere
SMALL, NORMAL = 8.0, 9.0  # points, 10.7 and 12 CSS pixels

STYLE: Any = {
    "font.family": FONT,
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}

COLOURS = {
    MEAN_MEMBER: "#8c8c8c",
    BEST_MEMBER: "#5e5e5e",
    ENSEMBLE: "#111111",
    FINE_TUNED: "#d55e00",
    SCRATCH: "#9b3fa0",
    "assembly, none": "#74b3e3",
    "assembly, moments": "#3c94d4",
    "assembly, least-squares": "#1c67ad",
    "assembly, second-order": "#14508c",
    "assembly, distill": "#0a2f66",
    "assembly, elastic": "#2a8f83",
}
MARKERS = {
    FINE_TUNED: "*",
    SCRATCH: "X",
    "assembly, none": "o",
    "assembly, moments": "v",
    "assembly, least-squares": "s",
    "assembly, second-order": "^",
    "assembly, distill": "D",
    "assembly, elastic": "P",
}
OTHER_COLOURS = ("#8a7a1f", "#b0486a", "#5b5fb0")  # unknown assemblies and curves
OTHER_MARKERS = ("<", ">", "h", "d", "p", "8")


def looks(names: Sequence[str], *, grey: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Return a (colour, marker) for each name; strangers get the next free ones, or grey if they are in ``grey``."""
    strangers = [name for name in names if name not in COLOURS and name not in grey]
    unmarked = [name for name in names if name not in MARKERS]
    return {
        name: (
            COLOURS.get(name)
            or ("#8a8578" if name in grey else OTHER_COLOURS[strangers.index(name) % len(OTHER_COLOURS)]),
            MARKERS.get(name) or OTHER_MARKERS[unmarked.index(name) % len(OTHER_MARKERS)],
        )
        for name in names
    }


def readable(colour: str) -> str:
    """Return the colour, darkened until text in it has a contrast of 4.5 : 1 on white (WCAG 2.2, 1.4.3).

    >>> readable("#111111"), readable("#74b3e3") < "#74b3e3"
    ('#111111', True)
    """
    rgb = to_rgb(colour)
    while 1.05 / (_luminance(rgb) + 0.05) < 4.5:
        rgb = (rgb[0] * 0.97, rgb[1] * 0.97, rgb[2] * 0.97)
    return str(to_hex(rgb))


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Make a function draw in our style, whatever the user's settings, which stay as they are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def own_axes(width: float, height: float, *, left: float, right: float, bottom: float, top: float) -> Axes:
    """Return axes on a new figure; all lengths in inches."""
    figure = Figure(figsize=(width, height))
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def _luminance(rgb: tuple[float, float, float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def shortened(name: str, longest: int = 26) -> str:
    """Return a name with its middle left out where it is too long for a label.

    >>> shortened("hidden.0"), shortened("stages.2.blocks.11.conv2", 15)
    ('hidden.0', 'stages.…1.conv2')
    """
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-(longest - longest // 2 - 1) :]}"
