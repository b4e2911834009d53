"""A member: one network with its layers found and proved.

Tracing takes 0.2 s or more, so that members that run the same program share it. The proof is each member's own; its
fingerprint (of program, example inputs and tensors) is kept, so that a member that was proved is not proved again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from consilience.checks import describe, is_mask
from consilience.errors import ConsilienceError, InputError
from consilience.store import fingerprint
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.deviation import deviation
from consilience.units.forward import outputs_of
from consilience.units.layers import layers_of
from consilience.units.modules import plain_copy
from consilience.units.outputs import Pick
from consilience.units.precision import exact
from consilience.units.proof import TOLERANCE, prove
from consilience.units.readings import prove_readings
from consilience.units.same import same_outputs, same_program


@dataclass(frozen=True)
class Member:
    """One network of a population.

    Attributes
    ----------
    module : the network itself, in eval mode.
    network : its layers and parameters; the parameters share memory with the module.
    proof : fingerprint of what was proved, program, example inputs and tensors; empty for a member that was not.
    """

    module: nn.Module
    network: TracedNetwork
    proof: str = ""

    def __repr__(self) -> str:
        sizes = (f"{layer.name} {layer.width}" for layer in self.network.architecture.free)
        return f"<Member, a {type(self.module).__name__}: {', '.join(sizes)}>"


class StoredMember(Member):
    """A member on disk: its module is read when it is asked for, each time, and its parameters are a `StoredState`."""

    def __init__(self, read: Callable[[], nn.Module], network: TracedNetwork, proof: str) -> None:
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "proof", proof)

    def __getattr__(self, name: str) -> Any:
        if name != "module":
            raise AttributeError(name)
        read: Callable[[], nn.Module] = vars(self)["_read"]
        return read().eval()


def copies(modules: Iterable[nn.Module], first: int = 0) -> list[nn.Module]:
    """Return copies in plain form, so that changes of the user's modules do not reach a population.

    ``first`` is the number that the first of them will have among the members.
    """
    single = isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList)
    if single or isinstance(modules, str | Mapping | Tensor) or not isinstance(modules, Iterable):
        got = f"one {type(modules).__name__}" if single else describe(modules)
        message = f"modules must be a list of modules, or another iterable of them, got {got}"
        cure = "put it into a list" if single else "pass its values()" if isinstance(modules, Mapping) else None
        raise InputError(message, cure=cure)
    copied = [plain_copy(module, f"member {k}") for k, module in enumerate(_each(modules), start=first)]
    if not copied:
        raise InputError("modules must have at least one module, got none")
    for k, module in enumerate(copied, start=first):
        _check_finite(read_state(module), f"member {k}")
    return copied


def _check_finite(state: Mapping[str, Tensor], name: str) -> None:
    for key, value in state.items():
        extremes = torch.stack(value.aminmax()) if value.numel() else value  # NaN wins both: no large copy
        if not bool(extremes.isfinite().all()) and not is_mask(value):
            raise InputError(f"'{key}' of {name} must be finite, got NaN or infinity", cure="leave this member out")


def _each(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    try:
        yield from modules
    except Exception as error:  # of the code that yields them
        got = f"{type(error).__name__}: {error}"
        raise InputError(f"modules must be an iterable that yields modules, got {got}") from error


def as_it_is(_: int, member: Member) -> Member:
    """Keep a member in memory."""
    return member


def join_members(
    old: Sequence[Member],
    modules: Sequence[nn.Module],
    x: Tensor,
    names: Sequence[str] = (),
    proofs: Collection[str] = (),
    output: Pick = None,
    keep: Callable[[int, Member], Member] = as_it_is,
) -> tuple[Member, ...]:
    """Return old members and new ones of the same kind, traced on x (n, ...) where no member is like them, and proved.

    The modules are not copied. ``names`` of the new ones are for errors; ``proofs`` need not be made again; ``output``
    is which outputs are taken (see `consilience.units.outputs`); ``keep`` is called with the number of a new member
    among the modules and the member, and returns what stays of it.
    """
    members = list(old)
    names = names or [f"member {k}" for k in range(len(old), len(old) + len(modules))]
    for k, (name, module) in enumerate(zip(names, modules, strict=True)):
        try:
            members.append(keep(k, _member(module, x, members, proofs, name, output)))
        except ConsilienceError as error:
            error.add_note(f"this is {name} of the population")
            raise
    _check_alike(members, x, [*(f"member {k}" for k in range(len(old))), *names])
    return tuple(members)


def _member(
    module: nn.Module, x: Tensor, others: Sequence[Member], proofs: Collection[str], name: str, output: Pick
) -> Member:
    module = module.eval()
    state = read_state(module)
    _check_finite(state, name)
    with torch.no_grad():
        outputs = outputs_of(module, x, f"{name} ({type(module).__name__})", "example_input", output)
    shared = _sharing(module, others, x, outputs)
    network = shared or TracedNetwork(layers_of(module, x, output), state)
    proof = _fingerprint(network, x)
    if proof not in proofs:
        prove(module, network, x)
        if shared is None:
            prove_readings(network, x)
    return Member(module, network, proof)


def _sharing(module: nn.Module, others: Sequence[Member], x: Tensor, outputs: Tensor) -> TracedNetwork | None:
    state, programs = read_state(module), set[int]()
    for other in others:
        traced = other.network.architecture
        if id(traced.program) in programs:
            continue
        programs.add(id(traced.program))
        if _fits(traced, other, state) and same_program(other.module, module, set(traced.program.parameters.values())):
            network = TracedNetwork(traced.with_widths(traced.widths_in(state)), state)
            with torch.no_grad():
                if same_outputs(network.outputs(x), outputs):  # or they differ in what attributes do not show
                    return network
    return None


def _fits(traced: Architecture, other: Member, state: dict[str, Tensor]) -> bool:
    theirs = other.network.state
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return (
        traced.fits(state)
        and all(traced.widths_in(state)[head] == traced.widths[head] for head in traced.heads)
        and traced.shapes(traced.widths_in(state), theirs) == shapes
        and {value.dtype for value in state.values()} == {value.dtype for value in theirs.values()}
    )


def _fingerprint(network: TracedNetwork, x: Tensor) -> str:
    """Return a SHA-256 of all that a proof depends on, but for the versions of torch and of this package."""
    architecture = network.architecture
    program = architecture.program
    operations = f"{program.returned} {program.pooled}\n" + "\n".join(str(node.format_node()) for node in program.nodes)
    constants = {name: value.detach() for name, value in program.constants.items()}
    numbers = fingerprint({"constants": constants, "state": network.state, "x": x})
    return hashlib.sha256(f"{operations}\n{architecture.structure}\n{numbers}".encode()).hexdigest()


def _unlike(mine: tuple[object, ...], theirs: tuple[object, ...]) -> tuple[object, object]:
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            return _unlike(a, b) if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) else (a, b)
    return (None, None) if len(mine) == len(theirs) else (mine, theirs)


def _check_alike(members: Sequence[Member], x: Tensor, names: Sequence[str]) -> None:
    """Raise an `InputError` if members differ in more than their parameters and widths."""
    architectures = [member.network.architecture for member in members]
    first = architectures[0]
    for name, other in zip(names, architectures, strict=True):
        for what, mine, theirs in (
            ("input shape", other.program.input_shape, first.program.input_shape),
            ("output size", other.n_outputs, first.n_outputs),
            ("layers", [layer.name for layer in other.layers], [layer.name for layer in first.layers]),
            ("activations", [i.activations for i in other.layers], [i.activations for i in first.layers]),
            ("maps between layers", *_unlike(other.structure, first.structure)),
        ):
            if mine != theirs:
                cure = "leave this member out, or build one population per kind"
                raise InputError(f"{name} must have the {what} of member 0, {theirs}, got {mine}", cure=cure)
    for name, member in zip(names, members, strict=True):  # the first member's program must compute them all
        architecture = member.network.architecture
        if architecture.program is first.program:
            continue
        here = TracedNetwork(first.with_widths(architecture.widths), member.network.state)
        # Roundings may grow in single precision; another function is another one in double precision too.
        if _agree(here, member.network, x):
            continue
        if not _agree(here.computing_in_double(), member.network.computing_in_double(), exact(x)):
            cure = "give all members the same buffers and preprocessing"
            wanted = "what member 0 computes of the same parameters"
            raise InputError(f"{name} must compute {wanted}, got another function", cure=cure)


def _agree(one: TracedNetwork, other: TracedNetwork, x: Tensor) -> bool:
    return deviation(one.outputs(x), other.outputs(x)) <= TOLERANCE
