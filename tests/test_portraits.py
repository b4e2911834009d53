"""The frequency atlas: what a unit sees, what excites a cluster, and what it is made of."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.census import Census
from consilience.data import Data, load_data
from consilience.errors import InputError
from consilience.nets import ConvNet, ViT
from consilience.population import Population
from consilience.report import Portrait, render_page
from consilience.report.receptive_fields import receptive_fields
from consilience.studies.excitation import strongest
from consilience.studies.experiment import run_experiment
from consilience.studies.portraits import kernel_shape, portraits
from consilience.training import Training, train_population
from consilience.units.symmetry import flip, permute, rescale


def chain(
    activation: type[nn.Module] = nn.ReLU, widths: tuple[int, int] = (3, 4), channels: int = 1, seed: int = 0
) -> nn.Sequential:
    """Convolution 3 × 3 with padding 1, maxima of 2 × 2, convolution 3 × 3; for images of 8 × 8."""
    torch.manual_seed(seed)
    first, second = nn.Conv2d(channels, widths[0], 3, padding=1), nn.Conv2d(widths[0], widths[1], 3)
    readout = nn.Linear(4 * widths[1], 3)
    net = nn.Sequential(first, activation(), nn.MaxPool2d(2), second, activation(), nn.Flatten(), readout)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def images(n: int = 12, channels: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def census_of(nets: list[nn.Sequential], x: Tensor, n_clusters: int | None = None) -> Census:
    return Census(n_clusters=n_clusters, n_resamples=0).fit(Population.from_modules(nets, x[:4]), x)


def boxes_in(net: nn.Module, x: Tensor, layer: str) -> list[list[int]]:
    (network,) = Population.from_modules([net], x).networks
    axis = network.architecture.written(layer)[0]
    return receptive_fields(network, [axis])[axis].tolist()


# --- receptive fields -------------------------------------------------------------------------------------------------


def test_fields_of_a_chain_are_exact_inside_and_at_borders():
    x = images()
    ends = [(max(0, i - 1), min(8, i + 2)) for i in range(8)]  # 3 wide, with padding 1
    assert boxes_in(chain(), x, "0") == [[top, left, bottom, right] for top, bottom in ends for left, right in ends]
    ends = [(0, 7), (1, 8)]  # pooled rows i … i + 2 are rows 2i … 2i + 5 of the first layer, and one more either side
    assert boxes_in(chain(), x, "3") == [[top, left, bottom, right] for top, bottom in ends for left, right in ends]
    assert boxes_in(chain(), x, "6") == [[0, 0, 8, 8]]


def test_fields_do_not_depend_on_the_weights():
    net = chain()
    for parameter in net.parameters():
        nn.init.constant_(parameter, -1.0)  # no unit is ever active
    assert boxes_in(net, images(), "3") == boxes_in(chain(), images(), "3")
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    assert boxes_in(net, images(), "3") == boxes_in(chain(), images(), "3")


def test_fields_know_strides_dilation_and_sides_of_different_length():
    convolution = nn.Conv2d(1, 2, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(2, 1))
    net = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(4, 1, 9, 4)
    net(x)
    rows, columns = [(0, 5), (2, 7), (4, 9)], [(0, 1), (0, 2), (1, 3), (2, 4), (3, 4)]
    assert boxes_in(net, x, "0") == [[top, left, bottom, right] for top, bottom in rows for left, right in columns]


def test_what_looks_at_all_positions_sees_the_whole_image():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)
            self.second, self.readout = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
            return self.readout(torch.relu(self.second(x)).mean((2, 3)))

    assert boxes_in(Gated(), images(), "first")[0] == [0, 0, 3, 3]
    assert {tuple(box) for box in boxes_in(Gated(), images(), "second")} == {(0, 0, 8, 8)}


def test_only_images_have_fields():
    with pytest.raises(InputError, match=r"must read images of shape \(C, H, W\), got samples of shape \(6,\)"):
        boxes_in(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.rand(4, 6), "0")


def places(portrait: Portrait) -> tuple:
    """Image and box of each patch, which differ between clusters."""
    return tuple((patch.sample, patch.box) for patch in portrait.patches)


# --- what excites -----------------------------------------------------------------------------------------------------


def responses_by_hand(nets: list[nn.Sequential], labels: np.ndarray, x: Tensor, layer: str) -> Tensor:
    """Mean pre-activation of each cluster's units, from weights at unit norm: (n, c, p)."""
    z = []
    for net in nets:
        first, second = net[0], net[3]
        norms = torch.cat([first.weight.flatten(1), first.bias[:, None]], 1).norm(dim=1)
        canonical = second.weight * norms[:, None, None]
        if layer == "0":
            z.append(first(x) / norms[:, None, None])
        else:
            norms = torch.cat([canonical.flatten(1), second.bias[:, None]], 1).norm(dim=1)
            z.append(second(functional.max_pool2d(torch.relu(first(x)), 2)) / norms[:, None, None])
    units = torch.cat(z, dim=1).detach()
    return torch.stack([units[:, labels == c].mean(1).flatten(1) for c in range(labels.max() + 1)], dim=1)


