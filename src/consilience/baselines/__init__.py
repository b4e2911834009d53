"""What a user would try instead of an assembly."""

from consilience.baselines.simple import Ensemble, best_member, parameter_average

__all__ = ["Ensemble", "best_member", "parameter_average"]
