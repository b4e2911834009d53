"""The report of a routed network: its score against multiplications, beside narrow networks and random experts."""

from consilience.report.routing.page import render_routing
from consilience.report.routing.result import (
    NARROW,
    ROUTED,
    WIDE,
    RoutingResult,
    RoutingRow,
    routing_sentences,
    routing_table,
)

__all__ = [
    "NARROW",
    "ROUTED",
    "WIDE",
    "RoutingResult",
    "RoutingRow",
    "render_routing",
    "routing_sentences",
    "routing_table",
]
