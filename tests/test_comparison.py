"""Models compared by what they make of the same samples: invariances through the whole, brute force for the parts."""

from __future__ import annotations

import copy
import shutil
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn
from torch.nn import functional

from conftest import blobs, random_mlp
from consilience.clustering.samples import purity
from consilience.comparison import ModelComparison, find_consensus, group_models, loss_barriers
from consilience.comparison import cache as cache_of
from consilience.comparison.places import calls, find_places
from consilience.comparison.representations import cka, view
from consilience.data import Data, Dataset
from consilience.errors import ArtefactError, InputError
from consilience.nets import GPT, MLP, ConvNet, ResNet
from consilience.population import Population
from consilience.signals.record import record
from consilience.training import Training, train_population

pytestmark = pytest.mark.numerical

few = settings(max_examples=8)
seeds = st.integers(0, 10_000)


def chain(*sizes: int, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers "0", "2", … with activations between them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: list[nn.Module] = []
        for i, o in pairwise(sizes):
            parts += [nn.Linear(i, o), activation()]
        return nn.Sequential(*parts[:-1])


def broken(value: float) -> MLP:
    """A network whose second layer is constant, or not finite."""
    net = random_mlp([5, 4])
    with torch.no_grad():
        net.hidden[1].weight.zero_()
        net.hidden[1].bias.fill_(value)
    return net


X, Y = blobs()
QUICK: dict[str, Any] = {"n_null": 0, "consensus": None}


def compared(models: Any, x: Any = X, y: Any = None, **parameters: Any) -> ModelComparison:
    return ModelComparison(**{**QUICK, **parameters}).fit(models, x, y)


# ---------------------------------------------------------------------------------------------------- invariances


def permuted(net: MLP, seed: int) -> MLP:
    """The same function, with its hidden units in other orders."""
    other, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    layers = [*other.hidden, other.readout]
    with torch.no_grad():
        for below, above in pairwise(layers):
            order = torch.randperm(len(below.weight), generator=generator)
            below.weight.copy_(below.weight[order])
            below.bias.copy_(below.bias[order])
            above.weight.copy_(above.weight[:, order])
    return other


def rescaled(net: MLP, seed: int, sign: bool) -> MLP:
    """The same function: positive factors of relu units, signs of tanh units."""
    other, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    layers = [*other.hidden, other.readout]
    with torch.no_grad():
        for below, above in pairwise(layers):
            drawn = torch.randn(len(below.weight), generator=generator)
            factor = drawn.sign() if sign else drawn.exp()
            below.weight.mul_(factor[:, None])
            below.bias.mul_(factor)
            above.weight.div_(factor)
    return other


@pytest.mark.parametrize("reduction", ["pca", "none"])
@given(seed=seeds)
@few
def test_a_permuted_copy_clusters_the_samples_alike(reduction: str, seed: int) -> None:
    x, _ = blobs(seed=seed)
    net = random_mlp([16, 12], seed=seed)
    # 4 of 16 units' coordinates: PCA takes directions of its own
    found = compared([net, permuted(net, seed)], x, reduction=reduction, n_components=4)
    for matrix in found.matrix_.values():
        assert matrix[0, 1] == 1
    assert found.groups_["hidden.1"].n_groups == 1


@pytest.mark.parametrize(("activation", "sign"), [("relu", False), ("tanh", True)])
@given(seed=seeds)
@few
def test_a_rescaled_copy_clusters_the_samples_alike(activation: str, sign: bool, seed: int) -> None:
    x, _ = blobs(seed=seed)
    net = random_mlp([16, 12], activation, seed=seed)
    found = compared([net, rescaled(net, seed, sign)], x, n_components=4)
    assert found.matrix_["hidden.0"][0, 1] == 1
    assert found.matrix_["hidden.1"][0, 1] == 1


def test_a_rotated_copy_is_alike_only_where_the_measure_says_so() -> None:
    plain = chain(6, 8, 3)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    rotation = nn.Linear(8, 8, bias=False)
    rotation.weight.data = turn
    turned = nn.Sequential(plain[0], rotation, plain[1], plain[2])
    x = X * torch.tensor([20.0, 1, 1, 1, 1, 1]) + torch.randn(90, 6, generator=torch.Generator().manual_seed(3))
    models = {"plain": nn.Sequential(plain[0], nn.Identity(), plain[1], plain[2]), "turned": turned}
    assert compared(models, x, layers=["1"], measure="cka").matrix_["1"][0, 1] == pytest.approx(1, abs=1e-5)
    assert compared(models, x, layers=["1"], n_clusters=8).matrix_["1"][0, 1] < 0.99  # units are standardised


def test_no_clustering_depends_on_which_other_models_there_are() -> None:
    models = {f"{k}": random_mlp([8, 8], seed=k) for k in range(4)}
    all_four = compared(models)
    two = compared({"3": models["3"], "1": models["1"]})
    for place, labels in two.labels_.items():
        assert (labels == all_four.labels_[place][[3, 1]]).all()
        assert two.matrix_[place][0, 1] == all_four.matrix_[place][3, 1]
    deeper = compared({**models, "deep": random_mlp([8, 8, 8])}, clusterer="gmm")  # places have other names
    assert list(deeper.places_) == ["depth 0", "depth 1"]
    expected = compared(models, clusterer="gmm").labels_
    assert all((deeper.labels_[f"depth {k}"][:4] == expected[f"hidden.{k}"]).all() for k in (0, 1))


def test_models_come_out_as_they_went_in_and_the_same_seed_gives_the_same_result() -> None:
    models = [MLP(6, [8], 3, dropout=0.5).train(), random_mlp([8], seed=2)]
    before, state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = compared(models), compared(models)
    assert models[0].training
    assert models[0].dropout.training
    assert not models[1].training
    assert not any(part._forward_hooks for model in models for part in model.modules())
    assert torch.equal(before, torch.random.get_rng_state())
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert (first.labels_["hidden.0"] == second.labels_["hidden.0"]).all()


# ------------------------------------------------------------------------------------- networks that learned, or not


@pytest.fixture(scope="module")
def shuffled(digits: Data) -> Population:
    """Networks that were shown digits with the labels of other digits."""
    order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(0))
    train = Dataset(digits.train.x, digits.train.y[order], digits.train.ids)
    training = Training(epochs=12, batch_size=64, learning_rate=3e-3)
    return train_population(MLP(64, [20, 16], 10), train, 3, training=training, random_state=1)


