"""What a comparison of models gives: a table by place, a verdict, and the numbers that the table does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.comparison import ModelComparison
from consilience.comparison.families import chance_of, contrast, finite_pairs, least_chance, mean_and_sd
from consilience.comparison.similarity import Measure, get_measure
from consilience.report.numbers import counted, listed, with_spread
from consilience.report.portraits import Picture
from consilience.report.tables import Column, Table

Array = NDArray[np.float64]
END, TOGETHER = "end", "all epochs"
NOISE = 0.05  # p above which a difference is no more than chance
ABOVE = 3.0  # standard deviations: one pair of 741 by chance
EXACT = 0.9995  # adjusted Rand index from which groups are the families
ALIKE = {
    "adjusted_rand": "1 where two models cluster the samples alike, 0 as by chance",
    "rand": "the share of pairs of samples that two models agree to have together or apart",
    "adjusted_mutual_information": "1 where two models cluster the samples alike, 0 as by chance",
    "variation_of_information": "a distance: 0 where two models cluster the samples alike",
    "cka": "1 where the activations of two models are alike up to rotation and scale",
    "unbiased_cka": "1 where the activations of two models are alike up to rotation and scale, 0 as by chance",
    "procrustes": "a distance: 0 where the activations of two models are alike up to rotation and scale",
    "rsa": "1 where samples lie as far from each other in two models, 0 where the distances have nothing in common",
}


@dataclass(frozen=True)
class DisputedSample:
    """A sample that models see differently."""

    id: str  # its name
    picture: Picture | None  # None if the sample is not an image
    label: str  # its class or target, in words
    disagreement: float  # from 0 (all models agree on the samples that are like it) to 1
    views: Sequence[str]  # what each group of models makes of it, a line each


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """Everything on the page of a comparison. A place is one layer in every model."""

    comparison: ModelComparison  # fitted: the models, the places, the values of the measure, and groups of models
    families: tuple[str, ...]  # (m,) where each model comes from; models of one family are expected to be alike
    agreement: Mapping[str, float]  # place → adjusted Rand index of groups and families; NaN for one family
    disputed_place: str = ""  # where the disputed samples are from
    disputed: Sequence[DisputedSample] = ()  # samples that groups see most differently, the worst first
    barriers: Array | None = None  # (m, m) loss barriers, NaN where there is none; None if they were not measured
    obtained: Mapping[str, Any] = field(default_factory=dict)  # command, seed, versions, settings
    of_numbers: bool = False  # whether samples have numbers as targets, not classes

    @property
    def measure(self) -> Measure:
        """The measure of similarity."""
        return get_measure(self.comparison.measure)

    @property
    def measure_name(self) -> str:
        """The measure in words."""
        words = self.measure.name.replace("_", " ").replace("rand", "Rand").replace("cka", "CKA").replace("rsa", "RSA")
        return f"{words} index" if words.endswith("Rand") else words

    @property
    def family_names(self) -> tuple[str, ...]:
        """Each family once, in the order of their first models."""
        return tuple(dict.fromkeys(self.families))

    @property
    def in_time(self) -> dict[str, dict[str, Array]]:
        """Moment → place → (m, m): each epoch, and the end if it is none of them."""
        epochs, matrices = self.comparison.epochs_, self.comparison.matrix_
        rows = {f"epoch {epoch}": epochs[epoch] for epoch in sorted(epochs)}
        last = next(reversed(rows.values()), {})
        if not all(place in last and np.array_equal(last[place], values) for place, values in matrices.items()):
            rows[END] = matrices
        return rows

    @property
    def clearest(self) -> str:
        """The place whose groups have the best silhouette; of equal ones the first."""
        groups = self.comparison.groups_
        return max(groups, key=lambda place: np.nan_to_num(groups[place].silhouette, nan=-2.0))

    def swapped(self, place: str) -> NDArray[np.bool_]:
        """Return the merges of a tree (m − 1,) whose second branch comes first, so that families are together."""
        tree, names = self.comparison.groups_[place].tree, self.family_names
        sums = tree.accumulate(np.array([names.index(family) for family in self.families]))
        first, second = tree.children.T
        swapped: NDArray[np.bool_] = sums[first] * tree.sizes[second] > sums[second] * tree.sizes[first]
        return swapped


def comparison_table(result: ComparisonResult, over: str = "") -> Table:
    """Return a line for each place: means ± one standard deviation, of the measure over pairs, of purity over models.

    With one family all pairs are within it. ``over`` is a heading for the values of the measure.
    """
    comparison = result.comparison
    told = "Targets explained" if result.of_numbers else "Purity"
    headings = ("Within families", "Between families", "Groups", "Adjusted Rand with families", told)
    columns = [Column(heading, over if heading.endswith("n families") else "") for heading in headings]
    rows = []
    for place, values in comparison.matrix_.items():
        both = contrast(values, result.families)
        texts = [with_spread(both.within, both.within_sd), with_spread(both.between, both.between_sd)]
        texts += [str(comparison.groups_[place].n_groups), with_spread(result.agreement[place])]
        rows.append([place, *texts, with_spread(*mean_and_sd(comparison.purity_.get(place, np.zeros(0))))])
    return Table.plain([Column("Place", is_text=True), *columns], rows)


def comparison_sentences(result: ComparisonResult) -> list[str]:
    """Return what was compared, whether families differ by more than chance, and what the table does not show."""
    comparison, families = result.comparison, len(result.family_names)
    places, meaning = len(comparison.matrix_), ALIKE.get(result.measure.name)
    what = (
        f"{len(result.families)} models of {counted(families, 'family', 'families')} were compared at "
        f"{counted(places, 'place')} on {len(comparison.ids_):,} samples by the "
        f"{result.measure_name}{f' ({meaning})' if meaning else ''}."
    )
    return [what, *_families(result), *_groups(result), *_since(result), *_chance(result), *_barriers(result)]


def _families(result: ComparisonResult) -> list[str]:
    larger, matrices = result.measure.larger_is_more_similar, result.comparison.matrix_
    contrasts = {place: contrast(values, result.families) for place, values in matrices.items()}
    contrasts = {place: both for place, both in contrasts.items() if math.isfinite(both.gap(larger))}
    least = least_chance(result.families)
    if not contrasts:
        return ["No family has two models, so families are not compared."] if len(result.family_names) > 1 else []
    if least > NOISE:
        return [f"There are too few models to distinguish families from chance: p cannot be below {least:.2f}."]
    chance = {place: chance_of(matrices[place], result.families, larger) for place in contrasts}
    values = {place: f"{both.within:.2f} against {both.between:.2f}" for place, both in contrasts.items()}
    sure = [f"{place} ({values[place]})" for place, p in chance.items() if p <= NOISE]
    rest = [f"{place} ({values[place]}, p = {p:.2f})" for place, p in chance.items() if p > NOISE]
    sentences = []
    if sure:
        everywhere = "every place: " if len(sure) == len(matrices) > 1 else ""
        sentences.append(
            f"Models of one family are more alike than models of different ones at {everywhere}{listed(sure)}, "
            f"and more than if families were shuffled (p ≤ {NOISE})."
        )
    if rest:
        sentences.append(f"Families differ by no more than chance at {listed(rest)}.")
    return sentences


def _groups(result: ComparisonResult) -> list[str]:
    place, matrices = result.clearest, result.comparison.matrix_
    groups = result.comparison.groups_[place]
    if len(result.families) < 3:
        return []
    if len(result.family_names) > 1:
        exact = [place for place, agreement in result.agreement.items() if agreement >= EXACT]
        everywhere = len(exact) == len(matrices) > 1
        where = "every place" if everywhere else listed(exact)
        return [f"The groups found at {where} are the families exactly."] if exact else []
    if groups.n_groups == 1:
        return ["At no place do the models fall into groups."]
    score = with_spread(groups.silhouette)
    return [f"Groups are clearest at {place}: {groups.n_groups} groups, silhouette {score} (at most 1)."]


def _since(result: ComparisonResult) -> list[str]:
    """From which epoch on, to the end, models of one family are more alike than others."""
    starts = []
    for place in result.comparison.matrix_ if result.comparison.epochs_ else ():
        start = None
        for moment, matrices in reversed(result.in_time.items()):
            if not contrast(matrices[place], result.families).gap(result.measure.larger_is_more_similar) > 0:
                break
            start = moment
        starts += [f"from {start} on at {place}"] if start else []
    return [f"On average, models of one family are more alike than others {listed(starts)}."] if starts else []


def _chance(result: ComparisonResult) -> list[str]:
    sign = 1 if result.measure.larger_is_more_similar else -1
    z = {place: sign * finite_pairs(values) for place, values in result.comparison.z_.items()}
    counts = [f"{(values > ABOVE).sum()} of {len(values)} at {place}" for place, values in z.items() if len(values)]
    text = f"Pairs of models that are more alike than on shuffled samples, by {ABOVE:.0f} standard deviations:"
    return [f"{text} {listed(counts)}."] if counts else []


def _barriers(result: ComparisonResult) -> list[str]:
    if result.barriers is None or not len(finite_pairs(result.barriers)):
        return []
    both, m = contrast(result.barriers, result.families), len(result.families)
    values = {"within": (both.within, both.within_sd), "between": (both.between, both.between_sd)}
    texts = [f"{with_spread(*pair)} {side} families" for side, pair in values.items() if math.isfinite(pair[0])]
    n_measured, n_pairs = len(finite_pairs(result.barriers)), m * (m - 1) // 2
    rest = f" (of {n_measured} of {n_pairs} pairs; the others have other parameters)" if n_measured < n_pairs else ""
    return [f"Loss barriers are {listed(texts)}{rest}."]
