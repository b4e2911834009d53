"""The state dict in what somebody's checkpoint file holds, by the names that a module expects.

- Tensors in nested mappings get dotted names, without the parts that wrappers put into names.
- A *candidate* is a prefix under which all names that the module expects are: of a key, of the attribute of a trainer
  that held the module, of both. The weights themselves come before their average, and the average before a teacher;
  ``key`` chooses.
- What is left over is ignored if it lies elsewhere, or belongs to a loss, a teacher or the like; otherwise the module
  is of another architecture, and the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from consilience.errors import ArtefactError
from consilience.units.modules import first_names

SOURCE = "the file"  # its name stands before the reason
CURE = "save its state_dict with safetensors"
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|avg|average|averaged|averaging|shadow|polyak)(?:[._]|$)", re.IGNORECASE)
OTHER = re.compile(r"(?:^|[._])(?:teacher|target|momentum|loss|criterion|discriminator)(?:[._]|$)", re.IGNORECASE)
LEFT_OVER = re.compile(
    r"(?:.*_)?(?:loss|losses|criterion|teacher|metrics?|accuracy|ema|optimizer|scheduler|n_averaged|initted|num_updates)(?:_.*)?",
    re.IGNORECASE,
)
COMPUTED_FROM = ({"orig", "mask"}, {"g", "v"}, {"orig", "u", "v"})  # by pruning, weight norm, spectral norm
DEEPEST = 8  # nested mappings
LARGEST_EXPANDED = 2**24  # bytes of a tensor whose values share memory; more of them would be made by reading it


@dataclass(frozen=True)
class FoundState:
    """A state dict, and what finding it took.

    Attributes
    ----------
    state : tensors by the names that the module expects, and those that it does not expect.
    found_under : keys under which the mapping lies, joined by dots.
    prefix_removed : what was removed from its names.
    also_fits : other prefixes under which all expected names are.
    ignored : names of tensors beside them that are not used.
    """

    state: dict[str, Tensor]
    found_under: str = ""
    prefix_removed: str = ""
    also_fits: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def steps(self) -> dict[str, str]:
        """What finding it took, as a population's provenance has it."""
        steps = {"found_under": self.found_under, "prefix_removed": self.prefix_removed}
        steps |= {"also_fits": ", ".join(self.also_fits), "ignored": ", ".join(self.ignored)}
        return {step: text for step, text in steps.items() if text}


@dataclass(frozen=True, eq=False)
class _Entry:
    """A tensor of a file: the keys of the mapping it lies in, its name there, and that name without wrappers."""

    keys: tuple[str, ...]
    name: str
    plain: str
    value: Tensor

    @property
    def path(self) -> str:
        return ".".join((*self.keys, self.plain))


def find_state(content: object, module: nn.Module, key: str | None = None) -> FoundState:
    """Return the state dict of a module in the content of a file; raise if there is none, or several.

    ``key`` is a key of the file, or an attribute in names, under which the weights lie.
    """
    expected = module.state_dict()
    parts = {part for name in expected for part in name.split(".")}
    entries = _with_computed(_entries(content, WRAPPERS - parts), expected)
    by_path: dict[str, _Entry] = {}
    for entry in entries:
        by_path.setdefault(entry.path, entry)
    first = first_names(module)
    prefixes = {
        path.removesuffix(name) for path in by_path for name in expected if path == name or path.endswith(f".{name}")
    }
    coverage = {p: sum(f"{p}{name}" in by_path for name in expected) for p in prefixes}
    fitting = sorted(p for p in prefixes if _fits(p, by_path, expected, first))
    if key is not None:
        chosen = [p for p in prefixes if f".{key.strip('.')}." in f".{p}"]
        fitting, coverage = [p for p in fitting if p in chosen], {p: coverage[p] for p in chosen}
    if not coverage:
        raise _nothing(content, expected, key)
    if not fitting:
        best = min(coverage, key=lambda p: (-coverage[p], p))
        return _state(best, by_path, expected, (), {best})
    rank = {p: 2 * bool(OTHER.search(p)) + bool(AVERAGE.search(p)) for p in fitting}
    fitting.sort(key=lambda p: (rank[p], p))
    taken = [p for p in fitting if rank[p] == rank[fitting[0]]]
    if not all(_equal(taken[0], p, by_path, expected) for p in taken):
        got = " and ".join(repr(_label(p)) for p in taken)
        raise ArtefactError(f"{SOURCE} must hold one state dict that fits, got {got}", cure="choose one by key=")
    return _state(taken[0], by_path, expected, fitting[len(taken) :], prefixes)


