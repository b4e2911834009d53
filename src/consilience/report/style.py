"""How all figures look: one style, a page's width, axes that leave the user's settings as they are.

Figures are `matplotlib.figure.Figure` objects with constrained layouts: no pyplot, no window, nothing to close.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

INK, MUTED, GRID = "#222222", "#666666", "#e4e4e4"
WIDTH = 8.8  # inches, 845 CSS pixels: the column of the page, so that text has the size chosen here
FONT = "DejaVu Sans"  # ships with matplotlib, so that a text is as wide on every machine
SMALL, NORMAL = 8.0, 9.0  # points, 10.7 and 12 CSS pixels
OTHER_COLOURS = ("#8a7a1f", "#b0486a", "#5b5fb0")  # series without a colour of their own
OTHER_MARKERS = ("<", ">", "d", "p", "h", "8")

STYLE: Any = {
    "font.family": FONT,
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.titlesize": SMALL,
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


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Make a function draw in our style, whatever the user's settings, and leave these as they are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return a figure of this size in inches, in which the layout makes room for labels and legends."""
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches with one pair of axes."""
    figure = new_figure(height, width)
    return figure, figure.subplots()


def readable(colour: str) -> str:
    """Return the colour, darkened until text in it has a contrast of 4.5 : 1 on white (WCAG 2.2, 1.4.3).

    >>> readable("#111111"), readable("#74b3e3") < "#74b3e3"
    ('#111111', True)
    """
    rgb = to_rgb(colour)
    while 1.05 / (_luminance(rgb) + 0.05) < 4.5:
        rgb = (rgb[0] * 0.97, rgb[1] * 0.97, rgb[2] * 0.97)
    return str(to_hex(rgb))


def _luminance(rgb: tuple[float, float, float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def shortened(name: str, longest: int = 26) -> str:
    """Return a name with its middle left out where it is too long for a label.

    >>> shortened("hidden.0"), shortened("stages.2.blocks.11.conv2", 15)
    ('hidden.0', 'stages.…1.conv2')
    """
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-(longest - longest // 2 - 1) :]}"