def test_networks_that_learned_group_apart_from_those_shown_shuffled_labels(
    digits: Data, population: Population, shuffled: Population
) -> None:
    models = {
        **{f"learned {k}": member.module for k, member in enumerate(population)},
        **{f"shuffled {k}": member.module for k, member in enumerate(shuffled)},
    }
    x, y = digits.test.x, digits.test.y
    found = ModelComparison("cka", consensus=None).fit(models, x, y, ids=digits.test.ids.tolist())
    groups = found.groups_["hidden.1"].labels
    assert (groups[:6] == 0).all()
    assert (groups[6:] > 0).all()  # they have less in common with each other
    assert found.groups_["hidden.1"].silhouette > 0.3
    assert not found.z_
    by_clusterings = ModelComparison(consensus=None).fit(models, x, y)
    matrix = by_clusterings.matrix_["hidden.1"]
    within, across = matrix[:6, :6], matrix[:6, 6:]
    assert within[np.triu_indices(6, 1)].min() > across.max()
    assert by_clusterings.purity_["hidden.1"][:6].min() > by_clusterings.purity_["hidden.1"][6:].max()
    assert by_clusterings.z_["hidden.1"][0, 1] > 10
    assert by_clusterings.n_clusters_ == 10


def test_the_consensus_of_networks_knows_the_digits_and_disputes_those_they_get_wrong(
    digits: Data, population: Population
) -> None:
    found = ModelComparison(n_null=0).fit(population, digits.test.x, digits.test.y)
    agreed = found.consensus_["hidden.1"]
    assert purity(agreed.labels, digits.test.y.numpy()) > 0.75
    assert len(np.unique(agreed.labels)) == 10
    correct = population.logits(digits.test.x).mean(0).argmax(1) == digits.test.y
    assert agreed.disagreement[~correct.numpy()].mean() > agreed.disagreement[correct.numpy()].mean()


def test_epochs_are_compared_one_by_one_and_together() -> None:
    early = [random_mlp([8, 8], seed=k) for k in range(3)]
    twins = [copy.deepcopy(early[0]) for _ in range(3)]
    population = Population.from_modules([random_mlp([8, 8], seed=k) for k in (7, 8, 9)], X[:8])
    population = population.with_snapshot(1, early).with_snapshot(5, twins)
    found = ModelComparison(**QUICK).fit(population, X, Y, epochs=[5, 1])
    assert list(found.epochs_) == [1, 5]
    assert (found.epochs_[5]["hidden.1"] == 1).all()
    assert (found.epochs_[1]["hidden.1"] == compared(early, y=Y).matrix_["hidden.1"]).all()
    assert (found.matrix_["hidden.1"] == compared(population, y=Y).matrix_["hidden.1"]).all()
    assert found.names_ == ("member 0", "member 1", "member 2")
    alone = ModelComparison(**QUICK, n_clusters=20).fit(population, X, epochs=[1])
    assert (alone.combined_["hidden.1"] == alone.epochs_[1]["hidden.1"]).all()  # one epoch
    assert found.combined_["hidden.1"].shape == (3, 3)
    by_activations = ModelComparison("cka", **QUICK).fit(population, X, Y, epochs=[1, 5])
    assert by_activations.epochs_[5]["hidden.0"] == pytest.approx(1)
    assert set(by_activations.combined_) == {"hidden.0", "hidden.1"}


