"""Numbers that modules keep of their own sizes, which follow the widths of a resized copy.

Modules of torch have them by class. Others, as people write attention, have them by name: a number is changed if it
has one of these names and is the size of one of the layers that the module's weights read or write. Whether the copy
runs is checked where it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from consilience.units.architecture import Architecture
from consilience.units.axes import Section, length
from consilience.units.maps import Map

# Attributes that hold a module's own sizes, which follow the shape of its weight. The groups of a depthwise convolution
# are set first: with them, the weight's second dimension is the channels of one group.
SIZE_ATTRIBUTES: dict[type[nn.Module], dict[str, Callable[[Any], object]]] = {
    nn.Linear: {"out_features": lambda m: m.weight.shape[0], "in_features": lambda m: m.weight.shape[1]},
    nn.Embedding: {"embedding_dim": lambda m: m.weight.shape[1]},
    nn.modules.conv._ConvNd: {
        "out_channels": lambda m: m.weight.shape[0],
        "in_channels": lambda m: m.weight.shape[1] * m.groups,
    },
    nn.modules.conv._ConvTransposeNd: {
        "out_channels": lambda m: m.weight.shape[1] * m.groups,
        "in_channels": lambda m: m.weight.shape[0],
    },
    nn.modules.batchnorm._NormBase: {"num_features": lambda m: m.weight.shape[0]},
    nn.LayerNorm: {"normalized_shape": lambda m: tuple(m.weight.shape)},
    nn.RMSNorm: {"normalized_shape": lambda m: tuple(m.weight.shape)},
    nn.GroupNorm: {"num_channels": lambda m: m.weight.shape[0]},
    nn.PReLU: {"num_parameters": lambda m: m.weight.shape[0]},
}
HEADS = (
    *("num_heads", "n_heads", "n_head", "nhead", "heads", "h", "num_attention_heads"),
    *("n_q_heads", "num_query_heads", "n_local_heads"),
)
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads", "n_kv_head", "n_local_kv_heads")
SIZES = (
    *("embed_dim", "hidden_size", "hidden_dim", "d_model", "dim", "n_embd", "width", "kdim", "vdim", "channels"),
    *("intermediate_size", "n_inner", "d_ff"),
)
OUTPUTS = ("out_chs", "out_channels", "out_features", "out_dim")  # of what a module returns
WRITTEN, READ = ("nf",), ("nx",)  # of a weight that is stored transposed
ALL_HEADS = ("split_size", "all_head_size", "attn_dim", "inner_dim", "q_dim", "kv_dim")  # where heads are side by side
FEATURES = (  # of one head, which stay where a single head is as wide as a part into which a module cuts units
    *("head_dim", "head_size", "head_width", "head_features", "attention_head_size"),
    *("dim_head", "dim_per_head", "d_head", "d_k", "d_v"),
)

Cut = tuple[str, tuple[tuple[Section, ...], ...]]  # see `Architecture.cuts`


def set_sizes(module: nn.Module, old: Architecture, new: Architecture) -> None:
    """Set the sizes that the parts of a resized module keep, from those of one architecture to those of another."""
    for m in old.maps:
        part = module.get_submodule(m.weight.rpartition(".")[0])
        if m.per_unit and isinstance(part, nn.modules.conv._ConvNd):
            part.groups = part.weight.shape[0]
    for path, part in module.named_modules():
        classes = [kind for kind in SIZE_ATTRIBUTES if isinstance(part, kind)]
        for kind in classes:
            if isinstance(getattr(part, "weight", None), Tensor):
                for attribute, size in SIZE_ATTRIBUTES[kind].items():
                    setattr(part, attribute, size(part))
        if isinstance(part, nn.RNNBase):
            part.hidden_size = part.get_parameter("weight_hh_l0").shape[1]
            part.input_size = part.get_parameter("weight_ih_l0").shape[1]
        if not classes:
            was = dict(vars(part))
            _set_named(part, [m for m in old.maps if m.weight.startswith(f"{path}." if path else "")], old, new)
            left = [
                name for name, value in was.items() if vars(part)[name] is value and not isinstance(part, nn.RNNBase)
            ]
            _set_cuts(part, left, [cut for cut in old.cuts if cut[0] == path], old, new)


def _set_cuts(part: nn.Module, names: list[str], cuts: list[Cut], old: Architecture, new: Architecture) -> None:
    """Set the sizes of parts into which a module cuts units, and of all together, in some of its attributes.

    What a module returns is one part: a cut that takes all is no operation.
    """
    changed, whole = dict[int, int](), dict[tuple[int, ...], list[int]]()
    returned = dict[int, int]()
    for _, parts in cuts:
        before, after = ([sum(length(section, own.widths) for section in part) for part in parts] for own in (old, new))
        if len(parts) == 1:
            returned[before[0]] = after[0]
            continue
        changed |= dict(zip(before, after, strict=True))
        changed[sum(before)] = sum(after)
        whole[tuple(before)] = after
    for name in names:
        value = vars(part)[name]
        if name in FEATURES:
            continue
        if type(value) is int and value > 1 and value in changed:
            setattr(part, name, changed[value])
        elif type(value) is int and name in OUTPUTS and value in returned:
            setattr(part, name, returned[value])
        elif type(value) in (list, tuple) and all(type(size) is int for size in value) and tuple(value) in whole:
            setattr(part, name, type(value)(whole[tuple(value)]))


def _set_named(part: nn.Module, maps: list[Map], old: Architecture, new: Architecture) -> None:
    pairs = list(_sizes(maps, old, new))
    was = dict(vars(part))
    kinds = {"size": (*SIZES, *ALL_HEADS), "all heads": ALL_HEADS, "heads": HEADS, "key heads": KEY_HEADS}
    kinds |= {"written": WRITTEN, "read": READ}
    for kind, names in kinds.items():
        for name in names:
            value = was.get(name)
            changed = {after for what, before, after in pairs if what == kind and before == value}
            if type(value) is int and len(changed) == 1:
                setattr(part, name, changed.pop())
    shape = was.get("shape")
    if type(shape) is tuple and shape and set(shape[1:]) <= {1}:  # of a gain: (units, 1, 1)
        changed = {after for what, before, after in pairs if what == "size" and before == shape[0]}
        if len(changed) == 1:
            setattr(part, "shape", (changed.pop(), *shape[1:]))  # noqa: B010


def _sizes(maps: list[Map], old: Architecture, new: Architecture) -> Iterator[tuple[str, int, int]]:
    """Yield what sizes there are around some maps, and each at both widths."""
    for m in maps:
        for dim in (0, 1):
            sections = old.divided.get((m.weight, dim), ())
            before, after = (sum(length(section, own.widths) for section in sections) for own in (old, new))
            yield "size", before, after
            yield "written" if dim == m.dim else "read", before, after
        for axis in (m.output, *m.inputs):
            if axis.layer is None:
                continue
            before, after = old.widths[axis.layer], new.widths[axis.layer]
            yield "size", before * axis.inside, after * axis.inside
            if axis.inside > 1:
                least = min(own.output.inside for own in maps if own.output.inside > 1 or own is m)
                yield "heads", before * axis.inside // least, after * axis.inside // least
                yield "key heads", before, after
                yield "all heads", before * axis.inside, after * axis.inside
