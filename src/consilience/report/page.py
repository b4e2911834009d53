"""One HTML file that needs nothing else: no scripts, no fonts, no network. For screens, in the dark too, and paper.

The same experiment gives the same bytes, also after it was saved and loaded: mappings go in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consilience.report import captions, figures
from consilience.report.definitions import definitions
from consilience.report.embed import svg
from consilience.report.results import Experiment, LayerSummary
from consilience.report.style import WIDTH, styled
from consilience.report.summary import READING, summary_sentences
from consilience.report.table import html_table

SHOWN = 64  # centroids
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
<p class="summary">{summary}</p>
<p class="note">{reading}</p>

{sections}
</main>
</body>
</html>
"""


def write_page(experiment: Experiment, path: Path) -> None:
    """Write `render_page` of an experiment to a file; nothing is written if anything fails."""
    from consilience.store import atomic_write  # imports torch, which nothing else here needs

    atomic_write(path, render_page(experiment).encode())


def render_page(experiment: Experiment) -> str:
    """Return the report of an experiment as one self-contained HTML page.

    Raises
    ------
    InputError
        If the table is empty, or something in the experiment cannot be drawn.
    """
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style the user has set
        sections = [
            _scores(experiment),
            _widths(experiment),
            _learning(experiment),
            _layers(experiment),
            _centroids(experiment),
            _atlas(experiment),
            _obtained(experiment),
        ]
    summary = _unbroken(escape(" ".join(summary_sentences(experiment))))
    return shell(experiment.title, _subtitle(experiment), summary, _unbroken(READING), sections)


def shell(title: str, subtitle: str, summary: str, reading: str, sections: Iterable[str]) -> str:
    """Return a page. Title and subtitle are text, the rest is HTML; sections with nothing in them are left out."""
    return PAGE.format(
        title=escape(title),
        css=files("consilience.report").joinpath("page.css").read_text(encoding="utf-8"),
        subtitle=escape(subtitle),
        summary=summary,
        reading=reading,
        sections="\n\n".join(section for section in sections if section),
    )


def framed(ax: Axes, name: str, alternative: str, caption: str) -> str:
    """Return the figure of these axes with its caption; ids in it begin with ``name``, the alternative is for ears."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    card = "card broad" if figure.get_figwidth() == WIDTH else "card"
    return (
        f'<figure>\n<div class="{card}" role="img" aria-label="{escape(alternative)}">\n{svg(figure, name)}\n</div>\n'
        f"<figcaption>{_unbroken(escape(caption))}</figcaption>\n</figure>"
    )


def _subtitle(experiment: Experiment) -> str:
    n_members, data, n_layers = _n_members(experiment), experiment.data.get("name"), len(experiment.layers)
    known = (
        f"{n_members} members" if n_members else "",
        f"data: {data}" if data else "",
        f"{n_layers} layer{'' if n_layers == 1 else 's'}" if n_layers else "",
    )
    return " · ".join(text for text in known if text)


def _scores(experiment: Experiment) -> str:
    table = html_table(experiment.table)
    return f'<h2>Scores</h2>\n<div class="wide">\n{table}\n</div>\n<p class="note">{captions.TABLE}</p>'


def _widths(experiment: Experiment) -> str:
    ax = figures.accuracy_against_width(experiment.table)
    caption = captions.of_widths(experiment.table)
    return "<h2>What width buys</h2>\n" + framed(ax, "width", "Test accuracy against number of parameters", caption)


def _learning(experiment: Experiment) -> str:
    if not experiment.learning:
        return ""
    ax = figures.learning_curves(dict(sorted(experiment.learning.items())), experiment.table)
    picture = framed(ax, "learning", "Test accuracy against gradient steps", captions.LEARNING)
    return "<h2>As a place to start from</h2>\n" + picture


def _layers(experiment: Experiment) -> str:
    if not experiment.layers:
        return ""
    parts = ["<h2>What the members share</h2>", f"<p>{captions.LAYERS}</p>"]
    for index, layer in enumerate(experiment.layers):
        caption = captions.of_layer(layer, _n_members(experiment))
        alternative = f"Frequency, stability and size of the clusters of {layer.name}"
        parts.append(f"<h3>{escape(layer.name)}</h3>")
        if layer.frequency:
            parts.append(framed(_frequency_beside_size(layer), f"layer{index}", alternative, caption))
        else:
            parts.append(f"<p>{escape(caption)}</p>")
    return "\n".join(parts)


@styled
def _frequency_beside_size(layer: LayerSummary) -> Axes:
    height, width = 2.6, 3.6
    figure = Figure(figsize=(WIDTH, height))
    left, right = (
        figure.add_axes((x / WIDTH, 0.5 / height, width / WIDTH, 1 - 1.05 / height)) for x in (0.6, WIDTH - width - 0.1)
    )
    figures.size_curve(layer, right)
    return figures.frequency_curve(layer, left)


def _centroids(experiment: Experiment) -> str:
    if not experiment.centroids or not experiment.layers:
        return ""
    ax = figures.centroid_images(
        experiment.centroids, experiment.layers[0].frequency, n=SHOWN, n_members=_n_members(experiment)
    )
    picture = framed(ax, "centroids", "First-layer centroids", captions.of_centroids(experiment, SHOWN))
    return "<h2>What the first layer looks for</h2>\n" + picture


def _atlas(experiment: Experiment) -> str:
    if not experiment.atlas:
        return ""
    parts = ["<h2>What excites the clusters</h2>", f"<p>{captions.ATLAS}</p>"]
    for index, layer in enumerate(experiment.atlas):
        alternative = f"The most frequent clusters of {layer.name}, and what excites each most"
        parts.append(f"<h3>{escape(layer.name)}</h3>")
        parts.append(framed(figures.frequency_atlas(layer), f"atlas{index}", alternative, captions.of_atlas(layer)))
    return "\n".join(parts)


def _obtained(experiment: Experiment) -> str:
    known = {
        "Command, seed, versions": experiment.obtained,
        "Data": experiment.data,
        "Members": experiment.population,
        "Census": experiment.census,
    }
    parts = [f"<h3>{name}</h3>\n{definitions(mapping)}" for name, mapping in known.items() if mapping]
    return "\n".join(["<h2>How every number was obtained</h2>", *parts]) if parts else ""


def _unbroken(text: str) -> str:
    """Keep a number, its error and its unit on one line."""
    space = "\N{NO-BREAK SPACE}"
    return text.replace(" ± ", f"{space}±{space}").replace(" %", f"{space}%").replace("± ", f"±{space}")


def _n_members(experiment: Experiment) -> int | None:
    n = experiment.population.get("n_members")
    return n if isinstance(n, int) and n > 0 else None
