"""A folder of checkpoints: what fits becomes a member, what does not is left out with its reason, no code is run."""

from __future__ import annotations

import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from conftest import inputs, random_mlp
from consilience.errors import InputError, TracingError
from consilience.nets import MLP
from consilience.population import Population
from consilience.population import member as member_module
from consilience.store import save_network

X = inputs(8)
STATE, OTHER = random_mlp([5, 4]).state_dict(), random_mlp([5, 4], seed=1).state_dict()
LIGHTNING = {
    "epoch": 3,
    "pytorch-lightning_version": "2.6.0",
    "loops": {},
    "callbacks": {},
    "hyper_parameters": {"lr": 1},
}


class Hand(nn.Module):
    """A user's own module, with a buffer and a parameter of its own."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x - self.mean)))


class Convolutional(nn.Module):
    """A user's own convolutions with batch norm, flattened into a linear layer."""

    def __init__(self, first: int = 2, second: int = 2) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
        self.conv2, self.norm2 = nn.Conv2d(first, second, 3), nn.BatchNorm2d(second)
        self.readout = nn.Linear(second * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.readout(functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2).flatten(1))


def trained_convolutional(widths: tuple[int, int], seed: int) -> Convolutional:
    """In eval mode, with running statistics of its own from three batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Convolutional(*widths)
        for _ in range(3):
            net(2 * torch.randn(16, 1, 6, 6) + 1)
        for norm in (net.norm1, net.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return net.eval()


def random_hand(width: int, seed: int = 0) -> Hand:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Hand(width)
        net.mean.fill_(0.5)
    return net


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def by_part() -> dict[str, dict[str, Tensor]]:
    """A mapping for each part, as training loops of several modules save them."""
    tops = {name.partition(".")[0] for name in STATE}
    return {top: {n.removeprefix(f"{top}."): v for n, v in STATE.items() if n.startswith(top)} for top in tops}


def make_mlp() -> MLP:
    return MLP(6, [3, 3], 3)


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The state with some tensors replaced, by names with _ for dots, or removed."""
    names = {name.replace(".", "_"): name for name in STATE}
    state = {**STATE, **{names.get(key, key): value for key, value in tensors.items()}}
    return {name: value for name, value in state.items() if value is not None}