def check_own_values(name: str, value: Tensor) -> None:
    """Raise if a tensor is much larger than the values that it is made of, before anything is computed with it."""
    if _is_expanded(value):
        stored = value.untyped_storage().nbytes() // value.element_size()
        got = f"{tuple(value.shape)} expanded from {stored}"
        raise ArtefactError(f"'{name}' must have values of its own, got {got}", cure="save its clone()")


def _entries(content: object, wrappers: set[str], keys: tuple[str, ...] = ()) -> Iterator[_Entry]:
    for name, value in content.items() if isinstance(content, Mapping) and len(keys) < DEEPEST else ():
        if isinstance(name, str) and isinstance(value, Tensor):
            plain = ".".join(part for part in name.split(".") if part not in wrappers)
            yield _Entry(keys, name, plain or name, value)
        elif isinstance(name, str):
            yield from _entries(value, wrappers, (*keys, name))


def _with_computed(entries: Iterator[_Entry], expected: Mapping[str, Tensor]) -> list[_Entry]:
    """Put weights in place of what pruning, weight norm and spectral norm compute them from, unless it is expected."""
    listed = list(entries)
    groups: dict[tuple[tuple[str, ...], str], dict[str, _Entry]] = {}
    for entry in listed:
        old = re.fullmatch(r"(.*)_(orig|mask|g|v|u)", entry.plain)
        new = re.fullmatch(r"(.*?)parametrizations\.(\w+)\.(original[01]?|0\._[uv])", entry.plain)
        if new:
            role = {"original": "orig", "original0": "g", "original1": "v", "0._u": "u", "0._v": "v"}[new[3]]
            groups.setdefault((entry.keys, new[1] + new[2]), {})[role] = entry
        elif old and entry.plain not in expected:
            groups.setdefault((entry.keys, old[1]), {})[old[2]] = entry
    for (keys, name), roles in groups.items():
        t = {role: entry.value for role, entry in roles.items()}
        if not any(parts <= t.keys() for parts in COMPUTED_FROM):
            continue
        for entry in roles.values():
            check_own_values(entry.name, entry.value)
        if any(value.layout != torch.strided or value.dim() == 0 or value.is_quantized for value in t.values()):
            continue
        if {"orig", "mask"} <= t.keys() and t["orig"].shape == t["mask"].shape:
            value = t["orig"] * t["mask"]
        elif {"g", "v"} == t.keys() and t["g"].numel() in (1, t["v"].shape[0]):
            value = torch._weight_norm(t["v"], t["g"], 0)
        elif {"orig", "u", "v"} <= t.keys() and t["orig"].dim() > 1:
            rows = t["orig"].flatten(1)
            if t["u"].shape != rows.shape[:1] or t["v"].shape != rows.shape[1:]:
                continue
            value = t["orig"] / (t["u"] @ rows @ t["v"])
        else:
            continue
        used = {*roles.values()}
        listed = [entry for entry in listed if entry not in used]
        listed.append(_Entry(keys, name, name, value))
    return listed


