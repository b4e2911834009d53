"""Cross-cluster modularity of weight matrices by the names of their parameters: nothing is traced.

It is for matrices that do not lie between layers of units, such as those of queries and keys, and for layers of other
libraries. The rows of a matrix are the first axis of its tensor, whatever that stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from numpy.typing import ArrayLike
from torch import Tensor, nn

from consilience.checks import describe
from consilience.errors import InputError
from consilience.modularity.cross import within_clusters
from consilience.modularity.unit_labels import Labels, checked_labels
from consilience.units.modules import unwrapped

Matrices: TypeAlias = Mapping[str, tuple[ArrayLike | Tensor, ArrayLike | Tensor]]  # name → clusters of rows, columns


def matrix_modularity(module: nn.Module, matrices: Matrices) -> dict[str, float]:
    """Return C of weight matrices, the share of their squares that is within clusters; NaN for one that is zero.

    A matrix without clusters has the share of its entries that is within them: 1/k, with k equal clusters.

    Parameters
    ----------
    module : any module.
    matrices : name of a parameter (u, i) → clusters of its rows (u,) and of its columns (i,), −1 for none.

    Examples
    --------
    >>> import torch
    >>> net = nn.Linear(4, 2, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]))
    >>> matrix_modularity(net, {"weight": ([0, 1], [0, 0, 1, 1])})
    {'weight': 0.75}
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module must be an nn.Module, got {describe(module)}")
    parameters = dict(unwrapped(module, "module").named_parameters())
    return {
        name: within_clusters(matrix_in(parameters, name, sides).detach().double().cpu().numpy(), *sides)
        for name, sides in checked_sides(matrices).items()
    }


def checked_sides(matrices: Matrices) -> dict[str, tuple[Labels, Labels]]:
    """Return the clusters of rows (u,) and columns (i,) of each matrix, or raise."""
    if not isinstance(matrices, Mapping) or not matrices:
        wanted = "a mapping from names of parameters to the clusters of rows and columns"
        got = "an empty one" if isinstance(matrices, Mapping) else describe(matrices)
        raise InputError(f"matrices must be {wanted}, got {got}")
    checked = {}
    for name, sides in matrices.items():
        if not isinstance(sides, tuple | list) or len(sides) != 2:
            raise InputError(f"matrices[{name!r}] must be clusters of rows and of columns, got {describe(sides)}")
        rows, columns = (checked_labels(f"matrices[{name!r}]", None, side) for side in sides)
        checked[name] = rows, columns
    return checked


def matrix_in(parameters: Mapping[str, Tensor], name: str, sides: tuple[Labels, Labels]) -> Tensor:
    """Return a parameter by name, or raise unless it has the rows and columns that the clusters are of."""
    shape = tuple(map(len, sides))
    if name not in parameters or parameters[name].shape != shape:
        got = f"shape {tuple(parameters[name].shape)}" if name in parameters else "no parameter of this name"
        raise InputError(f"parameter {name!r} must have shape {shape}, with a label for each row and column, got {got}")
    return parameters[name]
