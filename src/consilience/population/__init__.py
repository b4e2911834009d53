"""Many small networks with the same inputs and outputs: their layers, traced and proved, and their place on disk."""

from consilience.population.population import Member, Population
from consilience.population.storage import load_population, save_population
from consilience.population.synthetic_inputs import imagine_inputs

__all__ = ["Member", "Population", "imagine_inputs", "load_population", "save_population"]
