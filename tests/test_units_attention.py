"""Attention: heads as units of several rows, streams, embeddings, positions; norms by member at full width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.assembly.assembler import assemble
from consilience.census.census import Census
from consilience.errors import ArtefactError, FunctionChangedError, TracingError
from consilience.modularity.graph import unit_graph
from consilience.nets import GPT, Llama, ViT
from consilience.population.population import Population
from consilience.store.network import load_network, save_network
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.deviation import deviation
from consilience.units.follow import find_layers
from consilience.units.proof import prove
from consilience.units.readings import prove_readings
from consilience.units.written_out import written_out as as_written_out

WIDTH, HEADS, HEAD, T = 8, 4, 2, 5


class Attention(nn.Module):
    """Attention as people write it: ``mix`` gets q, k, v (n, h, t, j) and returns (n, h, t, j)."""

    def __init__(self, mix: Callable[[Tensor, Tensor, Tensor], Tensor], key_heads: int = HEADS) -> None:
        super().__init__()
        self.mix, self.repeats = mix, HEADS // key_heads
        self.q = nn.Linear(WIDTH, HEADS * HEAD)
        self.k, self.v = (nn.Linear(WIDTH, key_heads * HEAD) for _ in range(2))
        self.o = nn.Linear(HEADS * HEAD, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, -1, HEAD).transpose(1, 2) for m in (self.q, self.k, self.v))
        if self.repeats > 1:
            k, v = (a[:, :, None].expand(-1, -1, self.repeats, -1, -1).reshape(n, -1, t, HEAD) for a in (k, v))
        return self.o(self.mix(q, k, v).transpose(1, 2).reshape(n, t, -1))


class RowNorm(nn.Module):
    """RMS norm with a scale for each row of a head, the same in all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(HEAD) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Interleaved(Attention):
    """Keys and values are repeated for the queries of their group."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, -1, HEAD).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = (a.repeat_interleave(self.repeats, dim=1) for a in (k, v))
        return self.o(self.mix(q, k, v).transpose(1, 2).reshape(n, t, -1))


def of_heads(kind: type[nn.Module], **options: bool) -> nn.Module:
    norm = kind(HEAD, **options)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


class NormedAttention(Attention):
    """Queries and keys are normalized head by head."""

    def __init__(self, key_heads: int, norm: Callable[[], nn.Module] = RowNorm, heads_first: bool = False) -> None:
        super().__init__(fused, key_heads)
        self.q_norm, self.k_norm, self.heads_first = norm(), norm(), heads_first

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, -1, HEAD) for m in (self.q, self.k, self.v))
        if self.heads_first:
            q, k, v = (a.transpose(1, 2) for a in (q, k, v))
            q, k = self.q_norm(q), self.k_norm(k)
        else:
            q, k, v = (a.transpose(1, 2) for a in (self.q_norm(q), self.k_norm(k), v))
        k, v = (a[:, :, None].expand(-1, -1, self.repeats, -1, -1).reshape(n, -1, t, HEAD) for a in (k, v))
        return self.o(self.mix(q, k, v).transpose(1, 2).reshape(n, t, -1))


class NormedTogether(Attention):
    """Queries and keys are normalized over all heads, before they are divided."""

    def __init__(self, key_heads: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(fused, key_heads)
        self.q_norm, self.k_norm = norm(HEADS * HEAD), norm(key_heads * HEAD)
        for parameter in (*self.q_norm.parameters(), *self.k_norm.parameters()):
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        rows = self.q_norm(self.q(x)), self.k_norm(self.k(x)), self.v(x)
        q, k, v = (a.view(n, t, -1, HEAD).transpose(1, 2) for a in rows)
        k, v = (a.repeat_interleave(self.repeats, dim=1) for a in (k, v))
        return self.o(self.mix(q, k, v).transpose(1, 2).reshape(n, t, -1))


class PlainNorm(nn.Module):
    """RMS norm from its operations, as those of language models."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        return (self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))).to(torch.float32)


