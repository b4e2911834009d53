"""The tracer against a zoo of networks: what it must understand, what it must refuse, and that its proof can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from consilience.assembly.assembler import Assembler
from consilience.census import Census
from consilience.errors import FunctionChangedError, InputError, TracingError
from consilience.population import Population
from consilience.units.architecture import Architecture
from consilience.units.follow import find_layers
from consilience.units.proof import prove
from zoo import MERGED, MIXED_TOKENS, TOLD_APART, TRAPS, ZOO, ControlFlow, Expected, Made, population_of, shaken

pytestmark = pytest.mark.numerical

ROWS = torch.randn(11, 6, generator=torch.Generator().manual_seed(99))
IMAGES = torch.randn(11, 2, 9, 8, generator=torch.Generator().manual_seed(99))
KNOWN = ZOO | TRAPS
TOKENS = torch.randn(11, 7, 6, generator=torch.Generator().manual_seed(99))


def in_words(layers: Iterable[Expected]) -> list[str]:
    return sorted(
        f"{layer.name}: {layer.width} units, written by {', '.join(sorted(layer.writers))}"
        + (f", in the order of {layer.tied}" if layer.tied else "")
        for layer in layers
    )


def found_in(architecture: Architecture) -> list[Expected]:
    writers = {layer.name: {m.name for m in architecture.writing(layer.name)} for layer in architecture.layers}
    return [
        Expected(layer.name, layer.width, frozenset(writers[layer.name]), layer.tied) for layer in architecture.hidden
    ]


# ---------------------------------------------------------------------------------------------------------- understood

NAMES = [pytest.param(name, marks=pytest.mark.slow if name in {"bottlenecks", "densenet"} else []) for name in KNOWN]


@pytest.fixture(scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """The tests of one network come one after the other, and share its trace."""
    return request.param


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_the_layers_are_found_and_proved(name: str) -> None:
    assert in_words(found_in(population_of(name).architecture)) == in_words(KNOWN[name].hidden)


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_every_unit_matters_to_the_outputs(name: str) -> None:
    """Otherwise a proof would pass whatever is done to the units."""
    module, x = KNOWN[name].module(), KNOWN[name].inputs()
    state = module.state_dict()
    expected = module(x).detach()
    for writer in {w.partition("[")[0] for layer in KNOWN[name].hidden if layer.width > 1 for w in layer.writers}:
        keys = [key for key in state if key == writer or key.rpartition(".")[0] == writer]
        moved = {key: state[key].roll(1, dims=0) for key in keys if state[key].dim()}
        assert moved, writer
        changed = functional_call(module, {**state, **moved}, (x,)).detach() - expected
        assert float(changed.abs().max() / expected.abs().max()) > 1e-3, writer


@pytest.mark.numerical
@pytest.mark.parametrize("name", [param for param in NAMES if param.values[0] in MERGED], indirect=True)
def test_full_width_is_the_ensemble(name: str) -> None:
    population, x = population_of(name), ZOO[name].inputs()
    with_data = Assembler(Census(n_resamples=0).fit(population, x))
    without = Assembler(Census("weights", "cosine", n_resamples=0).fit(population))
    expected = population.logits(x).mean(0)
    for assembler, correction in ((with_data, "least-squares"), (with_data, "moments"), (without, "none")):
        with torch.no_grad():
            outputs = assembler.assemble("full", correction=correction)(x)
        assert float((outputs - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), correction


@pytest.mark.parametrize("name", sorted(MIXED_TOKENS | TOLD_APART), indirect=True)
def test_networks_whose_units_cannot_be_put_side_by_side_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be of one layer's units|must be interchangeable"):
        Census(n_resamples=0).fit(population_of(name), ZOO[name].inputs())


def test_members_have_widths_and_running_statistics_of_their_own() -> None:
    widths = {"convs.0": (4, 7), "convs.1": (5, 2), "convs.2": (6, 8), "norm": (6, 8)}
    modules = [shaken(ControlFlow(w, normed=True), seed) for seed, w in enumerate([(4, 5, 6), (7, 2, 8)])]
    for module in modules:
        module.mean.zero_()  # of the data, which the members share
    population = Population.from_modules(modules, IMAGES)
    assert {layer.name: population.widths(layer.name) for layer in population.architecture.hidden} == widths
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


def with_layer(architecture: Architecture, name: str, **changes: object) -> Architecture:
    """The architecture with another layer of this name."""
    layers = (replace(layer, **changes) if layer.name == name else layer for layer in architecture.layers)
    return replace(architecture, layers=tuple(layers))


def divided(architecture: Architecture, axes: dict[tuple[str, int], str | None]) -> Architecture:
    """The architecture with parameter axes given to other layers, or to none."""
    sections = dict(architecture.divided)
    for (parameter, dim), layer in axes.items():
        width = sum(architecture.widths[old] * block if old else block for old, block in sections[parameter, dim])
        sections[parameter, dim] = ((None, width),) if layer is None else ((layer, 1),)
    return replace(architecture, divided=sections)


# network, how its layers are changed, and what shows it
CORRUPTED: dict[str, tuple[str, Callable[[Architecture], Architecture], str]] = {
    "readers of two layers of equal width": (
        "equal-widths",
        lambda a: divided(a, {("2.weight", 1): "2", ("4.weight", 1): "0"}),
        "permuting the units",
    ),
    "a layer of two units without its reader": (
        "two-units",
        lambda a: divided(a, {("2.weight", 1): None}),
        "permuting the units",
    ),
    "a layer of three units without its reader": (
        "three-units",
        lambda a: divided(a, {("2.weight", 1): None}),
        "permuting the units",
    ),
    "a stream without one of its writers": (
        "stream-of-relus",
        lambda a: divided(a, {("b.weight", 0): None, ("b.bias", 0): None}),
        "permuting the units",
    ),
    "a pair of layers on its own": (
        "depthwise-of-three",
        lambda a: with_layer(a, "1", tied=None),
        "permuting the units",
    ),
    "an activation that has no scale": (
        "equal-widths",
        lambda a: with_layer(a, "2", activations=("relu",)),
        "rescaling the units",
    ),
    "an activation that has no sign": (
        "lenet-relu",
        lambda a: with_layer(a, "fc1", activations=("tanh",)),
        "sign-flipping the units",
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTED)
def test_layers_that_are_not_those_of_the_module_are_found_out(corruption: str) -> None:
    name, corrupt, what = CORRUPTED[corruption]
    member = population_of(name).members[0]
    wrong = corrupt(member.network.architecture)
    assert wrong != member.network.architecture
    with pytest.raises(FunctionChangedError, match=what):
        prove(member.module, replace(member.network, architecture=wrong), KNOWN[name].inputs())


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


def pooled_channels(z: Tensor) -> Tensor:
    return functional.max_pool1d(z.unsqueeze(1), 2).squeeze(1)


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


def attending() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.c(functional.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)).mean(1))

    return made(forward, q=nn.Linear(6, 5), k=nn.Linear(6, 5), v=nn.Linear(6, 4), c=nn.Linear(4, 3))


def product() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.c((m.a(x) @ m.b(x).mT).mean(1))

    return made(forward, a=nn.Linear(6, 5), b=nn.Linear(6, 5), c=nn.Linear(7, 3))


def outer_product(z: Tensor) -> Tensor:
    return (z.unsqueeze(2) * z.unsqueeze(1)).flatten(1)


def one_gate() -> nn.Module:
    """For all channels."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        gate = m.odd(m.a(x)).sigmoid()
        return m.c((m.a(x) * gate).mean((2, 3))) + m.d(gate).mean((2, 3))

    return made(forward, a=nn.Conv2d(2, 5, 3), odd=nn.Conv2d(5, 1, 1), c=nn.Linear(5, 3), d=nn.Conv2d(1, 3, 1))


