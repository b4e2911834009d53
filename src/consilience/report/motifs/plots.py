"""The wiring that recurs, drawn layer by layer."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from consilience.motifs.motifs import Node
from consilience.report.motifs.result import MotifsResult
from consilience.report.plots import legend_above
from consilience.report.style import INK, MUTED, SMALL, new_axes, shortened, styled

COLOURS = ("#1b6ca8", "#c2571a", "#2e8b57", "#8a4fa0", "#a08020", "#b0486a", "#4d6a78", "#5b5fb0")
OTHERS = "#9a9a96"  # motifs beyond these colours
EXCITES, INHIBITS = "#2a6f4e", "#b3423a"
ROW, MARGIN = 0.28, 1.2  # inches of height for each cluster of the fullest layer, and for the rest


@styled
def wiring(result: MotifsResult) -> Figure:
    """Draw clusters with recurring edges, a column for each layer, in the colors of the motifs that have no parent."""
    motif_of = {
        (name, number): motif.number
        for motif in result.motifs
        if motif.parent is None
        for name, numbers in motif.clusters.items()
        for number in numbers
    }
    nodes = {node for edge in result.recurring for node in (edge.source, edge.target)}
    columns = [name for name in result.layers if any(node[0] == name for node in nodes)]
    place: dict[Node, tuple[int, float]] = {}
    for x, name in enumerate(columns):
        here = sorted((n for n in nodes if n[0] == name), key=lambda n: (motif_of.get(n, len(result.motifs)), n[1]))
        place |= {node: (x, (len(here) - 1) / 2 - i) for i, node in enumerate(here)}
    fullest = max(sum(node[0] == name for node in nodes) for name in columns)
    figure, ax = new_axes(MARGIN + ROW * fullest)
    largest = max(abs(edge.strength) for edge in result.recurring)
    for edge in sorted(result.recurring, key=lambda edge: abs(edge.strength)):
        (x0, y0), (x1, y1) = place[edge.source], place[edge.target]
        share = abs(edge.strength) / largest
        colour = EXCITES if edge.strength > 0 else INHIBITS
        ax.plot([x0, x1], [y0, y1], color=colour, linewidth=0.5 + 2.5 * share, alpha=0.35 + 0.5 * share, zorder=1)
    numbers = sorted({*motif_of.values()})
    colours = dict(zip(numbers, [*COLOURS, *[OTHERS] * len(numbers)], strict=False))
    for node, (x, y) in place.items():
        colour = colours[motif_of[node]] if node in motif_of else OTHERS
        ax.plot(x, y, marker="o", markersize=12, color=colour, markeredgecolor="white", zorder=2)
        ax.text(x, y, str(node[1]), color="white", fontsize=SMALL - 2, ha="center", va="center", zorder=3)
    for x, name in enumerate(columns):
        ax.text(x, fullest / 2 + 0.1, shortened(name), color=INK, ha="center", va="bottom")
    entries = [Line2D([], [], color=EXCITES, label="excites"), Line2D([], [], color=INHIBITS, label="inhibits")]
    named = [f"motif {number}" for number in numbers[: len(COLOURS)]]
    dots = [Line2D([], [], color=COLOURS[i], marker="o", linestyle="none", label=n) for i, n in enumerate(named)]
    legend_above(ax, [*entries, *dots], n_columns=6, distance=1.6)
    ax.set(xlim=(-0.4, len(columns) - 0.6), ylim=(-fullest / 2 - 0.3, fullest / 2 + 0.6))
    ax.set_axis_off()
    ax.grid(visible=False)
    ax.tick_params(colors=MUTED)
    return figure
