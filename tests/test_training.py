"""Training: equal to a plain loop, deterministic, resumable to the bit, and safe from members that diverge."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR

from consilience.errors import ArtefactError, InputError, TrainingError
from consilience.nets import MLP, ConvNet, ResNet, ViT
from consilience.store import partial_path
from consilience.training import Run, Trained, Training, fit_members
from consilience.training import stack as stacks
from consilience.training.hyperparameters import check_training
from consilience.training.resume import FILE, delete_resume_state
from consilience.training.sampling import epoch_order, member_subsets

N = 90


def make_data(dtype: torch.dtype = torch.float32, regression: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator, dtype=dtype)
    teacher = torch.randn(6, 3, generator=generator, dtype=dtype)
    return (x, (x @ teacher).tanh()) if regression else (x, (x @ teacher).argmax(1))


def make_members(count: int, widths: tuple[int, ...] = (8, 5), dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    torch.manual_seed(0)
    return [MLP(6, widths, 3).to(dtype) for _ in range(count)]


def plain_loop(modules: list[nn.Module], x: Tensor, y: Tensor, training: Training, steps: int) -> list[nn.Module]:
    """Train each member as one would without this package, on the same batches."""
    trained = []
    subsets = member_subsets(y, len(modules), training.subset, training.concentration, 0)
    length = round(sum(map(len, subsets)) / len(modules))
    for member, module in enumerate(modules):
        net = copy.deepcopy(module).train()
        if training.optimizer in ("adam", "adamw"):
            kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
            optimizer: torch.optim.Optimizer = kind(
                net.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
            )
        else:
            optimizer = torch.optim.SGD(
                net.parameters(), training.learning_rate, training.momentum, weight_decay=training.weight_decay
            )
        done = epoch = 0
        schedule = of_cosine(optimizer, steps) if training.schedule == "cosine" else None
        while done < steps:
            order = epoch_order(subsets[member], epoch, member, training.shuffle, 0, length)
            for rows in order.split(training.batch_size)[: steps - done]:
                optimizer.zero_grad()
                outputs = net(x[rows])
                loss = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
                loss(outputs, y[rows]).backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                done += 1
            epoch += 1
        trained.append(net)
    return trained


def of_cosine(optimizer: torch.optim.Optimizer, steps: int) -> SequentialLR:
    rise = math.ceil(0.05 * steps)
    rising = LambdaLR(optimizer, lambda step: (step + 1) / rise)
    return SequentialLR(optimizer, [rising, CosineAnnealingLR(optimizer, steps - rise)], [rise])


def fit(modules: Sequence[nn.Module], x: Tensor, y: Tensor, training: Training, **options: Any) -> Trained:
    """Train with options of the run, and those of `fit_members`."""
    others = {name: options.pop(name) for name in ("checkpoint", "checkpoint_every", "progress") if name in options}
    return fit_members(modules, x, y, Run(training, **options), **others)


def difference(trained: Trained, modules: list[nn.Module]) -> float:
    return max(
        float((state[name] - value).abs().max())
        for state, module in zip(trained.states, modules, strict=True)
        for name, value in module.state_dict().items()
    )


def same_bits(first: Trained, second: Trained) -> bool:
    return all(
        a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
        for a, b in zip(first.states, second.states, strict=True)
    )


# --- equal to a loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "dtype", "steps", "tolerance"),
    [
        (Training(batch_size=32), torch.float32, 60, 1e-6),
        (Training(batch_size=32), torch.float64, 60, 1e-12),
        (Training(batch_size=32, shuffle="shared", weight_decay=0.01), torch.float32, 60, 1e-6),
        (Training(batch_size=32, shuffle="shared", weight_decay=0.01), torch.float64, 60, 1e-12),
        (Training(batch_size=32, optimizer="sgd", learning_rate=0.1, weight_decay=0.001), torch.float32, 60, 1e-6),
        (Training(batch_size=32, optimizer="sgd", learning_rate=0.1, weight_decay=0.001), torch.float64, 60, 1e-12),
        (Training(batch_size=32, optimizer="adamw", weight_decay=0.5), torch.float64, 60, 1e-12),
        (Training(batch_size=32, schedule="cosine"), torch.float64, 60, 1e-12),
        (Training(batch_size=32, optimizer="sgd", learning_rate=0.1, momentum=0.0), torch.float64, 60, 1e-12),
        (Training(batch_size=200, subset="bootstrap"), torch.float64, 30, 1e-12),
        (Training(batch_size=7, subset="disjoint"), torch.float64, 30, 1e-12),
        (Training(batch_size=7, subset="dirichlet", concentration=5.0), torch.float64, 30, 1e-12),
    ],
)
def test_equals_a_plain_loop_over_members(training: Training, dtype: torch.dtype, steps: int, tolerance: float) -> None:
    x, y = make_data(dtype)
    modules = make_members(4, dtype=dtype)
    trained = fit(modules, x, y, training, max_steps=steps)
    assert difference(trained, plain_loop(modules, x, y, training, steps)) < tolerance
    assert difference(trained, modules) > 0.01  # they did learn


def test_equals_a_plain_loop_for_mean_squared_error() -> None:
    x, y = make_data(torch.float64, regression=True)
    modules = make_members(3, dtype=torch.float64)
    training = Training(batch_size=32)
    trained = fit(modules, x, y, training, max_steps=50)
    assert difference(trained, plain_loop(modules, x, y, training, 50)) < 1e-12
    assert "accuracy" not in trained.metrics[0]


def test_modules_and_the_global_random_state_are_not_changed() -> None:
    x, y = make_data()
    modules = [module.eval() for module in make_members(2)]
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    random_state = torch.get_rng_state()
    fit(modules, x, y, Training(epochs=2))
    assert torch.get_rng_state().equal(random_state)
    for module, state in zip(modules, before, strict=True):
        assert all(value.equal(state[name]) for name, value in module.state_dict().items())
        assert not module.training
        assert all(parameter.grad is None for parameter in module.parameters())


# --- convolutions and batch normalisation ----------------------------------------------------------------------------


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.readout = nn.Conv2d(2, 3, 3), nn.Linear(108, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.convolution(x).relu().view(len(x), -1))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 3))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Linear(8, 3))


NETS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutional,
    "a view": Viewing,
    "ConvNet": lambda: ConvNet(2, (5, 4), 3, batch_norm=True),
    "ConvNet without norms": lambda: ConvNet(2, (5, 4), 3),
    "ResNet": lambda: ResNet(2, (4, 6), 3, inner_widths=((5,), (3,))),
    "wide ResNet": lambda: ResNet(2, (16, 4), 3, inner_widths=((5,), (3,))),
}


def make_images(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.randn(42, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return x + torch.arange(42, dtype=dtype)[:, None, None, None] % 3, torch.arange(42) % 3


def make_nets(name: str, count: int = 3, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    torch.manual_seed(0)
    return [NETS[name]().to(dtype) for _ in range(count)]


@pytest.fixture(params=["at once", "in turn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which a stack with convolutions is run, whatever its size."""
    monkeypatch.setattr(stacks, "POSITIONS_IN_TURN", 1 if request.param == "in turn" else math.inf)
    return request.param


