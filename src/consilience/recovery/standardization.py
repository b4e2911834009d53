"""Inputs and outputs at mean zero and unit spread, as training needs them, and the way back.

Constant features are left out: a network's weights on them cannot be told from its biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.recovery.student import Student


@dataclass(frozen=True)
class Standardization:
    """An affine map of each feature, ``(x − mean) / scale``, to mean 0 and spread 1."""

    mean: Tensor  # (d,)
    scale: Tensor  # (d,), 1 for a constant feature
    varies: Tensor  # (d,) bool; False for constant features

    @classmethod
    def of(cls, x: Tensor) -> Standardization:
        """Return the map for these samples (n, d), with a scale for each feature."""
        spread = x.std(0, correction=0)
        varies = spread > 1e-12 * x.abs().amax(0)
        return cls(x.mean(0), spread.where(varies, 1.0), varies)

    @classmethod
    def of_all(cls, x: Tensor) -> Standardization:
        """Return the map for these samples (n, d) with one scale, so that features keep their ratios."""
        spread = x.std(0, correction=0).square().mean().sqrt()
        return cls(x.mean(0), spread.expand(x.shape[1]), torch.ones(x.shape[1], dtype=torch.bool))

    def __call__(self, x: Tensor) -> Tensor:
        """Return samples (n, d) standardized, without constant features."""
        return ((x - self.mean) / self.scale)[:, self.varies]

    def widened(self, weight: Tensor) -> Tensor:
        """Return weights (u, d) on raw inputs from those on standardized ones; 0 on constant features."""
        wide = weight.new_zeros(len(weight), len(self.mean))
        wide[:, self.varies] = weight / self.scale[self.varies]
        return wide


def undone(student: Student, inputs: Standardization, outputs: Standardization) -> Student:
    """Return the network for raw inputs and outputs from the one for standardized ones."""
    path = student.path is not None
    raw = Student(len(inputs.mean), student.widths, len(outputs.mean), student.function, path).double()
    reading = ("hidden.0.weight", "path.weight")
    state = student.state_dict().items()
    raw.load_state_dict({name: inputs.widened(value) if name in reading else value for name, value in state})
    with torch.no_grad():
        first = raw.layers[0]
        first.bias.sub_(first.weight @ inputs.mean)
        raw.readout.weight.mul_(outputs.scale[:, None])
        raw.readout.bias.copy_(raw.readout.bias * outputs.scale + outputs.mean)
        if raw.path is not None:
            raw.path.weight.mul_(outputs.scale[:, None])
            raw.readout.bias.sub_(raw.path.weight @ inputs.mean)
    return raw
