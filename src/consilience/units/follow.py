"""The layers of any module, traced as the package sees it: in plain form, with its parameters written out."""

from __future__ import annotations

from torch import nn

from consilience.units.architecture import Architecture
from consilience.units.inputs import one_tensor
from consilience.units.layers import layers_of
from consilience.units.modules import as_example, plain_copy
from consilience.units.outputs import Pick, check_pick
from consilience.units.written_out import write_out


def find_layers(module: nn.Module, example_input: object, output: Pick = None) -> Architecture:
    """Trace ``module`` on ``example_input`` (n, ...), or a dict or tuple of such tensors, and return its layers.

    ``output`` is the key or number of the outputs in what the module returns, by default all.

    Raises
    ------
    TracingError : an operation is not supported (the message names it), or the outputs of a sample depend on others.
    """
    check_pick(output)
    module = plain_copy(module, "module").eval()
    x = as_example(one_tensor([module], example_input))
    write_out([module], x, output)
    return layers_of(module, x, output)
