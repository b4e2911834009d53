"""Many small networks with the same inputs and outputs: their layers, traced and proved, and their place on disk."""

from consilience.population.member import Member
from consilience.population.population import Population
from consilience.population.synthetic_inputs import imagine_inputs

__all__ = ["Member", "Population", "imagine_inputs"]
