"""The plot of a routed network."""

from __future__ import annotations

from matplotlib.figure import Figure

from consilience.report.plots import legend_beside
from consilience.report.routing.result import NARROW, ROUTED, WIDE, RoutingResult
from consilience.report.style import INK, MUTED, new_axes, styled

LOOKS = {
    ROUTED["co-activation"]: ("#1b6ca8", "o"),
    ROUTED["random"]: ("#a08020", "P"),
    NARROW: ("#c2571a", "D"),
}


@styled
def score_by_products(result: RoutingResult) -> Figure:
    """Draw scores against multiplications for a sample; the wide network is where all experts are computed."""
    figure, ax = new_axes(3.4)
    wide = result.row(WIDE, 1.0)
    for name, (color, marker) in LOOKS.items():
        rows = sorted((row for row in result.rows if row.name == name), key=lambda row: row.products)
        places, scores = [row.products for row in rows], [100 * row.quality for row in rows]
        errors = [100 * row.error for row in rows]
        ax.errorbar(places, scores, errors, color=color, marker=marker, elinewidth=0.8, capsize=2, label=name)
    ax.plot(wide.products, 100 * wide.quality, "*", color=INK, markersize=10, label=WIDE)
    ensemble = next(row for row in result.rows if row.share is None)
    ax.axhline(100 * ensemble.quality, color=MUTED, linewidth=1.0, linestyle=(0, (4, 2)), label="ensemble")
    ax.set(xlabel="multiplications for a sample", ylabel=f"validation {result.metric} (%)")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    legend_beside(ax)
    return figure
