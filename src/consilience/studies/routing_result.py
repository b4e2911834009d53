"""Is routing worth it? A routed network beside narrow networks of as many multiplications, and random experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from consilience.assembly import Assembler, route
from consilience.baselines import Ensemble
from consilience.census import Census
from consilience.data import Dataset
from consilience.evaluation import evaluate
from consilience.nets import Routed
from consilience.report.routing import NARROW, ROUTED, WIDE, RoutingResult, RoutingRow, routing_sentences, routing_table
from consilience.store.codec import result_text
from consilience.studies.request import parse_width

SHARES = (0.125, 0.25, 0.5)  # of the experts that are computed, in the curve beside the share asked for


def run_routing(
    fitted: Census,
    samples: Dataset,
    obtained: Mapping[str, Any],
    progress: Callable[[str], None],
    *,
    width: str,
    active: float,
    n_experts: int,
    grouping: str,
    correction: str,
    steps: int,
    random_state: int,
) -> tuple[Routed, RoutingResult]:
    """Return the routed network that is asked for, and how it does on labelled samples beside others.

    Narrow networks have at most as many parameters as a routed one has multiplications; they and the wide network are
    corrected by "second-order" steps or, where routed networks are, by "distill".
    """
    taught: dict[str, Any] = {"steps": steps} if correction == "distill" else {}
    static = {"correction": "distill" if taught else "second-order", "random_state": random_state, **taught}
    rows, assembler, population = list[RoutingRow](), Assembler(fitted), fitted.population_

    def add(name: str, share: float | None, products: int, network: Callable[..., Any]) -> str:
        score = evaluate(network, samples)
        rows.append(RoutingRow(name, share, products, score.quality, score.quality_se))
        return score.metric

    progress("the wide network")
    wide = assembler.assemble(parse_width(width), **static)
    add("ensemble of the members", None, sum(_products(m.module) for m in population), Ensemble(population))
    metric = add(WIDE, 1.0, _products(wide), wide)
    for share in sorted({active} if taught else {*SHARES, active}):
        routed = dict[str, Routed]()
        for experts in ROUTED:
            progress(f"{100 * share:g} % of {n_experts} {experts} experts")
            options = {"n_experts": n_experts, "grouping": experts, "random_state": random_state, **taught}
            routed[experts] = route(wide, fitted, share, correction=correction, **options)
            add(ROUTED[experts], share, routed[experts].n_products, routed[experts])
        narrow = assembler.assemble(f"parameters<={routed[grouping].n_products}", **static)
        add(NARROW, share, _products(narrow), narrow)
        if share == active:
            asked = routed[grouping]
    record: Any = asked.routing_
    layers = {f"hidden.{i}": layer for i, layer in enumerate(record.layers)}
    return asked, RoutingResult(rows, active, grouping, n_experts, layers, metric, obtained)


def found_text(result: RoutingResult, file: str) -> str:
    """Return the text of ``routing.json``."""
    body = {"summary": routing_sentences(result), "table": routing_table(result).markdown()}
    names = ("rows", "active", "grouping", "n_experts", "layers", "metric")
    return result_text(body | {name: getattr(result, name) for name in names}, file)


def _products(network: nn.Module) -> int:
    """Multiplications by weights for one sample, of a chain of fully connected layers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)