@pytest.mark.parametrize("layer", ["0", "3"])
def test_patches_are_where_the_mean_response_of_a_cluster_is_largest(layer: str):
    nets, x = [chain(widths=widths, seed=k) for k, widths in enumerate([(3, 4), (5, 3), (4, 6)])], images(30)
    census = census_of(nets, x, n_clusters=5)
    by_hand = responses_by_hand(nets, census.layers_[layer].labels_, x, layer)
    signs = {layer: torch.ones(len(census.layers_[layer].member))}
    torch.testing.assert_close(strongest(census, x, signs, 4)[layer].response, by_hand.amax(2)[:, :4])
    (found,) = [each for each in portraits(census, x, n_clusters=4, n_patches=7) if each.name == layer]
    assert len(found.portraits) == 4
    fields = boxes_in(nets[0], x, layer)
    for c, portrait in enumerate(found.portraits):
        order = by_hand[:, c].amax(1).argsort(descending=True)[:7].tolist()
        assert places(portrait) == tuple((i, tuple(fields[int(by_hand[i, c].argmax())])) for i in order)
        for patch in portrait.patches:
            top, left, bottom, right = patch.box
            shown = (x[patch.sample, :, top:bottom, left:right] - x.min()) / (x.max() - x.min())
            np.testing.assert_allclose(patch.picture.values, shown, atol=0.5 / 255 + 1e-6)


def test_batches_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x = images(30)
    census = census_of([chain(seed=k) for k in range(2)], x)
    wanted = [places(portrait) for layer in portraits(census, x) for portrait in layer.portraits]
    for room in ("studies.excitation", "report.receptive_fields"):
        monkeypatch.setattr(f"consilience.{room}.batch_size", lambda network: 7)
    assert [places(portrait) for layer in portraits(census, x) for portrait in layer.portraits] == wanted


def test_a_planted_pattern_is_found_where_it_was_planted():
    """A unit that detects a cross, in two of three members, among weak random ones."""
    cross = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    nets = [chain(seed=k) for k in range(3)]
    with torch.no_grad():
        for net in nets:
            net[0].weight.mul_(0.2)
        nets[0][0].weight[2], nets[2][0].weight[1] = cross, 7 * cross
        nets[0][0].bias[2] = nets[2][0].bias[1] = 0
    x = 0.2 * images(40, seed=3)
    planted = {4: (1, 2), 17: (0, 0), 31: (5, 4)}
    for number, (top, left) in planted.items():
        x[number, 0, top : top + 3, left : left + 3] = cross.clamp(min=0)
    census = census_of(nets, x)
    (c,) = {int(census.layers_["0"].labels_[unit]) for unit in (2, 3 + 3 + 1)}
    portrait = portraits(census, x, n_clusters=99)[0].portraits[c]
    assert portrait.frequency == pytest.approx(2 / 3)
    found = {patch.sample: patch.box for patch in portrait.patches[:3]}
    assert found == {number: (top, left, top + 3, left + 3) for number, (top, left) in planted.items()}
    for kernel in (portrait.centroid, *portrait.kernels):
        np.testing.assert_allclose(kernel.values[0], 0.5 + cross / 2, atol=0.5 / 255 + 1e-6)


