"""Transformers compute what they say, tell their own sizes, and are vectorized over members."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

import consilience
from consilience.errors import InputError
from consilience.nets import GPT, NETS, GPTConfig, Llama, LlamaConfig, ViT, ViTConfig, build
from consilience.nets.blocks import Rotation
from consilience.store import load_network, save_network
from consilience.training.fresh import initialise

EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    "ViT": lambda: ViT(2, 8, 4, 3, width=6, heads=(2, 3), mlp_widths=(5, 7)),
    "GPT": lambda: GPT(11, 7, width=6, heads=(2, 1), mlp_widths=(5, 7), head_width=4),
    "Llama": lambda: Llama(11, 7, width=6, heads=(2, 3), mlp_widths=(5, 7), head_width=4),
    "Llama with shared keys": lambda: Llama(
        11, 7, width=6, heads=(2, 4), mlp_widths=(5, 7), queries_per_key=2, head_width=4
    ),
}


def example(name: str, seed: int = 0) -> nn.Module:
    """A network whose norms and biases are away from their trivial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = EXAMPLES[name]()
        for tensor in net.parameters():
            nn.init.uniform_(tensor, 0.3, 0.9) if tensor.dim() == 1 else nn.init.normal_(tensor, std=0.5)
    return net.eval()


def inputs(name: str, n: int = 5, seed: int = 1) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    if name == "ViT":
        return torch.randn(n, 2, 8, 8, generator=stream)
    return torch.randint(11, (n, 7), generator=stream)


# --- what they compute -----------------------------------------------------------------------------------------------


