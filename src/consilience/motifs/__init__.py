"""Motifs: patterns of clusters over several layers that recur in a population, and what members lose without them."""

from __future__ import annotations

from consilience.motifs.ablation import Ablation, ablate
from consilience.motifs.motifs import Edge, Motif, Motifs

__all__ = ["Ablation", "Edge", "Motif", "Motifs", "ablate"]