class OneHead(nn.Module):
    """Attention of as many heads of all features as there is room for: one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (m(x).reshape(n, t, -1, WIDTH).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.o(written_out(q, k, v).transpose(1, 2).reshape(n, t, -1))


class Fused(nn.Module):
    """Queries, keys and values from one weight: ``side_by_side`` [q|k|v], or head by head."""

    def __init__(self, side_by_side: bool) -> None:
        super().__init__()
        self.side_by_side, self.qkv, self.o = side_by_side, nn.Linear(WIDTH, 3 * HEADS * HEAD), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        if self.side_by_side:
            q, k, v = (part.reshape(n, t, -1, HEAD) for part in self.qkv(x).chunk(3, -1))
        else:
            q, k, v = self.qkv(x).view(n, t, -1, 3 * HEAD).chunk(3, -1)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))


class FusedHead(nn.Module):
    """One head, as wide as each part into which the weight of queries, keys and values is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.qkv, self.o = WIDTH, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (part.view(n, t, -1, self.head_dim).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))


class Turned(nn.Module):
    """Rotary positions as products of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.n_local_heads, self.head_dim, angles = 2, 4, torch.arange(T)[:, None] * torch.tensor([1.0, 0.1])
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, self.n_local_heads, self.head_dim) for m in (self.q, self.k, self.v))
        pairs = (torch.view_as_complex(a.reshape(*a.shape[:-1], -1, 2)) for a in (q, k))
        q, k = (torch.view_as_real(pair * self.turn[:, None]).flatten(3) for pair in pairs)
        read = functional.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)))
        return self.o(read.transpose(1, 2).reshape(n, t, -1))


class Piled(nn.Module):
    """Queries, keys and values as parts of one weight, along a dimension of their own; biases of relative positions."""

    def __init__(self, written_out: bool, first: bool) -> None:
        super().__init__()
        self.num_heads, self.written_out, self.first = HEADS, written_out, first
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * HEADS * HEAD), nn.Linear(HEADS * HEAD, WIDTH)
        self.table = nn.Parameter(torch.randn(2 * T - 1, HEADS))
        self.register_buffer("index", torch.arange(T)[:, None] - torch.arange(T) + T - 1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, HEAD)
        if self.first:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        biases = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1)
        if self.written_out:
            x = (q @ k.transpose(-1, -2) / HEAD**0.5 + biases).softmax(-1) @ v
        else:
            x = functional.scaled_dot_product_attention(q, k, v, attn_mask=biases[None])
        return self.proj(x.transpose(1, 2).flatten(2))


class Net(nn.Module):
    """Tokens, positions, one attention in a pre-norm stream, an MLP and a readout."""

    def __init__(self, attention: nn.Module, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, WIDTH), nn.Parameter(torch.randn(1, T + 2, WIDTH))
        self.first, self.attention, self.second = norm(WIDTH), attention, norm(WIDTH)
        self.up, self.down, self.readout = nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions[:, : x.shape[1]]
        x = x + self.attention(self.first(x))
        return self.readout(x + self.down(functional.gelu(self.up(self.second(x)))))


class HandWrittenNorm(nn.Module):
    """RMS norm from its operations, with 1 + γ as weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / HEAD**0.5
    mask = torch.ones(q.shape[2], q.shape[2]).triu(1).bool()
    return (scores - 1e4 * mask).softmax(-1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / HEAD**0.5
    later = torch.ones(scores.shape[-2:]).tril() == 0
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


def rotary(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    angle = torch.arange(q.shape[2])[:, None] * torch.tensor([1.0])
    q, k = (torch.cat([a[..., :1] * angle.cos() - a[..., 1:] * angle.sin(),
                       a[..., 1:] * angle.cos() + a[..., :1] * angle.sin()], -1) for a in (q, k))  # fmt: skip
    return functional.scaled_dot_product_attention(q, k, v)


NETS: dict[str, Callable[[], nn.Module]] = {
    "fused operation": lambda: Net(Attention(fused)),
    "written out": lambda: Net(Attention(written_out)),
    "grouped queries": lambda: Net(Attention(fused, key_heads=2)),
    "grouped, written out": lambda: Net(Attention(written_out, key_heads=2)),
    "grouped, interleaved": lambda: Net(Interleaved(fused, key_heads=2)),
    "a mask filled in": lambda: Net(Attention(causal)),
    "rotary positions": lambda: Net(Attention(rotary)),
    "rotary, by complex numbers": lambda: Net(Turned()),
    "one weight, side by side": lambda: Net(Fused(True)),
    "one weight, by head": lambda: Net(Fused(False)),
    "one weight, piled": lambda: Net(Piled(False, True)),
    "piled, written out": lambda: Net(Piled(True, False)),
    "a mask by head": lambda: Net(
        Attention(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, q @ k.transpose(-1, -2)))
    ),
    "norm by hand": lambda: Net(Attention(fused), HandWrittenNorm),
    "ViT": lambda: ViT(1, 6, 3, 4, width=WIDTH, heads=(2, 2), mlp_widths=(6, 6)),
    "GPT": lambda: GPT(7, T, width=WIDTH, heads=(2, 2), mlp_widths=(6, 6)),
    "Llama": lambda: Llama(7, T, width=WIDTH, heads=(4, 4), mlp_widths=(6, 6), head_width=2, queries_per_key=2),
    "one head": lambda: GPT(7, T, width=WIDTH, heads=(1,), mlp_widths=(6,)),
    "one head, rotary": lambda: Llama(7, T, width=WIDTH, heads=(1,), mlp_widths=(6,)),
    "one head, written out": lambda: Net(OneHead()),
    "one head, one weight": lambda: Net(FusedHead()),
    "one head of keys": lambda: Llama(7, T, width=WIDTH, heads=(4,), mlp_widths=(6,), queries_per_key=4),
}


def inputs(name: str, n: int) -> Tensor:
    return torch.randn(n, 1, 6, 6) if name == "ViT" else torch.randint(0, 7, (n, T))


def proved(net: nn.Module, x: Tensor) -> Architecture:
    network = TracedNetwork(find_layers(net, x), read_state(net))
    prove(net.eval(), network, x)
    prove_readings(network, x)
    return network.architecture


@pytest.mark.parametrize("name", NETS)
def test_heads_streams_and_embeddings_are_found_and_proved(name: str) -> None:
    torch.manual_seed(0)
    architecture = proved(NETS[name](), inputs(name, 4))
    heads = [layer for layer in architecture.free if any(m.output.inside > 1 for m in architecture.writing(layer.name))]
    assert heads
    few = {
        "rotary, by complex numbers": 2,
        "Llama": 2,
        "grouped queries": 2,
        "grouped, interleaved": 2,
        "grouped, written out": 2,
        "ViT": 2,
        "GPT": 2,
    }
    keys = 1 if name.startswith("one head") else few.get(name, HEADS)
    assert all(layer.width == keys for layer in heads)
    assert architecture.statistics  # norms
    assert all(norm.module for norm in architecture.statistics)


WRITTEN_OUT: dict[str, Callable[[], nn.Module]] = {
    "norms of heads": lambda: Net(NormedAttention(HEADS)),
    "norms of heads, grouped": lambda: Net(NormedAttention(2)),
    "layer norms of heads": lambda: Net(NormedAttention(HEADS, lambda: of_heads(nn.LayerNorm), True)),
    "layer norms of heads, grouped": lambda: Net(NormedAttention(2, lambda: of_heads(nn.LayerNorm))),
    "layer norms of heads without shifts": lambda: Net(
        NormedAttention(2, lambda: of_heads(nn.LayerNorm, bias=False), True)
    ),
    "layer norms of all heads": lambda: Net(NormedTogether(HEADS, nn.LayerNorm)),
    "RMS norms of all heads, grouped": lambda: Net(NormedTogether(2, nn.RMSNorm)),
    "norms of all heads by hand": lambda: Net(NormedTogether(2, PlainNorm)),
    "RMS norms of heads": lambda: Net(NormedAttention(2, lambda: of_heads(nn.RMSNorm))),
}


@pytest.mark.parametrize("name", NETS | WRITTEN_OUT)
def test_full_width_is_the_mean_of_the_members(name: str) -> None:
    torch.manual_seed(1)
    members, x = [(NETS | WRITTEN_OUT)[name]().eval() for _ in range(3)], inputs(name, 24)
    census = Census(n_resamples=0).fit(Population.from_modules(members, x[:4]), x)
    network = assemble(census, "full")
    with torch.no_grad():
        assert deviation(network(x), torch.stack([member(x) for member in members]).mean(0)) < 1e-4
        if name in WRITTEN_OUT:
            assert assemble(census, "1x")(x).isfinite().all()


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_own_encoder_is_proved(norm_first: bool) -> None:
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(12, 3, 6, batch_first=True, norm_first=norm_first)
            self.read, self.out = nn.Linear(4, 12), nn.Linear(12, 2)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.encoder(self.read(x)).mean(1))

    architecture = proved(Encoder(), torch.randn(4, T, 4))
    assert [layer.width for layer in architecture.free] == [12, 3, 6, 3, 6]


