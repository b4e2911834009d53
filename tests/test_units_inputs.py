"""Networks of several inputs: tuples, dicts, integers and masks, from tracing to an assembly."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from conftest import refused, run
from consilience.baselines import distil
from consilience.data import Dataset, load_data
from consilience.errors import InputError
from consilience.population import Population
from consilience.studies.samples import packed
from consilience.units.inputs import Inputs, inputs_of

N = 60


class ByName(nn.Module):
    """Numbers, a type that is an integer, and a mask of the numbers."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor, kind: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = torch.where(mask, x, 0) if mask is not None else x
        x = torch.cat([x, kind.unsqueeze(1) / 4, torch.nn.functional.one_hot(kind, 4)[:, :1]], 1)
        return {"logits": self.out(torch.tanh(self.b(torch.relu(self.a(x))))), "kind": kind}


class ByPosition(nn.Module):
    """A picture and a vector: two branches."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.conv, self.a, self.out = nn.Conv2d(1, width, 3), nn.Linear(3, 4), nn.Linear(width + 4, 2)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        pooled = torch.relu(self.conv(image)).mean((2, 3))
        return self.out(torch.cat([pooled, torch.relu(self.a(vector))], 1))


class Together(ByName):
    """The same, with one dict as its argument."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(**batch)["logits"]


def named(n: int = N, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    kind, mask = torch.randint(0, 4, (n,), generator=g), torch.rand(n, 4, generator=g) < 0.8
    return {"x": torch.randn(n, 4, generator=g), "kind": kind, "mask": mask}


def positional(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 5, 5, generator=g), torch.randn(n, 3, generator=g)


def logits(net: nn.Module, x: object) -> Tensor:
    with torch.no_grad():
        if isinstance(net, Together):
            return net(x)
        return net(**x)["logits"] if isinstance(x, dict) else net(*x)


KINDS = {
    "names": (ByName, named, "logits"),
    "positions": (ByPosition, positional, None),
    "dict": (Together, named, None),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def population(kind: str) -> tuple[Population, list[nn.Module], object]:
    make, x, output = KINDS[kind]
    modules = [make(width) for width in (5, 6, 5)]
    return Population.from_modules(modules, x(16), output=output, task="regression"), modules, x()


def test_members_take_what_they_took_and_an_assembly_too(kind: str) -> None:
    members, modules, x = population(kind)
    assert members.inputs is not None
    assert members.example_input.shape[0] == 16
    for member, module in zip(members, modules, strict=True):
        assert type(member.module).__name__ == type(module).__name__
        assert isinstance(member.module, type(module))
        assert torch.equal(logits(member.module, x), logits(module, x))
        assert inputs_of(module) is None  # the user's own is as it was
    expected = torch.stack([logits(module, x) for module in modules]).mean(0)
    assert torch.allclose(members.logits(x).mean(0), expected, atol=1e-5)
    census = cs.Census(n_resamples=0).fit(members, x)
    full, small = cs.assemble(census, "full"), cs.assemble(census, "1x", correction="distill", steps=20)
    assert torch.allclose(logits(full, x), expected, atol=1e-4)
    assert cs.evaluate(small, x, members).error < 2
    assert cs.evaluate(cs.Ensemble(members), x, members).error < 1e-9
    again = cs.extend_census(census, [modules[0]])
    assert len(again.population_) == 4


def test_a_population_is_saved_with_its_inputs(kind: str, tmp_path: Path) -> None:
    members, modules, x = population(kind)
    members.save(tmp_path / "p")
    loaded = Population.load(tmp_path / "p", KINDS[kind][0](7))
    assert loaded.inputs == members.inputs
    assert torch.equal(loaded.logits(x), members.logits(x))
    (tmp_path / "runs").mkdir()
    for k, module in enumerate(modules):
        torch.save(module.state_dict(), tmp_path / "runs" / f"{k}.pt")
    imported = Population.from_directory(tmp_path / "runs", KINDS[kind][0], x, output=KINDS[kind][2])
    assert torch.equal(imported.logits(x), members.logits(x))


def test_copies_of_members_take_the_same(kind: str) -> None:
    members, _, x = population(kind)
    module = members.members[0].module
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is type(module)
        assert torch.equal(logits(other, x), logits(module, x))
        assert other.out.weight is not module.out.weight


def test_outputs_are_scored_for_several_inputs(kind: str) -> None:
    _, modules, x = population(kind)
    y = logits(modules[0], x)
    data = cs.Dataset(x, y, torch.arange(N))
    assert len(data) == N
    if KINDS[kind][2] is None:
        assert cs.evaluate(modules[0], data).r2 == 1
    taken = data.take([3, 4])
    assert len(taken) == 2
    assert torch.allclose(logits(modules[0], taken.x), y[3:5], atol=1e-6)


class Mixed(nn.Module):
    def forward(self, ids: Tensor, flag: Tensor, value: Tensor) -> Tensor:
        return ids + flag[:, None] * value[:, None]


def test_packing_holds_every_number() -> None:
    x = {"ids": torch.tensor([[0, 2**24 + 1]]), "flag": torch.tensor([True]), "value": torch.tensor([0.1])}
    inputs = Inputs.of(x, Mixed())
    packed = inputs.pack(x, "x")
    assert packed.dtype == torch.float64
    back = inputs.unpack(packed)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back, x.values(), strict=True))
    assert torch.equal(inputs.pack(dict(reversed(x.items())), "x"), packed)
    small = Inputs.of({**x, "ids": x["ids"] - 1}, Mixed())
    assert small.packed == "float32"
    with pytest.raises(InputError, match="'ids' in x must be at most 16777216, got larger integers"):
        small.pack(x, "x")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"kind": torch.zeros(5).long()},
            "inputs in x must be of the same samples, got 60 of 'x', 5 of 'kind'",
        ),
        ({"kind": torch.zeros(N)}, r"'kind' in x must be int64 \(n\), got float32 \(60,\)"),
        ({"x": torch.zeros(N, 5)}, r"'x' in x must be float32 \(n, 4\), got float32 \(60, 5\)"),
        ({"more": torch.zeros(N)}, "x must have the inputs 'x', 'kind', 'mask', got 'x', 'kind', 'mask', 'more'"),
        ({"x": torch.full((N, 4), torch.nan)}, "'x' in x must be finite"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change: dict[str, Tensor], text: str) -> None:
    members, _, x = population("names")
    with pytest.raises(InputError, match=text):
        cs.Census().fit(members, {**x, **change})


