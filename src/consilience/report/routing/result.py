"""What routing gives: the score of each network beside what it computes for a sample, and what that says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consilience.assembly.routing import RoutedLayerRecord
from consilience.report.numbers import counted, listed, percent, with_spread
from consilience.report.tables import Cell, Column, Table

WIDE, NARROW = "wide network", "narrow network"
ROUTED = {"co-activation": "routed, experts by co-activation", "random": "routed, random experts"}


@dataclass(frozen=True)
class RoutingRow:
    """One network.

    Attributes
    ----------
    name : what it is.
    share : of the experts that it computes for a sample; for a narrow network, that of the routed one beside it; None
        for the ensemble.
    products : multiplications by weights for one sample.
    quality, error : its score, and the standard error of the samples.
    """

    name: str
    share: float | None
    products: int
    quality: float
    error: float


@dataclass(frozen=True)
class RoutingResult:
    """A routed network beside others.

    Attributes
    ----------
    rows : the ensemble, the wide network, and for each share of the experts routed ones and a narrow network.
    active, grouping : of the routed network that was asked for.
    n_experts : of each layer.
    layers : its hidden layers.
    metric : what the score is, "accuracy" or "R²".
    obtained : how to get the result again.
    """

    rows: Sequence[RoutingRow]
    active: float
    grouping: str
    n_experts: int
    layers: Mapping[str, RoutedLayerRecord]
    metric: str
    obtained: Mapping[str, Any]

    def row(self, name: str, share: float | None) -> RoutingRow:
        """Return the row of a network."""
        return next(row for row in self.rows if (row.name, row.share) == (name, share))

    @property
    def asked(self) -> RoutingRow:
        """The row of the network that was asked for."""
        return self.row(ROUTED[self.grouping], self.active)


def routing_table(result: RoutingResult) -> Table:
    """Return one row for each network; the one that was asked for is bold."""
    all_of_it = result.row(WIDE, 1.0).products
    columns = [
        Column("Network", is_text=True),
        Column("Experts computed"),
        Column("Multiplications"),
        Column("Share of the wide network's"),
        Column(f"Validation {result.metric}"),
    ]
    rows = []
    for row in result.rows:
        cells = [
            row.name,
            percent(row.share) if row.name in ROUTED.values() and row.share is not None else "",
            f"{row.products:,}",
            f"{row.products / all_of_it:.2f}",
            with_spread(100 * row.quality, 100 * row.error) + " %",
        ]
        rows.append([Cell(text, row == result.asked) for text in cells])
    return Table(columns, {"": rows})


def layers_table(result: RoutingResult) -> Table:
    """Return one row for each layer of the network that was asked for."""
    columns = [
        Column("Layer", is_text=True),
        Column("Units of an expert"),
        Column("Least used expert"),
        Column("Most used expert"),
        Column("Explained by the router"),
    ]
    rows = []
    for name, layer in result.layers.items():
        sizes = sorted({len(expert) for expert in layer.experts})
        uses = [percent(min(layer.used)), percent(max(layer.used))]
        rows.append([name, " or ".join(map(str, sizes)), *uses, percent(layer.explained)])
    return Table.plain(columns, rows)


def routing_sentences(result: RoutingResult) -> list[str]:
    """Return what was found, in sentences."""
    asked, wide, narrow = result.asked, result.row(WIDE, 1.0), result.row(NARROW, result.active)
    (other,) = (name for name in ROUTED.values() if name != asked.name)
    share, products = percent(result.active), percent(asked.products / wide.products)
    same = "random experts" if other == ROUTED["random"] else "experts by co-activation"
    beside = (
        f"{_points(asked, wide)} points to the wide network",
        f"{_points(asked, narrow)} to a narrow network of as many multiplications",
        f"{_points(asked, result.row(other, result.active))} to the same with {same}",
    )
    return [
        f"With {share} of {counted(result.n_experts, 'expert')} in each layer, a sample takes {products} of the "
        "wide network's multiplications, routers included.",
        f"Its {result.metric} has a difference of {listed(beside)}.",
    ]


def _points(one: RoutingRow, other: RoutingRow) -> str:
    return f"{100 * (one.quality - other.quality) + 0.0:+.2f}"
