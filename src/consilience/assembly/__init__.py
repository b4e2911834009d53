"""One larger network from a census: which clusters, the network they make, and corrections of it."""

from consilience.assembly.assemble import assemble
from consilience.assembly.building import CORRECTIONS
from consilience.assembly.elastic import Elastic, elastic, load_elastic
from consilience.assembly.selection import select

__all__ = ["CORRECTIONS", "Elastic", "assemble", "elastic", "load_elastic", "select"]