def test_layers_within_and_across_models_are_one_matrix() -> None:
    models = [random_mlp([8, 8], seed=k) for k in range(3)]
    for measure in ("rand", "unbiased_cka"):
        found = compared(models, measure=measure)
        assert found.layer_index_[:3] == (("model 0", "hidden.0"), ("model 0", "hidden.1"), ("model 1", "hidden.0"))
        for j, place in enumerate(found.places_):
            assert found.layer_matrix_[j::2, j::2] == pytest.approx(found.matrix_[place], abs=1e-12)
    labels = np.stack([found.labels_["hidden.0"][1], found.labels_["hidden.1"][2]])
    matrix = compared(models).layer_matrix_
    assert matrix[2, 5] == pytest.approx(adjusted_rand_score(*labels))


class Odd(nn.Module):
    """A shared module, an in-place activation, and a part that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.relu = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.unused, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.again(self.relu(self.again(self.relu(self.first(x)))))))


class Sometimes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.extra, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        return self.last(self.extra(inner) if x[0, 0] > 0 else inner)


def test_a_layer_that_some_batches_do_not_call_is_refused(tmp_path: Path) -> None:
    x = torch.ones(600, 6) * torch.where(torch.arange(600) < 256, 1.0, -1.0)[:, None]
    for cache in (None, tmp_path):
        with pytest.raises(InputError, match="layer 'extra' must be called for every batch, .* sample 256 on"):
            compared([Sometimes(), Sometimes()], x, layers="extra", cache=cache)


def test_convolutions_of_different_architectures_are_compared_by_depth() -> None:
    x = torch.randn(40, 3, 8, 8)
    models = {"plain": ConvNet(3, [4, 6, 6], 3, batch_norm=True), "residual": ResNet(3, (4, 6), 3)}
    found = compared(models, x, positions="pool")
    weighted = [calls(model.eval(), x, "").weighted[:-1] for model in models.values()]
    assert list(found.places_) == ["depth 0", "depth 1", "depth 2"]
    assert [p[0] for p in found.places_.values()] == list(weighted[0])
    last = len(weighted[1]) - 1
    assert [p[1] for p in found.places_.values()] == [weighted[1][i] for i in (0, (last + 1) // 2, last)]


def test_tokens_are_compared_as_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [GPT(5, 6, width=8, heads=2, mlp_widths=width) for width in (8, 12)]
    x, y = torch.randint(5, (40, 6)), torch.randint(5, (40, 6))
    layers = {"middle": "blocks.0", "norm": "norm"}
    options = {"layers": layers, "positions": "rows", "n_clusters": 4, "measure": "cka", "n_null": 0, "cache": tmp_path}
    found = compared(models, x, y, **options)
    assert found.ids_[:8] == ("0:0", "0:1", "0:2", "0:3", "0:4", "0:5", "1:0", "1:1")
    assert found.labels_["middle"].shape == (2, 240)
    for place, name in layers.items():
        streams = [record(model.eval(), [name], x, "flatten")[name].reshape(240, 8) for model in models]
        views = [view(stream, "", 2) for stream in streams]
        assert found.matrix_[place] == pytest.approx(cka(views), abs=1e-6)
    again = compared(models, x, y, **options)  # read from the cache
    assert np.array_equal(again.matrix_["norm"], found.matrix_["norm"])


@pytest.mark.parametrize(
    ("net", "x", "message"),
    [
        (
            MLP(6, [4], 3),
            torch.randn(20, 6),
            "model 'model 0', layer 'hidden.0' must return a row for each token, got 20 rows",
        ),
        (
            ConvNet(1, [4], 3),
            torch.randn(20, 1, 6, 6),
            "X of model 'model 0' must be tokens (n, t), as many for all models",
        ),
    ],
)
def test_what_are_no_tokens_is_not_compared_as_rows(net: nn.Module, x: Tensor, message: str) -> None:
    with pytest.raises(InputError) as error:
        compared([net, net], x, layers="hidden.0", positions="rows")
    assert str(error.value).startswith(message)


# ---------------------------------------------------------------------------------------------------------- places


def places(layers: Any, *models: nn.Module) -> dict[str, tuple[str, ...]]:
    return find_places({f"{k}": calls(model, X, f"{k}") for k, model in enumerate(models)}, layers)


def test_places_are_names_globs_mappings_or_depths() -> None:
    shallow, deep = chain(6, 5, 4, 3), chain(6, 5, 5, 5, 4, 3)
    assert places(None, shallow, shallow) == {"0": ("0", "0"), "2": ("2", "2")}
    assert places(None, Odd()) == {"first": ("first",), "again": ("again",)}
    assert calls(Odd(), X, "odd").called == ("first", "again", "relu", "last")  # in the order of their last return
    assert places("[02]", shallow, deep) == {"0": ("0", "0"), "2": ("2", "2")}
    assert places(["2", "*"], shallow)["0"] == ("0",)
    assert list(places(["2", "*"], shallow)) == ["2", "0", "1", "3", "4"]
    assert places({"late": ["6", "2"]}, shallow, deep) == {"late": ("2", "6")}
    assert places(None, shallow, deep) == {"depth 0": ("0", "0"), "depth 1": ("2", "6")}
    assert places(None, chain(6, 5, 3), deep) == {"depth 0": ("0", "6")}
    weight_norm = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 3))
    assert places(None, weight_norm) == {"0": ("0",)}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("hidden.3", r"layers of model 'model 0' must match a module .*, got 'hidden.3'\n.*did you mean 'hidden"),
        (["hiden.*"], r"got 'hiden.\*'\n.*did you mean 'hidden"),
        ("hidden", "must match a module that the forward pass calls, got 'hidden'"),  # a list, which is never called
        ({"p": "hidden.*"}, r"place 'p' of model 'model 0' must be one module, got hidden.0, hidden.1 for 'hidden.\*'"),
        (
            {"p": ["x", "y"]},
            r"place 'p' of model 'model 0' must match a module .*, got 'x' or 'y'\n.*modules are hidden.0",
        ),
        ([], r"layers must name at least one module, got \[\]"),
    ],
)
def test_layers_that_match_nothing_are_refused_with_the_nearest(layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared([random_mlp([4, 4]), random_mlp([4, 4], seed=1)], layers=layers)


def test_layers_that_differ_between_models_are_refused() -> None:
    with pytest.raises(InputError, match=r"got 0, 2, 4 in model '1' and 0, 2 in model '0'\n.*a mapping"):
        places("[024]", chain(6, 5, 3), chain(6, 5, 4, 3))
    with pytest.raises(InputError, match="layers=None needs a layer with weights before the last one, got none"):
        places(None, chain(6, 5, 3), nn.Linear(6, 3))


# ------------------------------------------------------------------------------------------------ groups, consensus


def test_groups_are_the_cut_with_the_best_silhouette() -> None:
    planted = np.array([0, 1, 0, 2, 1, 2, 0])
    apart = np.where(planted[:, None] == planted, 0.1, 0.9) * (1 - np.eye(7))
    found = group_models(apart)
    assert found.labels.tolist() == planted.tolist()
    assert found.n_groups == 3
    assert found.silhouette == pytest.approx((0.9 - 0.1) / 0.9)
    assert (np.diff(planted[found.order]) != 0).sum() == 2  # each group is side by side
    for alike in (np.zeros((4, 4)), 1 - np.eye(4), np.array([[0, 1.0], [1, 0]])):
        assert group_models(alike).n_groups == 1
        assert np.isnan(group_models(alike).silhouette)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0, np.nan], [np.nan, 0]], "distances must be finite, got NaN or infinity in 2 of 4 entries"),
        ([[0, 1.0], [2, 0]], "distances must be >= 0, symmetric, and 0 on the diagonal"),
        ([[1.0, 0], [0, 1]], "distances must be >= 0, symmetric, and 0 on the diagonal"),
        ([[0.0]], r"distances must have shape \(m, m\) with m >= 2, got \(1, 1\)"),
    ],
)
def test_what_is_no_distance_is_refused(matrix: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        group_models(matrix)


@given(seed=seeds, m=st.integers(1, 5), n=st.integers(3, 25))
def test_disagreement_is_what_counting_pairs_gives(seed: int, m: int, n: int) -> None:
    labels = np.random.RandomState(seed).randint(0, 3, (m, n))
    together = np.mean([own[:, None] == own for own in labels], axis=0)
    expected = (4 * together * (1 - together)).sum(1) / (n - 1)
    found = find_consensus(labels, 2)
    assert found.disagreement == pytest.approx(expected, abs=1e-6)
    assert (np.diff(found.disagreement[found.disputed]) <= 0).all()
    assert len(set(found.labels.tolist())) == 2


@pytest.mark.parametrize("method", ["average", "spectral"])
def test_the_consensus_sees_through_noise_and_names_of_clusters(method: str) -> None:
    generator = np.random.RandomState(0)
    planted = np.repeat([0, 1, 2, 3], 30)
    labels = np.stack([generator.permutation(9)[planted] for _ in range(15)])
    noisy = generator.rand(*labels.shape) < 0.25
    labels[noisy] = generator.randint(0, 9, noisy.sum())
    labels[:, 7] = generator.randint(0, 9, 15)  # nobody knows sample 7
    found = find_consensus(labels, 4, method)
    keep = np.arange(120) != 7
    assert adjusted_rand_score(found.labels[keep], planted[keep]) == 1
    exact = find_consensus(np.stack([planted, 5 - planted]), 4, method)
    assert (exact.labels == planted).all()
    assert (exact.disagreement == 0).all()


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 5, 6])
def test_trees_are_cut_into_exactly_so_many_clusters_though_heights_are_equal(n_clusters: int) -> None:
    found = find_consensus([[0, 0, 0, 1, 1, 1]], n_clusters)  # all merges at height 0, and one at 1
    assert len(set(found.labels.tolist())) == n_clusters


@pytest.mark.parametrize(
    ("labels", "n_clusters", "expected"),
    [
        ([[0, 0, 0]], 1, [0, 0, 0]),
        (np.zeros((3, 4), int), 2, [0, 0, 0, 0]),
        ([[0, 0, 1, 1]], 3, [0, 0, 1, 1]),
        ([[0, 0, 1, 1], [1, 0, 0, 0]], 3, [0, 1, 2, 2]),
    ],
)
def test_spectral_consensus_keeps_samples_together_that_all_models_have_together(
    labels: Any, n_clusters: int, expected: list[int]
) -> None:
    assert find_consensus(labels, n_clusters, "spectral").labels.tolist() == expected


def test_a_spectral_consensus_of_clusters_that_nothing_joins_is_decided_by_the_seed() -> None:
    labels = np.random.RandomState(0).randint(0, 12, (1, 200))
    first, *others = (find_consensus(labels, 5, "spectral").labels for _ in range(3))
    assert all((first == other).all() for other in others)


def test_spectral_consensus_is_the_normalised_cut_of_the_coassociations() -> None:
    generator = np.random.RandomState(0)
    labels = np.repeat([[0, 0, 0, 1, 1, 2]], 3, 0).repeat(9, 1)
    noisy = generator.rand(3, 54) < 0.2
    labels[noisy] = generator.randint(0, 3, noisy.sum())
    together = np.mean([own[:, None] == own for own in labels], 0)
    roots = together.sum(1) ** -0.5
    vectors = np.linalg.eigh(roots[:, None] * together * roots)[1][:, -3:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = KMeans(3, n_init=10, random_state=0).fit(vectors).labels_
    assert adjusted_rand_score(find_consensus(labels, 3, "spectral").labels, expected) == 1


def test_blocks_of_the_coassociation_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.RandomState(1).randint(0, 4, (6, 50))
    whole = find_consensus(labels, 3)
    monkeypatch.setattr("consilience.comparison.consensus.BLOCK", 120)
    parts = find_consensus(labels, 3)
    assert (whole.labels == parts.labels).all()
    assert whole.disagreement == pytest.approx(parts.disagreement)


# -------------------------------------------------------------------------------------------------------- barriers


def losses_along(a: nn.Module, b: nn.Module, x: Tensor, y: Tensor, ts: NDArray[np.float64]) -> NDArray[np.float64]:
    net, found = copy.deepcopy(a), []
    for t in ts:
        with torch.no_grad():
            for own, first, second in zip(net.parameters(), a.parameters(), b.parameters(), strict=True):
                own.copy_((1 - t) * first + t * second)
            found.append(float(functional.cross_entropy(net(x).double(), y)))
    return np.array(found)


def test_barriers_are_what_a_loop_over_the_line_gives() -> None:
    models = [random_mlp([8, 8], seed=k) for k in range(3)]
    x, y = blobs(400)
    found, ts = loss_barriers(models, x, y, n_points=5), np.linspace(0, 1, 5)
    for i, j in combinations(range(3), 2):
        losses = losses_along(models[i], models[j], x, y, ts)
        expected = max((losses - ((1 - ts) * losses[0] + ts * losses[-1])).max(), 0)
        assert found[i, j] == found[j, i] == pytest.approx(expected, abs=1e-5)
    assert found.max() > 0.01
    assert (np.diagonal(found) == 0).all()


def test_a_convex_loss_has_no_barriers_and_a_permuted_copy_has_one() -> None:
    x, y = blobs(100)
    linear = [nn.Linear(6, 3) for _ in range(3)]
    assert loss_barriers(linear, x, y).max() < 1e-6
    assert loss_barriers(linear, x, torch.randn(100, 3)).max() < 1e-6
    net = chain(6, 16, 3)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    other = copy.deepcopy(net)
    with torch.no_grad():
        order = torch.arange(15, -1, -1)
        other[0].weight.copy_(net[0].weight[order])
        other[0].bias.copy_(net[0].bias[order])
        other[2].weight.copy_(net[2].weight[:, order])
    barriers = loss_barriers([net, copy.deepcopy(net), other], x, y)
    assert barriers[0, 1] == 0
    assert barriers[0, 2] > 0.02
    assert group_models(barriers).labels.tolist() == [0, 0, 1]


def test_batch_norms_are_estimated_anew_on_the_line() -> None:
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    linear, last = chain(6, 16, 3)[::2]
    models = [nn.Sequential(copy.deepcopy(linear), nn.BatchNorm1d(16), nn.ReLU(), copy.deepcopy(last)) for _ in "ab"]
    with torch.no_grad():  # the same function with its units in reverse, and labels that it is sure of
        models[1][0].weight.copy_(linear.weight.flip(0))
        models[1][0].bias.copy_(linear.bias.flip(0))
        models[1][3].weight.copy_(last.weight.flip(1))
        for model in models:
            model[3].weight.mul_(10)
        y = copy.deepcopy(models[0]).train()(x).argmax(1)
    found = loss_barriers(models, x, y)
    for model in models:
        model[1].running_mean.uniform_(-5, 5)
        model[1].running_var.fill_(30.0)
    before = copy.deepcopy(models[1].state_dict())
    assert (loss_barriers(models, x, y) == found).all()
    assert all(torch.equal(value, before[name]) for name, value in models[1].state_dict().items())
    losses = []
    for t in np.linspace(0, 1, 11):  # one batch of all samples gives their mean and unbiased variance
        net = copy.deepcopy(models[0])
        ends = zip(models[0].state_dict().items(), before.values(), strict=True)
        net.load_state_dict({name: torch.lerp(a.double(), b.double(), t).to(a) for (name, a), b in ends})
        with torch.no_grad():
            inner = net[0](x)
            net[1].running_mean, net[1].running_var = inner.mean(0), inner.var(0)
            losses.append(float(functional.cross_entropy(net.eval()(x), y)))
    chord = np.linspace(losses[0], losses[-1], 11)
    assert found[0, 1] == pytest.approx(max(0, (losses - chord).max()), abs=1e-5)
    assert found[0, 1] > 0.01


class Recurrent(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner, self.last = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x.unflatten(1, (3, 2)))[0][:, -1])


def test_what_cannot_be_batched_over_parameters_goes_one_by_one() -> None:
    models, ts = [Recurrent(0), Recurrent(1)], np.linspace(0, 1, 3)
    losses = losses_along(*models, X, Y, ts)
    expected = max((losses - ((1 - ts) * losses[0] + ts * losses[-1])).max(), 0)
    assert loss_barriers(models, X, Y, n_points=3)[0, 1] == pytest.approx(expected, abs=1e-6)


class Tied(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.second, self.last = chain(6, 6, 6, 3, seed=seed)[::2]
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(functional.relu(self.first(x))))


@pytest.mark.parametrize("batched", [True, False])
def test_tied_weights_stay_tied_on_the_line(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError

    if not batched:
        monkeypatch.setattr("consilience.comparison.barriers.vmap", refuse)
    models, ts = [Tied(0), Tied(1)], np.linspace(0, 1, 5)
    losses = losses_along(*models, X, Y, ts)
    expected = max((losses - ((1 - ts) * losses[0] + ts * losses[-1])).max(), 0)
    assert loss_barriers(models, X, Y, n_points=5)[0, 1] == pytest.approx(expected, abs=1e-6)
    assert (loss_barriers(models, X, Y, n_points=2) == 0).all()


def test_barriers_need_one_function_of_the_parameters() -> None:
    relu, tanh = [[random_mlp([8], activation, seed=k) for k in (0, 1)] for activation in ("relu", "tanh")]
    found = loss_barriers([relu[0], tanh[0], relu[1], tanh[1]], X, Y)
    assert np.isnan(found).tolist() == [[(i + j) % 2 == 1 for j in range(4)] for i in range(4)]
    with pytest.raises(InputError, match="models must have two that compute the same function"):
        loss_barriers([relu[0], tanh[0]], X, Y)


def test_barriers_need_equal_shapes() -> None:
    narrow, wide = random_mlp([4]), random_mlp([5])
    found = loss_barriers([narrow, wide, random_mlp([4], seed=1)], X, Y)
    assert np.isnan(found[0, 1])
    assert np.isnan(found[1, 2])
    assert np.isfinite(found[0, 2])
    with pytest.raises(InputError, match="models must have two that compute the same function"):
        loss_barriers([narrow, wide], X, Y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y + 1, "y must be labels from 0 to 2, got 3 in row"),
        (Y[:, None], r"y must be integer labels \(90,\), got int64 \(90, 1\)"),
        (Y[1:], "y must have one row for each of the 90 rows of x"),
        (torch.zeros(90, 2), r"y must have shape \(n, 3\), as the outputs, got \(90, 2\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loss_barriers([random_mlp([4]), random_mlp([4])], X, y)


def test_barriers_need_finite_losses_and_two_ends() -> None:
    with pytest.raises(InputError, match="the loss must be finite between models 'model 0' and 'model 1'"):
        loss_barriers([broken(float("nan")), broken(float("nan"))], X, Y)
    with pytest.raises(InputError, match="n_points must be an int >= 2, got 1"):
        loss_barriers([random_mlp([4]), random_mlp([4])], X, Y, n_points=1)


# ----------------------------------------------------------------------------------------------------------- cache


def test_activations_are_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_of, "SHARD_BYTES", 2 * 256 * 8 * 4)  # one batch of rows of both layers
    x, _ = blobs(600)
    models = [random_mlp([8, 8], seed=k) for k in range(2)]
    plain, kept = compared(models, x), compared(models, x, cache=tmp_path)
    layers = [path for path in tmp_path.iterdir() if "-" not in path.name]
    assert len(layers) == 4
    assert len(list(tmp_path.glob(f"{layers[0].name}-*"))) == 3
    monkeypatch.setattr(cache_of, "stream", lambda *_: pytest.fail("recorded twice"))
    again = compared(models, x, cache=tmp_path, clusterer="ward", layers="hidden.1")
    assert list(again.labels_) == ["hidden.1"]
    for found in (kept, compared(models, x, cache=tmp_path)):
        assert all((found.labels_[place] == labels).all() for place, labels in plain.labels_.items())


def test_other_models_inputs_ids_and_functions_have_other_keys(tmp_path: Path) -> None:
    relu, models = random_mlp([8]), [random_mlp([8]), random_mlp([8])]
    models[1].activation = "tanh"  # the same parameters

    def n_kept(models: list[MLP], x: Tensor = X, ids: Any = None) -> int:
        ModelComparison(**QUICK, cache=tmp_path, layers="readout").fit(models, x, ids=ids)
        return len([path for path in tmp_path.iterdir() if "-" not in path.name])

    assert n_kept([relu, relu]) == 1
    assert n_kept(models) == 2
    assert n_kept(models, X.flip(0)) == 4
    assert n_kept(models, ids=[f"sample {i}" for i in range(90)]) == 6


def test_a_recording_that_is_killed_leaves_no_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, stream = [random_mlp([8], seed=k) for k in range(2)], cache_of.stream

    def killed(*arguments: Any) -> Any:
        yield next(iter(stream(*arguments)))
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_of, "stream", killed)
    monkeypatch.setattr(cache_of, "SHARD_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        compared(models, cache=tmp_path)
    assert {path.name[-6:] for path in tmp_path.iterdir()} == {"-00000"}
    monkeypatch.undo()
    kept, plain = compared(models, cache=tmp_path), compared(models)
    assert (kept.labels_["hidden.0"] == plain.labels_["hidden.0"]).all()
    shard = next(tmp_path.glob("*-00000"))
    for spoil in (lambda: next(shard.glob("*.safetensors")).write_bytes(b"damaged"), lambda: shutil.rmtree(shard)):
        spoil()
        with pytest.raises(ArtefactError, match="recorded activations are missing or damaged") as lost:
            compared(models, cache=tmp_path)
        named = Path(str(lost.value.cure).removeprefix("delete ").partition("*")[0])
        assert named.parent == tmp_path
        for path in tmp_path.glob(f"{named.name}*"):
            shutil.rmtree(path)
        assert (compared(models, cache=tmp_path).labels_["hidden.0"] == plain.labels_["hidden.0"]).all()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cache must be a directory, got the file"):
        compared(models, cache=tmp_path / "file")


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"measure": "randd"}, "measure must be one of 'adjusted_rand', .*'rsa', got 'randd'"),
        ({"clusterer": "dbscan"}, "clusterer must be one of 'kmeans', 'ward', .*, got 'dbscan'"),
        ({"reduction": "tsne"}, "reduction must be one of 'pca', 'umap', 'none', got 'tsne'"),
        ({"positions": "mean"}, "positions must be one of 'flatten', 'pool', 'rows', got 'mean'"),
        ({"consensus": "median"}, "consensus must be one of 'average', 'spectral', got 'median'"),
        ({"n_clusters": 1}, "n_clusters must be an int >= 2, got 1"),
        ({"n_clusters": 91}, "X must have at least 91 samples, one for each cluster, got 90"),
        ({"n_components": 0}, "n_components must be an int >= 1, got 0"),
        ({"n_null": 1}, "n_null must be an int >= 2, got 1\n.*0 skips the null"),
        ({"random_state": -1}, "random_state must be an int from 0 to 4294967295, got -1"),
        ({"random_state": 2**32}, "random_state must be an int from 0 to 4294967295, got 4294967296"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared([random_mlp([4]), random_mlp([4], seed=1)], **parameters)


def test_umap_is_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consilience.comparison.model_comparison.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"without the package umap-learn, got 'umap'\n.*pip install umap-learn"):
        compared([random_mlp([4]), random_mlp([4])], reduction="umap")


NET = random_mlp([5, 4], seed=1)


@pytest.mark.parametrize(
    ("models", "x", "message"),
    [
        ([NET], X, "models must be at least two, got 1"),
        (chain(6, 5, 3), X, "models must be a list, a mapping .*, got one Sequential"),
        ({"a": NET, "b": "c"}, X, r"models\['b'\] must be an nn.Module, got str"),
        ({"fine": NET, "flat": broken(1.0)}, X, "'flat', layer 'hidden.1' must vary over the samples"),
        ({"fine": NET, "bad": broken(float("nan"))}, X, r"'bad', layer 'hidden.1' must be finite, .* in 90 samples"),
        ({"fine": NET, "wide": chain(7, 5, 3)}, X, r"X must be inputs of model 'wide', got float32 \(90, 6\)"),
        ([NET, NET], X.byte(), r"X must be inputs of model 'model 0', got uint8(.|\n)*cure: +convert to float"),
        ([NET, NET], X > 0, r"X must be inputs of model 'model 0', got bool(.|\n)*cure: +convert to float"),
        ({1: NET, "1": random_mlp([5, 4], seed=2)}, X, "names of models must differ as text, got 1, '1'"),
        ([chain(6, 5, 3), chain(6, 5, 4)], X, r"n_clusters must be given unless .*, got o = 3, 4\n.*or pass y"),
        ([NET, NET], X[:1].repeat(20, 1) + torch.arange(20)[:, None] % 2, "samples that differ, got 2 of 20"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(models: Any, x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared(models, x)


def test_samples_must_be_the_same_in_the_same_order() -> None:
    models, ids = {"a": random_mlp([4]), "b": random_mlp([4], seed=1)}, list(range(90))

    def fit(ids: Any, x: Any = X) -> ModelComparison:
        return ModelComparison(**QUICK).fit(models, x, ids=ids)

    with pytest.raises(InputError, match=r"of model 'b' must be those of model 'a', got 89 in place of 88 .*\n.*sort"):
        fit({"a": ids, "b": [*ids[:88], 89, 88]})
    with pytest.raises(InputError, match=r"got 1000 in place of 3 for sample 3\n.*1 ids are not of model 'a'"):
        fit({"a": ids, "b": [*ids[:3], 1000, *ids[4:]]})
    with pytest.raises(InputError, match="ids must be 90 different ints or strings, got 90, 89 of them different"):
        fit([*ids[:89], 0])
    with pytest.raises(InputError, match="X of model 'b' must have one row for each of the 90 rows of X of model 'a'"):
        fit(None, {"a": X, "b": X[:50]})
    with pytest.raises(InputError, match="X must have a value for model 'b', got a"):
        fit(None, {"a": X})
    with pytest.raises(InputError, match="X must be finite, got NaN or infinity in 1 of 90 rows, first row 2"):
        fit(None, torch.where(torch.arange(90)[:, None] == 2, torch.nan, X))
    with pytest.raises(InputError, match=r"y must be one class for each of the 90 samples, or .*, got int64 \(89,\)"):
        compared(models, y=Y[1:])
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match="y must be finite, got NaN or infinity in 1 of 90 rows, first row 7"):
            compared(models, y=np.where(np.arange(90) == 7, value, Y))
    with pytest.raises(InputError, match="y must have targets that vary, got 0.5 in all rows of column 1"):
        compared(models, y=np.stack([np.arange(90), np.full(90, 0.5)], 1))
    assert (compared(models, y=Y.double()).labels_["hidden.0"] == compared(models, y=Y).labels_["hidden.0"]).all()
    same = fit({"a": np.array(ids), "b": torch.tensor(ids)}, {"a": X, "b": X.double().numpy()})
    assert same.ids_ == tuple(ids)


def test_of_numbers_purity_is_the_share_of_their_variance_between_clusters() -> None:
    net = random_mlp([4])
    numbers = torch.stack([Y.double() + 0.25, torch.randn(90, generator=torch.Generator().manual_seed(0)).double()], 1)
    found = compared([net, net], y=numbers, n_clusters=3)
    labels = found.labels_["hidden.0"][0]
    means = torch.stack([numbers[torch.from_numpy(labels == label)].mean(0) for label in range(3)])[labels]
    expected = float((1 - (numbers - means).square().mean(0) / numbers.var(0, correction=0)).mean())
    np.testing.assert_allclose(found.purity_["hidden.0"], expected)
    assert compared([net, net], y=Y).n_clusters_ == int(Y.max()) + 1
    assert compared([net, net], y=numbers).n_clusters_ == 3  # outputs
    column = Y.double()[:, None]  # whole numbers, as counts are
    means = torch.stack([column[torch.from_numpy(labels == label)].mean() for label in range(3)])[labels, None]
    expected = 1 - float((column - means).square().mean() / column.var(correction=0))
    np.testing.assert_allclose(compared([net, net], y=column, n_clusters=3).purity_["hidden.0"], expected)


def test_inputs_may_lie_backwards_or_be_read_only() -> None:
    models, frozen = [random_mlp([4]), random_mlp([4], seed=1)], X.numpy().copy()
    frozen.flags.writeable = False
    expected = compared(models, X.flip(0)).labels_["hidden.0"]
    assert (compared(models, frozen[::-1]).labels_["hidden.0"] == expected).all()
    assert (compared(models, frozen).labels_["hidden.0"] == compared(models).labels_["hidden.0"]).all()
    assert np.isfinite(loss_barriers(models, frozen[::-1], Y.numpy()[::-1], n_points=3)).all()


@pytest.mark.parametrize("measure", ["unbiased_cka", "rsa"])
def test_a_measure_that_is_undefined_names_the_model_and_the_place(measure: str) -> None:
    models = {"fine": chain(6, 8, 3), "even": nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))}
    with torch.no_grad():
        models["even"][0].weight.copy_(torch.eye(6))
        models["even"][0].bias.zero_()
    with pytest.raises(InputError, match="activations of model 'even', place '0' must have samples at different"):
        compared(models, torch.eye(6), measure=measure, layers="0", n_clusters=2)


def test_epochs_without_a_snapshot_are_refused() -> None:
    nets = [random_mlp([4]), random_mlp([4], seed=1)]
    population = Population.from_modules(nets, X[:8]).with_snapshot(2, nets)
    with pytest.raises(InputError, match="epochs must be one of 2, got 3"):
        ModelComparison().fit(population, X, epochs=[2, 3])
    with pytest.raises(InputError, match="epochs must be empty for models without snapshots, got 2"):
        ModelComparison().fit(nets, X, epochs=[2])
    with pytest.raises(InputError, match="layer_matrix_ must be read after fit"):
        _ = ModelComparison().layer_matrix_
    with pytest.raises(InputError, match="layer_index_ must be read after fit"):
        _ = ModelComparison().layer_index_
