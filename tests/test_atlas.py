"""The atlas: what it says of a census, and the page in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from browser import chromium, needs_browser, opened
from conftest import random_population, refused, run
from consilience.census import Census, save_census
from consilience.data import Data, Dataset
from consilience.errors import InputError
from consilience.population import Population
from consilience.report.atlas import AtlasContents, AtlasLayer, Entry, Example, Link, Unit, render_atlas, sprite_of
from consilience.report.atlas.page import LARGEST
from consilience.studies.atlas_contents import atlas_contents


def made_up(n: int, n_layers: int = 4, size: int = 12) -> AtlasContents:
    """An atlas of n clusters of made-up numbers, as rich as one of a census."""
    g = np.random.default_rng(0)
    per_layer = n // n_layers
    images = sprite_of([g.integers(0, 256, (1, size, size), dtype=np.uint8) for _ in range(500)], 2_000_000)
    weights = sprite_of(
        [g.integers(0, 256, (1, size, size), dtype=np.uint8) for _ in range(per_layer)], 10**6, "RdBu_r"
    )
    entries = []
    for i in range(n):
        layer, number = divmod(i, per_layer)
        links = tuple(Link(int(g.integers(n)), float(g.normal()), 5, bool(g.random() < 0.5)) for _ in range(6))
        examples = tuple(
            Example(int(s), float(g.normal()), int(s), (0, 0, 4, 5), None, int(g.integers(10)))
            for s in g.integers(500, size=8)
        )
        units = tuple(Unit(int(k), int(g.integers(99)), float(g.random())) for k in g.integers(16, size=8))
        numbers = [float(v) for v in g.random(6)]
        means = tuple(map(float, g.normal(size=10)))
        entries.append(
            Entry(
                layer,
                number,
                float(g.normal()),
                float(g.normal()),
                numbers[0],
                8,
                *numbers[1:],
                means,
                examples,
                links,
                links,
                int(g.integers(5)) if g.random() < 0.5 else None,
                units,
                number if layer == 0 else None,
            )
        )
    layers = tuple(
        AtlasLayer(f"hidden.{i}", per_layer, 8 * per_layer, 3, 0.3, 0.5, weights if i == 0 else None)
        for i in range(n_layers)
    )
    classes, motifs = tuple(map(str, range(10))), tuple(f"motif {m}" for m in range(5))
    return AtlasContents(
        "Made up", 16, layers, tuple(entries), classes, motifs, "At random.", 500, (size, size), images
    )


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> tuple[AtlasContents, Path]:
    contents = made_up(2000)
    file = tmp_path_factory.mktemp("atlas") / "atlas.html"
    file.write_text(render_atlas(contents), encoding="utf-8")
    return contents, file


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


# --- in a browser -----------------------------------------------------------------------------------------------------


@needs_browser
def test_two_thousand_clusters_can_be_used_within_two_seconds_without_a_request(browser: Any, atlas: Any) -> None:
    shown = opened(browser, atlas[1])
    assert shown.seconds() <= 2
    assert [url for url in shown.asked if not url.startswith(("data:", "blob:"))] == [atlas[1].as_uri()]
    assert [line for line in shown.said if "bokeh" not in line] == []
    assert shown.page.locator("#count").inner_text().startswith("2000 of 2000 clusters of 4 layers, 16 networks.")
    shown.page.close()


@needs_browser
def test_filters_agree_with_the_numbers_and_the_url_restores_them(browser: Any, atlas: Any) -> None:
    contents, file = atlas
    shown = opened(browser, file)
    page, count = shown.page, shown.page.locator("#count")
    page.select_option("#layer", "hidden.2")
    page.select_option("#class", "0")
    page.select_option("#motif", "motif 3")
    page.locator("#least").fill("0.25")
    page.check("#significant")
    page.select_option("#color", "class")
    wanted = [
        entry
        for entry in contents.clusters
        if (entry.layer, entry.favourite, entry.motif) == (2, 0, 3) and entry.frequency >= 0.25 and entry.q <= 0.05
    ]
    assert count.inner_text().startswith(f"{len(wanted)} of 2000")
    page.uncheck("#significant")
    page.select_option("#motif", "")
    wanted = [e for e in contents.clusters if (e.layer, e.favourite) == (2, 0) and round(e.frequency, 3) >= 0.25]
    assert count.inner_text().startswith(f"{len(wanted)} of 2000")
    page.locator("#list tbody tr").nth(3).click()
    chosen = page.locator("#detail h2").inner_text()
    assert chosen == f"hidden.2 / {wanted[3].number}"
    again = opened(browser, file, page.evaluate("location.hash"))
    assert again.page.locator("#count").inner_text() == count.inner_text()
    assert again.page.locator("#detail").inner_text() == page.locator("#detail").inner_text()
    assert again.page.input_value("#color") == "class"
    again.page.locator("button[type=reset]").click()
    assert again.page.locator("#count").inner_text().startswith("2000 of 2000")
    again.page.locator("#search").fill("Hidden.1 / 47")
    listed = again.page.locator("#list tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.cluster)")
    numbers = [number for number in range(500) if "47" in str(number)]
    assert listed == [f"hidden.1 / {number}" for number in numbers]
    for each in (shown, again):
        assert [line for line in each.said if "bokeh" not in line] == []
        each.page.close()


@needs_browser
def test_keys_links_and_history_move_through_clusters(browser: Any, atlas: Any) -> None:
    contents, file = atlas
    shown = opened(browser, file, "#cluster=hidden.1+%2F+499")
    page, heading = shown.page, shown.page.locator("#detail h2")
    assert heading.inner_text() == "hidden.1 / 499"
    page.keyboard.press("j")
    assert heading.inner_text() == "hidden.2 / 0"
    page.keyboard.press("k")
    page.keyboard.press("ArrowUp")
    assert heading.inner_text() == "hidden.1 / 498"
    link = contents.clusters[998].reads[2]
    target = contents.clusters[link.cluster]
    page.locator("h3:has-text('Reads from') + .chips button").nth(2).click()
    assert heading.inner_text() == f"hidden.{target.layer} / {target.number}"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("j")  # goes into the search
    assert page.input_value("#search") == "j"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert "No cluster is chosen" in page.locator("#detail").inner_text()
    page.evaluate("location.hash = 'cluster=hidden.0+%2F+3'")
    page.wait_for_function("document.querySelector('#detail h2')?.textContent === 'hidden.0 / 3'")
    assert [line for line in shown.said if "bokeh" not in line] == []
    page.close()


@needs_browser
def test_a_click_on_a_point_chooses_it_in_both_plots(browser: Any, atlas: Any) -> None:
    contents, file = atlas
    shown = opened(browser, file)
    page = shown.page
    alone = max(range(2000), key=lambda i: contents.clusters[i].x)  # at the border: no other point lies on it
    entry = contents.clusters[alone]
    place = page.evaluate(
        """([x, y]) => {
          const view = [...Bokeh.index.query((view) => view.model.name === "map")][0];
          const box = view.el.getBoundingClientRect(), frame = view.frame;
          return [box.left + frame.x_scale.compute(x), box.top + frame.y_scale.compute(y)];
        }""",
        [float(np.float32(entry.x)), float(np.float32(entry.y))],
    )
    page.mouse.click(*place)
    page.wait_for_selector("#detail h2")
    assert page.locator("#detail h2").inner_text() == f"hidden.{entry.layer} / {entry.number}"
    assert f"hidden.{entry.layer}" in page.evaluate("decodeURIComponent(location.hash)")
    assert page.locator('#list tr[aria-selected="true"]').count() == 1
    page.close()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark_mode_and_nothing_overflows(browser: Any, atlas: Any, scheme: str) -> None:
    shown = opened(browser, atlas[1], "#cluster=hidden.0+%2F+3")
    page = shown.page
    page.emulate_media(color_scheme=scheme)
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrast = page.evaluate(
        """() => {
          const bright = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const paper = bright(getComputedStyle(document.body).backgroundColor);
          return ["#detail h2", "#detail dt", "#count", "#list td", "#legend li"].map((selector) => {
            const ink = bright(getComputedStyle(document.querySelector(selector)).color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
          });
        }"""
    )
    assert min(contrast) >= 4.5  # WCAG 2.2, 1.4.3
    page.close()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_is_small_whole_and_the_same_each_time() -> None:
    contents = made_up(200)
    page = render_atlas(contents)
    assert page == render_atlas(contents)
    assert len(page.encode()) < LARGEST
    assert not re.search(r"(src|href)=\"(?!data:)", page.split("<script>")[0])


def test_names_cannot_break_out_of_the_page() -> None:
    contents = made_up(8)
    name = "</script><script>alert(1)</script>"
    layers = (dataclasses.replace(contents.layers[0], name=name), *contents.layers[1:])
    page = render_atlas(dataclasses.replace(contents, layers=layers, title=name, classes=(name,) * 10))
    assert "<script>alert" not in page


def test_pages_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="an atlas must have clusters, got none"):
        render_atlas(dataclasses.replace(made_up(8), clusters=()))
    monkeypatch.setattr("consilience.report.atlas.page.LARGEST", 1000)
    with pytest.raises(InputError, match=r"an atlas must have at most 1,000 bytes, got [\d,]+ for 8 clusters"):
        render_atlas(made_up(8))


def test_a_sprite_has_each_picture_in_its_place() -> None:
    pictures = [np.full((3, 4, 5), 40 * i, dtype=np.uint8) for i in range(5)]
    sprite = sprite_of(pictures, 10**6)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite.uri.split(",")[1]))))
    for number in range(5):
        row, column = divmod(number, sprite.columns)
        assert (sheet[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5] == 40 * number).all()
    small = sprite_of(pictures, 5 * 3 * 4 * 5 // 4)
    assert (small.height, small.width) == (2, 2)
    assert sprite_of([], 10) is None


# --- what it says -----------------------------------------------------------------------------------------------------


def test_contents_are_those_of_the_census() -> None:
    population = random_population([[5, 4], [6, 4], [5, 5]])
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    census = Census(n_clusters=6, n_resamples=2).fit(population, x)
    contents = atlas_contents(census, Dataset(x, y, torch.arange(60)), title="t", classes="abc")
    assert [layer.n_clusters for layer in contents.layers] == [6, 6]
    first, second = census.layers_.values()
    layers = [member.module.hidden[0] for member in population]
    norms = torch.cat([torch.cat([layer.weight, layer.bias[:, None]], 1).norm(dim=1) for layer in layers])
    z = (torch.cat([layer(x) for layer in layers], 1) / norms).detach().double()
    for c, entry in enumerate(contents.clusters[:6]):
        mean, units = z[:, first.labels_ == c].mean(1), np.flatnonzero(first.labels_ == c)
        response = (mean - mean.mean()) / mean.std(correction=0)
        strongest = response.argsort(descending=True)[:8]
        assert [e.sample for e in entry.examples] == strongest.tolist()
        np.testing.assert_allclose([e.response for e in entry.examples], response[strongest], atol=1e-4)
        by_class = [float(response[y == i].mean()) for i in range(3)]
        np.testing.assert_allclose(entry.means, by_class, atol=1e-4)
        assert entry.selectivity == pytest.approx(np.square(by_class).mean(), abs=1e-4)
        owned = [(int(first.member[unit]), int(first.index[unit])) for unit in units]
        assert [(unit.member, unit.index) for unit in entry.units] == owned
        assert all(link.cluster >= 6 for link in entry.writes)
    assert all(link.cluster < 6 for entry in contents.clusters[6:] for link in entry.reads)
    assert contents.clusters[6].frequency == second.frequency_[0]


def test_the_order_of_samples_changes_no_place() -> None:
    x = torch.randn(60, 6)
    census = Census(n_clusters=4, n_resamples=0).fit(random_population([[5, 4], [5, 4]]), x)
    one = atlas_contents(census, Dataset(x, torch.zeros(60), torch.arange(60)), title="t")
    other = atlas_contents(census, Dataset(x.flip(0), torch.zeros(60), torch.arange(60).flip(0)), title="t")
    places = [np.array([[entry.x, entry.y] for entry in contents.clusters]) for contents in (one, other)]
    np.testing.assert_allclose(*places, atol=1e-4)
    assert [[e.sample for e in entry.examples] for entry in one.clusters] == [
        [e.sample for e in entry.examples] for entry in other.clusters
    ]
    assert {(entry.means, entry.selectivity) for entry in one.clusters} == {((), None)}


def test_the_command_writes_one_file_and_refuses_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], population: Population, digits: Data
) -> None:
    population.save(tmp_path / "population")
    census = Census(n_clusters=8, n_resamples=0).fit(population, digits.calibration.x[:200])
    save_census(census, tmp_path / "census", tmp_path / "population")
    out = tmp_path / "a.html"
    said = json.loads(run(capsys, "atlas", tmp_path / "census", "--data", "digits", "--out", out, "--json"))
    assert said["clusters"] == 16
    assert said["bytes"] == out.stat().st_size
    before = out.read_bytes()
    run(capsys, "atlas", tmp_path / "census", "--data", "digits", "--out", out)
    again = out.read_bytes()
    assert before.replace(b" --json", b"") == again
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    options = ["--data", "digits", "--out"]
    text = refused(capsys, "atlas", tmp_path / "census", *options, tmp_path / "mine.html")
    assert "--out must be new or an earlier atlas" in text
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    assert "--out must be a file that ends in .html" in refused(
        capsys, "atlas", tmp_path / "census", *options, tmp_path / "a"
    )
    assert "unknown" in refused(capsys, "atlas", tmp_path / "census", "--out", out)


def test_a_census_without_data_has_no_atlas() -> None:
    census = Census("weights", "cosine", n_clusters=4, n_resamples=0).fit(random_population([[5, 4], [5, 4]]))
    with pytest.raises(InputError, match="census must have calibration data for an atlas, got none"):
        atlas_contents(census, Dataset(torch.randn(9, 6), torch.zeros(9), torch.arange(9)), title="t")
