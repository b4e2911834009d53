"""What a member is: networks with convolutions compute what they say, and tell their own sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

import consilience
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.nets import ACTIVATIONS, MLP, NETS, ConvNet, ConvNetConfig, ResNet, ResNetConfig, build
from consilience.store import load_network, save_network
from consilience.training import Run, Training, fit_members, train_population
from consilience.training.fresh import initialise

EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    "ConvNet": lambda: ConvNet(2, [4, 6], 3),
    "ConvNet with norms": lambda: ConvNet(2, [4, 6, 5, 5], 3, "gelu", batch_norm=True, dropout=0.25),
    "ResNet": lambda: ResNet(2, [4, 6], 3),
    "ResNet without norms": lambda: ResNet(2, [4, 6, 5], 3, 2, "tanh", batch_norm=False),
    "ResNet with inner widths": lambda: ResNet(2, [4, 6], 3, 2, inner_widths=[[3, 7], [9, 2]]),
}


def example(name: str, seed: int = 0) -> nn.Module:
    """A network in eval mode whose norms and biases are away from their trivial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = EXAMPLES[name]()
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.3, 0.9) if tensor.dim() == 1 else nn.init.normal_(tensor, std=0.3)
    return net.eval()


def images(n: int = 5, size: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(n, 2, size, size, generator=torch.Generator().manual_seed(seed))


# --- what they compute -----------------------------------------------------------------------------------------------


def normalised(norm: nn.Module, z: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return z
    shape = (1, -1, 1, 1)
    spread = (norm.running_var + norm.eps).sqrt()
    return ((z - norm.running_mean.view(shape)) / spread.view(shape)) * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("name", ["ConvNet", "ConvNet with norms"])
@pytest.mark.parametrize("size", [8, 7, 1])
def test_a_convnet_is_its_formula(name: str, size: int) -> None:
    net, x = example(name), images(size=size)
    z = x
    for convolution, norm in zip(net.hidden, net.norms, strict=True):
        z = functional.conv2d(z, convolution.weight, convolution.bias, padding=1)
        z = ACTIVATIONS[net.activation](normalised(norm, z))
        half = z.shape[-1] // 2
        if half:
            z = z[..., : 2 * half, : 2 * half].unflatten(3, (half, 2)).unflatten(2, (half, 2)).amax((3, 5))
    assert torch.allclose(net(x), net.readout(z.mean((2, 3))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ResNet", "ResNet without norms", "ResNet with inner widths"])
@pytest.mark.parametrize("size", [8, 7, 1])
def test_a_resnet_is_its_formula(name: str, size: int) -> None:
    net, x = example(name), images(size=size)
    f = ACTIVATIONS[net.activation]
    z = f(normalised(net.stem_norm, functional.conv2d(x, net.stem.weight, net.stem.bias, padding=1)))
    for number, stage in enumerate(net.stages):
        for place, block in enumerate(stage):
            inner = functional.conv2d(z, block.conv1.weight, block.conv1.bias, padding=1)
            if number > 0 and place == 0:
                inner, z = inner[..., ::2, ::2], z[..., ::2, ::2]
                z = torch.einsum("nihw,oi->nohw", z, block.shortcut.weight[:, :, 0, 0])
                z = z if block.shortcut.bias is None else z + block.shortcut.bias[:, None, None]
                z = normalised(block.shortcut_norm, z)
            inner = f(normalised(block.norm1, inner))
            z = f(
                normalised(block.norm2, functional.conv2d(inner, block.conv2.weight, block.conv2.bias, padding=1)) + z
            )
    assert torch.allclose(net(x), net.readout(z.mean((2, 3))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("blocks", "depth"), [(1, 8), (2, 14), (3, 20)])
def test_a_resnet_has_6n_plus_2_layers(blocks: int, depth: int) -> None:
    net = ResNet(3, blocks_per_stage=blocks)
    weighted = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len([name for name in weighted if not name.endswith("shortcut")]) == depth
    assert [name for name in weighted if name.endswith("shortcut")] == ["stages.1.0.shortcut", "stages.2.0.shortcut"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_convolutions_have_biases_only_without_batch_norm(name: str) -> None:
    net = example(name)
    biased = {part.bias is not None for part in net.modules() if isinstance(part, nn.Conv2d)}
    assert biased == {not net.config.batch_norm}
    assert any(isinstance(part, nn.BatchNorm2d) for part in net.modules()) == net.config.batch_norm


def test_dropout_drops_means_of_channels_in_train_mode_only() -> None:
    torch.manual_seed(0)
    net = ConvNet(2, [50], 1, dropout=0.5)
    nn.init.constant_(net.hidden[0].weight, 0.0)
    nn.init.constant_(net.hidden[0].bias, 1.0)
    nn.init.constant_(net.readout.weight, 1.0)
    nn.init.constant_(net.readout.bias, 0.0)
    assert net.eval()(images()).tolist() == [[50.0]] * 5
    kept = net.train()(images(200)) / 2
    assert kept.round().equal(kept)
    assert 23 < kept.mean() < 27


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_network_is_built_again_from_its_config(name: str, tmp_path: Path) -> None:
    net = example(name)
    kind = type(net).__name__
    assert NETS[kind] is type(net) is getattr(consilience, kind)
    again = build(kind, json.loads(json.dumps(asdict(net.config))))
    assert again.config == net.config
    assert hash(again.config) == hash(net.config)
    again.load_state_dict(net.state_dict())
    assert again.eval()(images()).equal(net(images()))
    loaded = load_network(save_network(net, tmp_path / "net"))
    assert loaded.config == net.config
    assert loaded(images()).equal(net(images()))


def test_configs_tell_what_was_asked_for() -> None:
    assert example("ConvNet with norms").config == ConvNetConfig(2, (4, 6, 5, 5), 3, "gelu", True, 0.25)
    assert example("ResNet").config == ResNetConfig(2, (4, 6), 3, 1, "relu", True, ((4,), (6,)))
    assert example("ResNet with inner widths").config.inner_widths == ((3, 7), (9, 2))
    assert ResNet(3).config == ResNetConfig(3, inner_widths=((16,), (32,), (64,)))


def swap(part: nn.Module, out: int | None = None, read: int | None = None) -> None:
    """Put new tensors and sizes into a part, as a resized copy has them."""
    if isinstance(part, nn.BatchNorm2d):
        fresh: nn.Module = nn.BatchNorm2d(out)
    elif isinstance(part, nn.Linear):
        fresh = nn.Linear(read, part.out_features)
    else:
        sizes = read or part.in_channels, out or part.out_channels
        fresh = nn.Conv2d(*sizes, part.kernel_size, part.stride, part.padding, bias=part.bias is not None)
    vars(part).update(vars(fresh.eval()))


def test_a_resized_convnet_tells_its_new_widths() -> None:
    net = example("ConvNet with norms")
    swap(net.hidden[1], out=9)
    swap(net.norms[1], out=9)
    swap(net.hidden[2], read=9)
    swap(net.hidden[3], out=2)
    swap(net.norms[3], out=2)
    swap(net.readout, read=2)
    assert net.config.widths == (4, 9, 5, 2)
    assert build("ConvNet", asdict(net.config))(images()).shape == net(images()).shape


def test_a_resized_resnet_tells_its_new_widths() -> None:
    net = example("ResNet")
    first, second = net.stages[0][0], net.stages[1][0]
    for part in (net.stem, net.stem_norm, first.conv2, first.norm2):  # the first stream
        swap(part, out=7)
    for part in (first.conv1, second.conv1, second.shortcut):
        swap(part, read=7)
    for part in (second.conv1, second.norm1):  # between the second block's convolutions
        swap(part, out=1)
    swap(second.conv2, read=1)
    assert net.config == ResNetConfig(2, (7, 6), 3, inner_widths=((4,), (1,)))
    built = build("ResNet", asdict(net.config)).eval()
    built.load_state_dict(net.state_dict())
    assert built(images()).equal(net(images()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(0, [4], 10), "n_inputs must be an int >= 1, got 0"),
        (lambda: MLP(3, [4], 10, dropout=2), "dropout must be a number in [0, 1], got 2"),
        (lambda: ConvNet(3, [], 10), "widths must be one or more ints >= 1, got []"),
        (lambda: ConvNet(3, [4, 0], 10), "widths must be one or more ints >= 1, got [4, 0]"),
        (lambda: ConvNet(0, [4], 10), "n_channels must be an int >= 1, got 0"),
        (lambda: ConvNet(3, [4], 10, "rleu"), "activation must be one of 'relu', "),
        (lambda: ResNet(3, [4], -1), "n_outputs must be an int >= 1, got -1"),
        (lambda: ResNet(3, [4], 10, 0), "blocks_per_stage must be an int >= 1, got 0"),
        (lambda: ResNet(3, [4], 10, activation="x"), "activation must be one of 'relu', "),
        (
            lambda: ResNet(3, [4, 5], 10, 2, inner_widths=[[3, 3], [3]]),
            "inner_widths must be 2 stages of 2 widths each",
        ),
        (lambda: ResNet(3, [4, 5], inner_widths=[[3], [0]]), "inner_widths of a stage must be one or more ints >= 1"),
        (lambda: ResNet(3, [4, 5], inner_widths=[[3]]), "inner_widths must be 2 stages of 1 widths each, got [[3]]"),
        (lambda: build("ResNet", {"n_chanels": 3}), "config must fit ResNet, got {'n_chanels': 3}: ResNetConfig"),
        (
            lambda: build("VGG", {}),
            "the class of a network must be one of MLP, ConvNet, ResNet, ViT, GPT, Llama, Routed, got 'VGG'",
        ),
    ],
)
def test_impossible_networks_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(message)


# --- fit for the rest of the house -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("mode", [True, False])
def test_networks_are_vectorised_over_members(name: str, mode: bool) -> None:
    nets = [example(name, seed).train(mode) for seed in range(3)]
    for net in nets:
        for part in net.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    keys = nets[0].state_dict().keys()
    stacked = {key: torch.stack([net.state_dict()[key].detach() for net in nets]) for key in keys}
    together = vmap(lambda state, x: functional_call(nets[0], state, (x,)), randomness="error")(
        stacked, torch.stack([images(seed=k) for k in range(3)])
    )
    for k, net in enumerate(nets):
        assert torch.allclose(together[k], net(images(seed=k)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXAMPLES)
def test_initial_values_are_drawn_anew_by_the_seed(name: str) -> None:
    net = example(name)
    first, again, other = (initialise(net, seed).state_dict() for seed in (1, 1, 2))
    assert all(value.equal(again[key]) for key, value in first.items())
    assert not first["readout.weight"].equal(other["readout.weight"])
    assert not first["readout.weight"].equal(net.state_dict()["readout.weight"])
    assert all(value.eq(0).all() for key, value in first.items() if key.endswith("running_mean"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvNet(2, [8, 8], 3, batch_norm=True),
        lambda: ConvNet(2, [8, 8], 3),
        lambda: ResNet(2, [8, 8, 8], 3),
        lambda: ResNet(2, [8, 8, 8], 3, 2, batch_norm=False),
    ],
)
def test_networks_learn_from_default_initial_values(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    patterns = torch.randn(3, 2, 8, 8)
    x = patterns[y] + 0.5 * torch.randn(60, 2, 8, 8)
    training = Training(epochs=20, batch_size=20, learning_rate=5e-3)
    trained = fit_members([make(), make()], x, y, Run(training, random_state=0))
    for record in trained.metrics[-2:]:
        assert record["accuracy"] > 0.9
    assert trained.metrics[0]["loss"] < 2.0  # chance is ln 3 = 1.1


def test_statistics_of_trained_members_are_those_of_the_training_data() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 2, 6, 6, generator=g) * 3 + 5
    train = Dataset(x, torch.arange(256) % 3, torch.arange(256))
    net, training = ConvNet(2, [4], 3, batch_norm=True), Training(epochs=1, batch_size=32)
    population = train_population(net, train, 2, training=training, random_state=0)
    for member in population:
        before = member.module.hidden[0](x).detach()
        norm = member.module.norms[0]
        torch.testing.assert_close(norm.running_mean, before.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(norm.running_var, before.var((0, 2, 3)), rtol=0.05, atol=1e-3)
        assert not member.module.training
    again = train_population(net, train, 2, training=training, random_state=0)
    assert torch.equal(again.members[1].module.norms[0].running_var, population.members[1].module.norms[0].running_var)
