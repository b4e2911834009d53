"""Draw the figures of docs/concepts.md: ``python docs/figures.py`` writes docs/images/concept-*.svg."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

import consilience as cs
from consilience.report.plots import plain_log_ticks, tree_branches
from consilience.report.style import INK, MUTED, STYLE

IMAGES = Path(__file__).parent / "images"
COLORS = ("#1c67ad", "#d55e00", "#2a8f83", "#8a7a1f")
SIGNS = {True: "#555555", False: "#cc4444"}  # colors of positive and negative weights


def main() -> None:
    """Draw all."""
    mpl.rcParams.update({**STYLE, "svg.hashsalt": "consilience"})
    for name, draw in (("symmetries", symmetries), ("grounding", grounding), ("width", width), ("stream", stream)):
        draw().savefig(IMAGES / f"concept-{name}.svg", metadata={"Date": None})


def symmetries() -> Figure:
    """A network, the same in another order, the same at another scale of one unit."""
    g = np.random.default_rng(3)
    read, written, colors = g.normal(size=(3, 3)), g.normal(size=(2, 3)), np.array(COLORS[:3])
    figure = Figure(figsize=(7.4, 2.5), layout="constrained")
    axes = figure.subplots(1, 3)
    order, scale = [2, 0, 1], np.array([3.0, 1, 1])
    _network(axes[0], read, written, colors, "a network")
    _network(axes[1], read[order], written[:, order], colors[order], "its units in another order")
    _network(axes[2], read * scale[:, None], written / scale, colors, "one unit scaled up, its readers down")
    return figure


def _network(ax: Axes, read: np.ndarray, written: np.ndarray, colors: np.ndarray, title: str) -> None:
    places = [
        [(layer, j - (n - 1) / 2) for j in range(n)] for layer, n in enumerate((read.shape[1], *written.shape[::-1]))
    ]
    for below, above, weights in ((places[0], places[1], read), (places[1], places[2], written)):
        for (x, y), row in zip(above, weights, strict=True):
            for (x0, y0), weight in zip(below, row, strict=True):
                ax.plot([x0, x], [y0, y], color=SIGNS[weight > 0], linewidth=0.3 + 1.6 * abs(weight), zorder=1)
    for layer, fill in zip(places, (["white"] * 3, colors, ["white"] * 2), strict=True):
        for place, color in zip(layer, fill, strict=True):
            ax.add_patch(Circle(place, 0.16, facecolor=color, edgecolor=INK, linewidth=0.8, zorder=2))
    ax.set(title=title, aspect="equal", xlim=(-0.3, 2.3), ylim=(-1.35, 1.35))
    ax.axis("off")


def grounding() -> Figure:
    """Cosines of the second layer's units of a network and of itself in another order, as given and grounded."""
    data = cs.load_data("digits")
    net = _trained(data, 1)[0].module
    copy = cs.MLP(64, [32, 32], 10)
    first, second = (torch.randperm(32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    state = net.state_dict()
    state["hidden.0.weight"], state["hidden.0.bias"] = state["hidden.0.weight"][first], state["hidden.0.bias"][first]
    state["hidden.1.weight"] = state["hidden.1.weight"][second][:, first]
    state["hidden.1.bias"], state["readout.weight"] = state["hidden.1.bias"][second], state["readout.weight"][:, second]
    copy.load_state_dict(state)
    pair = cs.Population.from_modules([net, copy], data.train.x[:16])
    below = (
        cs.Census(grounding="weights", distance="cosine", n_clusters=32, n_resamples=0).fit(pair).layers_["hidden.0"]
    )
    given = [module.state_dict()["hidden.1.weight"].numpy() for module in (net, copy)]
    clusters = [below.labels_[below.member == k][np.argsort(below.index[below.member == k])] for k in range(2)]
    grounded = [
        weights[:, labels >= 0] @ np.eye(32)[labels[labels >= 0]]
        for weights, labels in zip(given, clusters, strict=True)
    ]
    figure = Figure(figsize=(7.4, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = "by what units they read", "by what clusters they read"
    for ax, rows, title in zip(axes, (given, grounded), titles, strict=True):
        one, two = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in rows)
        image = ax.imshow(one @ two.T, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(title=title, xlabel="units of the copy", xticks=[], yticks=[])
        ax.grid(visible=False)
    axes[0].set_ylabel("units of the network")
    figure.colorbar(image, ax=axes, label="cosine")
    return figure


def width() -> Figure:
    """The tree of the units of eight members, cut at three widths, and how near networks of these widths are."""
    data = cs.load_data("digits")
    members = _trained(data, 8)
    census = cs.Census(n_resamples=0).fit(members, data.calibration.x)
    tree = census.layers_["hidden.0"].clustering.tree
    assert tree is not None  # as of other clusterers
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    _, lines = tree_branches(tree, np.zeros(tree.n_leaves - 1, bool))
    left.add_collection(LineCollection(list(lines), colors=MUTED, linewidths=0.5))
    widths = {"1x": 32, "2x": 64, "4x": 128}
    for (name, n), color in zip(widths.items(), COLORS, strict=False):
        height = tree.heights[-n : -n + 2].mean()
        left.axhline(height, color=color, linestyle="--", linewidth=1)
        left.annotate(
            f"{name}: {n} clusters",
            (tree.n_leaves, height),
            (3, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
    left.set(xlim=(-1, tree.n_leaves), ylim=(0.2, 6), yscale="log", xticks=[], ylabel="distance")
    left.set_title("units of 8 members, first layer")
    plain_log_ticks(left.yaxis)
    left.grid(visible=False)
    assembler = cs.Assembler(census)
    near = {
        name: cs.evaluate(assembler.assemble(name, correction="second-order"), data.test, members) for name in widths
    }
    right.axhline(near["1x"].member_error, color=MUTED, linestyle=":", linewidth=1)
    right.annotate("a member", (0, near["1x"].member_error), (0, -4), textcoords="offset points", va="top", color=MUTED)
    right.plot([*widths], [value.error for value in near.values()], "o-", color=COLORS[0])
    right.set(yscale="log", title="error to the ensemble (nats)", xlabel="width")
    return figure


def _trained(data: cs.Data, n_members: int) -> cs.Population:
    training = cs.Training(epochs=20, batch_size=64, learning_rate=3e-3)
    return cs.train_population(cs.MLP(64, [32, 32], 10), data.train, n_members=n_members, training=training)


def stream() -> Figure:
    """A block of a transformer: heads and MLP units read the stream and write to it."""
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    ax = figure.subplots()
    for k in range(6):
        ax.plot([0, 10], [0.12 * k] * 2, color=COLORS[0], linewidth=1.2)
    ax.text(
        5,
        -0.2,
        "residual stream: its units are directions, in all places that read or write them",
        ha="center",
        va="top",
        color=COLORS[0],
    )
    for k in range(4):
        _part(ax, 1.9 + 0.75 * k, 0.6, f"head\n{k}", COLORS[1])
    for k in range(8):
        _part(ax, 6.1 + 0.42 * k, 0.3, "", COLORS[2])
    ax.text(
        3.3,
        3.35,
        "a unit is a head: its queries, keys, values,\nand what reads its values",
        ha="center",
        color=COLORS[1],
    )
    ax.text(7.7, 3.35, "a unit is a row of the MLP\n(a pair, where it is gated)", ha="center", color=COLORS[2])
    ax.set(xlim=(-0.1, 10.1), ylim=(-0.7, 4.2))
    ax.axis("off")
    return figure


def _part(ax: Axes, x: float, size: float, text: str, color: str) -> None:
    style = {"boxstyle": "round,pad=0.02", "facecolor": "white", "edgecolor": color, "linewidth": 1.2}
    ax.add_patch(FancyBboxPatch((x - size / 2, 2.1), size, 0.9, **style))
    ax.text(x, 2.55, text, ha="center", va="center", color=color)
    for shift, ends in ((-0.3, (0.65, 2.05)), (0.3, (2.05, 0.65))):
        place = x + shift * size
        ax.add_patch(
            FancyArrowPatch(
                (place, ends[0]), (place, ends[1]), arrowstyle="-|>", mutation_scale=7, color=color, linewidth=0.8
            )
        )


if __name__ == "__main__":
    main()