class Between(nn.Module):
    """A stream of one input that attends to that of another, by a module of torch's."""

    def __init__(self, kind: str, norm_first: bool = False) -> None:
        super().__init__()
        self.kind, sizes = kind, {"batch_first": True, "norm_first": norm_first}
        self.one, self.other, self.out = (
            nn.Linear(4, WIDTH),
            nn.Linear(3, 6 if kind == "alone" else WIDTH),
            nn.Linear(8, 2),
        )
        if kind == "alone":
            self.body: nn.Module = nn.MultiheadAttention(WIDTH, 2, kdim=6, vdim=6, batch_first=True)
        elif kind == "decoder":
            self.body = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 6, **sizes), 1)
        else:
            encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(WIDTH, 2, 6, **sizes), 1, enable_nested_tensor=False
            )
            self.body = nn.Transformer(WIDTH, 2, 1, 1, 6, custom_encoder=encoder, **sizes)

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        x, memory = self.one(x), self.other(memory)
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        if self.kind == "alone":
            return self.out(self.body(x, memory, memory, key_padding_mask=padding.log())[0])
        if self.kind == "decoder":
            return self.out(self.body(x, memory, causal, memory_key_padding_mask=padding.log()))
        return self.out(self.body(memory, x, tgt_mask=causal))


