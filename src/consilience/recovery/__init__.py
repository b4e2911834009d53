"""Recover an unknown network's parameters from its outputs."""

from consilience.recovery.expand_and_cluster import Diagnostics, ExpandAndCluster, IdentifiabilityWarning

__all__ = ["Diagnostics", "ExpandAndCluster", "IdentifiabilityWarning"]