def rms(norm: nn.Module, z: Tensor) -> Tensor:
    return z / (z.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


def normed(norm: nn.Module, z: Tensor) -> Tensor:
    centered = z - z.mean(-1, keepdim=True)
    return rms(norm, centered) + norm.bias if isinstance(norm, nn.LayerNorm) else rms(norm, z)


def turned(heads: Tensor) -> Tensor:
    """Queries or keys (t, j) as complex numbers, turned by their positions."""
    t, j = heads.shape
    pairs = torch.complex(heads[:, : j // 2], heads[:, j // 2 :])
    angles = torch.arange(t)[:, None] * 10000 ** (-2 * torch.arange(j // 2) / j)
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], -1)


def attended(attention: nn.Module, z: Tensor, causal: bool) -> Tensor:
    """What attention adds to one sample's stream (t, d), head by head and position by position."""
    q, k, v = (part(z) for part in (attention.q, attention.k, attention.v))
    j = attention.head_width
    shared = q.shape[1] // k.shape[1]
    total = torch.zeros_like(z) + (0 if attention.o.bias is None else attention.o.bias)
    for head in range(q.shape[1] // j):
        of_query = slice(head * j, (head + 1) * j)
        of_key = slice(head // shared * j, (head // shared + 1) * j)
        queries, keys = q[:, of_query], k[:, of_key]
        if isinstance(attention.rotate, Rotation):
            queries, keys = turned(queries), turned(keys)
        rows = []
        for position in range(len(z)):
            seen = position + 1 if causal else len(z)
            weights = (keys[:seen] @ queries[position] / math.sqrt(j)).softmax(0)
            rows.append(weights @ v[:seen, of_key])
        total = total + torch.stack(rows) @ attention.o.weight[:, of_query].T
    return total


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_transformer_is_its_formula(name: str) -> None:
    net, x = example(name), inputs(name)
    if name == "ViT":
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (n, c, 2, 2, 4, 4)
        stream = torch.einsum("ncabij,dcij->nabd", patches, net.patches.weight).flatten(1, 2) + net.patches.bias
        stream = torch.cat([net.class_token.weight.expand(len(x), 1, -1), stream], 1) + net.positions.weight
    else:
        stream = net.tokens.weight[x] + (net.positions.weight if name == "GPT" else 0)
    for block in net.blocks:
        z = normed(block.norm1, stream)
        stream = stream + torch.stack([attended(block.attention, sample, name != "ViT") for sample in z])
        z = normed(block.norm2, stream)
        up = block.mlp.up(z)
        inner = functional.gelu(up) if block.mlp.gate is None else functional.silu(block.mlp.gate(z)) * up
        stream = stream + block.mlp.down(inner)
    outputs = net.readout(normed(net.norm, stream))
    outputs = outputs[:, 0] if name == "ViT" else outputs
    assert torch.allclose(net(x), outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["GPT", "Llama", "Llama with shared keys"])
def test_a_token_changes_the_outputs_of_its_own_and_later_positions_alone(name: str) -> None:
    net, x = example(name), inputs(name)
    other = x.clone()
    other[:, 3] = (x[:, 3] + 1) % 11
    change = (net(x) - net(other)).abs().amax((0, 2))
    assert (change[:3] < 1e-5).all()
    assert (change[3:] > 1e-3).all()


def test_inputs_may_be_shorter_than_the_positions() -> None:
    for name in ("GPT", "Llama"):
        net, x = example(name), inputs(name)
        assert torch.allclose(net(x[:, :4]), net(x)[:, :4], atol=1e-5)


def test_rotary_scores_depend_on_the_distance_of_positions_alone() -> None:
    rotate = Rotation(16, 6, 100.0)
    query, key = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    queries, keys = (rotate(vector.expand(1, 1, 16, 6))[0, 0] for vector in (query, key))
    scores = queries @ keys.T
    for distance in range(-15, 16):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-5)
    assert scores[0, 0] != scores[1, 0]


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_transformer_is_built_again_from_its_config(name: str, tmp_path: Path) -> None:
    net, x = example(name), inputs(name)
    kind = type(net).__name__
    assert NETS[kind] is type(net) is getattr(consilience, kind)
    again = build(kind, json.loads(json.dumps(asdict(net.config)))).eval()
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    assert again(x).equal(net(x))
    loaded = load_network(save_network(net, tmp_path / "net"))
    assert loaded.config == net.config
    assert loaded(x).equal(net(x))


def test_configs_tell_what_was_asked_for() -> None:
    assert example("ViT").config == ViTConfig(2, 8, 4, 3, 6, (2, 3), (5, 7), 3)
    assert example("GPT").config == GPTConfig(11, 7, 6, (2, 1), (5, 7), 4)
    assert example("Llama with shared keys").config == LlamaConfig(11, 7, 6, (2, 4), (5, 7), 4, 2)
    assert GPT(11, 7, width=48, heads=4, mlp_widths=9).config == GPTConfig(11, 7, 48, (4,), (9,), 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GPT(0, 7), "n_tokens must be an int >= 1, got 0"),
        (lambda: GPT(11, 7, width=0), "width must be an int >= 1, got 0"),
        (lambda: GPT(11, 7, heads=()), "heads must be one or more ints >= 1, got []"),
        (lambda: GPT(11, 7, heads=(4, 0)), "heads must be one or more ints >= 1, got [4, 0]"),
        (lambda: GPT(11, 7, mlp_widths=(4,)), "mlp_widths must be 2 numbers, as many as heads, got (4,)"),
        (
            lambda: GPT(11, 7, width=64, heads=(5, 5)),
            "width must be a multiple of 5, the heads of the first block, got 64",
        ),
        (lambda: GPT(11, 7, head_width=0), "head_width must be an int from 1 to 2147483647, got 0"),
        (lambda: GPT(11, 7, activation="rleu"), "activation must be one of 'relu', "),
        (lambda: ViT(1, 28, 5, 10), "image_size must be a multiple of patch_size 5, got 28"),
        (lambda: Llama(11, 7, head_width=3), "head_width must be even, got 3"),
        (lambda: Llama(11, 7, queries_per_key=3), "queries_per_key must divide each number of heads, got 3 for (4, 4)"),
        (lambda: Llama(11, 7, rotary_base=0), "rotary_base must be a number > 0, got 0"),
    ],
)
def test_impossible_transformers_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(message)


# --- fit for the rest of the house -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transformers_are_vectorized_over_members(name: str) -> None:
    nets = [example(name, seed) for seed in range(3)]
    stacked = {key: torch.stack([net.state_dict()[key] for net in nets]) for key in nets[0].state_dict()}
    x = torch.stack([inputs(name, seed=k) for k in range(3)])
    together = vmap(lambda state, x: functional_call(nets[0], state, (x,)))(stacked, x)
    for k, net in enumerate(nets):
        assert torch.allclose(together[k], net(x[k]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EXAMPLES)
def test_initial_values_are_drawn_anew_by_the_seed(name: str) -> None:
    net = example(name)
    first, again, other = (initialise(net, seed).state_dict() for seed in (1, 1, 2))
    assert all(value.equal(again[key]) for key, value in first.items())
    matrices = [key for key, value in net.named_parameters() if value.dim() > 1]
    assert not any(first[key].equal(other[key]) or first[key].equal(net.state_dict()[key]) for key in matrices)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_traced_transformer_takes_any_number_of_samples(name: str) -> None:
    net, x = example(name), inputs(name)
    traced = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    assert torch.allclose(traced(inputs(name, 9)), net(inputs(name, 9)), atol=1e-5)
