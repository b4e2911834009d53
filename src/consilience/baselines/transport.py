"""Average of members of any widths that are aligned to an anchor by optimal transport between their units.

Axis legend: ``k`` member, ``u`` unit of a member, ``c`` unit of the anchor, ``n`` sample.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye_array, kron, vstack
from torch import Tensor, nn

from consilience.baselines.fuse import basis_from, check_fusion, fuse, needed, placed
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection, hyperplanes
from consilience.checks import check_choice, check_count
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.ties import rounded
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis

GROUNDS = ("weights", "activations")


def transport_fusion(
    population: Population,
    *,
    reference: int | None = None,
    ground: str = "weights",
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Average the members after transporting each onto an anchor, layer by layer from the inputs up (OT fusion).

    For each member T (u, c) is the optimal transport plan between its units and the anchor's, with uniform marginals
    α = 1/u and β = 1/c, for the Euclidean distance between

    - "weights": hyperplanes ``[w P; b]``, their incoming weights aligned to the anchor's layer below;
    - "activations": activations on calibration data.

    Then ``W̃ = (1/N) Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾`` with ``A = T diag(1/β)``: an anchor's unit is a mean of the units sent to it;
    and ``P = diag(1/α) T``: a unit is read as a mean of the anchor's units that it was sent to. Source: Singh & Jaggi
    2020, Algorithm 1. It has ``T diag(1/β)`` in both places, which is the same for equal widths; for others its rows
    sum to c/u, not 1, which multiplies what a unit reads by that factor.

    Parameters
    ----------
    population : members of any widths.
    reference : index of the anchor, whose widths the result has; by default the member with most hidden units.
    ground : "weights" or "activations".
    correction, calibration, pooling : as in `consilience.assemble`; "activations" always needs calibration data.
    random_state : seed of a distillation.
    """
    check_choice("ground", ground, GROUNDS)
    x = needed(calibration) if ground == "activations" else None
    calibration = check_fusion(population, correction, calibration, pooling)
    reference = widest(population) if reference is None else reference
    check_count("reference", reference, least=0, most=len(population) - 1)
    bases = transport_bases(population, reference, x)
    return fuse(
        population, bases, correction=correction, calibration=calibration, pooling=pooling, random_state=random_state
    )


def widest(population: Population) -> int:
    """Return the index of the member with most hidden units, the first of those that tie."""
    sizes = [sum(layer.width for layer in network.architecture.free) for network in population.networks]
    return sizes.index(max(sizes))


def transport_bases(population: Population, reference: int, x: Tensor | None) -> dict[str, Basis]:
    """Return the basis of each hidden layer: the anchor's units, with distances in weights or, given x, activations."""
    anchor, dtype = population.networks[reference], population.dtype
    bases: dict[str, Basis] = {}
    responses = None if x is None else Responses(population.networks, x)
    for layer in anchor.architecture.free:
        mixing, reading = [], []
        for k, network in enumerate(population.networks):
            if k == reference:
                cost = 1 - torch.eye(layer.width, dtype=torch.float64)
            elif responses is None:
                below = {axis: (p[reference], p[k]) for axis, p in placed(anchor.architecture, bases).items()}
                cost = _between_hyperplanes(anchor, network, layer.name, below)
            else:
                mine, theirs = (responses.read_units(layer.name)[i].double().T for i in (k, reference))
                cost = torch.cdist(mine, theirs)
            plan = transport(cost).to(dtype)
            mixing.append(plan / plan.sum(0) / len(population))
            reading.append(plan / plan.sum(1, keepdim=True))
        bases[layer.name] = basis_from(mixing, reading)
    return bases


def transport(cost: Tensor) -> Tensor:
    """Return the plan T (u, c) that minimizes ``⟨cost, T⟩``, T ≥ 0, with rows summing to 1/u and columns to 1/c.

    Exact: an assignment where u = c, for then a plan at a vertex is a permutation; a linear program elsewhere.
    """
    n_units, n_anchor = cost.shape
    prices = rounded(cost.numpy())
    if n_units == n_anchor:
        rows, columns = linear_sum_assignment(prices)
        plan = torch.zeros_like(cost)
        plan[rows, columns] = 1 / n_units
        return plan
    # In units of 1/(u·c) all masses are whole numbers.
    rows, columns = kron(eye_array(n_units), np.ones((1, n_anchor))), kron(np.ones((1, n_units)), eye_array(n_anchor))
    masses = np.concatenate([np.full(n_units, n_anchor), np.full(n_anchor, n_units)])
    solution = linprog(prices.ravel(), A_eq=vstack([rows, columns]).tocsr(), b_eq=masses, method="highs-ds")
    return torch.from_numpy(np.round(solution.x)).view_as(cost).to(cost.dtype) / (n_units * n_anchor)


def _between_hyperplanes(
    anchor: TracedNetwork, network: TracedNetwork, layer: str, below: dict[Axis, tuple[Projection, Projection]]
) -> Tensor:
    """Euclidean distances (u, c) of a member's hyperplanes from the anchor's, both on the anchor's units below."""
    both = hyperplanes([anchor, network], layer, below)
    points = both.augmented.double()
    return torch.cdist(points[both.member == 1], points[both.member == 0])