SGD = Training(batch_size=16, optimizer="sgd", learning_rate=0.05)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("training", "dtype", "tolerance"),
    [
        (SGD, torch.float32, 1e-5),
        (Training(batch_size=16), torch.float64, 1e-10),
        (Training(batch_size=16, shuffle="shared"), torch.float64, 1e-10),
    ],
)
def test_convolutions_equal_a_plain_loop(name: str, training: Training, dtype: torch.dtype, tolerance: float) -> None:
    (x, y), modules = make_images(dtype), make_nets(name, dtype=dtype)
    trained = fit(modules, x, y, training, max_steps=14)  # the last batch of an epoch is of 10
    loop = plain_loop(modules, x, y, training, 14)
    assert trained.states[0].keys() == loop[0].state_dict().keys()
    assert difference(trained, loop) < tolerance  # of running statistics, too
    assert difference(trained, modules) > 0.01
    for state in trained.states:
        counts = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
        assert all(value.equal(torch.tensor(14)) for value in counts)
        assert bool(counts) == (name in ("ConvNet", "ResNet", "wide ResNet"))


@pytest.mark.parametrize("shuffle", ["independent", "shared"])
def test_batch_norm_of_vectors_equals_a_plain_loop(shuffle: str) -> None:
    class NormFirst(nn.Module):  # a norm that sees the inputs, and one that is met twice and has two names
        def __init__(self) -> None:
            super().__init__()
            self.first, self.linear, self.norm = nn.BatchNorm1d(6, affine=False), nn.Linear(6, 6), nn.BatchNorm1d(6)
            self.again, self.readout = self.norm, nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.readout(self.again(self.linear(self.norm(self.linear(self.first(x))).relu())))

    x, y = make_data(torch.float64)
    torch.manual_seed(0)
    modules = [normalised().double(), NormFirst().double(), normalised().double(), NormFirst().double()]
    training = Training(batch_size=32, shuffle=shuffle)
    trained = fit(modules, x, y, training, max_steps=20)
    # Biases before a norm have gradients at rounding level, which Adam divides by its epsilon of 1e-8.
    assert difference(trained, plain_loop(modules, x, y, training, 20)) < 1e-9
    assert not trained.states[0]["1.running_mean"].equal(trained.states[2]["1.running_mean"])
    assert trained.states[1]["again.running_var"].equal(trained.states[1]["norm.running_var"])
    assert trained.states[1]["norm.num_batches_tracked"] == 40


