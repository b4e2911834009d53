"""What a comparison of models says, in sentences that promise no more than the numbers do, and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from consilience.report.comparison.contrasts import Contrast, chance_of, contrast, least_chance, off_diagonal, since
from consilience.report.comparison.results import ComparisonResult

TOLD = 4  # places in one sentence
NOISE = 0.05  # p above which a difference is no more than chance
ABOVE_CHANCE = 3.0  # standard deviations: one pair of 741 by chance
EXACT, LARGELY, PARTLY = 0.9995, 0.8, 0.3  # adjusted Rand index with the families, and words for it
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
HEADINGS = ("Place", "Within families", "Between families", "Groups", "Adjusted Rand with families", "Purity")


def comparison_sentences(result: ComparisonResult) -> list[str]:
    """Tell how alike models are within and between families, what the groups are, and since when.

    Sentences about what was not computed are left out.
    """
    found = [_what(result), *_families(result), _groups(result), _since(result), _chance(result), _purity(result)]
    return [sentence for sentence in [*found, _barriers(result)] if sentence]


def comparison_table(result: ComparisonResult) -> str:
    """Write a line for each place as GitHub markdown, aligned so that it can be read in a terminal too.

    Values are means ± one standard deviation: of the measure over pairs of models, of purity over models. With one
    family all pairs are within it.
    """
    lines = [list(HEADINGS), *([_escaped(text) for text in row] for row in table_rows(result))]
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [text.ljust(n) if i == 0 else text.rjust(n) for i, (text, n) in enumerate(zip(line, width, strict=True))]
        for line in lines
    ]
    rule = ["-" * n if i == 0 else "-" * (n - 1) + ":" for i, n in enumerate(width)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]) + "\n"


def table_rows(result: ComparisonResult) -> list[tuple[str, ...]]:
    """Return the cells of the table: place, within, between, groups, agreement with families, purity."""
    rows: list[tuple[str, ...]] = []
    for place, values in result.matrices.items():
        both = contrast(values, result.families)
        groups = str(result.groups[place].n_groups) if place in result.groups else "–"
        purity = np.asarray(result.purity.get(place, ()), float)
        known = purity[np.isfinite(purity)]
        rows.append((
            place, with_spread(both.within, both.within_sd), with_spread(both.between, both.between_sd), groups,
            _number(result.agreement_with_families.get(place, np.nan)),
            with_spread(float(known.mean()), float(known.std()) if len(known) > 1 else np.nan) if len(known) else "–",
        ))  # fmt: skip
    return rows


def with_spread(mean: float, sd: float) -> str:
    """Write a mean and, if it is of several values, a standard deviation.

    >>> with_spread(0.724, 0.031), with_spread(-0.001, float("nan")), with_spread(float("nan"), float("nan"))
    ('0.72 ± 0.03', '0.00', '–')
    """
    return f"{_number(mean)} ± {sd:.2f}" if math.isfinite(sd) else _number(mean)


def listed(texts: Sequence[str], most: int = TOLD) -> str:
    """Join texts with commas and "and"; more than so many are counted.

    >>> listed(["a", "b"]), listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], 2)
    ('a and b', 'a, b and c', 'a, b and 2 more')
    """
    shown = list(texts) if len(texts) <= most else [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _what(result: ComparisonResult) -> str:
    families, places = len(result.family_names), len(result.matrices)
    text = f"{len(result.names)} models of {_count(families, 'family', 'families')} were compared at "
    text += f"{_count(places, 'place')} on {_count(result.n_samples, 'sample')}"
    meaning = f" ({ALIKE[result.measure]})" if result.measure in ALIKE else ""
    return f"{text} by the {result.measure_name}{meaning}."


def _families(result: ComparisonResult) -> list[str]:
    """Tell whether families are more alike within than between, and whether shuffled families would be as well."""
    larger = result.larger_is_more_similar
    found = {place: contrast(values, result.families) for place, values in result.matrices.items()}
    if len(result.family_names) == 1:
        known = [f"{with_spread(each.within, each.within_sd)} at {place}" for place, each in _finite(found)]
        return [f"All are of one family; between them it is {listed(known)}."] if known else []
    comparable = {place: each for place, each in found.items() if math.isfinite(each.gap(larger))}
    if not comparable:
        known = [f"{with_spread(each.between, each.between_sd)} at {place}" for place, each in _finite(found)]
        between = f" Between families it is {listed(known)}." if known else ""
        return [f"No family has two models, so it cannot be told whether families matter.{between}"]
    chance = {place: chance_of(result.matrices[place], result.families, larger) for place in comparable}
    least = least_chance(result.families)
    more = {place for place, each in comparable.items() if each.gap(larger) > 0}
    if least > NOISE:
        sentence = "On average, models of one family are more alike than models of different ones at "
        told = sentence + _against(comparable, more) if more else "At no place are models of one family more alike"
        return [
            f"{told}; but there are too few models to tell that from chance (families shuffled among them "
            f"would do as well with p = {least:.2f} at least)."
        ]
    sure = {place for place in more if chance[place] <= NOISE}
    sentences = []
    if sure:
        everywhere = "every place: " if len(sure) == len(found) > 1 else ""
        sentences.append(
            f"Models of one family are more alike than models of different ones at "
            f"{everywhere}{_against(comparable, sure)}, and more than if families were shuffled (p ≤ {NOISE})."
        )
    if rest := {place for place in comparable if place not in sure}:
        smallest = min(chance[place] for place in rest)
        sentences.append(
            f"{'Families make' if not sure else 'They make'} no difference that shuffled families would not make at "
            f"{_against(comparable, rest)} (p {'=' if len(rest) == 1 else '≥'} {smallest:.2f})."
        )
    return sentences


def _groups(result: ComparisonResult) -> str:
    """Tell at which place the groups found are most like the families; with one family, where groups are clearest."""
    if len(result.names) < 3:
        return ""
    scores = {place: each for place, each in result.agreement_with_families.items() if math.isfinite(each)}
    if not scores or len(result.family_names) == 1:
        place = result.clearest
        if place is None:
            return ""
        groups = result.groups[place]
        if groups.n_groups == 1:
            return "At no place do the models fall into groups."
        score = _number(groups.silhouette)
        return f"Groups are clearest at {place}: {groups.n_groups} groups, silhouette {score} (at most 1)."
    best = max(scores, key=lambda place: scores[place])
    exact = [place for place, score in scores.items() if score >= EXACT]
    if exact:
        return f"The groups found at {_at(exact, result)} are the families exactly."
    n_groups = f", {_count(result.groups[best].n_groups, 'group')}" if best in result.groups else ""
    where = f"adjusted Rand index {scores[best]:.2f} at {best}{n_groups} for {len(result.family_names)} families"
    if scores[best] < PARTLY:
        return f"Nowhere are the groups found like the families: at best {where}."
    how = "largely" if scores[best] >= LARGELY else "only partly"
    return f"The groups found match the families {how}: at best {where}."


def _since(result: ComparisonResult) -> str:
    """Tell since which epoch models of one family are more alike than others."""
    if not result.epochs or len(result.family_names) == 1:
        return ""
    moments, larger = result.in_time, result.larger_is_more_similar
    firsts: dict[str | None, list[str]] = {}
    for place, values in result.matrices.items():
        if math.isfinite(contrast(values, result.families).gap(larger)):
            firsts.setdefault(since(moments, place, result.families, larger), []).append(place)
    told = []
    for moment in (*moments, None):
        if moment not in firsts:
            continue
        if moment is None:
            told.append(f"not at the end at {_at(firsts[moment], result)}")
        else:
            first = ", the first there is," if moment == next(iter(moments)) else ""
            told.append(f"from {moment}{first} on at {_at(firsts[moment], result)}")
    return (
        f"On average, models of one family are nearer to each other than to others {listed(told, 20)}." if told else ""
    )


def _chance(result: ComparisonResult) -> str:
    """Tell whether all pairs of models are more alike than on shuffled samples, and where not."""
    sign = 1 if result.larger_is_more_similar else -1
    known = {place: sign * off_diagonal(z) for place, z in result.z.items()}
    known = {place: z for place, z in known.items() if len(z)}
    if not known:
        return ""
    few = {place: int((z > ABOVE_CHANCE).sum()) for place, z in known.items() if not (z > ABOVE_CHANCE).all()}
    if not few:
        smallest = min(float(z.min()) for z in known.values())
        where = "every place" if len(known) > 1 else next(iter(known))
        return (
            f"Any two models are more alike than chance would have it, at {where}: at least {smallest:.0f} "
            "standard deviations above the mean of shuffled samples."
        )
    told = [f"{count} of {len(known[place])} pairs at {place}" for place, count in few.items()]
    rest = "; at other places, all" if len(few) < len(known) else ""
    return f"More alike than chance would have it (by {ABOVE_CHANCE:.0f} standard deviations) are {listed(told)}{rest}."


def _purity(result: ComparisonResult) -> str:
    known = {place: np.asarray(each, float)[np.isfinite(each)] for place, each in result.purity.items()}
    mean = {place: float(each.mean()) for place, each in known.items() if len(each)}
    if not mean:
        return ""
    best = max(mean, key=lambda place: mean[place])
    return (
        f"Clusters are closest to the classes at {best}: {100 * mean[best]:.0f} % of the samples are of their "
        "cluster's most frequent class, on average over the models."
    )


def _barriers(result: ComparisonResult) -> str:
    if result.barriers is None or not len(known := off_diagonal(result.barriers)):
        return ""
    found = contrast(result.barriers, result.families)
    told = [
        f"{with_spread(*each)} {where}"
        for each, where in (
            ((found.within, found.within_sd), "within families"),
            ((found.between, found.between_sd), "between families"),
        )
        if math.isfinite(each[0])
    ]
    n_pairs = len(result.names) * (len(result.names) - 1) // 2
    rest = f" (of {len(known)} of {n_pairs} pairs; the others have other parameters)" if len(known) < n_pairs else ""
    return f"Loss barriers are {listed(told)}{rest}."


def _at(places: Sequence[str], result: ComparisonResult) -> str:
    everywhere = len(places) == len(result.matrices) > 1
    return "every place" if everywhere else listed(places)


def _finite(found: dict[str, Contrast]) -> list[tuple[str, Contrast]]:
    return [(place, each) for place, each in found.items() if math.isfinite(each.within) or math.isfinite(each.between)]


def _against(found: dict[str, Contrast], places: set[str]) -> str:
    """Write the mean within and between families at these places, those of the largest difference if they are many."""
    chosen = [place for place in found if place in places]
    if len(chosen) > TOLD:
        widest = sorted(chosen, key=lambda place: -abs(found[place].within - found[place].between))[:TOLD]
        chosen = [place for place in chosen if place in widest]
    told = [f"{place} ({found[place].within:.2f} against {found[place].between:.2f})" for place in chosen]
    more = f" and {len(places) - TOLD} more" if len(places) > TOLD else ""
    return (", ".join(told) if more else listed(told)) + more


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00") if math.isfinite(value) else "–"


def _escaped(text: str) -> str:
    for special in ("\\", "|", "<", "*", "_", "`"):
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
