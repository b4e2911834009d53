"""The figures of a report. Each takes plain data, draws on ``ax`` or on a figure of its own, and returns the axes.

>>> from consilience.report.results import LayerSummary
>>> ax = frequency_curve(LayerSummary("hidden.0", 6, 0, 3, [1.0, 0.5], [4, 2], [0.9, 0.4]))
>>> ax.figure.savefig("frequency.svg")  # doctest: +SKIP
"""

from __future__ import annotations

from consilience.report.accuracy import accuracy_against_width
from consilience.report.atlas import frequency_atlas
from consilience.report.curves import frequency_curve, size_curve
from consilience.report.images import centroid_images
from consilience.report.learning import learning_curves

__all__ = [
    "accuracy_against_width",
    "centroid_images",
    "frequency_atlas",
    "frequency_curve",
    "learning_curves",
    "size_curve",
]