def test_an_output_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'logits'"):
        Population.from_modules([ByName()], named(16), output="logit")


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({"ids": 1, "flag": 1}, "'ids', 'flag'"),
        ({"ids": 1, "flag": 1, "valu": 1}, "'ids', 'flag', 'valu'"),
        ({"ids": 1, "flag": 1, "value": 1, "more": 1}, "'ids', 'flag', 'value', 'more'"),
        ((1, 1), "2 in a tuple"),
        ((1, 1, 1, 1), "4 in a tuple"),
    ],
)
def test_inputs_that_a_network_does_not_take_are_refused_by_name(given: Any, got: str) -> None:
    x = torch.utils._pytree.tree_map(lambda width: torch.randn(5, width), given)
    text = (
        f"example_input must have the inputs that the forward pass of Mixed takes, 'ids', 'flag', 'value', got {got}\n"
    )
    with pytest.raises(InputError, match=text + "  cure: name them in a dict as the arguments are named"):
        Inputs.of(x, Mixed())


class TakesMore(nn.Module):
    """Ignores inputs that it does not know, as networks of Hugging Face's do."""

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, **more: Tensor) -> Tensor:
        raise NotImplementedError


def test_a_misspelled_input_that_would_be_ignored_is_refused() -> None:
    x = torch.ones(5, 3)
    with pytest.raises(InputError, match="has by name, got 'atention_mask'\n  cure: did you mean 'attention_mask'?"):
        Inputs.of({"ids": x, "atention_mask": x}, TakesMore())
    assert Inputs.of({"ids": x, "labels": x}, TakesMore()).names == ("ids", "labels")