def test_large_maps_are_trained_in_turn_in_the_fastest_layout_and_small_ones_at_once() -> None:
    def layouts(modules: list[nn.Module], x: Tensor, batch_size: int) -> list[torch.memory_format | None]:
        return [stack.layout for stack in stacks.stack_members(modules, x, batch_size)]

    x = torch.randn(300, 2, 8, 8)
    assert layouts([ConvNet(2, [2], 3)], x, 255) == [None]
    assert layouts([ConvNet(2, [2], 3)], x, 256) == [torch.channels_last]
    assert layouts([ConvNet(2, [2], 3)], x[:255], 256) == [None]
    assert layouts([Viewing(), ConvNet(2, [2], 3)], x, 256) == [torch.contiguous_format, torch.channels_last]
    assert layouts([ResNet(2, (15, 3)), ResNet(2, (16, 3))], x, 256) == [torch.contiguous_format, torch.channels_last]
    assert layouts([nn.Conv1d(2, 2, 3)], x.flatten(2), 256) == [torch.contiguous_format]
    assert layouts([MLP(128, [2], 3)], x, 256) == [None]
    assert layouts([ViT(2, 8, 4, 3, width=4, heads=1, mlp_widths=4)], x, 8) == [torch.contiguous_format]


@pytest.mark.usefixtures("way")
def test_a_diverging_member_with_batch_norm_keeps_its_statistics_and_leaves_the_others_their_bits() -> None:
    x, y = make_images()
    modules = make_nets("ConvNet", 3)
    healthy = fit(modules, x, y, SGD, max_steps=12)
    with torch.no_grad():
        modules[1].readout.weight.mul_(1e15)  # step 1 moves the first convolution so far that a later loss overflows
    trained = fit(modules, x, y, SGD, max_steps=12)
    step = int(trained.failed[1].removeprefix("loss not finite at epoch 1, step "))
    assert step > 1
    for member in (0, 2):
        assert all(value.equal(healthy.states[member][name]) for name, value in trained.states[member].items())
    before = fit(modules, x, y, SGD, max_steps=step - 1)
    assert before.states[1]["norms.0.num_batches_tracked"] == step - 1
    for name, value in before.states[1].items():
        assert trained.states[1][name].nan_to_num().equal(value.nan_to_num())


def test_a_running_variance_that_overflows_is_found() -> None:
    x, y = make_data()
    torch.manual_seed(0)
    modules = [normalised(), normalised()]
    with torch.no_grad():
        modules[1][0].weight.mul_(1e25)  # its square is infinite, and the normalised activations are 0
    trained = fit(modules, x, y, Training(epochs=2))
    assert trained.failed == {1: "statistics not finite after the last step"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["ConvNet", "ResNet"])
def test_validation_uses_each_members_running_statistics_and_changes_nothing(name: str) -> None:
    x, y = make_images()
    modules = make_nets(name)
    without = fit(modules, x, y, SGD, max_steps=6)
    trained = fit(modules, x, y, SGD, max_steps=6, validation=(x, y))
    assert same_bits(without, trained)
    for member, module in enumerate(modules):
        module.load_state_dict(trained.states[member])
        loss = functional.cross_entropy(module.eval()(x), y).item()
        assert trained.metrics[-3 + member]["validation_loss"] == pytest.approx(loss, rel=1e-4)
        assert functional.cross_entropy(module.train()(x), y).item() != pytest.approx(loss, rel=1e-3)


@pytest.mark.usefixtures("way")
def test_an_interrupted_run_with_batch_norm_and_dropout_resumes_to_the_same_bits(tmp_path: Path) -> None:
    x, y = make_images()

    def modules() -> list[nn.Module]:
        torch.manual_seed(0)
        nets = [ConvNet(2, (4,), 3, batch_norm=True, dropout=0.2) for _ in range(3)]
        nn.init.constant_(nets[1].readout.bias, math.inf)
        return [*nets, ResNet(2, (4,), 3)]

    arguments = {"training": Training(epochs=4, batch_size=16), "random_state": 0, "validation": (x, y)}
    undisturbed = fit(modules(), x, y, **arguments)
    with pytest.raises(KeyboardInterrupt):
        fit(modules(), x, y, **arguments, checkpoint=tmp_path, checkpoint_every=0, progress=interrupt_at(14))
    calls: list[int] = []
    resumed = fit(modules(), x, y, **arguments, checkpoint=tmp_path, progress=lambda done, total: calls.append(done))
    assert calls[0] > 12  # it did go on, not begin again
    assert same_bits(undisturbed, resumed)
    assert resumed.metrics == undisturbed.metrics
    assert resumed.failed == undisturbed.failed == {1: "loss not finite at epoch 1, step 1"}
    assert resumed.states[1]["norms.0.num_batches_tracked"] == 0


def test_a_batch_of_one_sample_is_refused_only_where_it_cannot_be_normalised() -> None:
    x, y = make_data()
    modules = [normalised()]
    message = (
        r"batch_size must leave no batch of one sample for modules\[{}\] \(Sequential\) with batch norm, got {} for 33"
    )
    with pytest.raises(InputError, match=message.format(1, 16)):
        fit([MLP(6, [3], 3), *modules], x[:33], y[:33], Training(batch_size=16))
    with pytest.raises(InputError, match=message.format(0, 1)):
        fit(modules, x[:33], y[:33], Training(batch_size=1), max_steps=1)
    fit(modules, x[:33], y[:33], Training(batch_size=16), max_steps=2)  # it is never reached
    fit(modules, x[:34], y[:34], Training(batch_size=16, epochs=1))
    images, labels = make_images()
    modules = make_nets("ConvNet")  # its norms see positions
    trained = fit(modules, images[:33], labels[:33], SGD, max_steps=6)
    assert difference(trained, plain_loop(modules, images[:33], labels[:33], SGD, 6)) < 1e-5