_drawn = torch.Generator().manual_seed(0)
BETWEEN = tuple(torch.rand(24, *shape, generator=_drawn) for shape in ((T, 4), (3, 3), (3,)))


@pytest.mark.parametrize(
    ("kind", "norm_first"), [("decoder", True), ("decoder", False), ("both", False), ("alone", False)]
)
def test_attention_from_one_stream_to_another_is_proved_and_the_mean_at_full_width(kind: str, norm_first: bool) -> None:
    torch.manual_seed(2)
    members = [Between(kind, norm_first).eval() for _ in range(3)]
    population = Population.from_modules(members, tuple(x[:4] for x in BETWEEN))
    found = {layer.name: layer.width for layer in population.architecture.free}
    at = {"decoder": "body.layers.0.multihead_attn", "both": "body.decoder.layers.0.multihead_attn", "alone": "body"}[
        kind
    ]
    assert (found["one"], found[f"{at}.q"]) == (WIDTH, 2)
    assert kind == "alone" or found["other"] == WIDTH  # a stream of its own
    census = Census(n_resamples=0).fit(population, BETWEEN)
    with torch.no_grad():
        expected = torch.stack([member(*BETWEEN) for member in members]).mean(0)
        assert deviation(assemble(census, "full")(*BETWEEN), expected) < 1e-4
        width = {"heads": 3} if kind == "alone" else "1x"
        assert assemble(census, width, choice="cut")(*BETWEEN).isfinite().all()


def test_states_of_packed_weights_are_read_where_these_are_apart() -> None:
    torch.manual_seed(3)
    first, second = Between("decoder").eval(), Between("decoder").eval()
    (member,) = Population.from_modules([first], tuple(x[:4] for x in BETWEEN)).members
    state = as_written_out(second.state_dict(), member.module, member.network.architecture)
    member.module.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(member.module(*BETWEEN), second(*BETWEEN), atol=1e-6)