class Rows(torch.utils.data.Dataset):
    """What people have: inputs and a target, one sample at a time."""

    def __init__(self, kind: str) -> None:
        self.inputs, self.asked = KINDS[kind][1](), set[int]()

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> object:
        self.asked.add(i)
        if isinstance(self.inputs, dict):
            return {**{name: value[i] for name, value in self.inputs.items()}, "label": i}
        return *(value[i] for value in self.inputs), i


@pytest.mark.parametrize("source", ["dataset", "loader", "generator", "list"])
def test_a_census_takes_inputs_batch_by_batch(kind: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members, _, x = population(kind)
    rows = Rows(kind)
    loader = torch.utils.data.DataLoader(rows, batch_size=7)
    given = {"dataset": rows, "loader": loader, "generator": (batch for batch in loader), "list": [*loader]}[source]
    census = cs.Census(n_resamples=0).fit(members, given)
    assert members.inputs is not None
    assert census.calibration_ is not None
    assert torch.equal(census.calibration_, members.inputs.pack(x, "x"))
    monkeypatch.setattr("consilience.population.batches.MOST", 20)
    rows.asked.clear()
    some = cs.Census(n_resamples=0).fit(members, rows if source == "dataset" else loader)
    assert some.calibration_ is not None
    assert len(some.calibration_) == 20
    assert rows.asked == ({*range(0, 60, 3)} if source == "dataset" else {*range(21)})


def test_batches_of_one_input_and_those_that_do_not_fit() -> None:
    x = torch.randn(40, 6)
    members = Population.from_modules([cs.MLP(6, [5], 2), cs.MLP(6, [4], 2)], x[:16])
    pairs = torch.utils.data.TensorDataset(x, torch.arange(40))
    own = Dataset(x, torch.arange(40), torch.arange(40))
    for given in (pairs, own):
        assert torch.equal(cs.Census(n_resamples=0).fit(members, given).calibration_, x)
    assert cs.evaluate(cs.Ensemble(members), pairs, members).error < 1e-9
    with pytest.raises(InputError, match="x must yield at least one batch, got none"):
        cs.Census().fit(members, iter(()))
    with pytest.raises(InputError, match="batches of x must be inputs, or tuples .*, got a dict of 'a'"):
        cs.Census().fit(members, iter([{"a": x}]))
    several, _, named_inputs = population("names")
    with pytest.raises(InputError, match="batches of x must have the inputs 'x', 'kind', 'mask', got 'x'"):
        cs.Census().fit(several, iter([{"x": named_inputs["x"]}]))


def test_networks_of_several_inputs_are_trained(kind: str) -> None:
    assert_trained(kind, (None,))


def test_networks_of_several_inputs_are_trained_in_processes() -> None:
    with cs.engine("processes:1"):
        for kind in KINDS:
            assert_trained(kind, (4, 5))


def assert_trained(kind: str, widths: tuple[int | None, ...]) -> None:
    """Members of these widths learn, and are assembled; None for one network as it is."""
    make, x, output = KINDS[kind]
    if output is not None:  # what is trained returns its outputs alone
        make, output = Together, None
    y = logits(make(), x())
    data = Dataset(x(), y, torch.arange(N))
    training = cs.Training(epochs=40, batch_size=20, learning_rate=1e-2)
    nets = make() if widths == (None,) else [make(width) for width in widths]
    trained = cs.train_population(nets, data, 2, training=training, validation=data)
    assert min(cs.evaluate(member.module, data).r2 for member in trained) > 0.5
    assert {"epoch", "validation_loss"} <= {*trained.metrics[-1]}
    assert inputs_of(nets if isinstance(nets, nn.Module) else nets[0]) is None
    full = cs.assemble(cs.Census(n_resamples=0).fit(trained, x()), width="full")
    torch.testing.assert_close(logits(full, x()), trained.logits(x()).mean(0), atol=1e-5, rtol=1e-4)


def test_a_function_makes_networks_of_several_inputs() -> None:
    data = Dataset(positional(), torch.arange(N) % 2, torch.arange(N))
    trained = cs.train_population(ByPosition, data, 2, training=cs.Training(epochs=1, batch_size=30))
    assert trained.inputs == Inputs.of(positional(), ByPosition())
    uneven = Dataset((positional()[0], positional()[1][:50]), torch.arange(N) % 2, torch.arange(N))
    with pytest.raises(InputError, match=r"inputs in train.x must be of the same samples, got 60 of 0, 50 of 1"):
        cs.train_population(ByPosition, uneven, 2)
    with pytest.raises(InputError, match="train.x must be a tensor or an array of numbers, got str"):
        cs.train_population(ByPosition, Dataset({"x": torch.zeros(N, 4), "kind": "a"}, data.y, data.ids), 2)


def test_distillation_takes_batches_and_augmentation_of_several_inputs(kind: str) -> None:
    members, _, x = population(kind)
    loader = torch.utils.data.DataLoader(Rows(kind), batch_size=20)
    seen = []

    def augmented(batch: object) -> object:
        seen.append(batch)
        return batch

    options = {"steps": 20, "learning_rate": 1e-3, "batches": loader, "augmentation": augmented}
    net = distil(members, x, **options)
    assert net.distillation_.steps == 20
    assert type(seen[0]) is type(x)
    first = {name: value[:20] for name, value in x.items()} if isinstance(x, dict) else tuple(v[:20] for v in x)
    torch.testing.assert_close(seen[0], first)
    census = cs.Census(n_resamples=0).fit(members, x)
    assembled = cs.assemble(census, "1x", correction="distill", **options)
    assert logits(assembled, x).shape == logits(net, x).shape
    with pytest.raises(InputError, match="inputs in a batch must be of the same samples"):
        distil(members, x, **{**options, "batches": [uneven(x)]})
    for batch in (None, torch.zeros(20, 4), "text", {"other": torch.zeros(20)}, (), ["a", "b", "c"]):
        with pytest.raises(InputError, match="batch(es)? of distillation must"):
            distil(members, x, **{**options, "batches": [batch]})


def uneven(x: object) -> object:
    if isinstance(x, dict):
        return {**x, "kind": x["kind"][:5]}
    return x[0], x[1][:5]


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of several inputs, and a population of networks that take them."""
    root, x = tmp_path_factory.mktemp("several"), named(120)
    y = torch.bucketize(x["x"][:, 0] + 0.5 * x["kind"], torch.tensor([0.0, 1.0]))
    arrays = {f"{name}_{part}": values for name, values in {**x, "y": y}.items() for part in ("train", "test")}
    np.savez(root / "data.npz", **arrays)
    training = cs.Training(epochs=20, batch_size=30, learning_rate=1e-2)
    population = cs.train_population(Together, Dataset(x, y, torch.arange(120)), 3, training=training)
    population.save(root / "population")
    return root


COLUMNS = ["--columns", "x", "kind", "mask"]


def test_commands_take_data_of_several_inputs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--module", "test_units_inputs:Together"]
    data = ["--data", trained / "data.npz", *COLUMNS]
    run(capsys, "census", trained / "population", *own, *data, "--out", trained / "census", "--resamples", "0")
    written = run(capsys, "assemble", trained / "census", *own, *data, "--out", trained / "network", "--json")
    assert json.loads(written)["assembly_validation_accuracy"] > 0.6  # of three classes
    loaded = eval(json.loads(written)["load"], {"consilience": cs, "torch": torch})
    assert isinstance(loaded, Together)
    found = json.loads(
        run(capsys, "compare", trained / "population", *own, *data, "--out", trained / "compared", "--json")
    )
    assert (found["n_samples"], found["n_clusters"]) == (120, 3)


def test_data_of_several_inputs_is_read_by_names(trained: Path, tmp_path: Path) -> None:
    data = load_data(trained / "data.npz", columns=("kind", "x"))
    assert [*data.train.x] == ["kind", "x"]
    assert data.train.x["kind"].dtype == torch.int64
    assert data.read_as.startswith("kind: int64 (120,), x: float32 (120, 4); y: 3 classes")
    assert len(data.train) == len(data.train.x["x"]) == 100
    first = data.test.take([3])
    torch.testing.assert_close(first.x["x"], named(120)["x"][3:4])
    for names, got in {("x", "x"): "x x", ("x", "y"): "x y"}.items():
        with pytest.raises(InputError, match=f"columns must be different names of inputs, and not 'y', .*, got {got}"):
            load_data(trained / "data.npz", columns=names)
    with pytest.raises(InputError, match="layout must be 'auto' for several inputs, .*, got 'rows'"):
        load_data(trained / "data.npz", columns=("x", "kind"), layout="rows")
    with pytest.raises(InputError, match="must have arrays x_train, w_train, y_train, .* got x_train"):
        load_data(trained / "data.npz", columns=("x", "w"))
    with pytest.raises(InputError, match="must have arrays .*\n  cure: did you mean 'mask'?"):
        load_data(trained / "data.npz", columns=("x", "maks"))
    arrays = dict(np.load(trained / "data.npz"))
    for name, text in {
        "mask_train": "inputs in short.npz: train must be of the same samples, got 120 of 'x', 120 of 'kind', 50 of",
        "mask_test": "inputs in short.npz: test must be of the same samples",
        "y_train": "short.npz: train.y must have one row for each of the 120 rows of x",
    }.items():
        np.savez(tmp_path / "short.npz", **{**arrays, name: arrays[name][:50]})
        with pytest.raises(InputError, match=text):
            load_data(tmp_path / "short.npz", columns=("x", "kind", "mask"))
    np.savez(
        tmp_path / "short.npz", **{**arrays, "x_train": np.where(arrays["x_train"] > 2, np.nan, arrays["x_train"])}
    )
    with pytest.raises(InputError, match="'x' in short.npz: train.x must be finite, got NaN or infinity in"):
        load_data(tmp_path / "short.npz", columns=("x", "kind"))


def test_named_inputs_are_those_of_a_tuple_in_their_order() -> None:
    x = {"x0": torch.randn(9, 1, 5, 5), "x1": torch.randn(9, 3)}
    population = Population.from_modules([ByPosition()], (*x.values(),))
    samples = Dataset(x, torch.zeros(9, dtype=torch.int64), torch.arange(9))
    assert torch.equal(packed(population, samples).x, population.example_input)
    fewer = Dataset({"x1": x["x1"]}, samples.y, torch.arange(9))
    with pytest.raises(InputError, match="data must have the inputs 2 in a tuple, got 1 in a tuple"):
        packed(population, fewer)
    one = Dataset(torch.zeros(9, 3), samples.y, torch.arange(9))
    with pytest.raises(InputError, match="2 in a tuple, got .*\n.* --columns x0 x1, or other names of its arrays"):
        packed(population, one)


def test_commands_refuse_data_of_several_inputs_where_it_does_not_fit(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, own = ["--data", trained / "data.npz"], ["--module", "test_units_inputs:Together"]
    out = ["--out", trained / "never"]
    assert "train networks of several inputs in Python" in refused(capsys, "train", *data, *COLUMNS, *out)
    short = [*data, "--columns", "x", "kind"]
    message = refused(capsys, "census", trained / "population", *own, *short, *out)
    assert "data must have the inputs 'x', 'kind', 'mask', got 'x', 'kind'" in message
    for command, source in {"census": "population", "modularity": "population"}.items():
        message = refused(capsys, command, trained / source, *own, *data, *out)
        assert "data must have the inputs of the members, 'x', 'kind', 'mask', got float32 (" in message
        assert "--columns x kind mask" in message
    arrays = dict(np.load(trained / "data.npz"))
    np.savez(trained / "short.npz", **{**arrays, "mask_train": arrays["mask_train"][:50]})
    message = refused(capsys, "census", trained / "population", *own, "--data", trained / "short.npz", *COLUMNS, *out)
    assert "must be of the same samples, got 120 of 'x', 120 of 'kind', 50 of 'mask'" in message
    assert not (trained / "never").exists()
