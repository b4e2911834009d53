"""Which networks behave alike: clusterings of one data set by their activations, compared across networks."""

from consilience.comparison.barriers import loss_barriers
from consilience.comparison.consensus import Consensus, find_consensus
from consilience.comparison.groups import Groups, group_models
from consilience.comparison.intervals import Intervals, similarity_intervals
from consilience.comparison.model_comparison import ModelComparison
from consilience.comparison.similarity import (
    MEASURES,
    Measure,
    Null,
    as_distance,
    clustering_similarities,
    null_z,
    representation_similarities,
)

__all__ = [
    "MEASURES",
    "Consensus",
    "Groups",
    "Intervals",
    "Measure",
    "ModelComparison",
    "Null",
    "as_distance",
    "clustering_similarities",
    "find_consensus",
    "group_models",
    "loss_barriers",
    "null_z",
    "representation_similarities",
    "similarity_intervals",
]
