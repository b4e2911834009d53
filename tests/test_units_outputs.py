"""Outputs of any shape, number and tail: pooled where the mean passes through, and full width is that mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.assembly.assembler import Assembler
from consilience.baselines import Ensemble, distil
from consilience.census import Census
from consilience.errors import InputError, TracingError
from consilience.evaluation import evaluate
from consilience.population import Population
from consilience.units.follow import find_layers

pytestmark = pytest.mark.numerical

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(40, 2, 6, 5, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """A hidden layer and two heads, with what a function makes of them; the convolutions are for images."""

    def __init__(self, function: Callable[[Any, Tensor], Any], width: int, x: Tensor) -> None:
        super().__init__()
        convolves = x.dim() == 4
        part = (lambda i, o: nn.Conv2d(i, o, 3, padding=1)) if convolves else nn.Linear
        self.a, self.b, self.v, self.s = (
            part(x.shape[1 if convolves else -1], width),
            part(width, 3),
            part(width, 2),
            part(width, 1),
        )
        self.register_buffer("scale", torch.tensor([2.0, 30.0, 0.5]))
        self.spare = nn.Parameter(torch.randn(4))
        self.function = function

    def hidden(self, x: Tensor) -> Tensor:
        return self.a(x).relu()

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@dataclass
class Returned:
    """As transformers return their outputs."""

    logits: Tensor
    features: Tensor


def members(function: Callable[[Any, Tensor], Any], x: Tensor, widths: Sequence[int] = (7, 5)) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [Heads(function, width, x).eval() for width in widths]


def full(population: Population, x: Tensor) -> nn.Module:
    return Assembler(Census(n_resamples=0).fit(population, x)).assemble("full", correction="none")


def dueling(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    advantages = m.b(h)
    return m.s(h) + advantages - advantages.mean(1, keepdim=True)


# name → forward pass, inputs, the layer whose units are the outputs, heads
AFFINE: dict[str, tuple[Callable[[Any, Tensor], Any], Tensor, str | None, tuple[str, ...]]] = {
    "a map": (lambda m, x: m.b(m.hidden(x)), IMAGES, "b", ("b",)),
    "a sequence": (lambda m, x: m.b(m.hidden(x)), STEPS, "b", ("b",)),
    "a map, scaled": (lambda m, x: m.b(m.hidden(x)) * m.scale[:, None, None] - 4e2, IMAGES, "b", ("b",)),
    "a flat map": (lambda m, x: m.b(m.hidden(x)).flatten(1), IMAGES, None, ("b",)),
    "a number": (lambda m, x: m.s(m.hidden(x)).squeeze(-1), ROWS, None, ("s",)),
    "a number by its index": (lambda m, x: m.s(m.hidden(x))[:, 0], ROWS, None, ("s",)),
    "a sum over steps": (lambda m, x: m.b(m.hidden(x)).sum(1), STEPS, "b", ("b",)),
    "side by side": (lambda m, x: torch.cat([m.b(m.hidden(x)), m.v(m.hidden(x))], 1), ROWS, None, ("b", "v")),
    "stacked": (lambda m, x: torch.stack([m.v(m.hidden(x)), m.b(m.hidden(x))[:, :2]], 1), ROWS, None, ("v", "b")),
    "dueling": (dueling, ROWS, None, ("b", "s")),
    "buffers": (lambda m, x: m.b(m.hidden(x)) * m.scale + m.scale, ROWS, "b", ("b",)),
    "added to the inputs": (lambda m, x: x[:, :3] + m.b(m.hidden(x)), ROWS, "b", ("b",)),
    "rows of numbers": (lambda m, x: m.b(m.hidden(x)).view(-1, 3, 1), ROWS, "b", ("b",)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_full_width_is_the_mean_of_the_members(name: str) -> None:
    function, x, output, heads = AFFINE[name]
    modules = members(function, x)
    population = Population.from_modules(modules, x[:8])
    architecture = population.architecture
    assert (architecture.returned.layer, architecture.heads, architecture.tail) == (output, heads, ())
    expected = torch.stack([module(x) for module in modules]).mean(0).detach()
    torch.testing.assert_close(full(population, x)(x).detach(), expected, rtol=1e-4, atol=1e-4)


COLLECTIONS: dict[str, tuple[Callable[[Any, Tensor], Any], str | int | None]] = {
    "a tuple": (lambda m, x: (m.b(m.hidden(x)), m.s(m.hidden(x)).squeeze(1)), None),
    "a dict": (lambda m, x: {"policy": m.b(m.hidden(x)), "value": m.s(m.hidden(x))}, None),
    "a list in a dict": (lambda m, x: {"a": [m.b(m.hidden(x)), m.v(m.hidden(x))], "none": None}, "a"),
    "a dataclass": (lambda m, x: Returned(m.b(m.hidden(x)), m.hidden(x)), "logits"),
    "a tuple with features": (lambda m, x: (m.hidden(x), m.b(m.hidden(x))), 1),
    "an auxiliary head": (lambda m, x: {"out": m.b(m.hidden(x)), "aux": m.v(m.hidden(x)).softmax(1)}, "out"),
}


def tensors(returned: Any, output: str | int | None) -> list[Tensor]:
    if output is not None:
        returned = getattr(returned, output) if isinstance(returned, Returned) else returned[output]
    parts = returned.values() if isinstance(returned, dict) else returned
    return [returned] if isinstance(returned, Tensor) else list(parts)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_the_outputs_in_a_collection_are_all_or_those_picked(name: str, tmp_path: Path) -> None:
    function, output = COLLECTIONS[name]
    modules = members(function, ROWS)
    population = Population.from_modules(modules, ROWS[:8], output=output)
    assembled = full(population, ROWS)(ROWS)
    every = [tensors(module(ROWS), output) for module in modules]
    for ours, theirs in zip(tensors(assembled, output), zip(*every, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs).mean(0), rtol=1e-4, atol=1e-5)
    population.save(tmp_path / "population")
    loaded = Population.load(tmp_path / "population", modules[0])
    assert loaded.output == output
    assert torch.equal(loaded.logits(ROWS), population.logits(ROWS))


# name → forward pass, what it makes of the mean outputs of ``b``, the operations of the tail
BENT: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Tensor], Tensor], tuple[str, ...]]] = {
    "softmax": (lambda m, x: m.b(m.hidden(x)).softmax(-1), lambda y: y.softmax(-1), ("softmax",)),
    "temperature": (
        lambda m, x: functional.log_softmax(m.b(m.hidden(x)) / 1.7, 1),
        lambda y: (y / 1.7).log_softmax(1),
        ("log_softmax",),
    ),
    "sigmoid": (lambda m, x: m.b(m.hidden(x)).sigmoid(), torch.sigmoid, ("sigmoid",)),
    "bounded": (lambda m, x: 2.5 * m.b(m.hidden(x)).tanh() + 1, lambda y: 2.5 * y.tanh() + 1, ("tanh", "mul", "add")),
    "unit length": (
        lambda m, x: functional.normalize(m.b(m.hidden(x)), dim=1),
        lambda y: functional.normalize(y, dim=1),
        ("linalg_vector_norm", "clamp_min", "expand_as", "div"),
    ),
}


@pytest.mark.parametrize("name", BENT)
def test_outputs_are_pooled_before_a_tail_that_is_not_affine(name: str) -> None:
    function, tail, operations = BENT[name]
    modules = members(function, ROWS)
    population = Population.from_modules(modules, ROWS[:8])
    assert population.architecture.tail == operations
    mean = torch.stack([module.b(module.hidden(ROWS)) for module in modules]).mean(0).detach()
    net = full(population, ROWS)
    torch.testing.assert_close(net(ROWS).detach(), tail(mean), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Ensemble(population)(ROWS).detach(), tail(mean), rtol=1e-4, atol=1e-5)
    assert evaluate(net, ROWS, population).error < 1e-8
    with pytest.raises(InputError, match="network must be of the members' class, since they are compared before"):
        evaluate(lambda x: x[:, :3], ROWS, population)


def test_two_heads_of_which_one_is_bent_are_pooled_apart() -> None:
    modules = members(lambda m, x: (m.b(m.hidden(x)), functional.softplus(m.b(m.hidden(x)) + 1)), ROWS)
    population = Population.from_modules(modules, ROWS[:8])
    joined = torch.cat(full(population, ROWS)(ROWS), 1)
    torch.testing.assert_close(Ensemble(population)(ROWS), joined, rtol=1e-4, atol=1e-5)
    mean, spread = full(population, ROWS)(ROWS)
    expected = torch.stack([module.b(module.hidden(ROWS)) for module in modules]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(spread, functional.softplus(expected + 1), rtol=1e-4, atol=1e-5)


NARROW = {name: AFFINE[name][:2] for name in ("a map", "a sequence", "a number", "side by side", "dueling")}
NARROW["softmax"] = (BENT["softmax"][0], ROWS)
NARROW["a tuple"] = (COLLECTIONS["a tuple"][0], ROWS)


@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_assembly_is_fitted_to_the_pooled_outputs(name: str) -> None:
    function, few = NARROW[name]
    x = torch.randn(200, *few.shape[1:], generator=torch.Generator().manual_seed(1))
    population = Population.from_modules(members(function, x, (7, 7, 7)), x[:8], task="regression")
    assembler = Assembler(Census(n_resamples=0).fit(population, x))
    errors = {}
    for correction in ("least-squares", "second-order", "distill"):
        options = {"steps": 100} if correction == "distill" else {}
        result = evaluate(assembler.assemble(5, correction=correction, **options), x, population)
        errors[correction] = result.error / result.member_error
    assert errors["least-squares"] < 1
    assert errors["second-order"] <= errors["least-squares"] * 1.05
    assert errors["distill"] <= errors["least-squares"] * 1.05


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_heads_that_are_not_picked_are_no_part_of_the_fit(task: str) -> None:
    modules = members(lambda m, x: {"y": m.b(m.hidden(x)), "other": m.s(m.hidden(x)).sigmoid()}, ROWS, (7, 7, 7))
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    population = Population.from_modules(modules, x[:8], output="y", task=task)
    assembler = Assembler(Census(n_resamples=0).fit(population, x))
    for correction in ("least-squares", "second-order"):
        result = evaluate(assembler.assemble(5, correction=correction), x, population)
        assert result.error < result.member_error


def test_parameters_without_a_part_in_the_outputs_are_kept() -> None:
    modules = members(lambda m, x: m.b(m.hidden(x)), ROWS)
    population = Population.from_modules(modules, ROWS[:8])
    assert population.architecture.kept == ("spare", "v.weight", "v.bias", "s.weight", "s.bias")
    net = full(population, ROWS)
    assert torch.equal(net.spare, modules[0].spare)
    assert torch.equal(net.v.weight, modules[0].v.weight)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b(m.hidden(x).view(len(x), -1)),
        lambda m, x: m.b(m.hidden(x).reshape(int(x.shape[0]), -1)),
        lambda m, x: m.b(m.hidden(x)).sum(1, keepdim=True).expand(len(x), 3) + x.new_zeros(len(x), 3),
    ],
)
def test_a_batch_size_as_a_number_stays_free(function: Callable[[Any, Tensor], Any]) -> None:
    modules = members(function, ROWS)
    population = Population.from_modules(modules, ROWS[:3])
    expected = torch.stack([module(ROWS) for module in modules]).mean(0).detach()
    torch.testing.assert_close(full(population, ROWS)(ROWS).detach(), expected, rtol=1e-4, atol=1e-5)


def tuple_of_two(m: Any, x: Tensor) -> Any:
    return {"logits": m.b(m.hidden(x)), "labels": m.b(m.hidden(x)).argmax(1)}


REFUSED = {
    "a misspelled output": (
        tuple_of_two,
        "logit",
        InputError,
        "one of 'logits', 'labels' for Heads, got 'logit'\n.*'logits'?",
    ),
    "a number too large": (lambda m, x: (m.b(m.hidden(x)),), 1, InputError, "output must be one of 0 for Heads, got 1"),
    "an output of one tensor": (lambda m, x: m.b(m.hidden(x)), "a", InputError, "must be in what Heads returns"),
    "another kind": (tuple_of_two, 1.5, InputError, "output must be a key, a number or None, got 1.5"),
    "labels": (tuple_of_two, None, InputError, r"tensors of real numbers, got int64 \(2,\)\n.*pass output="),
    "no tensor": (lambda m, x: None, None, InputError, "one tensor of real numbers or several, got NoneType"),
    "one number": (lambda m, x: m.b(m.hidden(x)).sum(), None, InputError, "a row for each sample, got one number"),
    "other samples": (lambda m, x: (m.b(m.hidden(x)), m.v(m.hidden(x))[:1]), None, InputError, "for the same samples"),
    "the smaller of two": (
        lambda m, x: torch.minimum(m.s(m.hidden(x)), m.v(m.hidden(x))),
        None,
        TracingError,
        "the outputs are the smallest or largest of several: aten.minimum in Heads, test_units_outputs.py",
    ),
    "a loop over samples": (
        lambda m, x: torch.cat([m.b(m.hidden(x[i : i + 1])) for i in range(len(x))]),
        None,
        TracingError,
        "Heads must return one output for each of any number of samples, got one batch size only",
    ),
    "a stack over samples": (
        lambda m, x: torch.stack([m.b(m.hidden(row)) for row in x]),
        None,
        TracingError,
        "one batch size only\n.*or a loop over samples",
    ),
    "features that are read": (
        lambda m, x: (m.b(m.hidden(x)), m.hidden(x)),
        None,
        TracingError,
        "layer 'a' of Heads must be read by nothing inside, got a layer that is returned and read again by 'b'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_outputs_that_cannot_be_pooled_raise_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["consilience.units.trace"], "MANY", 101)  # a loop is traced as often
    function, output, error, message = REFUSED[name]
    (module,) = members(function, ROWS, [7])
    with pytest.raises(error, match=message):
        find_layers(module, ROWS[:8], output)


SUMS = {
    "of products": lambda m, x: (m.b(m.hidden(x)) * m.b(m.hidden(x).tanh())).sum(-1),
    "of squares": lambda m, x: m.b(m.hidden(x)).square().sum(-1),
    "of activations": lambda m, x: m.b(m.hidden(x)).relu().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_units_that_have_no_index_are_not_pooled(name: str) -> None:
    population = Population.from_modules(members(SUMS[name], ROWS, (7, 7)), ROWS[:8], task="regression")
    with pytest.raises(InputError, match="change with the order .*\n  cure: sum units by a layer"):
        Census(n_resamples=0).fit(population, ROWS)
    for work in (
        lambda: distil(population, ROWS, steps=1),
        lambda: Ensemble(population),
        lambda: evaluate(population[0].module, ROWS, population),
    ):
        with pytest.raises(InputError, match="change with the order"):
            work()


def test_pooling_by_class_needs_one_head() -> None:
    function = AFFINE["side by side"][0]
    population = Population.from_modules(members(function, ROWS), ROWS[:8])
    assembler = Assembler(Census(n_resamples=0).fit(population, ROWS), pooling="class-share")
    with pytest.raises(InputError, match="needs outputs of one layer, got several heads"):
        assembler.assemble("full")