def quietly(directory: Path, module: object = make_mlp, x: Tensor = X) -> Population:
    """Import where something is left out, without the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Population.from_directory(directory, module, x)


def reason_for(directory: Path, content: object, name: str = "b.pt", module: object = make_mlp) -> str:
    """Why a file is left out beside a good one."""
    save_file(STATE, directory / "a.safetensors")
    if isinstance(content, bytes):
        (directory / name).write_bytes(content)
    else:
        torch.save(content, directory / name)
    population = quietly(directory, module)
    assert list(population.provenance["imported"]) == ["a.safetensors"]
    return population.provenance["left_out"][name]


# --- what is imported ---------------------------------------------------------------------------------------------


def test_every_checkpoint_is_a_member_at_its_own_widths_in_the_order_of_names(tmp_path: Path) -> None:
    nets = {
        name: random_mlp(widths, seed=k)
        for k, (name, widths) in enumerate(
            [("d.pth", [7, 2]), ("b.pt", [4, 6]), ("a.safetensors", [5, 4]), ("c/model.safetensors", [5, 4])]
        )
    }
    torch.save(nets["d.pth"].state_dict(), tmp_path / "d.pth")
    torch.save(nets["b.pt"].state_dict(), tmp_path / "b.pt")
    save_file(nets["a.safetensors"].state_dict(), tmp_path / "a.safetensors")
    save_network(nets["c/model.safetensors"], tmp_path / "c")
    for ignored in ("config.json", ".hidden.pt", "c/other.safetensors", "notes.txt"):
        (tmp_path / ignored).write_text("not a checkpoint")
    template = make_mlp()
    before = {name: value.clone() for name, value in template.state_dict().items()}
    population = Population.from_directory(tmp_path, template, X)
    order = sorted(nets)
    assert population.provenance == {"imported": {name: {"member": k} for k, name in enumerate(order)}, "left_out": {}}
    assert population.widths("hidden.0") == (5, 4, 5, 7)
    assert torch.equal(population.logits(X), torch.stack([nets[name](X) for name in order]).detach())
    assert all(torch.equal(value, before[name]) for name, value in template.state_dict().items())
    again = Population.from_directory(str(tmp_path), make_mlp, X)
    assert torch.equal(again.logits(X), population.logits(X))


def test_ones_own_modules_keep_their_buffers(tmp_path: Path) -> None:
    for k, width in enumerate([5, 7]):
        save_file(random_hand(width, k).state_dict(), tmp_path / f"{k}.safetensors")
    population = Population.from_directory(tmp_path, Hand, X)
    expected = torch.stack([random_hand(width, k)(X) for k, width in enumerate([5, 7])])
    assert torch.equal(population.logits(X), expected.detach())
    population.save(tmp_path / "saved")
    loaded = Population.load(tmp_path / "saved", module=Hand())
    assert torch.equal(loaded.logits(X), population.logits(X))


def test_batch_norms_keep_their_running_statistics_at_unequal_widths(tmp_path: Path) -> None:
    x = inputs(8, n_inputs=36).reshape(8, 1, 6, 6)
    nets = [trained_convolutional(widths, seed) for seed, widths in enumerate([(4, 3), (2, 5), (4, 3), (3, 3)])]
    states = [dict(net.state_dict()) for net in nets]
    for name in ("norm1.num_batches_tracked", "norm2.num_batches_tracked"):
        del states[2][name]  # as torch before 0.4.1 saved them
    states[3]["norm2.running_var"] = states[3]["norm2.running_var"][:2]
    for k, state in enumerate(states):
        save_file(state, tmp_path / f"{k}.safetensors")
    population = quietly(tmp_path, Convolutional, x)
    assert population.widths("conv1") == (4, 2, 4)
    assert population.widths("conv2") == (3, 5, 3)
    expected = torch.stack([net(x) for net in nets[:3]]).detach()
    torch.testing.assert_close(population.logits(x), expected, rtol=1e-5, atol=1e-6)
    modules = [member.module for member in population]
    assert torch.equal(torch.stack([module(x) for module in modules]), torch.stack([net(x) for net in nets[:3]]))
    assert [int(module.norm1.num_batches_tracked) for module in modules] == [3, 3, 0]
    reason = population.provenance["left_out"]["3.safetensors"]
    assert reason.startswith(
        "the file must have (3,) at these widths of a Convolutional, got 'norm2.running_var' (2,);"
    )
    population.save(tmp_path / "saved")
    loaded = Population.load(tmp_path / "saved", module=Convolutional())
    assert torch.equal(loaded.logits(x), population.logits(x))


def test_members_of_one_class_are_traced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    original = member_module.layers_of
    monkeypatch.setattr(member_module, "layers_of", lambda m, *rest: traced.append(m) or original(m, *rest))
    for k, width in enumerate([5, 7, 4, 5]):
        save_file(random_mlp([width]).state_dict(), tmp_path / f"{k}.safetensors")
    Population.from_directory(tmp_path, MLP(6, [2], 3), X)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        ({"state_dict": STATE, "epoch": 3, "optimizer": {"state": {}}}, {"found_under": "state_dict"}),
        ({"model_state_dict": STATE, "loss": torch.tensor(1.0)}, {"found_under": "model_state_dict"}),
        ({"model": STATE}, {"found_under": "model"}),
        ({f"module.{name}": value for name, value in STATE.items()}, {"prefix_removed": "module."}),
        (
            {"module": {f"_orig_mod.module.{name}": value for name, value in STATE.items()}},
            {"found_under": "module", "prefix_removed": "_orig_mod.module."},
        ),
        ({name: nn.Parameter(value) for name, value in STATE.items()}, {}),
        ({**STATE, "epoch": 3}, {}),
        (LIGHTNING | {"state_dict": STATE}, {"found_under": "state_dict"}),
        (LIGHTNING | {"state_dict": prefixed("net.")}, {"found_under": "state_dict", "prefix_removed": "net."}),
        *(({name: STATE}, {"found_under": name}) for name in ("net", "weights", "params", "ema", "student", "module")),
        ({"a": {"b": STATE}}, {"found_under": "a.b"}),
        ({"model": STATE, "state_dict": STATE}, {"found_under": "model"}),
        ({name.replace(".0.", ".0._orig_mod."): v for name, v in STATE.items()}, {"prefix_removed": "_orig_mod."}),
        (by_part(), {}),
    ],
)
def test_the_state_dict_is_found_where_training_loops_put_it(tmp_path: Path, content: object, steps: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    population = Population.from_directory(tmp_path, make_mlp, X)
    assert population.provenance["imported"] == {"a.pt": {"member": 0, **steps}}
    assert torch.equal(population.logits(X)[0], random_mlp([5, 4])(X).detach())


@pytest.mark.parametrize("name", ["a.ckpt", "a.bin", "a.pth.tar", "run/pytorch_model.bin"])
def test_files_are_known_by_their_endings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    torch.save({"state_dict": STATE}, tmp_path / name)
    assert list(Population.from_directory(tmp_path, make_mlp, X).provenance["imported"]) == [name]


CHOICES = [
    ({"state_dict": STATE, "state_dict_ema": OTHER}, "state_dict", "state_dict_ema"),
    ({"params_ema": OTHER, "params": STATE}, "params", "params_ema"),
    ({"model": STATE, "swa": prefixed("module.", OTHER)}, "model", "swa"),
    ({"teacher": OTHER, "student": STATE}, "student", "teacher"),
    (prefixed("online_model.") | prefixed("ema_model.", OTHER), "online_model", "ema_model"),
]


@pytest.mark.parametrize(("content", "taken", "other"), CHOICES)
def test_of_several_that_fit_the_weights_are_taken_it_is_said_and_key_chooses(
    tmp_path: Path, content: object, taken: str, other: str
) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.warns(
        UserWarning, match=f"of 1 of 1 checkpoints, such as a.pt, .*{other} also fits, and key .--key. chooses it"
    ):
        default = Population.from_directory(tmp_path, make_mlp, X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_key = {key: Population.from_directory(tmp_path, make_mlp, X, key=key) for key in (taken, other)}
    for population, state in ((default, STATE), (by_key[taken], STATE), (by_key[other], OTHER)):
        assert torch.equal(population.members[0].module.state_dict()["readout.weight"], state["readout.weight"])
    with pytest.raises(InputError, match="the module's names under 'nothing', .*leave key out"):
        Population.from_directory(tmp_path, make_mlp, X, key="nothing")


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        ({"state_dict": prefixed("net.") | {"criterion.weight": torch.ones(3)}}, "criterion.weight"),
        (STATE | {"loss.weight": torch.ones(3), "n_averaged": torch.tensor(3)}, "loss.weight, n_averaged"),
        (STATE | {"again.weight": STATE["readout.weight"]}, "again.weight"),
    ],
)
def test_entries_of_a_loss_and_second_names_are_not_used_and_it_is_said(
    tmp_path: Path, content: object, ignored: str
) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=f"not used: {ignored}"):
        population = Population.from_directory(tmp_path, make_mlp, X)
    assert population.provenance["imported"]["a.pt"]["ignored"] == ignored
    assert torch.equal(population.logits(X)[0], random_mlp([5, 4])(X).detach())


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
)
def test_weights_that_are_computed_are_stored(tmp_path: Path, change: Callable[[nn.Module], object]) -> None:
    net = random_mlp([5, 4])
    change(net.hidden[0])
    net.eval()
    torch.save(net.state_dict(), tmp_path / "a.pt")
    expected = net(X).detach()
    for population in (Population.from_directory(tmp_path, make_mlp, X), Population.from_modules([net], X)):
        torch.testing.assert_close(population.logits(X)[0], expected)
    assert torch.equal(net(X), expected)


def test_an_expanded_tensor_beside_the_weights_is_not_read(tmp_path: Path) -> None:
    large = torch.zeros(1).expand(2_000_000_000, 10)
    torch.save({"model": STATE, "queue": large, "queue_g": large, "queue_mask": large}, tmp_path / "a.pt")
    assert len(Population.from_directory(tmp_path, make_mlp, X)) == 1


@pytest.mark.parametrize("parts", [("orig", "mask"), ("g", "v")])
def test_expanded_parts_of_a_weight_are_refused_before_it_is_computed(tmp_path: Path, parts: tuple[str, str]) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    large = {f"hidden.0.weight_{part}": torch.zeros(1).expand(2_000_000_000, 10) for part in parts}
    torch.save({name: value for name, value in STATE.items() if name != "hidden.0.weight"} | large, tmp_path / "b.pt")
    with pytest.warns(UserWarning, match=f"'hidden.0.weight_{parts[0]}' must have values of its own"):
        assert len(Population.from_directory(tmp_path, make_mlp, X)) == 1


def test_a_part_under_two_names_is_one(tmp_path: Path) -> None:
    torch.save(Twice(5).state_dict(), tmp_path / "a.pt")
    save_file({name: v for name, v in Twice(4).state_dict().items() if "again" not in name}, tmp_path / "b.safetensors")
    population = Population.from_directory(tmp_path, Twice, X)
    assert population.widths("first") == (5, 4)
    population.save(tmp_path / "saved")
    assert torch.equal(Population.load(tmp_path / "saved", Twice()).logits(X), population.logits(X))


class Twice(Hand):
    """A part under two names, and a buffer that is in no state dict."""

    def __init__(self, width: int = 5) -> None:
        super().__init__(width)
        self.again = self.first
        self.register_buffer("mean", torch.ones(6), persistent=False)


def test_a_part_of_two_values_is_refused(tmp_path: Path) -> None:
    torch.save(Twice(5).state_dict() | {"again.bias": torch.ones(5)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="must have one 'first.bias' of a Twice, got another under its second name"):
        Population.from_directory(tmp_path, Twice, X)


def test_a_prefix_that_the_module_has_itself_stays(tmp_path: Path) -> None:
    save_file(nn.DataParallel(random_mlp([5])).state_dict(), tmp_path / "a.safetensors")
    population = Population.from_directory(tmp_path, _Wrapped, X)
    assert population.provenance["imported"] == {"a.safetensors": {"member": 0}}


class _Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = MLP(6, [3], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_to_that_of_the_inputs(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in STATE.items()}
    save_file(state, tmp_path / "a.safetensors")
    save_file(STATE, tmp_path / "b.safetensors")
    template = make_mlp().half()
    population = Population.from_directory(tmp_path, template, X)
    assert template.readout.weight.dtype == torch.float16
    name = str(dtype).removeprefix("torch.")
    assert population.provenance["imported"] == {
        "a.safetensors": {"member": 0, "converted": f"{name} to float32"},
        "b.safetensors": {"member": 1},
    }
    weight = population.members[0].network.state["readout.weight"]
    assert torch.equal(weight, state["readout.weight"].float())
    double = Population.from_directory(tmp_path, make_mlp, X.double())
    assert double.members[0].network.state["readout.weight"].dtype == torch.float64


def test_the_account_is_saved_with_the_population(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    torch.save({"model": STATE}, tmp_path / "runs" / "a.pt")
    (tmp_path / "runs" / "b.pt").write_bytes(b"")
    population = quietly(tmp_path / "runs")
    population.save(tmp_path / "saved")
    loaded = Population.load(tmp_path / "saved")
    assert loaded.provenance == population.provenance
    assert loaded.provenance["imported"] == {"a.pt": {"member": 0, "found_under": "model"}}
    assert list(loaded.provenance["left_out"]) == ["b.pt"]


# --- what is left out ---------------------------------------------------------------------------------------------

FIT = "the file must have {} of a MLP, got {}; pass a module of the members' class"
CURE = "save its state_dict with safetensors"
NAMES = "'hidden.0.weight', 'hidden.0.bias', 'hidden.1.weight', 'hidden.1.bias', 'readout.weight', ..."
NO_STATE = f"the file must hold tensors by the module's names, {NAMES}, in a mapping or mappings in it, got "
UNPICKLED = "the file must hold nothing but tensors, numbers and texts, got {}, which cannot be read without unpick"
DAMAGED = "the file must be a complete checkpoint, got "
NAN = torch.tensor([1.0, torch.nan, torch.inf])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (changed(readout_bias=None), FIT.format("the 6 tensors", "missing: 'readout.bias'")),
        (changed(a=X, b=X, c=X, d=X), FIT.format("the 6 tensors", "not expected: 'a', 'b', 'c' and 1 more")),
        (changed(hidden_1_weight=torch.zeros(4, 6)), FIT.format("(4, 5) at these widths", "'hidden.1.weight' (4, 6)")),
        (changed(hidden_0_weight=torch.zeros(5, 7)), FIT.format("(5, 6) at these widths", "'hidden.0.weight' (5, 7)")),
        (changed(hidden_0_weight=torch.zeros(5)), FIT.format("2 axes", "'hidden.0.weight' (5,)")),
        (
            changed(readout_weight=torch.zeros(2, 4), readout_bias=torch.zeros(2)),
            FIT.format("(3, 4) at these widths", "'readout.weight' (2, 4)"),
        ),
        (
            changed(hidden_0_weight=torch.zeros(0, 6), hidden_0_bias=torch.zeros(0), hidden_1_weight=torch.zeros(4, 0)),
            "the width of layer 'hidden.0' must be >= 1, got 0",
        ),
        (
            changed(readout_bias=torch.zeros(3, dtype=torch.int8)),
            FIT.format("torch.float32", "'readout.bias' of torch.int8"),
        ),
        (
            changed(readout_bias=torch.zeros(3).to_sparse()),
            "readout.bias must be a dense tensor of a common type",
        ),
        (
            changed(readout_bias=NAN),
            "'readout.bias' must have values that float32 can hold, got 2 of 3 NaN or infinite",
        ),
        (
            changed(readout_bias=torch.full((3,), 1e300, dtype=torch.float64)),
            "'readout.bias' must have values that float32 can hold, got 3 of 3 NaN or infinite",
        ),
        (changed(hidden_1_weight=torch.full((4, 5), 3e38)), "the outputs of MLP must be finite, got NaN or infinity"),
        ({"epoch": 3, "net": {"a": X}}, f"{NO_STATE}'epoch', 'net'; {CURE}"),
        ({}, f"{NO_STATE}no names; "),
        ([1, 2], f"{NO_STATE}list; "),
        ({"a": STATE, "b": OTHER}, "the file must hold one state dict that fits, got 'a' and 'b'; choose one by key="),
        (
            changed(hidden_0_weight=torch.zeros(1).expand(2_000_000_000, 6)),
            "'hidden.0.weight' must have values of its own, got (2000000000, 6) expanded from 1; save its clone()",
        ),
        (changed(readout_bias=torch.zeros(3, device="meta")), "readout.bias must have values, got none yet"),
        (b"hello", f"{DAMAGED}KeyError: 101; {CURE}"),
        (b"not a checkpoint", UNPICKLED.format("an unknown format")),
        (b"", f"{DAMAGED}EOFError; {CURE}"),
        (random_mlp([5, 4]), UNPICKLED.format("consilience.nets.mlp.MLP") + f"ling, which may run code; {CURE}"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path, content: object, reason: str) -> None:
    found = reason_for(tmp_path, content)
    assert found.startswith(reason)
    assert "\n" not in found


def test_a_truncated_safetensors_is_left_out(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "whole.safetensors").unlink()
    reason = reason_for(tmp_path, data[:-9], "b.safetensors")
    assert reason.startswith(f"{DAMAGED}SafetensorError: ")


class _Evil:
    """Unpickled, it makes a directory."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("form", ["torch", "pickle", "old torch"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, form: str) -> None:
    content = {"state_dict": STATE, "extra": _Evil(tmp_path / "ran")}
    if form == "torch":
        reason = reason_for(tmp_path, content)
    elif form == "pickle":
        reason = reason_for(tmp_path, pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
        reason = reason_for(tmp_path, (tmp_path / "b.pth").read_bytes(), "b.pth")
    assert not (tmp_path / "ran").exists()
    assert "unpickling" in reason
    assert reason.endswith("save its state_dict with safetensors")
    pickle.loads(pickle.dumps(content["extra"]))  # it would have run
    assert (tmp_path / "ran").exists()


class _Scaled(nn.Module):
    """Preprocesses its inputs with a buffer."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.net = random_mlp([5])
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.scale)


def test_a_member_unlike_the_first_is_left_out(tmp_path: Path) -> None:
    for name, scale in (("a", 2.0), ("b", 1.0), ("c", 2.0)):
        save_file(_Scaled(scale).state_dict(), tmp_path / f"{name}.safetensors")
    population = quietly(tmp_path, _Scaled)
    assert population.provenance["imported"] == {"a.safetensors": {"member": 0}, "c.safetensors": {"member": 1}}
    reason = population.provenance["left_out"]["b.safetensors"]
    assert reason.startswith(
        "the file must compute what member 0 computes of the same parameters, got another function"
    )


def test_a_member_whose_proof_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save_file(random_mlp([5, 4]).state_dict(), tmp_path / f"{name}.safetensors")
    original = member_module.prove
    proved = []

    def prove(module: nn.Module, network: object, x: Tensor) -> None:
        proved.append(module)
        if len(proved) % 2 == 1:
            raise InputError("layer 'hidden.0' must be proved, got 2", cure="none")
        original(module, network, x)

    monkeypatch.setattr(member_module, "prove", prove)
    population = quietly(tmp_path)
    reason = "layer 'hidden.0' must be proved, got 2; none"
    assert population.provenance == {
        "imported": {"b.safetensors": {"member": 0}},
        "left_out": {"a.safetensors": reason},
    }
    with pytest.raises(InputError, match=rf"a\.safetensors must be a checkpoint that can be used, got: {reason}\n"):
        Population.from_directory(tmp_path, make_mlp, X, strict=True)


def test_what_is_left_out_is_told_once_where_the_user_called(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    (tmp_path / "b.pt").write_bytes(b"")
    torch.save(changed(readout_bias=None), tmp_path / "c.pt")
    with pytest.warns(UserWarning, match="are skipped") as told:
        Population.from_directory(tmp_path, make_mlp, X)
    (warning,) = told
    assert warning.filename == __file__
    assert re.fullmatch(
        rf"2 of 3 checkpoints in {re.escape(str(tmp_path))} are skipped:\n"
        r"  b\.pt: the file must be a complete checkpoint, got .*\n"
        r"  c\.pt: the file must have the 6 tensors of a MLP, got missing: 'readout.bias'; .*\n"
        r"  cure: repair them or move them away; with strict=True the first of them is an error",
        str(warning.message),
    )


def test_strictly_the_first_problem_is_an_error_before_any_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(changed(readout_bias=NAN), tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"")
    monkeypatch.setattr(member_module, "prove", None)
    message = rf"{re.escape(str(tmp_path / 'b.pt'))} must be a checkpoint that can be used, got: 'readout.bias' must"
    with pytest.raises(InputError, match=message):
        Population.from_directory(tmp_path, make_mlp, X, strict=True)


def test_if_none_can_be_used_each_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"")
    torch.save(changed(readout_bias=None), tmp_path / "b.pt")
    message = r"must have state dicts of MLP, got\n  a.pt: the file must be .*\n  b.pt: the file must have the 6"
    with pytest.raises(InputError, match=message):
        Population.from_directory(tmp_path, make_mlp, X)


# --- the module ---------------------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))

class Sized(Net):
    def __init__(self, width):
        super().__init__(width)

def make():
    return Net()

def broken():
    raise OSError("no disk")

def nothing():
    return None

ready = Net(4)
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a package of the user's and a folder of its checkpoints."""
    (tmp_path / "own_nets").mkdir()
    (tmp_path / "own_nets" / "__init__.py").write_text("")
    (tmp_path / "own_nets" / "small.py").write_text(SOURCE)
    (tmp_path / "own_nets" / "lame.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "own_nets" / "script.py").write_text("raise SystemExit('usage: script.py DATA')\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with torch.random.fork_rng():
        first, second = nn.Linear(6, 5), nn.Linear(5, 3)
    tensors = {"first": first, "second": second}
    state = {f"{name}.{key}": value for name, part in tensors.items() for key, value in part.state_dict().items()}
    save_file(state, tmp_path / "runs" / "a.safetensors")
    yield tmp_path / "runs"
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_nets"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["Net", "make", "ready"])
def test_the_module_is_imported_from_the_current_directory(own: Path, name: str) -> None:
    path, random = list(sys.path), torch.random.get_rng_state()
    population = Population.from_directory(own, f"own_nets.small:{name}", X)
    assert population.widths("first") == (5,)
    assert type(population.members[0].module).__qualname__ == "Net"
    assert sys.path == path
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "own_nets.small",
            "module must be 'package.module:Class', or a function in place of the class, got 'own",
        ),
        ("own_nets/small.py:Net", "module must be 'package.module:Class'"),
        ("own_nets.small:", "module must be 'package.module:Class'"),
        ("own_nets.large:Net", "module='own_nets.large:Net' must be in a Python module that can be imported, got Mod"),
        (
            "no_nets.small:Net",
            "that can be imported, got ModuleNotFoundError: .*\n  cure: run this from the dir",
        ),
        ("own_nets.lame:Net", "that can be imported, got ModuleNotFoundError: No module named 'a_package[^\n]*$"),
        ("own_nets.script:Net", "that can be imported, got SystemExit: usage: script.py DATA"),
        (
            "own_nets.small:Nett",
            "must be one of Net, Sized, make, broken, nothing, ready in own_nets.small, got 'Nett'",
        ),
        (
            "own_nets.small:Sized",
            "module='own_nets.small:Sized' must be callable without arguments, got Sized: missing a required argument: "
            "'width'\n  cure: pass a function, such as `def make",
        ),
        ("own_nets.small:broken", r"must make a module, got OSError from broken\(\): no disk"),
        ("own_nets.small:nothing", r"must make an nn.Module, got NoneType from nothing\(\)"),
        ("own_nets.small:number", "must be an nn.Module, a function that returns one, or .*, got int"),
        (MLP, "module must be callable without arguments, got MLP: missing"),
        (3, "module must be an nn.Module, a function that returns one, or 'package.module:Class', got int"),
    ],
)
def test_a_module_that_cannot_be_had_is_refused(own: Path, module: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Population.from_directory(own, module, X)


# --- before any work ----------------------------------------------------------------------------------------------


def test_bad_folders_and_inputs_are_refused_before_the_checkpoints_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> nn.Module:
        raise AssertionError("the module is not needed yet")

    with pytest.raises(InputError, match=r"directory must be a folder, got .*missing\n  cure: check the path"):
        Population.from_directory(tmp_path / "missing", never, X)
    saved = Population.from_modules([make_mlp()], X).save(tmp_path / "saved")
    with pytest.raises(InputError, match="must be a folder of checkpoints, got a saved population\n  cure: Population"):
        Population.from_directory(saved, never, X)
    (tmp_path / "a.txt").write_text("")
    message = r"must have files \*.safetensors, \*.pt, \*.pth, .*, or \*/model.safetensors, got none"
    with pytest.raises(InputError, match=message):
        Population.from_directory(tmp_path, never, X)
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(InputError, match="example_input must be finite, got NaN or infinity in 8 of 8 rows"):
        Population.from_directory(tmp_path, never, X * torch.nan)
    monkeypatch.setattr("consilience.population.checkpoints._read", None)
    with pytest.raises(InputError, match="example_input must be inputs that"):
        Population.from_directory(tmp_path, make_mlp, inputs(8, n_inputs=7))
    with pytest.raises(TracingError, match="aten.softmax"):
        Population.from_directory(tmp_path, nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1), nn.Linear(5, 3)), X)
