"""Baselines without any matching: the best member, the ensemble, the mean of the parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from consilience.data import Dataset
from consilience.evaluation import evaluate
from consilience.population.checks import check_equal_widths, check_poolable, check_population
from consilience.population.population import Population
from consilience.units.outputs import outputs_in


class Ensemble(nn.Module):
    """The mean of the members' outputs, ``f(x) = (1/N) Σ_k f_k(x)``, which a full-width assembly equals.

    Inputs as the members take them, outputs (n, o, ...). Outputs are averaged before a tail that is not affine, as a
    softmax, which follows; of several outputs, all are returned side by side. An `InputError` is raised where these
    have no order.
    """

    def __init__(self, population: Population) -> None:
        super().__init__()
        check_population(population)
        check_poolable(population)
        self.members = nn.ModuleList(copy.deepcopy(member.module) for member in population)
        self._networks, self._inputs = population.networks, population.inputs

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the mean outputs."""
        x: Tensor = inputs[0] if self._inputs is None else self._inputs.gathered(inputs, named)
        programs = [network.architecture.program for network in self._networks]
        first = programs[0]
        if not first.is_bent:
            outputs = [outputs_in(member(x), first.module_name, first.pick) for member in self.members]
            return torch.stack(outputs).mean(0)
        states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in self.members]
        values = [p.run(s, x, p.pooled) for p, s in zip(programs, states, strict=True)]
        pooled = [[own[name] for name in p.pooled] for p, own in zip(programs, values, strict=True)]
        means = [torch.stack(each).mean(0) for each in zip(*pooled, strict=True)]
        known = dict(zip(first.pooled, means, strict=True))
        return first.run(states[0], x, [first.returned], known)[first.returned]


def best_member(population: Population, validation: Dataset) -> nn.Module:
    """Return the member with the highest validation accuracy, or R² (on ties, with the smallest loss)."""
    check_population(population)
    scores = [evaluate(member.module, validation, output=population.output) for member in population]
    best = max(range(len(scores)), key=lambda k: (scores[k].quality, -scores[k].loss))
    return population.members[best].module


def parameter_average(population: Population) -> nn.Module:
    """Return a network whose parameters are the means of the members', unit by unit; widths must be equal."""
    check_population(population)
    check_equal_widths(population)
    states = [member.network.state for member in population]
    average = copy.deepcopy(population.members[0].module)
    average.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}, strict=False)
    return average