def _fits(prefix: str, by_path: Mapping[str, _Entry], expected: Mapping[str, Tensor], first: Mapping[str, str]) -> bool:
    present = {first.get(name, name) for name in expected if f"{prefix}{name}" in by_path}
    for name, value in expected.items():
        entry = by_path.get(f"{prefix}{name}")
        if entry is None:
            if first.get(name, name) not in present and not name.endswith("num_batches_tracked"):
                return False
        elif entry.value.dim() != value.dim():
            return False
    return True


def _equal(a: str, b: str, by_path: Mapping[str, _Entry], expected: Mapping[str, Tensor]) -> bool:
    pairs = [(by_path.get(a + name), by_path.get(b + name)) for name in expected]
    return all(
        one is two
        or (
            one is not None
            and two is not None
            and one.value.shape == two.value.shape
            and _same_values(one.value, two.value)
        )
        for one, two in pairs
    )


def _same_values(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and not _is_expanded(one) and not _is_expanded(two) and torch.equal(one, two)


def _is_expanded(value: Tensor) -> bool:
    size = value.numel() * value.element_size()
    return size > LARGEST_EXPANDED and value.layout == torch.strided and size > value.untyped_storage().nbytes()


def _address(value: Tensor) -> int | None:
    return value.data_ptr() if value.layout == torch.strided and not value.is_meta and value.numel() else None


def _state(
    prefix: str,
    by_path: Mapping[str, _Entry],
    expected: Mapping[str, Tensor],
    others: tuple[str, ...] | list[str],
    prefixes: set[str],
) -> FoundState:
    entries = {path.removeprefix(prefix): e for path, e in by_path.items() if path.startswith(prefix)}
    used = {name: entries[name] for name in expected if name in entries}
    mappings = {entry.keys for entry in used.values()}
    memory = {(_address(entry.value), entry.value.shape) for entry in used.values()}
    own, ignored = {name.partition(".")[0] for name in expected}, list[str]()
    state = {name: entry.value for name, entry in used.items()}
    elsewhere = tuple(p.removeprefix(prefix) for p in prefixes if p.startswith(prefix) and p != prefix)
    for name, entry in entries.items():
        if name in used or entry.keys not in mappings:
            continue
        top = name.partition(".")[0]
        again = (_address(entry.value), entry.value.shape) in memory  # one tensor under two names
        if again or (top not in own and (name.startswith(elsewhere) or LEFT_OVER.fullmatch(top))):
            ignored.append(name)
        else:
            state[name] = entry.value
    ignored += [e.name for path, e in by_path.items() if e.keys in mappings and not path.startswith(prefix)]
    keys, removed = _label(prefix), ""
    if len(mappings) == 1:
        name, anchor = next(iter(used.items()))
        raw = anchor.name if anchor.name.endswith(name) else anchor.plain
        keys, removed = ".".join(anchor.keys), raw.removesuffix(name)
        parts = [
            {part for text in texts for part in text.split(".")} for texts in ((e.name for e in used.values()), used)
        ]
        inside = parts[0] - parts[1] - {*removed.split(".")}  # wrappers of parts
        removed = ", ".join([removed] * bool(removed) + [f"{part}." for part in sorted(inside)])
    return FoundState(state, keys, removed, tuple(_label(p) for p in others), tuple(ignored))


def _label(prefix: str) -> str:
    return prefix.removesuffix(".")


def _nothing(content: object, expected: Mapping[str, Tensor], key: str | None) -> ArtefactError:
    got = _some(content) if isinstance(content, Mapping) else type(content).__name__
    where = "" if key is None else f" under {key!r}"
    names = f"tensors by the module's names{where}, {_some(expected)}"
    message = f"{SOURCE} must hold {names}, in a mapping or mappings in it, got {got}"
    return ArtefactError(message, cure=CURE if key is None else "leave key out, or name another")


def _some(names: Mapping[str, object]) -> str:
    quoted = [f"'{name}'" for name in names]
    return ", ".join(quoted[:5] + ["..."] * (len(quoted) > 5)) or "no names"
