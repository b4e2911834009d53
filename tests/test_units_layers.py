"""Layers are found in any module of known operations; anything else is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import InputError, TracingError
from consilience.nets import MLP
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.follow import find_layers
from consilience.units.modules import plain_copy
from consilience.units.operations import HANDLERS
from consilience.units.operations.elementwise import activation
from consilience.units.proof import prove

pytestmark = pytest.mark.numerical

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class HandWritten(nn.Module):
    """Functional forms, a bare parameter as weight, a plain attribute as control flow, and a reshape of the inputs."""

    def __init__(self, *, skip: bool = False) -> None:
        super().__init__()
        self.skip = skip
        self.first = nn.Linear(6, 5)
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], 2, 3).flatten(1)
        if x.dim() != 2:
            raise ValueError
        x = functional.leaky_relu(self.first(x / 2), 0.2)
        if not self.skip:
            x = functional.dropout(x, 0.5, training=self.training)
        return self.last(torch.tanh(functional.linear(x, self.weight)))


def test_layers_of_a_hand_written_forward() -> None:
    architecture = find_layers(HandWritten(), X)
    first, second, output = architecture.layers
    assert [layer.name for layer in architecture.layers] == ["first", "weight", "last"]
    assert (first.width, second.width, output.width) == (5, 4, 3)
    assert first.activations == ("leaky_relu(0.2)",)
    assert second.activations == ("tanh",)
    reading = {axis for axis, sections in architecture.divided.items() if ("first", 1) in sections}
    assert reading == {("first.weight", 0), ("first.bias", 0), ("weight", 1)}
    reading = {axis for axis, sections in architecture.divided.items() if ("weight", 1) in sections}
    assert reading == {("weight", 0), ("last.weight", 1)}
    assert (first.interchangeable, second.interchangeable, output.interchangeable) == (True, True, False)
    assert [m.reads for m in architecture.maps] == [(), ("first",), ("weight",)]


def test_layers_of_a_sequential_with_in_place_operations() -> None:
    first = nn.Flatten(), nn.Identity(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Dropout()
    net = nn.Sequential(*first, nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))
    architecture = find_layers(net, X)
    layers = [(layer.name, layer.width, layer.activations) for layer in architecture.layers]
    assert layers == [("2", 5, ("relu",)), ("5", 4, ("gelu",)), ("7", 3, ())]


def test_the_traced_program_computes_what_the_module_computes_for_any_batch_and_parameters() -> None:
    net = HandWritten().eval()
    program = find_layers(net, X[:1]).program
    other = {name: torch.randn_like(parameter) for name, parameter in net.named_parameters()}
    x = torch.randn(17, 6)
    expected = torch.func.functional_call(net, other, (x,))
    assert torch.equal(program.run(other, x, [program.output])[program.output], expected)


def test_tracing_leaves_the_module_alone() -> None:
    net = MLP(6, [5], 3, dropout=0.5).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    find_layers(net, X)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_widths_may_be_changed() -> None:
    net = MLP(6, [5, 4], 3)
    architecture = find_layers(net, X)
    shapes = architecture.shapes({"hidden.0": 9}, dict(net.named_parameters()))
    assert shapes["hidden.0.weight"] == (9, 6)
    assert shapes["hidden.0.bias"] == (9,)
    assert shapes["hidden.1.weight"] == (4, 9)
    assert shapes["readout.weight"] == (3, 4)
    assert architecture.with_widths({"hidden.0": 9}).layer("hidden.0").width == 9


def test_an_unknown_layer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match=r"layer must be one of 'hidden.0', 'readout', got 'hidden.7'"):
        find_layers(MLP(6, [5], 3), X).layer("hidden.7")


class Lambda(nn.Module):
    """Two linear layers with something between or around them."""

    def __init__(self, forward) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)
        self.scale = nn.Parameter(torch.ones(6))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


ODD = "unsupported operation on units: "
PARAMETER = "unsupported operation on a parameter: "

REFUSED = {
    "softmax of units": (
        lambda m, x: m.c(m.b(m.a(x)).softmax(-1)),
        ODD + r"aten.softmax.int in Lambda, test_units_layers.py:\d",
    ),
    "a sum of units": (
        lambda m, x: m.b(m.a(x)).relu().sum(-1, keepdim=True) + m.scale[:1],
        ODD + "aten.sum.dim_IntList in Lambda, .*\n  cure: sum units by a layer with a weight of ones",
    ),
    "a free power": (
        lambda m, x: m.c(m.b(m.a(x)) ** m.scale),
        PARAMETER + "aten.pow.Tensor_Tensor in Lambda, .*, of 'scale'",
    ),
    "a computed weight": (lambda m, x: functional.linear(x, m.a.weight * 2), PARAMETER + "aten.mul.Tensor"),
    "reshaping units": (
        lambda m, x: m.c(m.a(x).relu()[:, :, None].expand(-1, -1, 2).transpose(1, 2).flatten(1)[:, :6]),
        "units and positions change places: aten.(flatten|view|reshape|_unsafe_view)",
    ),
    "no layers": (lambda m, x: x * 2, "the module returns values that no layer has written: Lambda"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_name_the_operation_its_module_and_its_line(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(TracingError, match=message):
        find_layers(Lambda(function), X)


def test_a_third_party_adds_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Lambda(lambda m, x: m.c(m.b(m.a(x)).atan()))
    del module.norm, module.scale
    with pytest.raises(TracingError, match="unsupported operation on units: aten.atan in Lambda"):
        find_layers(module, X)
    monkeypatch.setitem(HANDLERS, torch.ops.aten.atan.default, activation("atan"))
    architecture = find_layers(module, X)
    assert architecture.layer("b").activations == ("atan",)
    prove(module, TracedNetwork(architecture, read_state(module)), X)


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.a(-x)


class FixedBatch(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(2, 6))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (DataDependent(), r"DataDependent cannot be traced: .*data-dependent"),
        (FixedBatch(nn.Linear(6, 3)), "FixedBatch must return one output for each .*, got one batch size only"),
    ],
)
def test_what_cannot_be_traced_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(TracingError, match=message):
        find_layers(module, X)


class Mixed(nn.Module):
    """What a sample gives depends on the others, in a way that no layer sees."""

    def __init__(self, preprocess) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.a, self.b, self.preprocess = nn.Linear(6, 5), nn.Linear(5, 3), preprocess

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.preprocess(x))))


@pytest.mark.parametrize("preprocess", [lambda x: x - x.mean(0), lambda x: x + x.flip(0)])
def test_outputs_that_depend_on_other_samples_are_refused(preprocess) -> None:  # type: ignore[no-untyped-def]
    find_layers(Mixed(lambda x: x - x.mean(1, keepdim=True)), X)
    with pytest.raises(TracingError, match="Mixed must compute each sample.* got outputs that depend on the others"):
        find_layers(Mixed(preprocess), X)


class Gated(nn.Module):
    """One gate for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate, self.c, self.d = (nn.Linear(6, o) for o in (4, 4, 4, 1, 1))
        self.c, self.d = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return self.c(self.a(x) * gate) + self.d(self.b(x) * gate)


