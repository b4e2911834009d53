"""What operations do to units: one file for each family, with a table of its operations and what handles each.

A handler gets the walk so far and an operation that reads units or parameters, and returns the label of the result:
which of its dimensions index which units. It notes in the walk what else it has seen: units that pass through an
activation, units that are one layer, weights that write new units. Operations without a handler raise an error that
names them.

To add an operation, add an entry to `HANDLERS`, with a handler of your own or one of those in this package::

    from consilience.units.operations import HANDLERS
    from consilience.units.operations.elementwise import activation

    HANDLERS[torch.ops.aten.atan.default] = activation("atan")
    HANDLERS[torch.ops.mylib.swap_axes.default] = lambda walk, node: ...

An elementwise function has the symmetries that `consilience.units.symmetry.SYMMETRIES` lists under its name, else none.
The proof of each module (`consilience.units.proof`) fails where a handler is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from consilience.units.drafts import Label
from consilience.units.operations import (
    attention,
    combinations,
    elementwise,
    embedding,
    piles,
    pooling,
    sections,
    shapes,
    weights,
)
from consilience.units.walk import Walk

Handler = Callable[[Walk, fx.Node], Label]

HANDLERS: dict[object, Handler] = {
    **weights.HANDLERS,
    **elementwise.HANDLERS,
    **pooling.HANDLERS,
    **combinations.HANDLERS,
    **shapes.HANDLERS,
    **sections.HANDLERS,
    **piles.HANDLERS,
    **attention.HANDLERS,
    **embedding.HANDLERS,
}
