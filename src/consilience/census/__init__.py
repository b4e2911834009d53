"""Clusters of the units of a population, layer by layer, in order of frequency."""

from consilience.census.census import Census
from consilience.census.head_effects import HeadEffects
from consilience.census.head_roles import HeadRoles
from consilience.census.incremental import extend_census
from consilience.census.layer_census import LayerCensus
from consilience.census.significance import Significance
from consilience.census.storage import load_census, save_census
from consilience.census.untrained import BesideUntrained

__all__ = [
    "BesideUntrained",
    "Census",
    "HeadEffects",
    "HeadRoles",
    "LayerCensus",
    "Significance",
    "extend_census",
    "load_census",
    "save_census",
]
