"""Many small networks at once: trained in one vectorised pass, or brought by the user."""

from consilience.population.callbacks import Callback
from consilience.population.create import train_population
from consilience.population.imagined import imagine_inputs
from consilience.population.population import Member, Population
from consilience.population.storage import load_population, save_population
from consilience.population.training import Training

__all__ = [
    "Callback",
    "Member",
    "Population",
    "Training",
    "imagine_inputs",
    "load_population",
    "save_population",
    "train_population",
]
