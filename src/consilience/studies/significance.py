"""The significance of a census as commands show it: of every layer where it can be measured in a minute or two."""

from __future__ import annotations

import consilience as cs
from consilience.census import Significance
from consilience.census.significance import is_cheap
from consilience.errors import InputError

OF_HEADS = "mixtures of heads are not like heads"


def measured_significance(census: cs.Census) -> tuple[dict[str, Significance], dict[str, str]]:
    """Return the significance by layer, and for the other layers why it was not measured."""
    measured, reasons = dict[str, Significance](), dict[str, str]()
    has_insides = census.population_.architecture.has_insides
    for name, layer in census.layers_.items():
        if has_insides(name):
            reasons[name] = OF_HEADS
            continue
        if not is_cheap(layer):
            reasons[name] = "it takes more than a few minutes; Census.significance measures it"
            continue
        try:
            measured |= census.significance([name])
        except InputError as error:
            reasons[name] = error.message
    return measured, reasons
