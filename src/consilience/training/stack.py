"""Members of one architecture as one function of stacked parameters.

- Members are put into one `Stack` when they are of the same class and agree in every setting and in the names, shapes
  and types of their parameters and buffers. Then each member's own outputs on a few samples are compared with those of
  the stack, because settings do not show everything (a lambda, a tensor attribute); members that differ get another.
- The modules given are copied, never changed.
- Running statistics of batch normalization are each member's own; training changes them as it would those of a module.
- Members are run all at once by `torch.func.vmap`. On a CPU it makes k convolutions into a grouped one, which is fast
  for small maps only; for larger ones, members with convolutions are run in turn, with channels last in memory where
  that is safe (`_layout`). Results are equal to rounding. Seconds for one step of 8 members with batch norm and 128
  images for each, on one core of an AMD EPYC (Zen 3):

      | members                                    | at once | in turn | channels last | loop over modules |
      | ConvNet (16, 32, 64), 3 × 32 × 32 pixels   |    1.24 |    0.57 |          0.35 |              0.60 |
      | ResNet-8 (8, 16, 32), 3 × 32 × 32 pixels   |    1.57 |    0.65 |        unsafe |              0.63 |
      | ResNet-8 (16, 32, 64), 3 × 32 × 32 pixels  |    4.65 |    1.74 |          1.31 |              1.64 |

  Members with attention are run in turn on a CPU, where vmap has no rule for its kernels and loops itself.

Axis legend: ``k`` member, ``n`` sample.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from consilience.checks import describe
from consilience.errors import InputError
from consilience.units.same import same_outputs, settings

PROBE = 32  # samples for the comparison of functions: enough that most units are on for some and off for others
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Samples × positions of one step from which k convolutions on a CPU are faster than a grouped one. With 8 members, 2 or
# 3 layers of 4 to 32 channels, 8 × 8 to 28 × 28 pixels and batches of 32 and 128, the two cross between 2^13 and 2^15.
POSITIONS_IN_TURN = 2**14
ATTENTION = (  # kernels without a rule of vmap, the last two of torch's own layers in eval mode
    "aten::_scaled_dot_product",
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Stack:
    """K members of one architecture; tensors (k, ...) by name."""

    positions: tuple[int, ...]  # where each member stands in the list of modules it came from
    template: nn.Module  # the function they share; a copy whose own parameters are not used
    trainable: dict[str, Tensor]
    constant: dict[str, Tensor]  # parameters without requires_grad, and buffers
    statistics: dict[str, Tensor]  # running statistics of batch normalization
    layout: torch.memory_format | None  # of a batch in memory when members are run in turn; None if they run at once
    example_output: Tensor  # outputs of the first member for a few samples

    @property
    def name(self) -> str:
        """The first member, for errors."""
        return _name(self.positions[0], self.template)

    def outputs(self, x: Tensor, *, separate: bool = False, statistics: dict[str, Tensor] | None = None) -> Tensor:
        """Map inputs (n, ...), or if ``separate`` one batch for each member (k, n, ...), to outputs (k, n, ...).

        While the template is in train mode, ``statistics`` (by default the stack's own) are changed in place.
        """
        tensors = {**self.trainable, **self.constant, **(self.statistics if statistics is None else statistics)}

        def member(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.template, tensors, (x,))
            return outputs

        if self.layout is None:
            run: Callable[..., Tensor] = vmap(member, in_dims=(0, 0 if separate else None), randomness="different")
            return run(tensors, x)
        batches = [batch.contiguous(memory_format=self.layout) for batch in (x if separate else x[None])]
        rows = zip(*(value.unbind() for value in tensors.values()), strict=True)
        return torch.stack(
            [member(dict(zip(tensors, row, strict=True)), batches[k if separate else 0]) for k, row in enumerate(rows)]
        )

    def rehearse(self, x: Tensor) -> None:
        """Run inputs (n, ...) in train mode, so that what cannot be trained on them raises; nothing changes."""
        with torch.no_grad(), torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            self.outputs(x, statistics={name: value.clone() for name, value in self.statistics.items()})

    def state(self, row: int, module: nn.Module) -> dict[str, Tensor]:
        """Return the state dict of member ``row``, with the keys of ``module`` (the one it was stacked from)."""
        tensors = [*module.named_parameters(), *module.named_buffers()]
        shared = {id(value): name for name, value in tensors}  # the first name of what is tied
        aliases = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        stacked = {**self.trainable, **self.constant, **self.statistics}
        values = {alias: stacked[shared[id(value)]][row] for alias, value in aliases}
        return {key: values.get(key, value).detach().clone() for key, value in module.state_dict().items()}


def stack_members(modules: Sequence[nn.Module], x: Tensor, batch_size: int) -> list[Stack]:
    """Group modules by architecture and by function on the first of the inputs x (n, ...); modules are not changed.

    Raises an `InputError` if a module cannot be trained in a stack, or computes something else in it than alone.
    """
    probe = x[:PROBE]
    groups: dict[object, list[int]] = {}
    alone = []
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        for position, module in enumerate(modules):
            alone.append(_outputs_alone(position, module, probe))
            groups.setdefault(_signature(module), []).append(position)
        positions = min(batch_size, len(x)) * math.prod(x.shape[2:])
        split = (_split_by_function(modules, group, alone, probe, positions) for group in groups.values())
        return list(chain.from_iterable(split))


def _signature(module: nn.Module) -> object:
    parameters = tuple((name, p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters())
    buffers = tuple((name, b.shape, b.dtype) for name, b in module.named_buffers())
    return type(module), module.training, parameters, buffers, settings(module)


def _outputs_alone(position: int, module: nn.Module, probe: Tensor) -> Tensor:
    name = _name(position, module)
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError(f"{name} must have parameters to train, got none")
    devices = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers(), probe)}
    if len(devices) > 1:
        raise InputError(f"{name} must be on one device with x, got {sorted(devices)}", cure="move all to one device")
    for path, part in module.named_modules():
        if isinstance(part, BATCH_NORMS) and part.track_running_stats and part.momentum is None:
            message = f"{path} of {name} must have a number as momentum, got None"
            raise InputError(message, cure="set 0.1, torch's default")
    twin = copy.deepcopy(module)
    try:
        outputs = twin.eval()(probe)
        before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
        if before:
            twin.train()(probe)
    except Exception as error:
        cure = "pass inputs of the shape and type that the member was made for"
        raise InputError(f"{name} must take inputs x, got {describe(probe)}: {first_line(error)}", cure=cure) from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"{name} must return a tensor, got {describe(outputs)}")
    statistics = _statistics(module)
    for key, buffer in twin.named_buffers():
        if key not in statistics and not torch.equal(buffer.nan_to_num(), before[key].nan_to_num()):
            wanted = "constant or statistics of a batch norm"
            raise InputError(f"buffers of {name} must be {wanted}, got {key!r} that changes during training")
    return outputs


def _statistics(module: nn.Module) -> set[str]:
    norms = [path for path, part in module.named_modules() if isinstance(part, BATCH_NORMS)]
    return {f"{path}.{name}".removeprefix(".") for path in norms for name in STATISTICS}


def _split_by_function(
    modules: Sequence[nn.Module], group: list[int], alone: list[Tensor], probe: Tensor, positions: int
) -> list[Stack]:
    stacks = []
    while group:
        stack = _stack(modules, group, alone, probe, positions)
        try:
            together = stack.outputs(probe)
            stack.template.train()
            stack.rehearse(probe)
        except Exception as error:
            got = first_line(error)
            raise InputError(f"{stack.name} must use operations that torch.func.vmap knows, got {got}") from error
        same = [same_outputs(together[row], alone[position]) for row, position in enumerate(group)]
        if not same[0]:
            wanted = "a function of its inputs alone"
            raise InputError(f"{stack.name} must compute {wanted}, got others under torch.func.vmap")
        if not all(same):
            stack = _stack(modules, [p for p, s in zip(group, same, strict=True) if s], alone, probe, positions)
            stack.template.train()
        stacks.append(stack)
        group = [p for p, s in zip(group, same, strict=True) if not s]
    return stacks


def _stack(modules: Sequence[nn.Module], group: list[int], alone: list[Tensor], probe: Tensor, positions: int) -> Stack:
    members = [modules[position] for position in group]
    parameters, buffers = stack_module_state(members)
    trains = {name for name, value in members[0].named_parameters() if value.requires_grad}
    statistics = _statistics(members[0])
    template = copy.deepcopy(members[0]).eval()
    return Stack(
        positions=tuple(group),
        template=template,
        trainable={n: v.detach().contiguous().requires_grad_() for n, v in parameters.items() if n in trains},
        constant={n: v.detach() for n, v in (parameters | buffers).items() if n not in trains | statistics},
        statistics={n: v for n, v in buffers.items() if n in statistics},
        layout=_layout(template, probe, positions),
        example_output=alone[group[0]],
    )


def _layout(template: nn.Module, probe: Tensor, positions: int) -> torch.memory_format | None:
    if probe.device.type != "cpu":
        return None
    convolutions = [part for part in template.modules() if isinstance(part, CONVOLUTIONS)]
    if not convolutions or positions < POSITIONS_IN_TURN:
        return torch.contiguous_format if _attends(template, probe) else None
    if any(_corrupts_memory(convolution) for convolution in convolutions):
        return torch.contiguous_format
    try:
        template(probe.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # the inputs are no images, or a view (x.view(len(x), -1)) asks for the ordinary layout
        return torch.contiguous_format
    return torch.channels_last


def _attends(template: nn.Module, probe: Tensor) -> bool:
    """Return whether a module uses a kernel of attention."""
    with _Operations() as operations:
        template(probe)
    return any(name.startswith(ATTENTION) for name in operations.names)


class _Operations(TorchDispatchMode):
    """The names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def _corrupts_memory(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    """Return whether oneDNN writes a convolution's gradient past its workspace if channels are last.

    It does for a 1×1 convolution with a stride and fewer channels than numbers in a vector register, 8 or 16
    (uxlfoundation/oneDNN issue 6035; torch 2.13).
    """
    pixel = math.prod(convolution.kernel_size) == 1
    return pixel and max(convolution.stride) > 1 and convolution.weight.shape[1] < 16


def _name(position: int, module: nn.Module) -> str:
    return f"modules[{position}] ({type(module).__name__})"


def first_line(error: Exception) -> str:
    """Return an error in one line, for another error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