def turned(net: nn.Sequential, seed: int) -> nn.Sequential:
    """The same function: hidden units permuted, relu ones rescaled, tanh ones with another sign."""
    (network,) = Population.from_modules([net], images(4)).networks
    g = torch.Generator().manual_seed(seed)
    for layer in network.architecture.hidden:
        network = permute(network, layer.name, torch.randperm(layer.width, generator=g))
        size = torch.rand(layer.width, generator=g)
        if "relu" in layer.activations:
            network = rescale(network, layer.name, size + 0.5)
        else:
            network = flip(network, layer.name, torch.where(size < 0.6, -1.0, 1.0))
    twin = copy.deepcopy(net)
    twin.load_state_dict(dict(network.state))
    return twin


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_permuting_rescaling_and_flipping_units_changes_no_portrait(activation: type[nn.Module]):
    net, x = chain(activation), images(30)
    if activation is nn.Tanh:
        net[2] = nn.AvgPool2d(2)
    alike = portraits(census_of([net, net, net], x, n_clusters=3), x)
    other = portraits(census_of([net, net, turned(net, 1)], x, n_clusters=3), x)
    for one, two in zip(alike, other, strict=True):
        assert len(one.portraits) == 3
        pairs = {places(portrait): portrait for portrait in one.portraits}
        assert set(pairs) == {places(portrait) for portrait in two.portraits}
        for portrait in two.portraits:
            twin = pairs[places(portrait)]
            assert (portrait.frequency, portrait.size) == (twin.frequency, twin.size)
            for a, b in zip((portrait.centroid, *portrait.kernels), (twin.centroid, *twin.kernels), strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    np.testing.assert_allclose(a.values, b.values, atol=1.1 / 255)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_weights_of_a_row_have_one_scale_and_one_for_each_member():
    nets, x = [chain(seed=k) for k in range(4)], images(30)
    census = census_of(nets, x, n_clusters=2)
    layer = census.layers_["0"]
    first, second = portraits(census, x, n_kernels=3)
    assert all(portrait.centroid is None and portrait.kernels == () for portrait in second.portraits)
    for c, portrait in enumerate(first.portraits):
        members = np.unique(layer.member[layer.labels_ == c])[:3]
        assert len(portrait.kernels) == len(members)
        centroid = layer.centroid_[c] / np.linalg.norm(layer.centroid_[c])
        rows = [centroid]
        for k in members:
            own = np.concatenate([nets[k][0].weight.detach().flatten(1), nets[k][0].bias.detach()[:, None]], 1)
            own /= np.linalg.norm(own, axis=1, keepdims=True)
            units = layer.index[(layer.labels_ == c) & (layer.member == k)]
            rows.append(own[units[np.argmax(own[units] @ centroid)]])
        weights = np.array(rows)[:, :-1].reshape(-1, 1, 3, 3)
        shown = np.array([each.values for each in (portrait.centroid, *portrait.kernels)])
        np.testing.assert_allclose(2 * shown - 1, weights / np.abs(weights).max(), atol=1 / 255 + 1e-5)


def test_standardised_images_look_like_the_originals():
    x = images(30, channels=3)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, 1
    mean, deviation = torch.tensor([0.5, 0.1, -0.3])[:, None, None], torch.tensor([2.0, 0.3, 1.0])[:, None, None]
    for inputs in (x, (x - mean) / deviation):
        for patch in portraits(census_of([chain(channels=3)], inputs, 2), inputs)[1].portraits[0].patches:
            top, left, bottom, right = patch.box
            shown = x[patch.sample, :, top:bottom, left:right]
            np.testing.assert_allclose(patch.picture.values, shown, atol=0.5 / 255 + 1e-5)


def test_large_and_noisy_images_still_make_a_small_figure():
    torch.manual_seed(0)
    x = images(40, channels=3, size=50)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(7500, 9), nn.ReLU(), nn.Linear(9, 3)) for _ in range(4)]
    (layer,) = portraits(census_of(nets, x, 8), x)
    portrait = layer.portraits[0]
    assert portrait.centroid.shape == (3, 18, 18)
    assert portrait.patches[0].picture.shape == (3, 32, 32)
    np.testing.assert_allclose(portrait.patches[0].picture.values.mean(), 0.5, atol=0.05)
    pictures = [each for p in layer.portraits for each in (*p.weights, *(patch.picture for patch in p.patches))]
    assert sum(len(picture.uri()) for picture in pictures) < 320_000


