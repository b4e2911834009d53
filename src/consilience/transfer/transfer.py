"""One census over the populations of several tasks, and networks for a new task from what all of them have."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from consilience.census.census import Census
from consilience.checks import Width, check_choice, check_count, check_number, check_seed, describe, resolve_width
from consilience.errors import InputError
from consilience.population.checks import as_inputs
from consilience.population.population import Population
from consilience.seeds import PERMUTED_TASKS, numpy_generator
from consilience.tasks import as_targets
from consilience.transfer.frequency import LayerTasks, layer_tasks, ownership
from consilience.transfer.joint import joint_population, readout_of
from consilience.transfer.trunk import Trunk, fit_head, standardization, trunk_of_clusters, with_head

TRUNKS = ("invariant", "least-invariant", "all")


class Transfer:
    """Find the clusters that networks of several tasks on the same inputs have in common, and build on them.

    Parameters
    ----------
    share : of the members of each task that must own a cluster for it to be invariant.
    census : a `Census` that is not fitted, with its options; by default `Census()` without resampling.
    n_draws : random permutations of members between tasks, for the number of invariant clusters by chance.
    random_state : seed.

    Attributes
    ----------
    tasks_ : names, in the order given.
    census_ : the census of all members, those of the first task first.
    layers_ : dict, layer name → `LayerTasks`.
    member_task_ : (k,) number of each member's task.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(64, 4)
    >>> twins = MLP(4, [5], 2), MLP(4, [5], 3)
    >>> populations = {str(i): Population.from_modules([net, net], x) for i, net in enumerate(twins)}
    >>> transfer = Transfer().fit(populations, x)
    >>> transfer.census_.population_.architecture.n_outputs, transfer.layers_["hidden.0"].frequency.shape
    (3, (10, 2))
    """

    tasks_: tuple[str, ...]
    census_: Census
    layers_: dict[str, LayerTasks]

    def __init__(
        self, share: float = 0.5, census: Census | None = None, n_draws: int = 1000, random_state: int = 0
    ) -> None:
        self.share = share
        self.census = census
        self.n_draws = n_draws
        self.random_state = random_state

    def fit(self, populations: Mapping[str, Population], x: object) -> Transfer:
        """Take one census of all members.

        Parameters
        ----------
        populations : by task, two or more, each of two members or more; they may differ in widths and outputs alone.
        x : inputs (n, ...) without labels, at least as many rows as a member has units in a layer.

        Raises
        ------
        InputError : also if inputs differ in shape, or networks do not end in one linear layer.
        """
        check_number("share", self.share, least=0, most=1)
        check_count("n_draws", self.n_draws)
        check_seed("random_state", self.random_state)
        if self.census is not None and not isinstance(self.census, Census):
            raise InputError(f"census must be a consilience.Census, got {describe(self.census)}")
        if x is None:
            raise InputError("x must be inputs without labels, got none", cure="pass inputs of any of the tasks")
        joint = joint_population(populations)
        readout_of(joint.architecture)
        inputs = as_inputs(joint, x, "x")
        for layer in joint.architecture.free:
            widest = max(joint.widths(layer.name))
            if len(inputs) < widest:
                wanted = f"at least as many rows as a member has units in layer '{layer.name}', {widest}"
                raise InputError(f"x must have {wanted}, got {len(inputs)}", cure="pass more inputs")
        own = Census(n_resamples=0, random_state=self.random_state) if self.census is None else copy.copy(self.census)
        self.tasks_, self.census_ = tuple(populations), own.fit(joint, inputs)
        sizes = [len(population) for population in populations.values()]
        self.member_task_ = np.repeat(np.arange(len(sizes)), sizes)
        random = numpy_generator(self.random_state, PERMUTED_TASKS)
        self.layers_ = {
            name: layer_tasks(ownership(layer), self.member_task_, self.tasks_, self.share, self.n_draws, random)
            for name, layer in own.layers_.items()
        }
        return self

    def trunk(self, clusters: str = "invariant", width: Width = "1x") -> Trunk:
        """Return hidden layers made of the most "invariant" clusters of each layer, the "least-invariant", or "all".

        ``width`` is how many of the first two: a number, or a multiple of the members' median width such as "1x".
        """
        self._check_fitted()
        check_choice("clusters", clusters, TRUNKS)
        chosen = {}
        for name, layer in self.layers_.items():
            order = layer.order[::-1] if clusters == "least-invariant" else layer.order
            number = resolve_width(width, self.census_.population_.median_width(name), "width")
            taken = order if clusters == "all" else order[:number]
            chosen[name] = np.isin(np.arange(len(order)), taken)
        return trunk_of_clusters(self.census_, chosen, f"{clusters} clusters")

    def adapt(self, x: Any, y: object, clusters: str = "invariant", width: Width = "1x") -> nn.Module:
        """Return a network for a new task: a trunk and a linear readout fitted to labelled rows in closed form.

        Parameters
        ----------
        x, y : rows (n, ...) of the new task, with labels (n,) or numbers (n, o).
        clusters, width : the trunk's.

        Returns
        -------
        A plain module of the members' class, in eval mode. Classes are the largest output.
        """
        trunk = self.trunk(clusters, width)
        inputs = as_inputs(self.census_.population_, x, "x")
        targets = as_targets(y, len(inputs), "y")
        if not targets.is_floating_point():
            targets = functional.one_hot(targets).to(inputs.dtype)
        mean, spread = standardization(trunk.features(self.calibration_))
        head = fit_head(trunk.features(inputs), targets, mean, spread)
        return with_head(self.census_.population_.members[0].module, trunk.networks[0], head)

    @property
    def calibration_(self) -> Tensor:
        """The inputs of the census."""
        self._check_fitted()
        assert self.census_.calibration_ is not None
        return self.census_.calibration_

    def _check_fitted(self) -> None:
        if not hasattr(self, "layers_"):
            raise InputError("transfer must be fitted, got one that is not", cure="call fit first")
