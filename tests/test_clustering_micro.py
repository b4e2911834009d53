"""Layers of many units: a tree over micro-clusters agrees with the exact one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from consilience.census import Census
from consilience.clustering import clusterers, micro
from consilience.clustering.clusterers import CLUSTERERS, resampled
from consilience.clustering.distances import Points
from consilience.clustering.micro import micro_clusters
from consilience.clustering.stability import stability
from consilience.engines import engine
from consilience.errors import InputError
from consilience.nets import MLP
from consilience.population import Population


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large, and how much of it is looked at, so small that both paths can be compared."""
    for name, value in {"LARGE": 250, "N_MICRO": 60, "N_DIRECTIONS": 8, "BLOCK": 70, "ROWS": 30}.items():
        monkeypatch.setattr(micro, name, value)
        if hasattr(clusterers, name):
            monkeypatch.setattr(clusterers, name, value)


def groups(projective: bool, n: int = 400) -> tuple[Points, NDArray[np.int64]]:
    """Points (n, 30) of 12 groups in 8 directions, with little noise in the other 22."""
    g = np.random.default_rng(0)
    truth = np.arange(n) % 12
    centers = np.concatenate([3 * g.normal(size=(12, 8)), np.zeros((12, 22))], axis=1)
    points = centers[truth] + np.where(np.arange(30) < 8, 0.3, 0.05) * g.normal(size=(n, 30))
    if projective:
        points *= g.choice([-1.0, 1.0], size=(n, 1))
    return Points(points.astype(np.float32), projective), truth


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["ward", "average", "two-stage"])
@pytest.mark.parametrize("projective", [False, True])
def test_the_tree_over_micro_clusters_agrees_with_the_exact_one(name: str, projective: bool) -> None:
    points, truth = groups(projective)
    clustering = CLUSTERERS[name](points, None, 0)
    assert 12 < clustering.n_leaves <= 60
    exact = clusterers._exact(points, "average" if name == "average" else "ward")
    assert adjusted_rand_score(exact.cut(12), truth) == 1
    assert adjusted_rand_score(clustering.cut(12), truth) > 0.98


@pytest.mark.usefixtures("small")
def test_layers_that_are_not_large_keep_their_exact_tree() -> None:
    points, _ = groups(projective=False, n=250)
    assert CLUSTERERS["ward"](points, None, 0).n_leaves == 250


@pytest.mark.usefixtures("small")
def test_every_point_is_in_the_micro_cluster_of_the_nearest_center() -> None:
    points, _ = groups(projective=False)
    x = micro._projected(points.coordinates)
    centers = micro._centers(x, 0)
    distances = np.square(x[:, None].astype(float) - centers).sum(2)
    assert (micro._nearest(x, centers=centers) == distances.argmin(1)).all()
    kept = np.square(x).sum() / np.square(points.coordinates).sum()
    assert 0.99 < kept <= 1 + 1e-6  # 8 directions hold all but the noise


@pytest.mark.usefixtures("small")
def test_means_are_those_of_the_points_chosen() -> None:
    points, _ = groups(projective=False)
    found = micro_clusters(points, 0)
    rows = np.arange(0, 400, 3)
    means, labels = found.means(rows)
    for c in range(len(means)):
        expected = found.points.coordinates[rows[labels == c]].mean(0)
        np.testing.assert_allclose(means.coordinates[c], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_stability_of_large_layers_is_near_that_of_exact_trees() -> None:
    points, truth = groups(projective=False)
    member = np.arange(400) // 40
    clustering = CLUSTERERS["ward"](points, None, 0)
    fast = stability(points, truth, member, resampled(CLUSTERERS["ward"], clustering), 3, 0)
    exact = stability(points, truth, member, lambda p, n, r: clusterers._exact(p, "ward"), 3, 0)
    np.testing.assert_allclose(fast, exact, atol=0.02)
    assert exact.min() > 0.9


@pytest.mark.usefixtures("small")
def test_micro_clusters_are_the_same_on_another_engine() -> None:
    points, _ = groups(projective=True)
    here = micro_clusters(points, 0)
    with engine("serial"):
        there = micro_clusters(points, 0)
    assert (here.labels == there.labels).all()


@pytest.mark.usefixtures("small")
def test_the_census_of_a_large_layer_has_at_most_as_many_clusters_as_its_tree_has_leaves() -> None:
    torch.manual_seed(0)
    population = Population.from_modules([MLP(4, [150], 2) for _ in range(2)], torch.randn(8, 4))
    layer = Census(n_resamples=0).fit(population, x := torch.randn(200, 4)).layers_["hidden.0"]
    assert 12 < layer.n_clusters_ <= 60
    with pytest.raises(InputError, match=r"from 1 to \d+, got 300\n  cure: ask for fewer clusters: the tree of many"):
        Census(n_clusters=300, n_resamples=0).fit(population, x)