def test_at_most_so_many_images_are_looked_at_evenly_spread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("consilience.studies.portraits.MAX_IMAGES", 10)
    x = images(30)
    found = portraits(census_of([chain()], x, 2), x, n_patches=20)
    for portrait in found[0].portraits:
        assert sorted(patch.sample for patch in portrait.patches) == [*range(0, 30, 3)]
    assert found[0].n_images == 10


def test_weights_are_pictures_where_a_layer_reads_images_alone():
    x = images()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3))
    census = census_of([flat], x, 2)
    assert kernel_shape(census, "1", (1, 8, 8)) == (1, 8, 8)
    assert kernel_shape(census, "1", (2, 4, 8)) is None
    census = census_of([chain()], x, 2)
    shapes = {name: kernel_shape(census, name, (1, 8, 8)) for name in census.layers_}
    assert shapes == {"0": (1, 3, 3), "3": None}
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    census = Census("weights", "cosine", n_clusters={"1": 4, "3": 3}, n_resamples=0)
    census.fit(Population.from_modules([deep], images(size=2)))
    assert census.layers_["3"].centroid_.shape == (3, 4 + 1)  # as many weights as pixels, but of clusters
    assert [kernel_shape(census, name, (1, 2, 2)) for name in ("1", "3")] == [(1, 2, 2), None]


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda census, x: portraits(Census(), x), "call fit first"),
        (lambda census, x: portraits(census, x[:, 0]), "x must have shape (n, 1, 8, 8)"),
        (lambda census, x: portraits(census, x, n_clusters=0), "n_clusters must be an int >= 1, got 0"),
        (lambda census, x: portraits(census, x, n_patches=0), "n_patches must be an int >= 1, got 0"),
        (lambda census, x: portraits(census, x, n_kernels=-1), "n_kernels must be an int >= 1, got -1"),
    ],
)
def test_atlases_that_cannot_be_made_are_refused(draw: Callable, text: str):
    census = census_of([chain()], images(), 2)
    with pytest.raises(InputError, match=re.escape(text)):
        draw(census, images())


def test_inputs_that_cannot_be_shown_are_refused():
    with pytest.raises(InputError, match=r"C = 1 or 3, got shape \(12, 2, 8, 8\)"):
        portraits(census_of([chain(channels=2)], images(channels=2), 2), images(channels=2))
    flat = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"C = 1 or 3, got shape \(12, 6\)"):
        portraits(census_of([flat], torch.rand(12, 6), 2), torch.rand(12, 6))


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def convolutional(digits: Data) -> Census:
    training = Training(epochs=2, batch_size=64, learning_rate=3e-3)
    population = train_population(ConvNet(1, [6, 8], 10), digits.train, 3, training=training, random_state=0)
    return Census(n_resamples=2).fit(population, digits.calibration.x[:200])


def test_a_report_on_convolutional_networks_shows_kernels_and_patches(convolutional: Census, digits: Data):
    experiment = run_experiment(convolutional, digits, widths=("1x",), corrections=("none",))
    assert np.shape(experiment.centroids) == (12, 1, 3, 3)
    first, second = experiment.atlas
    assert [first.name, second.name] == ["hidden.0", "hidden.1"]
    for layer, side in ((first, 3), (second, 7)):
        assert max(patch.picture.shape[1] for portrait in layer.portraits for patch in portrait.patches) == side
    page = render_page(experiment)
    assert "the weights of a unit from 3 × 3 pixels of the input, at any position" in page
    assert "What lies beyond the border of an image is tinted." in page


def test_inputs_that_are_no_images_have_no_atlas(tmp_path) -> None:
    g = np.random.default_rng(0)
    x, y = g.normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
    np.savez(tmp_path / "vectors.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = load_data(tmp_path / "vectors.npz")
    nets = [nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(3)]
    census = census_of(nets, data.calibration.x)
    experiment = run_experiment(census, data, widths=("1x",), corrections=("none",))
    assert experiment.atlas == []
    assert experiment.centroids == []


def test_heads_of_attention_have_no_portraits() -> None:
    x = torch.rand(20, 1, 8, 8)
    nets = [ViT(1, 8, 4, 3, 8, (2,), (6,)) for _ in range(2)]
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x), x)
    assert [layer.name for layer in portraits(census, x)] == ["patches", "blocks.0.mlp.up"]