def test_assemblies_with_weights_apart_are_loaded_into_torchs_own_decoder(tmp_path: Path) -> None:
    torch.manual_seed(4)
    population = Population.from_modules([Between("decoder") for _ in range(2)], tuple(x[:4] for x in BETWEEN))
    network = assemble(Census(n_resamples=0).fit(population, BETWEEN), "1x", choice="cut")
    save_network(network, tmp_path / "net")
    again = load_network(tmp_path / "net", Between("decoder")).eval()
    with torch.no_grad():
        assert torch.equal(again(*BETWEEN), network(*BETWEEN))
    other = Between("both")
    with pytest.raises(ArtefactError, match="is missing"):
        load_network(tmp_path / "net", other)
    assert type(other.body.decoder.layers[0].multihead_attn) is nn.MultiheadAttention  # type: ignore[union-attr, index]


def test_graphs_of_units_have_the_weights_that_are_written_out() -> None:
    torch.manual_seed(5)
    net = Between("decoder")
    graph = unit_graph(net, tuple(x[:4] for x in BETWEEN))
    assert graph.nodes["body.layers.0.multihead_attn.q"].stop - graph.nodes["body.layers.0.multihead_attn.q"].start == 2
    grouped = nn.Sequential(nn.Conv1d(2, 4, 1), nn.ReLU(), nn.Conv1d(4, 6, 1, groups=2), nn.Flatten(), nn.Linear(6, 2))
    assert unit_graph(grouped, torch.randn(4, 2, 1)).n_nodes == 2 + 4 + 6 + 2


def test_samples_behind_positions_have_a_cure() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.body = nn.Linear(4, WIDTH), nn.TransformerEncoderLayer(WIDTH, 2, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.read(x).transpose(0, 1)).transpose(0, 1)

    with pytest.raises(TracingError, match="samples change places(.|\n)*cure: keep samples first.*batch_first=True"):
        find_layers(Late(), torch.randn(4, T, 4))


ODD: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str]] = {
    "softmax over heads": (lambda q, k, v: (q @ k.transpose(-1, -2)).softmax(1) @ v, "softmax"),
    "heads as positions": (
        lambda q, k, v: fused(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2),
        "heads of attention that are no units",
    ),
    "heads in order": (lambda q, k, v: fused(q, k, v) * torch.arange(1, HEADS + 1)[:, None, None], "must|units"),
    "heads mixed": (lambda q, k, v: fused(q, k, v) - fused(q, k, v).mean(1)[:, None], "a mean of units"),
    "neighbours": (lambda q, k, v: fused(q, k.roll(1, 1), v), "aten.roll"),
    "sorted": (lambda q, k, v: fused(q, k, v).sort(-1).values, "aten.sort"),
    "half of the heads": (lambda q, k, v: torch.cat([fused(q, k, v)[:, :2], v[:, 2:]], 1), "aten.slice"),
    "an outer product": (lambda q, k, v: fused(q, k, v) * v.sum(1, keepdim=True), "aten.sum"),
    "top scores": (
        lambda q, k, v: (q @ k.transpose(-1, -2)).topk(3, -1).values.softmax(-1) @ v[:, :, :3],
        "aten.topk",
    ),
}


@pytest.mark.parametrize("name", [name for name in ODD if name != "heads in order"])
def test_odd_attention_is_refused_by_name(name: str) -> None:
    mix, message = ODD[name]
    with pytest.raises(TracingError, match=message):
        find_layers(Net(Attention(mix)), torch.randint(0, 7, (4, T)))


