"""What heads of attention attend to, and what they write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from by_head import gpt_by_head
from consilience.census import Census, HeadEffects, HeadRoles
from consilience.census.head_roles import DUPLICATE, INDUCTION, PREVIOUS, repeated_tokens
from consilience.data import Dataset
from consilience.data.vocabulary import Vocabulary
from consilience.nets import GPT, MLP, Llama, ViT
from consilience.population.population import Population
from consilience.report.atlas import render_atlas
from consilience.report.results import Writing
from consilience.signals.attention import Attention
from consilience.studies.atlas_contents import atlas_contents
from consilience.studies.heads import heads_summary, lines_of, output_names

T = 8


def attending(step: int) -> GPT:
    """A GPT whose first head attends to the position ``step`` before, as far as there is one; the other to all."""
    net = GPT(5, T, width=T, heads=(2,), head_width=T, mlp_widths=(4,))
    with torch.no_grad():
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.02)
        net.positions.weight.copy_(20 * torch.eye(T).view_as(net.positions.weight))
        net.blocks[0].norm1.weight.fill_(1.0)
        attention = net.blocks[0].attention
        attention.q.weight[:T] = 20 * torch.eye(T).roll(-step, 0)  # position i asks for position i − step
        attention.k.weight[:T] = torch.eye(T)
    return net


def test_heads_get_the_scores_of_what_they_were_made_to_do() -> None:
    before, repeated, next_one = attending(1), attending(T // 2), attending(T // 2 - 1)
    population = Population.from_modules([before, repeated, next_one], torch.randint(0, 5, (4, T)), task="next-token")
    census = Census(n_clusters=4, n_resamples=0).fit(population, torch.randint(0, 5, (20, T)))
    ((name, roles),) = census.head_roles().items()
    for score, member in ((PREVIOUS, 0), (DUPLICATE, 1), (INDUCTION, 2)):
        scores = roles.scores[score]
        assert scores[2 * member] > 0.95
        assert np.delete(scores, 2 * member).max() < 0.3
        for c, mean in enumerate(roles.by_cluster[score]):
            assert mean == pytest.approx(scores[census.layers_[name].labels_ == c].mean())
        best = roles.by_cluster[score]
        assert f"{score} {best.max():.2f} (cluster {best.argmax() + 1})" in lines_of({name: roles})[0]
    assert len(heads_summary(roles).patterns) == 4


def scores_of(net: GPT | Llama, x: Tensor) -> Tensor:
    """The weights that a hook finds on positions: (n, h, t, s)."""
    seen = []
    own = nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, *args: object, **kwargs: object) -> Tensor:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        seen.append(scores.masked_fill(later, -torch.inf).softmax(-1))
        return own(q, k, v, *args, **kwargs)  # type: ignore[arg-type]

    nn.functional.scaled_dot_product_attention = spy
    try:
        with torch.no_grad():
            net(x)
    finally:
        nn.functional.scaled_dot_product_attention = own
    return seen[0]


SIZES = {"width": 8, "heads": (4,), "mlp_widths": (6,)}
HEADS: dict[str, Callable[[], GPT | Llama]] = {
    "gpt": lambda: GPT(9, 7, **SIZES),  # type: ignore[arg-type]
    "llama": lambda: Llama(9, 7, **SIZES, queries_per_key=2),  # type: ignore[arg-type]
    "one weight, by head": lambda: gpt_by_head(9, 7, 8, 4, 6),
}


@pytest.mark.parametrize("kind", HEADS)
def test_patterns_are_the_weights_on_positions(kind: str) -> None:
    torch.manual_seed(0)
    net = HEADS[kind]()
    x = torch.randint(0, 9, (5, 7))
    network = Population.from_modules([net], x, task="next-token").members[0].network
    (heads,) = (heads for m in network.architecture.maps if (heads := Attention.of(m, network, x)))
    torch.testing.assert_close(heads.patterns(network, x), scores_of(net, x), atol=1e-6, rtol=1e-5)


def test_values_are_found_where_all_of_them_are_zero() -> None:
    torch.manual_seed(0)
    net, x = gpt_by_head(9, 7, 8, 4, 6), torch.randint(0, 9, (5, 7))
    with torch.no_grad():
        for parameter in net.blocks[0].attention.qkv.parameters():
            parameter.unflatten(0, (4, 3, 2))[:, 2] = 0
    network = Population.from_modules([net], x, task="next-token").members[0].network
    (heads,) = (heads for m in network.architecture.maps if (heads := Attention.of(m, network, x)))
    assert heads.first == 4


def changes(net: GPT, block: int, x: Tensor) -> list[Tensor]:
    """What outputs (n, t, o) lose where a hook replaces the values of each head by their mean, head by head."""
    attention, lost = net.blocks[block].attention, []  # type: ignore[union-attr, var-annotated]
    for h in range(2):

        def without(module: nn.Module, inputs: object, values: Tensor, h: int = h) -> Tensor:
            own = values.unflatten(2, (2, -1)).clone()
            own[:, :, h] = own[:, :, h].mean((0, 1))
            return own.flatten(2)

        with torch.no_grad():
            whole = net(x)
            hook = attention.v.register_forward_hook(without)
            lost.append(whole - net(x))
            hook.remove()
    return lost


def test_heads_with_one_weight_write_what_outputs_lose_without_them() -> None:
    torch.manual_seed(0)
    net, x = gpt_by_head(9, 7, 8, 2, 6).eval(), torch.randint(0, 9, (16, 7))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    census = Census(n_clusters=2, n_resamples=0).fit(Population.from_modules([net], x[:4], task="next-token"), x)
    (layer, effects), *_ = census.head_effects().items()
    for h, c in enumerate(census.layers_[layer].labels_):
        with torch.no_grad():
            whole = net(x)
            own = net.blocks[0].attention.qkv.register_forward_hook(partial(with_mean_values, h=h))  # type: ignore[union-attr]
            lost = (whole - net(x)).double().flatten(0, 1)
            own.remove()
        lost = lost - lost.mean(1, keepdim=True)
        _, strengths, directions = torch.linalg.svd(lost, full_matrices=False)
        expected = (strengths[0] * directions[0] / (16 * 7) ** 0.5).numpy()
        np.testing.assert_allclose(np.abs(effects.outputs[c]), np.abs(expected), rtol=1e-3, atol=1e-5)


def with_mean_values(module: nn.Module, inputs: object, rows: Tensor, h: int) -> Tensor:
    """Rows (n, t, h · 3 · j) with the values of head h replaced by their mean."""
    changed = rows.unflatten(2, (2, 3, -1)).clone()
    changed[:, :, h, 2] = changed[:, :, h, 2].mean((0, 1))
    return changed.flatten(2)


@pytest.mark.parametrize("block", [0, 1])
def test_heads_write_what_outputs_lose_without_them(block: int) -> None:
    torch.manual_seed(0)
    nets, x = [GPT(9, 7, 8, (2, 2), (6, 6)).eval() for _ in range(3)], torch.randint(0, 9, (16, 7))
    for parameter in (parameter for net in nets for parameter in net.parameters()):
        nn.init.normal_(parameter, std=0.5)
    census = Census(n_clusters=4, n_resamples=0).fit(Population.from_modules(nets, x[:4], task="next-token"), x)
    name = f"blocks.{block}.attention.q"
    effects, labels = census.head_effects()[name], census.layers_[name].labels_
    lost = torch.stack([change for net in nets for change in changes(net, block, x)]).double().flatten(1, 2)
    lost = lost - lost.mean(2, keepdim=True)
    for c in range(4):
        _, strengths, directions = torch.linalg.svd(lost[torch.from_numpy(labels == c)].mean(0), full_matrices=False)
        expected = (strengths[0] * directions[0] / (16 * 7) ** 0.5).numpy()
        np.testing.assert_allclose(np.abs(effects.outputs[c]), np.abs(expected), rtol=1e-3, atol=1e-5)
        assert effects.outputs[c] @ expected == pytest.approx(
            np.sign(effects.outputs[c] @ expected) * expected @ expected
        )
        assert effects.share[c] == pytest.approx(float(strengths[0] ** 2 / strengths.square().sum()), rel=1e-3)


def test_what_heads_write_has_the_names_of_tokens() -> None:
    roles = HeadRoles(np.ones((2, 3, 3)), {}, {})
    effects = HeadEffects(np.array([[0.1, -1.0, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]]), np.array([0.75, 0.0]))
    assert output_names(4, Vocabulary.of("a \n"), ()) == ["\ufffd", "↵", "␣", "a"]
    first, second = heads_summary(roles, effects, output_names(4, None, ["w", "x", "y", "z"])).writings
    assert first == Writing(["z", "y"], ["x"], 1.0, 0.75)
    assert second == Writing([], [], 0.0, 0.0)


def test_tokens_are_repeated_once() -> None:
    population = Population.from_modules([GPT(9, 7, 8, (2,), (6,))], torch.randint(0, 9, (4, 7)), task="next-token")
    tokens = repeated_tokens(population, 0)
    assert tokens is not None
    assert tokens.shape == (16, 7)
    assert torch.equal(tokens[:, :3], tokens[:, 3:6])
    assert torch.equal(tokens, repeated_tokens(population, 0))
    images = torch.rand(4, 1, 8, 8)
    vit = Population.from_modules([ViT(1, 8, 4, 3, width=8, heads=(2,), mlp_widths=(6,))] * 2, images)
    assert repeated_tokens(vit, 0) is None
    roles = Census(n_clusters=2, n_resamples=0).fit(vit, images).head_roles()["blocks.0.attention.q"]
    assert roles.patterns.shape == (2, 5, 5)
    assert roles.scores == {}
    np.testing.assert_allclose(roles.patterns.sum(2), 1, atol=1e-5)


def test_atlases_show_heads_at_the_end_of_the_page() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 9, (20, 7))
    nets = [GPT(9, 7, 8, (2,), (6,)) for _ in range(2)]
    census = Census(n_clusters={"blocks.0.attention.q": 3}, n_resamples=0).fit(Population.from_modules(nets, x), x)
    vocabulary = Vocabulary(("?", *"abcdefgh"))
    contents = atlas_contents(census, Dataset(x, x, torch.arange(20)), title="Heads", vocabulary=vocabulary)
    (heads,) = contents.heads
    assert (heads.name, len(heads.summary.writings)) == ("blocks.0.attention.q", 3)
    assert {*heads.summary.writings[0].raised} < {*"?abcdefgh"}
    page = render_atlas(contents)
    assert "Heads of attention: blocks.0.attention.q" in page
    assert all(picture.uri() in page for picture in heads.summary.patterns)


def test_layers_without_heads_have_no_roles() -> None:
    population = Population.from_modules([MLP(4, [5], 2), MLP(4, [5], 2)], torch.randn(8, 4))
    census = Census(n_resamples=0).fit(population, torch.randn(30, 4))
    assert census.head_roles() == census.head_effects() == {}