# --- who sees what ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(n=st.integers(1, 50), length=st.integers(1, 150), epoch=st.integers(0, 5), member=st.integers(0, 5))
def test_an_epoch_is_whole_permutations_and_the_start_of_one(n: int, length: int, epoch: int, member: int) -> None:
    indices = torch.arange(n) * 3 + 1
    order = epoch_order(indices, epoch, member, "independent", 7, length)
    assert len(order) == length
    for piece in order.split(n):
        assert len(piece.unique()) == len(piece)
        assert set(piece.tolist()) <= set(indices.tolist())
    assert order.equal(epoch_order(indices, epoch, member, "independent", 7, length))


def test_orders_depend_on_seed_epoch_and_member() -> None:
    rows = torch.arange(50)
    first = epoch_order(rows, 0, 0, "independent", 0, 50)
    assert not first.equal(epoch_order(rows, 1, 0, "independent", 0, 50))
    assert not first.equal(epoch_order(rows, 0, 1, "independent", 0, 50))
    assert not first.equal(epoch_order(rows, 0, 0, "independent", 1, 50))
    shared = epoch_order(rows, 0, 0, "shared", 0, 50)
    assert shared.equal(epoch_order(rows, 0, 1, "shared", 0, 50))
    assert not shared.equal(epoch_order(rows, 1, 0, "shared", 0, 50))


@pytest.mark.parametrize(("shuffle", "equal"), [("shared", True), ("independent", False)])
def test_equal_members_stay_equal_only_when_they_share_their_batches(shuffle: str, equal: bool) -> None:
    x, y = make_data()
    module = make_members(1)[0]
    trained = fit([module, module], x, y, Training(epochs=2, batch_size=32, shuffle=shuffle))
    apart = (trained.states[0]["readout.weight"] - trained.states[1]["readout.weight"]).abs().max()
    assert apart < 1e-6 if equal else apart > 1e-4


@pytest.mark.parametrize("subset", ["full", "bootstrap", "disjoint", "dirichlet"])
def test_a_member_does_not_depend_on_those_trained_beside_it(subset: str) -> None:
    x, y = make_data()
    modules = make_members(5)
    training = Training(epochs=5, batch_size=16, subset=subset, concentration=5.0)
    everyone = fit(modules, x, y, training)
    two = fit([modules[3], modules[1]], x, y, training, members=[3, 1], n_members=5)
    for here, there in ((0, 3), (1, 1)):
        for name, value in two.states[here].items():
            assert (value - everyone.states[there][name]).abs().max() < 1e-6
    assert [record["member"] for record in two.metrics[:2]] == [3, 1]


def test_modules_with_the_same_number_see_the_same_samples() -> None:
    x, y = make_data()
    first, second = make_members(2)
    training = Training(epochs=2, batch_size=16, subset="bootstrap")
    both = fit([first, second], x, y, training, members=[1, 1], n_members=2)
    for row, module in enumerate((first, second)):
        alone = fit([module], x, y, training, members=[1], n_members=2)
        for name, value in both.states[row].items():
            assert (value - alone.states[0][name]).abs().max() < 1e-6
        assert [record["loss"] for record in both.metrics[row::2]] == pytest.approx([r["loss"] for r in alone.metrics])


def test_disjoint_subsets_share_nothing_and_cover_everything() -> None:
    subsets = member_subsets(torch.zeros(23), 4, "disjoint", 0.5, 0)
    assert sorted(torch.cat(subsets).tolist()) == list(range(23))
    assert [len(rows) for rows in subsets] == [6, 6, 6, 5]


def test_bootstrap_draws_as_many_with_replacement() -> None:
    subsets = member_subsets(torch.zeros(400), 3, "bootstrap", 0.5, 0)
    assert [len(rows) for rows in subsets] == [400] * 3
    assert all(0.57 < len(rows.unique()) / 400 < 0.70 for rows in subsets)  # 1 − 1/e = 0.632
    assert not subsets[0].equal(subsets[1])


def test_dirichlet_subsets_are_a_partition_that_is_skewed_by_a_small_concentration() -> None:
    y = torch.arange(2000) % 5

    def largest_share(concentration: float) -> float:
        subsets = member_subsets(y, 6, "dirichlet", concentration, 0)
        assert sorted(torch.cat(subsets).tolist()) == list(range(2000))
        assert min(map(len, subsets)) >= 4
        return float(torch.stack([y[rows].bincount(minlength=5).max() / len(rows) for rows in subsets]).mean())

    assert largest_share(0.1) > 0.5 > largest_share(1000.0)
    assert largest_share(1000.0) < 0.25


