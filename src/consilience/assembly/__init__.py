"""One larger network from a census: which clusters, the network they make, and corrections of it."""

from consilience.assembly.assembler import Assembler, assemble, elastic
from consilience.assembly.build import CORRECTIONS
from consilience.assembly.elastic import Elastic, load_elastic
from consilience.assembly.widths import select

__all__ = ["CORRECTIONS", "Assembler", "Elastic", "assemble", "elastic", "load_elastic", "select"]
