"""The tracer against a zoo of networks: what it must understand, what it must refuse, and that its proof can fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from consilience.errors import ConsilienceError, FunctionChangedError, InputError, TracingError
from consilience.population import Population
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.follow import find_layers
from consilience.units.proof import prove
from zoo import TRAPS, ZOO, ControlFlow, Expected, Made, shaken

pytestmark = pytest.mark.numerical

ROWS = torch.randn(11, 6, generator=torch.Generator().manual_seed(99))
IMAGES = torch.randn(11, 2, 9, 8, generator=torch.Generator().manual_seed(99))
KNOWN = ZOO | TRAPS
TOKENS = torch.randn(11, 7, 6, generator=torch.Generator().manual_seed(99))


def in_words(layers: Iterable[Expected]) -> list[str]:
    return sorted(
        f"{each.name}: {each.width} units, written by {', '.join(sorted(each.writers))}"
        + (f", in the order of {each.tied}" if each.tied else "")
        for each in layers
    )


def found_in(population: Population) -> list[Expected]:
    architecture, writers = population.architecture, dict[str, set[str]]()
    for m in architecture.maps:
        writers.setdefault(m.writes, set()).add(m.name)
    return [Expected(each.name, each.width, frozenset(writers[each.name]), each.tied) for each in architecture.hidden]


# ---------------------------------------------------------------------------------------------------------- understood


@pytest.mark.parametrize("name", KNOWN)
def test_the_layers_are_found_and_proved(name: str) -> None:
    population = Population.from_modules([KNOWN[name].module()], KNOWN[name].inputs())
    assert in_words(found_in(population)) == in_words(KNOWN[name].hidden)


@pytest.mark.parametrize("name", KNOWN)
def test_every_unit_matters_to_the_outputs(name: str) -> None:
    """Otherwise a proof would pass whatever is done to the units."""
    module, x = KNOWN[name].module(), KNOWN[name].inputs()
    state = module.state_dict()
    expected = module(x).detach()
    for writer in {
        writer.partition("[")[0] for each in KNOWN[name].hidden if each.width > 1 for writer in each.writers
    }:
        own = [key for key in state if key == writer or key.rpartition(".")[0] == writer]
        moved = {key: state[key].roll(1, dims=0) for key in own if state[key].dim()}
        assert moved, writer
        changed = functional_call(module, {**state, **moved}, (x,)).detach() - expected
        assert float(changed.abs().max() / expected.abs().max()) > 1e-3, writer


def test_members_have_widths_and_running_statistics_of_their_own() -> None:
    widths = {"convs.0": (4, 7), "convs.1": (5, 2), "convs.2": (6, 8), "norm": (6, 8)}
    modules = [shaken(ControlFlow(w, normed=True), seed) for seed, w in enumerate([(4, 5, 6), (7, 2, 8)])]
    for module in modules:
        module.mean.zero_()  # of the data, which the members share
    population = Population.from_modules(modules, IMAGES)
    assert {each.name: population.widths(each.name) for each in population.architecture.hidden} == widths
    torch.testing.assert_close(population.logits(IMAGES), torch.stack([module(IMAGES) for module in modules]).detach())


def test_a_module_in_training_is_read_in_eval_mode_and_left_as_it_is() -> None:
    module, x = ZOO["resnet18"].module().train(), ZOO["resnet18"].inputs()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    population = Population.from_modules([module], x)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    torch.testing.assert_close(population.logits(x)[0], module.eval()(x).detach(), rtol=1e-5, atol=1e-4)


# ------------------------------------------------------------------------------------------------- the proof can fail


class TwoFaced(nn.Module):
    """Shows one activation to a tracer, and computes another, which is no different for the parameters at hand.

    They make pre-activations of about 1, 1.5, 2, 2.5 and 3.
    """

    def __init__(self, shown: Callable[[Tensor], Tensor], real: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)
        self.shown, self.real = shown, real
        shaken(self, 0)
        with torch.no_grad():
            self.first.weight.mul_(0.02)
            self.first.bias.copy_(torch.linspace(1, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        activation = self.shown if torch.compiler.is_exporting() else self.real
        return self.last(activation(self.first(x)))


@pytest.mark.parametrize(
    ("shown", "real", "change"),
    [
        (torch.relu, torch.tanh, "running the traced program"),
        (torch.relu, lambda z: z.sort(-1).values.relu(), "permuting the units of layer 'first'"),
        (torch.relu, lambda z: z.clamp(0, 3.5), "rescaling the units of layer 'first'"),
        (torch.tanh, lambda z: z.tanh().relu(), "sign-flipping the units of layer 'first'"),
        (torch.sin, lambda z: z.sin() * 5 / z.shape[1], "doubling the units of layer 'first'"),
    ],
)
def test_a_module_that_is_not_what_it_was_traced_as_is_found_out(
    shown: Callable[[Tensor], Tensor], real: Callable[[Tensor], Tensor], change: str
) -> None:
    Population.from_modules([TwoFaced(shown, shown)], ROWS)
    with pytest.raises(FunctionChangedError, match=f"{change}"):
        Population.from_modules([TwoFaced(shown, real)], ROWS)


def told(architecture: Architecture, **layers: dict[str, object]) -> Architecture:
    """The architecture with some layers told otherwise."""
    return replace(
        architecture, layers=tuple(replace(each, **layers.get(f"_{each.name}", {})) for each in architecture.layers)
    )


def divided(architecture: Architecture, **axes: str | None) -> Architecture:
    """The architecture with parameter axes given to other layers, or to none."""
    changed = dict(architecture.divided)
    for key, sections in architecture.divided.items():
        name = f"{key[0]}.{key[1]}".replace(".", "_")
        if f"_{name}" in axes:
            wanted = axes[f"_{name}"]
            width = sum(architecture.widths[layer] * block if layer else block for layer, block in sections)
            changed[key] = ((wanted, 1),) if wanted is not None else ((None, width),)
    return replace(architecture, divided=changed)


# network, how its layers are told wrongly, and what shows it
CORRUPTED: dict[str, tuple[str, Callable[[Architecture], Architecture], str]] = {
    "readers of two layers of equal width": (
        "equal-widths", lambda a: divided(a, _2_weight_1="2", _4_weight_1="0"), "permuting the units",
    ),
    "a layer of two units without its reader": (
        "two-units", lambda a: divided(a, _2_weight_1=None), "permuting the units",
    ),
    "a layer of three units without its reader": (
        "three-units", lambda a: divided(a, _2_weight_1=None), "permuting the units",
    ),
    "a stream without one of its writers": (
        "stream-of-relus", lambda a: divided(a, _b_weight_0=None, _b_bias_0=None), "permuting the units",
    ),
    "a pair of layers on its own": (
        "depthwise-of-three", lambda a: told(a, _1={"tied": None}), "permuting the units",
    ),
    "an activation that has no scale": (
        "equal-widths", lambda a: told(a, _2={"activations": ("relu",)}), "rescaling the units",
    ),
    "an activation that has no sign": (
        "lenet-relu", lambda a: told(a, _fc1={"activations": ("tanh",)}),
        "sign-flipping the units",
    ),
}  # fmt: skip


@pytest.mark.parametrize("corruption", CORRUPTED)
def test_layers_that_are_not_those_of_the_module_are_found_out(corruption: str) -> None:
    name, corrupt, what = CORRUPTED[corruption]
    module, x = KNOWN[name].module(), KNOWN[name].inputs()
    architecture, state = find_layers(module, x), read_state(module)
    prove(module, TracedNetwork(architecture, state), x)
    wrong = corrupt(architecture)
    assert wrong != architecture
    with pytest.raises(FunctionChangedError, match=what):
        prove(module, TracedNetwork(wrong, state), x)


# ------------------------------------------------------------------------------------------------------------- refused


def made(function: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> nn.Module:
    return shaken(Made(function, **parts), 0)


def between(forward: Callable[[Tensor], Tensor], width: int = 8, read: int = 8) -> nn.Module:
    """Two linear layers with something done to the units of the first, of which the second reads ``read``."""
    return made(lambda m, x: m.b(forward(m.a(x))), a=nn.Linear(6, width), b=nn.Linear(read, 3))


def between_convolutions(forward: Callable[[Tensor], Tensor]) -> nn.Module:
    def whole(m: nn.Module, x: Tensor) -> Tensor:
        return m.c(m.b(forward(m.a(x))).relu().mean((2, 3)))

    return made(whole, a=nn.Conv2d(2, 8, 3), b=nn.Conv2d(8, 5, 1), c=nn.Linear(5, 3))


def with_part(part: nn.Module) -> nn.Module:
    """A convolution, the part in question, named ``odd``, and a readout of its 8 channels."""
    return made(lambda m, x: m.c(m.odd(m.a(x)).relu().mean((2, 3))), a=nn.Conv2d(2, 8, 3), odd=part, c=nn.Linear(8, 3))


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's change of channels."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def attention(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(functional.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)).mean(1))


def branching(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.b(torch.relu(x) if x.sum() > 0 else x)


class HandMadeWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.odd, self.b = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.odd.weight
        x = functional.linear(self.a(x).relu(), w / w.norm(dim=1, keepdim=True), self.odd.bias)
        return self.b(x.relu())


class BufferAsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(4, 3)
        self.register_buffer("table", torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(functional.linear(self.a(x), self.table)))


# name → module, input, error, and words of its message: the operation, and where there is one the module it is in
REFUSED: dict[str, tuple[nn.Module, Tensor, type[ConsilienceError], str]] = {
    "control flow by data": (
        made(branching, a=nn.Linear(6, 5), b=nn.Linear(5, 3)), ROWS, TracingError, "data-dependent",
    ),
    "a tensor's number": (between(lambda z: z * z.sum().item()), ROWS, TracingError, "item|aten.sum"),
    "recurrence": (
        made(lambda m, x: m.b(m.odd(x)[0][:, -1]), odd=nn.LSTM(6, 5, batch_first=True), b=nn.Linear(5, 3)),
        TOKENS, TracingError, r"lstm\S* in 'odd' \(LSTM\)",
    ),
    "attention": (
        made(attention, q=nn.Linear(6, 5), k=nn.Linear(6, 5), v=nn.Linear(6, 4), c=nn.Linear(4, 3)),
        TOKENS, TracingError, "scaled_dot_product_attention",
    ),
    "product of two layers": (
        made(lambda m, x: m.c((m.a(x) @ m.b(x).mT).mean(1)), a=nn.Linear(6, 5), b=nn.Linear(6, 5), c=nn.Linear(7, 3)),
        TOKENS, TracingError, "aten.(mT|matmul)",
    ),
    "sorting units": (between(lambda z: z.sort(-1).values), ROWS, TracingError, "aten.sort"),
    "sorting channels": (between_convolutions(lambda z: z.sort(1).values), IMAGES, TracingError, "aten.sort"),
    "softmax over units": (between(lambda z: z.softmax(-1)), ROWS, TracingError, "aten.softmax"),
    "softmax over channels": (between_convolutions(lambda z: z.softmax(1)), IMAGES, TracingError, "aten.softmax"),
    "one unit": (between(lambda z: z[:, :1] * z), ROWS, TracingError, "aten.slice"),
    "one channel": (
        between_convolutions(lambda z: z.select(1, 0).unsqueeze(1) + z), IMAGES, TracingError, "aten.select",
    ),
    "half of the units": (between(lambda z: z[:, 4:], read=4), ROWS, TracingError, "aten.slice"),
    "chunks": (between(lambda z: torch.mul(*z.chunk(2, -1)), read=4), ROWS, TracingError, "aten.chunk"),
    "pieces": (between(lambda z: torch.cat(z.split([3, 5], -1)[::-1], -1)), ROWS, TracingError, "aten.split"),
    "gated linear unit of one layer": (between(lambda z: functional.glu(z), read=4), ROWS, TracingError, "aten.glu"),
    "rolling channels": (between_convolutions(lambda z: z.roll(1, 1)), IMAGES, TracingError, "aten.roll"),
    "reversing channels": (between_convolutions(lambda z: z.flip(1)), IMAGES, TracingError, "aten.flip"),
    "shuffling channels": (between_convolutions(shuffled), IMAGES, TracingError, "aten.(view|transpose|reshape)"),
    "sums of ever more channels": (between_convolutions(lambda z: z.cumsum(1)), IMAGES, TracingError, "aten.cumsum"),
    "differences of neighbouring units": (between(lambda z: z.diff(dim=-1), read=7), ROWS, TracingError, "aten.diff"),
    "pooling over channels": (
        between(lambda z: functional.max_pool1d(z.unsqueeze(1), 2).squeeze(1), read=4), ROWS, TracingError,
        "aten.max_pool1d",
    ),
    "units mixed by a reshape": (
        between(lambda z: z.view(-1, 2, 4).mean(1), read=4), ROWS, TracingError, "aten.(view|mean)",
    ),
    "units outer product": (
        between(lambda z: (z.unsqueeze(2) * z.unsqueeze(1)).flatten(1), width=4, read=16), ROWS, TracingError,
        "aten.(mul|unsqueeze|flatten)",
    ),
    "mixing samples": (between(lambda z: z - z.mean(0)), ROWS, TracingError, "aten.mean"),
    "a weight computed on the way": (HandMadeWeightNorm(), ROWS, TracingError, "norm|div|weight"),
    "groups of channels": (
        with_part(nn.Conv2d(8, 8, 3, groups=2)), IMAGES, TracingError, r"aten.conv2d in 'odd' \(Conv2d\)",
    ),
    "transposed convolution": (
        with_part(nn.ConvTranspose2d(8, 8, 3)), IMAGES, TracingError, r"conv_transpose2d\S* in 'odd' \(ConvTranspose2d",
    ),
    "group norm": (with_part(nn.GroupNorm(2, 8)), IMAGES, TracingError, r"aten.group_norm in 'odd' \(GroupNorm\)"),
    "batch norm of the batch at hand": (
        with_part(nn.BatchNorm2d(8, track_running_stats=False)), IMAGES, TracingError,
        r"aten.batch_norm in 'odd' \(BatchNorm2d\)",
    ),
    "neighbouring channels": (with_part(nn.LocalResponseNorm(3)), IMAGES, TracingError, "in 'odd' .LocalResponseNorm"),
    "pixels from channels": (
        made(lambda m, x: m.c(m.odd(m.a(x)).mean((2, 3))), a=nn.Conv2d(2, 8, 3), odd=nn.PixelShuffle(2),
             c=nn.Linear(2, 3)),
        IMAGES, TracingError, r"aten.pixel_shuffle in 'odd' \(PixelShuffle\)",
    ),
    "one gate for all channels": (
        made(lambda m, x: m.c((m.a(x) * m.odd(m.a(x)).sigmoid()).mean((2, 3))), a=nn.Conv2d(2, 5, 3),
             odd=nn.Conv2d(5, 1, 1), c=nn.Linear(5, 3)),
        IMAGES, TracingError, "aten.mul",
    ),
    "a batch norm of the inputs": (
        made(lambda m, x: m.a(m.odd(x)), a=nn.Linear(6, 3), odd=nn.BatchNorm1d(6)), ROWS, TracingError,
        r"aten.batch_norm in 'odd' \(BatchNorm1d\)",
    ),
    "one batch norm for two convolutions": (
        made(lambda m, x: m.c((m.odd(m.a(x)) + m.odd(m.b(x))).mean((2, 3))), a=nn.Conv2d(2, 5, 3), b=nn.Conv2d(2, 5, 3),
             odd=nn.BatchNorm2d(5), c=nn.Linear(5, 3)),
        IMAGES, TracingError, r"aten.batch_norm in 'odd' \(BatchNorm2d\)",
    ),
    "a transposed weight": (
        made(lambda m, x: m.b(functional.linear(m.a(x).relu(), m.a.weight.T)), a=nn.Linear(6, 5), b=nn.Linear(6, 3)),
        ROWS, TracingError, "aten.(numpy_T|t|transpose)",
    ),
    "two outputs": (
        made(lambda m, x: (m.a(x), m.a(x).relu()), a=nn.Linear(6, 3)), ROWS, TracingError, "return one tensor",
    ),
    "a batch size written out": (between(lambda z: z.view(11, -1)), ROWS, ConsilienceError, "one batch|must be inputs"),
    "a batch of two written out": (between(lambda z: z.view(2, -1)), ROWS[:2], TracingError, "batch size"),
    "an unused layer": (
        made(lambda m, x: m.b(m.a(x)), a=nn.Linear(6, 5), b=nn.Linear(5, 3), odd=nn.Linear(5, 3)), ROWS, TracingError,
        "'odd.weight', 'odd.bias'",
    ),
    "noise": (between(lambda z: z + torch.rand_like(z)), ROWS, ConsilienceError, "rand_like|deterministic"),
    "probabilities": (made(lambda m, x: m.a(x).softmax(-1), a=nn.Linear(6, 3)), ROWS, TracingError, "softmax"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    module, x, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        Population.from_modules([module], x)


# A tracer may come to understand these; until then it refuses them like the others.
MAY_BE_REFUSED: dict[str, tuple[nn.Module, Tensor, str]] = {
    "batch norm without scales": (with_part(nn.BatchNorm2d(8, affine=False)), IMAGES, "batch_norm"),
    "two channels for each": (
        made(
            lambda m, x: m.c(m.odd(m.a(x)).relu().mean((2, 3))),
            a=nn.Conv2d(2, 4, 3), odd=nn.Conv2d(4, 8, 3, groups=4), c=nn.Linear(8, 3),
        ), IMAGES, r"conv2d in 'odd'",
    ),
    "layer norm without scales": (
        made(lambda m, x: m.b(m.odd(m.a(x))), a=nn.Linear(6, 8), odd=nn.LayerNorm(8, elementwise_affine=False),
             b=nn.Linear(8, 3)),
        ROWS, "layer_norm|other widths",
    ),
    "a weight that is no parameter": (BufferAsWeight(), ROWS, "aten.linear"),
    "mean over units": (between(lambda z: z - z.mean(1, keepdim=True)), ROWS, "mean"),
    "maximum over channels": (between_convolutions(lambda z: z - z.amax(1, keepdim=True)), IMAGES, "amax"),
    "the rest of a gate": (between(lambda z: z * (1 - z.sigmoid())), ROWS, "rsub"),
    "a norm of three copies": (
        made(lambda m, x: m.b(m.odd(torch.cat([m.a(x)] * 3, 1)).relu()), a=nn.Linear(6, 5), odd=nn.BatchNorm1d(15),
             b=nn.Linear(15, 3)),
        ROWS, "batch_norm",
    ),
    "one position": (
        made(lambda m, x: m.b(m.a(x).select(3, 0).select(2, -1)), a=nn.Conv2d(2, 5, 3), b=nn.Linear(5, 3)), IMAGES,
        "select",
    ),
    "maxima with their places": (
        made(lambda m, x: m.b(m.a(x).flatten(2).max(2).values), a=nn.Conv2d(2, 5, 3), b=nn.Linear(5, 3)), IMAGES, "max",
    ),
    "positions first": (
        made(lambda m, x: m.b(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=nn.Conv2d(2, 5, 3), b=nn.Linear(210, 3)),
        IMAGES, "flatten",
    ),
    "a slope for each channel": (with_part(nn.PReLU(8)), IMAGES, "prelu"),
    "unit length": (between(lambda z: functional.normalize(z, dim=1)), ROWS, "norm"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAY_BE_REFUSED)
def test_what_is_hard_is_proved_or_refused_by_name(name: str) -> None:
    module, x, message = MAY_BE_REFUSED[name]
    try:
        outcome = "proved: " + ", ".join(in_words(found_in(Population.from_modules([module], x))))
    except (TracingError, InputError) as refused:
        outcome = str(refused)
    assert re.search(f"^proved: a: |{message}", outcome)


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_running_statistics_that_are_not_finite_are_refused_by_name(buffer: str, value: float) -> None:
    module = ZOO["resnet18"].module()
    module.stages[1][0].norm2.get_buffer(buffer)[2] = value
    with pytest.raises(InputError, match=f"'stages.1.0.norm2.{buffer}' must be finite"):
        Population.from_modules([module], ZOO["resnet18"].inputs())


def test_find_layers_alone_refuses_too() -> None:
    with pytest.raises(TracingError, match=r"aten.conv2d in 'odd' \(Conv2d\)"):
        find_layers(REFUSED["groups of channels"][0], IMAGES)
