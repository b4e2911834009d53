"""Methods that a user would try instead of an assembly."""

from consilience.baselines.concatenation import transplantation
from consilience.baselines.cycle_consistent import cycle_matching
from consilience.baselines.distil import distil
from consilience.baselines.matching import activation_matching, merge_many, weight_matching
from consilience.baselines.orthogonal import orthogonal_matching
from consilience.baselines.probabilistic import probabilistic_matching
from consilience.baselines.simple import Ensemble, best_member, parameter_average
from consilience.baselines.transport import transport_fusion
from consilience.baselines.widening import net2wider

__all__ = [
    "Ensemble",
    "activation_matching",
    "best_member",
    "cycle_matching",
    "distil",
    "merge_many",
    "net2wider",
    "orthogonal_matching",
    "parameter_average",
    "probabilistic_matching",
    "transplantation",
    "transport_fusion",
    "weight_matching",
]
