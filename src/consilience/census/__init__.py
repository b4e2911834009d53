"""What recurs in a population: clusters of units, layer by layer, in order of frequency."""

from consilience.census.census import Census, LayerCensus
from consilience.census.storage import load_census, save_census

__all__ = ["Census", "LayerCensus", "load_census", "save_census"]
