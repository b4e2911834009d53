"""One larger network from a census: the choice of clusters, the construction, and corrections."""

from consilience.assembly.assembler import Assembler, assemble, elastic
from consilience.assembly.build import CORRECTIONS
from consilience.assembly.elastic import Elastic, load_elastic
from consilience.assembly.routing import route
from consilience.assembly.widths import select

__all__ = ["CORRECTIONS", "Assembler", "Elastic", "assemble", "elastic", "load_elastic", "route", "select"]