class FixedHeads(OneHead):
    """Heads whose number is written out, so that more rows are more features of each."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).reshape(*x.shape[:2], 2, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.o(fused(q, k, v).transpose(1, 2).flatten(2))


def test_a_number_of_heads_that_is_written_out_has_a_cure() -> None:
    net, x = Net(FixedHeads()), torch.randint(0, 7, (4, T))
    with pytest.raises(FunctionChangedError, match="doubling the units of layer 'attention.q'") as raised:
        proved(net, x)
    assert "as (n, positions, -1, features)" in str(raised.value)


def test_one_head_without_a_reshape_says_so() -> None:
    def one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [part.flatten(2).unsqueeze(1) for part in (q, k, v)]
        return functional.scaled_dot_product_attention(*heads).transpose(1, 2)

    class Unsqueezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return one_by_one(self.q(x), self.k(x), self.v(x)).flatten(2)

    with pytest.raises(TracingError, match="one head alone is told from its features by a reshape"):
        find_layers(Net(Unsqueezed()), torch.randint(0, 7, (4, T)))


def test_heads_that_meet_fixed_features_keep_their_index() -> None:
    architecture = find_layers(Net(Attention(ODD["heads in order"][0])), torch.randint(0, 7, (4, T)))
    assert not any("attention" in layer.name for layer in architecture.hidden)


class Padded(nn.Module):
    """Tokens of which 0 is padding; the mean is over all positions or over those that are not padded."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.over_all, self.tokens, self.read = over_all, nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 3)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 6, batch_first=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        padded = x == 0
        y = self.encoder(self.tokens(x), src_key_padding_mask=padded)
        if self.over_all:
            return self.read(y.mean(1))
        return self.read(y.masked_fill(padded[..., None], 0).sum(1) / (~padded).sum(1, keepdim=True).clamp(min=1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_padding_that_torch_makes_zeros_of_in_eval_mode_alone() -> None:
    torch.manual_seed(0)
    x = torch.randint(1, 7, (8, T))
    x[::2, -2:] = 0
    proved(Padded(False), x)
    with pytest.raises(FunctionChangedError, match="enable_nested_tensor=False"):
        proved(Padded(True), x)


class Sines(nn.Module):
    """Tokens with positions that are not learned, and a mask of infinities, both in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.attention, self.norm = nn.Embedding(7, WIDTH), Attention(self.masked), nn.LayerNorm(WIDTH)
        self.read = nn.Linear(WIDTH, 3)
        steps = torch.arange(9)[:, None] * torch.logspace(0, -2, WIDTH // 2)
        self.register_buffer("positions", torch.stack([steps.sin(), steps.cos()], -1).view(1, 9, WIDTH))
        self.register_buffer("mask", torch.full((9, 9), -torch.inf).triu(1))

    def masked(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        t = q.shape[2]
        return ((q @ k.transpose(-1, -2)) * HEAD**-0.5 + self.mask[:t, :t]).softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        stream = self.tokens(x) + self.positions[:, : x.shape[1]].requires_grad_(False)
        return self.read(self.norm(stream + self.attention(stream)))


def test_positions_in_a_buffer_go_with_the_units(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets, x = [Sines().eval() for _ in range(2)], torch.randint(0, 7, (40, T))
    population = Population.from_modules(nets, x[:4])
    assert {m.name for m in population.architecture.writing("tokens")} >= {"positions", "tokens"}
    census = Census(n_resamples=0).fit(population, x)
    network = assemble(census, "1x", choice="cut")
    network(x).sum().backward()
    full = assemble(census, "full")
    save_network(full, tmp_path / "full")
    with torch.no_grad():
        mean = torch.stack([net(x) for net in nets]).mean(0)
        assert deviation(full(x), mean) < 1e-4
        assert deviation(load_network(tmp_path / "full", Sines(), example_input=x[:4])(x), mean) < 1e-4
    assert network.get_parameter("positions").grad is None
    assert isinstance(nets[0].positions, Tensor)
    assert not isinstance(nets[0].positions, nn.Parameter)


def test_heads_with_fixed_slopes_keep_their_index() -> None:
    def sloped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        distances = (torch.arange(T)[None] - torch.arange(T)[:, None]).abs() * torch.arange(1.0, HEADS + 1)[
            :, None, None
        ]
        return (q @ k.transpose(-1, -2) - distances).softmax(-1) @ v

    architecture = find_layers(Net(Attention(sloped)), torch.randint(0, 7, (4, T)))
    kept = {layer.name for layer in architecture.layers if not layer.interchangeable}
    assert kept >= {"attention.q", "attention.k", "attention.v"}