@pytest.mark.parametrize(
    ("y", "n_members", "kind", "message"),
    [
        (torch.zeros(3), 4, "disjoint", "n_members must be at most the 3 samples for subset='disjoint', got 4\n"),
        (torch.zeros(9, 2), 3, "dirichlet", "y of subset='dirichlet' must be integer labels (9,), got float32 (9, 2)"),
        (torch.arange(9) % 2, 3, "dirichlet", "subset='dirichlet' must give each of 3 members 4 of 9 samples, got"),
        (
            torch.zeros(9),
            3,
            "halves",
            "subset must be one of 'full', 'bootstrap', 'disjoint', 'dirichlet', got 'halves'",
        ),
    ],
)
def test_impossible_subsets_are_refused(y: Tensor, n_members: int, kind: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        member_subsets(y, n_members, kind, 0.5, 0)
    assert str(error.value).startswith(message)


# --- mixed populations -----------------------------------------------------------------------------------------------


def test_mixed_widths_keep_their_order() -> None:
    x, y = make_data()
    torch.manual_seed(0)
    modules = [MLP(6, widths, 3) for widths in ([8], [5, 4], [8], [7], [5, 4])]
    training = Training(batch_size=32)
    trained = fit(modules, x, y, training, max_steps=20)
    assert difference(trained, plain_loop(modules, x, y, training, 20)) < 1e-6
    assert [record["member"] for record in trained.metrics[:5]] == [0, 1, 2, 3, 4]


class Odd(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.readout = nn.Linear(6, 8), nn.Linear(8, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.activation(self.linear(x)))


@pytest.mark.parametrize("make", [lambda: MLP(6, [8], 3, "tanh"), lambda: MLP(6, [8], 3, "gelu")])
def test_members_that_differ_in_a_setting_are_trained_as_what_they_are(make: Callable[[], nn.Module]) -> None:
    x, y = make_data()
    torch.manual_seed(0)
    modules = [MLP(6, [8], 3), make(), MLP(6, [8], 3)]
    trained = fit(modules, x, y, Training(batch_size=32), max_steps=30)
    assert difference(trained, plain_loop(modules, x, y, Training(batch_size=32), 30)) < 1e-6


def test_members_that_differ_where_no_setting_shows_it_are_trained_as_what_they_are() -> None:
    x, y = make_data()
    torch.manual_seed(0)
    modules: list[nn.Module] = [
        Odd(lambda z, slope=slope: functional.leaky_relu(z, slope)) for slope in (0.0, 0.1, 0.0)
    ]
    trained = fit(modules, x, y, Training(batch_size=32), max_steps=30)
    assert difference(trained, plain_loop(modules, x, y, Training(batch_size=32), 30)) < 1e-6


def test_members_that_differ_in_dropout_are_not_mixed() -> None:
    x, y = make_data()
    modules = make_members(2)
    twin = copy.deepcopy(modules[1])
    twin.dropout.p = 0.5
    alone = fit(modules, x, y, Training(epochs=3))
    mixed = fit([modules[0], twin], x, y, Training(epochs=3))
    assert (mixed.states[0]["readout.weight"] - alone.states[0]["readout.weight"]).abs().max() < 1e-6
    assert (mixed.states[1]["readout.weight"] - alone.states[1]["readout.weight"]).abs().max() > 1e-4


def test_dropout_is_drawn_for_each_member_and_epoch_and_repeats_with_the_seed() -> None:
    x, y = make_data()
    torch.manual_seed(0)
    module = MLP(6, [8], 3, dropout=0.5)
    training = Training(epochs=2, shuffle="shared")
    first = fit([module, module], x, y, training)
    torch.manual_seed(99)
    assert same_bits(first, fit([module, module], x, y, training))
    assert not first.states[0]["readout.weight"].equal(first.states[1]["readout.weight"])
    # Samples that are all the same and a network that does not move: only the noise makes losses differ.
    still = Training(epochs=3, optimizer="sgd", learning_rate=1e-30)
    same = fit([module, module], torch.ones_like(x), torch.zeros_like(y), still)
    assert len({record["loss"] for record in same.metrics}) == 6


def test_constant_buffers_frozen_and_tied_parameters_are_kept() -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.readout = nn.Linear(6, 3)
            self.readout.bias.requires_grad_(False)
            self.register_buffer("scale", torch.tensor(scale))

        def forward(self, x: Tensor) -> Tensor:
            return self.readout(self.second(self.first(x * self.scale).relu()).relu())

    x, y = make_data()
    torch.manual_seed(0)
    modules: list[nn.Module] = [Scaled(1.0), Scaled(2.0)]
    trained = fit(modules, x, y, Training(batch_size=32), max_steps=20)
    assert difference(trained, plain_loop(modules, x, y, Training(batch_size=32), 20)) < 1e-6
    modules[1].load_state_dict(trained.states[1])  # the keys of the module, buffers and tied names included
    assert trained.states[1]["readout.bias"].equal(modules[1].readout.bias)


# --- members that diverge --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["independent", "shared"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_diverging_member_is_frozen_and_leaves_the_others_their_bits(shuffle: str, optimizer: str) -> None:
    x, y = make_data()
    modules = make_members(4)
    training = Training(epochs=4, batch_size=32, shuffle=shuffle, optimizer=optimizer)
    healthy = fit(modules, x, y, training)
    with torch.no_grad():
        modules[2].readout.weight[0, 0] = math.nan
    trained = fit(modules, x, y, training)
    assert trained.failed == {2: "loss not finite at epoch 1, step 1"}
    for member in (0, 1, 3):
        assert all(value.equal(healthy.states[member][name]) for name, value in trained.states[member].items())
    for name, value in modules[2].state_dict().items():
        assert trained.states[2][name].nan_to_num().equal(value.nan_to_num())
    assert {record["member"] for record in trained.metrics} == {0, 1, 3}
    assert trained.metrics == tuple(record for record in healthy.metrics if record["member"] != 2)


def test_a_member_that_diverges_in_the_middle_keeps_its_last_parameters() -> None:
    x, y = make_data()
    modules = make_members(3)
    with torch.no_grad():
        modules[1].hidden[0].weight.mul_(1e10)
        modules[1].readout.weight.mul_(1e15)
    training = Training(epochs=3, batch_size=16, optimizer="sgd", learning_rate=0.5)
    trained = fit(modules, x, y, training)
    assert trained.failed[1].startswith("loss not finite at epoch 1, step ")
    step = int(trained.failed[1].split()[-1])
    assert step > 1
    before = fit(modules, x, y, training, max_steps=step)
    for name, value in before.states[1].items():
        assert trained.states[1][name].nan_to_num().equal(value.nan_to_num())


def test_parameters_that_overflow_in_the_last_step_are_found() -> None:
    x, y = make_data()
    modules = make_members(2)
    with torch.no_grad():
        modules[1].readout.weight.mul_(1e20)
    training = Training(epochs=1, optimizer="sgd", learning_rate=1e30)
    with torch.no_grad():
        modules[0].readout.weight.zero_(), modules[0].readout.bias.zero_()
    trained = fit(modules, x, y * 0, training, max_steps=1)
    assert trained.failed == {1: "parameters not finite after the last step"}


def test_an_architecture_of_which_every_member_failed_is_left_alone() -> None:
    x, y = make_data()
    torch.manual_seed(0)
    modules: list[nn.Module] = [MLP(6, [8], 3), MLP(6, [5], 3)]
    nn.init.constant_(modules[0].readout.bias, math.nan)
    calls: list[tuple[int, int]] = []
    trained = fit(modules, x, y, Training(epochs=3, batch_size=30), progress=lambda *done: calls.append(done))
    assert trained.failed == {0: "loss not finite at epoch 1, step 1"}
    assert [record["member"] for record in trained.metrics] == [1, 1, 1]
    assert calls[-1] == (18, 18)  # 2 architectures of 3 epochs of 3 steps


def test_the_run_ends_when_every_member_failed() -> None:
    x, y = make_data()
    modules = make_members(5)
    for module in modules:
        nn.init.constant_(module.readout.bias, math.inf)
    with pytest.raises(TrainingError) as error:
        fit(modules, x, y, Training(epochs=1000))
    assert str(error.value) == (
        "every member failed by epoch 1: member 0: loss not finite at epoch 1, step 1; member 1: loss not finite at "
        "epoch 1, step 1; member 2: loss not finite at epoch 1, step 1; …\n"
        "  cure: lower the learning rate, or scale the inputs"
    )


# --- steps, metrics, determinism -------------------------------------------------------------------------------------


def test_max_steps_is_exact() -> None:
    x, y = make_data()
    modules, training = make_members(2), Training(epochs=1, batch_size=20)  # 5 steps an epoch
    calls: list[tuple[int, int]] = []
    trained = fit(modules, x, y, training, max_steps=7, progress=lambda *done: calls.append(done))
    assert difference(trained, plain_loop(modules, x, y, training, 7)) < 1e-6
    assert difference(trained, plain_loop(modules, x, y, training, 8)) > 1e-4
    assert [record["steps"] for record in trained.metrics] == [5, 5, 7, 7]
    assert calls[-1] == (7, 7)


def test_metrics_are_means_over_samples_and_fit_into_json() -> None:
    x, y = make_data()
    modules = make_members(2)
    training = Training(epochs=1, batch_size=32, optimizer="sgd", learning_rate=1e-30)  # nothing moves
    trained = fit(modules, x, y, training, validation=(x[:30], y[:30]))
    for record, module in zip(trained.metrics, modules, strict=True):
        with torch.no_grad():
            outputs = module(x)
        assert record["loss"] == pytest.approx(functional.cross_entropy(outputs, y).item(), rel=1e-5)
        assert record["accuracy"] == pytest.approx((outputs.argmax(1) == y).float().mean().item())
        assert record["validation_loss"] == pytest.approx(
            functional.cross_entropy(outputs[:30], y[:30]).item(), rel=1e-5
        )
        assert record["validation_accuracy"] == pytest.approx((outputs[:30].argmax(1) == y[:30]).float().mean().item())
    assert json.loads(json.dumps(trained.metrics, allow_nan=False)) == list(trained.metrics)


def test_metrics_do_not_depend_on_where_data_begins_in_memory() -> None:
    # Kernels of products round in another way where rows do not begin at a multiple of 16 bytes.
    x, y = torch.randn(80, 64), torch.randn(80, 3)
    moved = torch.empty(x.numel() + 2)[2:].view_as(x).copy_(x)
    modules = [MLP(64, [6], 3) for _ in range(16)]
    there, here = (fit(modules, x, y, Training(epochs=1), validation=(value, y)) for value in (moved, x))
    assert there.metrics == here.metrics


def test_validation_is_in_eval_mode_and_changes_nothing() -> None:
    x, y = make_data()
    torch.manual_seed(0)
    modules: list[nn.Module] = [MLP(6, [8], 3, dropout=0.5) for _ in range(2)]
    training = Training(epochs=3)
    without = fit(modules, x, y, training)
    trained = fit(modules, x, y, training, validation=(x, y))
    assert same_bits(without, trained)
    modules[1].load_state_dict(trained.states[1])
    loss = functional.cross_entropy(modules[1].eval()(x), y).item()
    assert trained.metrics[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    x, y = make_data()
    modules, training = make_members(3), Training(epochs=2, subset="bootstrap")
    first = fit(modules, x, y, training, random_state=3)
    assert same_bits(first, fit(modules, x, y, training, random_state=3))
    assert not same_bits(first, fit(modules, x, y, training, random_state=4))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def interrupt_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= step:
            raise KeyboardInterrupt

    return progress


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_training import fit, killable
def kill(done, total):
    if done >= 40:
        os.kill(os.getpid(), signal.SIGKILL)
fit(*killable(), checkpoint=__import__("pathlib").Path(sys.argv[1]), checkpoint_every=0, progress=kill)
"""


def killable() -> tuple[list[nn.Module], Tensor, Tensor, Training]:
    x, y = make_data()
    return make_members(4), x, y, Training(epochs=80)


@pytest.mark.slow
def test_a_killed_process_leaves_a_state_to_resume_from(tmp_path: Path) -> None:
    """As in a machine that goes down: nothing of the process can clean up."""
    where, tests = tmp_path / "checkpoint", str(Path(__file__).parent)
    code = subprocess.run([sys.executable, "-c", KILLED, str(where), tests], env=os.environ, check=False).returncode
    assert code == -signal.SIGKILL
    calls: list[int] = []
    resumed = fit(*killable(), checkpoint=where, progress=lambda done, total: calls.append(done))
    undisturbed = fit(*killable())
    assert 39 <= calls[0] <= 80
    assert same_bits(undisturbed, resumed)
    assert resumed.metrics == undisturbed.metrics


def test_checkpoints_are_written_no_more_often_than_asked_and_at_the_end(tmp_path: Path) -> None:
    x, y = make_data()
    written: list[bool] = []
    progress = lambda *done: written.append((tmp_path / FILE).exists())  # noqa: E731
    fit(make_members(1), x, y, Training(epochs=3), checkpoint=tmp_path, progress=progress)
    assert written == [False, False, True]


def checkpointed(where: Path, **changes: object) -> Trained:
    x, y = make_data()
    arguments: dict = {"random_state": 0, "training": Training(epochs=2), "modules": make_members(2), "x": x, "y": y}
    return fit(**(arguments | changes), checkpoint=where)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": Training(epochs=2, learning_rate=0.5)},
            "with learning_rate = 0.5, got learning_rate = 0.001\n",
        ),
        ({"random_state": 1}, "with random_state = 1, got random_state = 0\n"),
        ({"max_steps": 5}, "with steps = 5, got steps = 2\n"),
        ({"x": make_data()[0] + 1}, "with data = "),
        ({"modules": make_members(3)}, "with members = "),
        ({"modules": make_members(2)[::-1]}, "with networks = "),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    checkpointed(tmp_path)
    with pytest.raises(ArtefactError) as error:
        checkpointed(tmp_path, **changes)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / FILE} must be the resume state of this run, {message}")
    assert text.endswith("cure: choose another directory, or delete this file")


def test_a_checkpoint_of_the_same_parameters_with_another_activation_is_refused(tmp_path: Path) -> None:
    modules = make_members(2)
    checkpointed(tmp_path, modules=modules)
    for module in modules:
        module.activation = "tanh"
    with pytest.raises(ArtefactError, match="must be the resume state of this run, with networks = "):
        checkpointed(tmp_path, modules=modules)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    first = checkpointed(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArtefactError) as error:
        checkpointed(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / FILE} must be a complete resume state, got ")
    assert str(error.value).endswith("cure: delete it; the run then starts from the beginning")
    delete_resume_state(tmp_path)
    assert same_bits(first, checkpointed(tmp_path))


def test_a_finished_run_is_not_repeated_and_its_checkpoint_goes_away(tmp_path: Path) -> None:
    where = tmp_path / "checkpoint"
    first = checkpointed(where)
    partial_path(where / FILE).write_bytes(b"left by a kill")
    calls: list[tuple[int, int]] = []
    again = checkpointed(where, progress=lambda *done: calls.append(done))
    assert same_bits(first, again)
    assert first.metrics == again.metrics
    assert calls == []
    delete_resume_state(where)
    assert not where.exists()
    delete_resume_state(where)


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="training.safetensors must be writable, got an error of the system: "):
        checkpointed(tmp_path / "file" / "checkpoint")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be an int >= 1, got 0"),
        ({"epochs": 1.5}, "epochs must be an int >= 1, got 1.5"),
        ({"batch_size": True}, "batch_size must be an int >= 1, got True"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'adamw', 'sgd', got 'lion'"),
        ({"learning_rate": math.nan}, "learning_rate must be a number > 0, got nan"),
        ({"learning_rate": "fast"}, "learning_rate must be a number > 0, got 'fast'"),
        ({"momentum": 1.0}, "momentum must be a number in [0, 1), got 1.0"),
        ({"weight_decay": -1}, "weight_decay must be a number in [0, inf], got -1"),
        ({"shuffle": "none"}, "shuffle must be one of 'independent', 'shared', got 'none'"),
        ({"subset": "half"}, "subset must be one of 'full', 'bootstrap', 'disjoint', 'dirichlet', got 'half'"),
        ({"concentration": 0}, "concentration must be a number > 0, got 0"),
        ({"shuffle": "shared", "subset": "disjoint"}, "shuffle must be 'independent' for members with different"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        check_training(Training(**changes))
    assert str(error.value).startswith(message)


class Unvectorised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.readout(x)
        return outputs if outputs.sum().item() > 0 else -outputs


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.readout = normalised()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.readout(x)


X, Y = make_data()
FIRST = "modules[0]"
ROW = "integer labels (n,) or floats (n, outputs)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules": []}, "modules must have at least one module, got none"),
        ({"modules": [nn.ReLU()]}, f"{FIRST} (ReLU) must have parameters to train, got none"),
        (
            {"modules": [*make_members(1), MLP(7, [3], 3)]},
            "modules[1] (MLP) must take inputs x, got float32 (32, 6): RuntimeError: mat1",
        ),
        ({"x": X.double()}, f"{FIRST} (MLP) must take inputs x, got float64 (32, 6): RuntimeError: "),
        (
            {"modules": [Counting()]},
            f"buffers of {FIRST} (Counting) must be constant or statistics of a batch norm, got 'c",
        ),
        (
            {"modules": [nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, momentum=None))]},
            f"1 of {FIRST} (Sequential) must have a number as momentum, got None",
        ),
        ({"modules": [Unvectorised()]}, f"{FIRST} (Unvectorised) must use operations that torch.func.vmap knows, got "),
        ({"modules": [nn.LSTM(6, 3)]}, f"{FIRST} (LSTM) must return a tensor, got tuple"),
        (
            {"modules": [nn.Sequential(nn.Linear(6, 3), nn.Unflatten(1, (3, 1)))]},
            "a member's outputs must have shape (n, c), got (32, 3, 1)",
        ),
        ({"y": torch.arange(N) % 4}, "y must be labels from 0 to 2, got 3 in row 3"),
        ({"y": Y - 1}, "y must be labels >= 0, got -1 in row "),
        ({"y": torch.zeros(N, 2)}, "y must have shape (n, 3), as the outputs, got (90, 2)"),
        ({"y": torch.zeros(N, 3).double()}, "y must be of torch.float32, as the outputs, got torch.float64"),
        ({"y": torch.zeros(N)}, f"y must be {ROW}, got float32 (90,)"),
        ({"y": Y[1:]}, "y must have one row for each of the 90 rows of x, got int64 (89,)"),
        ({"x": X[:0], "y": Y[:0]}, "x must have at least one row, got float32 (0, 6)"),
        ({"x": X * math.inf}, "x must be finite, got NaN or infinity in 90 of 90 rows, first row 0"),
        ({"validation": (X, Y + 1)}, "validation y must be labels from 0 to 2, got 3 in row "),
        ({"max_steps": 0}, "max_steps must be an int >= 1, got 0"),
        ({"members": [0, 2]}, "members must be 2 ints from 0 to 1, got [0, 2]"),
        ({"random_state": -1}, "random_state must be an int >= 0, got -1"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(changes: dict, message: str) -> None:
    arguments: dict = {"modules": make_members(2), "x": X, "y": Y, "training": Training()}
    with pytest.raises(InputError) as error:
        fit(**(arguments | changes), progress=lambda *done: pytest.fail("work was done"))
    assert str(error.value).startswith(message)
