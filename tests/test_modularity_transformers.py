"""Modularity of transformers: heads are nodes and clusters, matrices by layer are those by name, tokens are rows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import InputError
from consilience.modularity import (
    CrossClusterLoss,
    EigenvalueLoss,
    MatrixClusterLoss,
    contiguous,
    cross_modularity,
    effective_circuit,
    lesions,
    matrix_modularity,
    specialisation,
    unit_graph,
)
from consilience.modularity.graph import traced
from consilience.nets import GPT, Llama
from consilience.units.architecture import TracedNetwork

STREAM, HEADS, MLP = contiguous(8, 2), contiguous(2, 2), contiguous(12, 2)
OF_LAYERS = {"tokens": STREAM, "blocks.0.norm1": STREAM, "blocks.0.norm2": STREAM, "blocks.0.mlp.up": MLP}
OF_LAYERS |= {f"blocks.0.attention.{part}": HEADS for part in "qkv"}
OF_NAMES = {f"blocks.0.attention.{part}.weight": (STREAM, STREAM) for part in "qkvo"}
OF_NAMES |= {"blocks.0.mlp.up.weight": (MLP, STREAM), "blocks.0.mlp.down.weight": (STREAM, MLP)}


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randint(11, (30, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = GPT(11, 6, width=8, heads=(2, 2), mlp_widths=(12, 12)).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


@pytest.fixture(scope="module")
def network(net: nn.Module, x: Tensor) -> TracedNetwork:
    return traced(net, x)


def test_a_head_is_a_node_whose_edges_are_the_sums_of_its_block(net: nn.Module, network: TracedNetwork) -> None:
    graph = unit_graph(network)
    assert graph.sizes["blocks.0.attention.q"] == 2
    edges = {part.map: part.matrix for part in graph.edges}
    attention = net.blocks[0].attention
    for name in "qkv":
        weights = getattr(attention, name).weight.detach().abs()
        assert edges[f"blocks.0.attention.{name}"] == pytest.approx(weights.view(2, 4, 8).sum(1).numpy(), abs=1e-5)
    written = attention.o.weight.detach().abs().view(8, 2, 4).sum(2)
    assert edges["blocks.0.attention.o"] == pytest.approx(written.numpy(), abs=1e-5)


def test_clusters_of_layers_and_of_matrices_by_name_agree(net: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    by_layer = {c.map: c.value for c in cross_modularity(network, OF_LAYERS, n_null=0, scale="as-given")}
    by_name = matrix_modularity(net, OF_NAMES)
    assert by_layer == pytest.approx({name.removesuffix(".weight"): value for name, value in by_name.items()}, abs=1e-6)
    assert CrossClusterLoss(OF_LAYERS, net, x)(net).item() == pytest.approx(
        MatrixClusterLoss(OF_NAMES)(net).item(), abs=1e-6
    )


def test_the_eigenvalue_loss_has_a_gradient_for_heads(net: nn.Module, x: Tensor) -> None:
    net = copy.deepcopy(net).double()
    term, weight = EigenvalueLoss(net, x), net.blocks[0].attention.v.weight
    (gradient,) = torch.autograd.grad(term(net), weight)
    flat, moved = weight.detach().view(-1), []
    for step in (1e-6, -2e-6):
        flat[5] += step
        moved.append(term(net).item())
    assert gradient.view(-1)[5].item() == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-6)


def test_lesions_of_heads_count_tokens(net: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    y = net(x).argmax(-1)
    y[:, ::2] = (y[:, ::2] + 1) % 11  # half of the tokens are predicted
    found = lesions(network, {"blocks.0.attention.v": HEADS}, x, y, n_random=2)
    for head in range(2):
        without = copy.deepcopy(net)
        with torch.no_grad():
            without.blocks[0].attention.o.weight[:, 4 * head : 4 * head + 4] = 0
            outputs = without(x)
        accuracy = (outputs.argmax(-1) == y).double().mean().item()
        loss = functional.cross_entropy(outputs.flatten(0, 1).double(), y.flatten()).item()
        assert found.accuracy.before == 0.5
        assert found.accuracy.single[head] == pytest.approx(0.5 - accuracy)
        assert found.loss.single[head] == pytest.approx(loss - found.loss.before, abs=1e-5)
    by_class = specialisation(network, {"blocks.0.attention.v": HEADS}, x, y)
    n = np.bincount(y.flatten(), minlength=11)
    assert np.nansum(by_class.before * n) / n.sum() == pytest.approx(0.5)


def test_gradients_of_weights_are_those_of_the_loss_of_tokens(
    net: nn.Module, network: TracedNetwork, x: Tensor
) -> None:
    y = (x + 1) % 11
    options = {"n_null": 0, "scale": "as-given", "gradients_of": (x, y)}
    found = {c.map: c.value for c in cross_modularity(network, OF_LAYERS, **options)}
    weight = net.blocks[0].mlp.up.weight
    (gradient,) = torch.autograd.grad(functional.cross_entropy(net(x).flatten(0, 1), y.flatten()), weight)
    within = torch.from_numpy(MLP[:, None] == STREAM)
    expected = (gradient.square() * within).sum() / gradient.square().sum()
    assert found["blocks.0.mlp.up"] == pytest.approx(expected.item(), abs=1e-5)


def test_a_circuit_is_of_samples(network: TracedNetwork, x: Tensor) -> None:
    with pytest.raises(InputError, match="y must be the class of each sample, got 180 tokens of 30 samples"):
        effective_circuit(network, x, x, 0)


def test_gated_networks_with_rotary_positions_have_graphs_too(x: Tensor) -> None:
    torch.manual_seed(0)
    net = Llama(11, 6, width=8, heads=(4, 4), mlp_widths=(12, 12), queries_per_key=2).eval()
    graph = unit_graph(net, x)
    assert graph.sizes["blocks.0.mlp.gate"] == 12
    assert graph.degree.min() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("GPT2", {"n_embd": 16, "n_layer": 1, "n_head": 4}, {"h.0.mlp.c_fc": (16, 64), "h.0.mlp.c_proj": (64, 16)}),
        (
            "GPTNeoX",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32},
            {"layers.0.mlp.dense_h_to_4h": (32, 16), "layers.0.attention.dense": (16, 16)},
        ),
        (
            "Gemma",
            {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 4,
                "intermediate_size": 32,
            },
            {"layers.0.mlp.up_proj": (32, 16), "layers.0.self_attn.k_proj": (8, 16)},
        ),
    ],
)
def test_models_of_the_transformers_library_become_modular(
    kind: str, options: dict[str, int], names: dict[str, tuple[int, int]]
) -> None:
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(library, f"{kind}Config")(vocab_size=20, bos_token_id=1, eos_token_id=2, **options)
    model, x = getattr(library, f"{kind}Model")(config), torch.randint(20, (8, 6))
    matrices = {
        f"{name}.weight": (contiguous(rows, 4), contiguous(columns, 4)) for name, (rows, columns) in names.items()
    }
    before, term = matrix_modularity(model, matrices), MatrixClusterLoss(matrices)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(x).last_hidden_state.square().mean() + 20 * term(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert max(before.values()) < 0.4
    assert min(matrix_modularity(model, matrices).values()) > 0.99