def one_norm_for_two() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.c((m.odd(m.a(x)) + m.odd(m.b(x))).mean((2, 3)))

    return made(forward, a=nn.Conv2d(2, 5, 3), b=nn.Conv2d(2, 5, 3), odd=nn.BatchNorm2d(5), c=nn.Linear(5, 3))


def transposed_weight() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(functional.linear(m.a(x).relu(), m.a.weight.T))

    return made(forward, a=nn.Linear(6, 5), b=nn.Linear(6, 3))


def flattened(function: Callable[[Tensor], Tensor], read: int) -> nn.Module:
    return made(lambda m, x: m.b(function(m.a(x))), a=nn.Conv2d(2, 5, 3), b=nn.Linear(read, 3))


def last(function: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    """Something done to the inputs and a linear layer that returns the outputs, named ``a``."""
    return made(function, a=nn.Linear(6, 3))


# name → module, input, and words of the message: the operation, and where there is one the module it is in
REFUSED: dict[str, tuple[nn.Module, Tensor, str]] = {
    "control flow by data": (made(branching, a=nn.Linear(6, 5), b=nn.Linear(5, 3)), ROWS, "data-dependent"),
    "a tensor's number": (between(lambda z: z * z.sum().item()), ROWS, "item|aten.sum"),
    "attention": (attending(), TOKENS, "scaled_dot_product_attention"),
    "product of two layers": (product(), TOKENS, "aten.(mT|matmul)"),
    "sorting units": (between(lambda z: z.sort(-1).values), ROWS, "aten.sort"),
    "sorting channels": (between_convolutions(lambda z: z.sort(1).values), IMAGES, "aten.sort"),
    "softmax over units": (between(lambda z: z.softmax(-1)), ROWS, "aten.softmax"),
    "softmax over channels": (between_convolutions(lambda z: z.softmax(1)), IMAGES, "aten.softmax"),
    "one unit": (between(lambda z: z[:, :1] * z), ROWS, "one unit is combined with several: aten.mul"),
    "one channel": (between_convolutions(lambda z: z.select(1, 0).unsqueeze(1) + z), IMAGES, "aten.select"),
    "every second unit": (between(lambda z: z[:, ::2], read=4), ROWS, "units are taken in steps: aten.slice"),
    "rolling channels": (between_convolutions(lambda z: z.roll(1, 1)), IMAGES, "aten.roll"),
    "reversing channels": (between_convolutions(lambda z: z.flip(1)), IMAGES, "aten.flip"),
    "sums of ever more channels": (between_convolutions(lambda z: z.cumsum(1)), IMAGES, "aten.cumsum"),
    "differences of neighbouring units": (between(lambda z: z.diff(dim=-1), read=7), ROWS, "aten.diff"),
    "pooling over channels": (between(pooled_channels, read=4), ROWS, "aten.max_pool1d"),
    "units mixed by a reshape": (between(lambda z: z.view(-1, 2, 4).flip(1).flatten(1)), ROWS, "aten.flip"),
    "units outer product": (between(outer_product, width=4, read=16), ROWS, "aten.(mul|unsqueeze|flatten)"),
    "mixing samples": (between(lambda z: z - z.mean(0)), ROWS, "aten.mean"),
    "a weight computed on the way": (HandMadeWeightNorm(), ROWS, "norm|div|weight"),
    "a weight that is no parameter": (BufferAsWeight(), ROWS, "aten.linear"),
    "batch norm of the batch at hand": (
        with_part(nn.BatchNorm2d(8, track_running_stats=False)),
        IMAGES,
        r"aten.batch_norm in 'odd' \(BatchNorm2d\)",
    ),
    "neighbouring channels": (with_part(nn.LocalResponseNorm(3)), IMAGES, "in 'odd' .LocalResponseNorm"),
    "one gate that is read twice": (one_gate(), IMAGES, "one unit is combined with several: aten.mul"),
    "one batch norm for two convolutions": (one_norm_for_two(), IMAGES, r"aten.batch_norm in 'odd' \(BatchNorm2d\)"),
    "a transposed weight": (transposed_weight(), ROWS, "aten.(numpy_T|t|transpose)"),
    "a batch of two written out": (between(lambda z: z.view(2, -1)), ROWS[:2], "one batch size only"),
    "noise": (between(lambda z: z + torch.rand_like(z)), ROWS, "aten.rand_like"),
    "mean over units": (between(lambda z: z - z.mean(1)[:, None]), ROWS, "a mean of units that is no norm: aten.mean"),
    "maximum over channels": (between_convolutions(lambda z: z - z.amax(1, keepdim=True)), IMAGES, "aten.amax"),
    "positions first": (flattened(lambda z: z.permute(0, 2, 3, 1).flatten(1), 210), IMAGES, "aten.flatten"),
    "unit length": (between(lambda z: functional.normalize(z, dim=1)), ROWS, "norm in Made"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_networks_raise_an_error_that_names_the_operation(case: str) -> None:
    module, x, message = REFUSED[case]
    with pytest.raises(TracingError, match=message):
        find_layers(module, x)


def test_a_batch_size_written_out_is_refused() -> None:
    with pytest.raises(
        InputError, match="example_input must be inputs that Made takes, got .*invalid for input of size"
    ):
        find_layers(between(lambda z: z.view(11, -1)), ROWS)


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_running_statistics_that_are_not_finite_are_refused_by_name(buffer: str, value: float) -> None:
    module = ZOO["resnet18"].module()
    module.stages[1][0].norm2.get_buffer(buffer)[2] = value
    with pytest.raises(InputError, match=f"'stages.1.0.norm2.{buffer}' of member 0 must be finite"):
        Population.from_modules([module], ZOO["resnet18"].inputs())