def test_a_gate_ties_all_that_it_multiplies() -> None:
    architecture = find_layers(Gated(), X)
    assert {layer.name: layer.tied for layer in architecture.hidden} == {"gate": None, "a": "gate", "b": "gate"}


def test_batch_norms_over_positions_are_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(7), nn.ReLU(), nn.Flatten(), nn.Linear(35, 3))
    with pytest.raises(TracingError, match=r"a batch norm over positions: aten.batch_norm in '1' \(BatchNorm1d\)\n"):
        find_layers(net, torch.randn(4, 7, 6))


def test_a_parameter_of_two_modules_becomes_two() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    net[2].weight = net[0].weight
    plain = plain_copy(net, "module")
    assert plain[2].weight is not plain[0].weight
    assert torch.equal(plain(X), net(X))
    assert [m.weight for m in find_layers(net, X).maps] == ["0.weight", "2.weight", "4.weight"]


def test_an_example_input_of_the_wrong_shape_is_refused() -> None:
    message = r"example_input must be inputs that MLP takes, got float32 \(2, 6\), on which .* RuntimeError"
    with pytest.raises(InputError, match=message):
        find_layers(MLP(7, [5], 3), X)
    with pytest.raises(InputError, match=r"example_input must have shape \(n, ...\) with n >= 1, got \(0, 6\)"):
        find_layers(MLP(6, [5], 3), X[:0])


def test_only_what_leads_to_the_values_asked_for_is_run() -> None:
    net = MLP(6, [5, 4], 3)
    architecture = find_layers(net, X)
    state = {name: parameter.detach() for name, parameter in net.named_parameters()}
    state["hidden.1.weight"] = torch.zeros(2, 2)  # would not run
    (value,) = (axis.name for axis in architecture.read("hidden.0"))
    assert torch.equal(architecture.program.run(state, X, [value])[value], torch.relu(net.hidden[0](X)))


class TooLarge(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Linear:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_a_copy_that_memory_does_not_hold_is_not_taken_for_one_that_cannot_be_made() -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        plain_copy(TooLarge(2, 2), "module")
