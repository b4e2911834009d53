"""The page of a routed network (``templates/routing.html.j2``)."""

from __future__ import annotations

from consilience.report.page import render
from consilience.report.routing.plots import score_by_products
from consilience.report.routing.result import RoutingResult, layers_table, routing_sentences, routing_table


def render_routing(result: RoutingResult) -> str:
    """Return the report of a routed network as one self-contained HTML page."""
    figures = {"scores": score_by_products(result)}
    tables = {"table": routing_table(result), "layers": layers_table(result)}
    return render("routing.html.j2", figures, summary=routing_sentences(result), result=result, **tables)
