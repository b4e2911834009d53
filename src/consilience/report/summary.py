"""What the numbers of an experiment say, in sentences that promise no more than the standard errors allow.

- An assembly is chosen by its validation accuracy, and quoted by its test accuracy.
- A difference is "within noise" if it is less than two standard errors, √(s₁² + s₂²). That takes the two scores as
  independent; being of the same samples they mostly agree, so the true error of the difference is smaller, not larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from consilience.evaluation import Score
from consilience.report.results import Experiment, LearningPoint, Row
from consilience.report.roles import (
    BEST_MEMBER,
    ENSEMBLE,
    FINE_TUNED,
    FULL,
    MEAN_MEMBER,
    SCRATCH,
    by_name,
    first,
    is_assembly,
    role,
)

NOISE = 2.0  # standard errors
TRAINED = (FINE_TUNED, SCRATCH)
READING = (
    "± is one standard error over samples. A difference of less than two of its standard errors is called noise; these "
    "take the two scores as independent, which overstates them where both are of the same samples."
)


@dataclass(frozen=True)
class Difference:
    """Of two accuracies, first minus second, and its standard error; both in 0…1."""

    value: float
    error: float

    @classmethod
    def of(cls, a: Score, b: Score) -> Difference:
        """Subtract, as if the two were independent."""
        return cls(a.accuracy - b.accuracy, math.hypot(a.accuracy_se, b.accuracy_se))

    @property
    def is_noise(self) -> bool:
        """Whether it is less than two standard errors."""
        return abs(self.value) < NOISE * self.error or self.value == 0

    def __str__(self) -> str:
        return f"{100 * abs(self.value):.2f} ± {100 * self.error:.2f} points"


def summary_sentences(experiment: Experiment) -> list[str]:
    """Tell what was reached, how far assemblies are from the ensemble, and whether fine-tuning one beats starting anew.

    Sentences about rows that the table lacks are left out.
    """
    table = experiment.table
    sentences = [
        _members(experiment),
        *_assemblies(table),
        _alternative(table),
        *_trained(table),
        *_learning(experiment),
    ]
    return [sentence for sentence in sentences if sentence]


def _members(experiment: Experiment) -> str:
    rows = (first(experiment.table, name) for name in (MEAN_MEMBER, BEST_MEMBER, ENSEMBLE))
    parts = [f"the {row.method} reaches {_accuracy(row.test)}" for row in rows if row]
    if not parts:
        return ""
    joined = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return f"On {_count(experiment.table[0].test.n)}, {joined}."


def _assemblies(table: Sequence[Row]) -> list[str]:
    """Compare two assemblies with the ensemble: the best of the narrowest, and the best below full width."""
    ensemble, assemblies = first(table, ENSEMBLE), [row for row in table if is_assembly(row)]
    smaller = [row for row in assemblies if row.width != FULL] or assemblies
    if not ensemble or not smaller:
        return []
    narrowest = min(row.parameters for row in smaller)
    chosen = [_best([row for row in smaller if row.parameters == narrowest]), _best(smaller)]
    headings = ["The narrowest assembly", "Of all assemblies below full width, the best on validation data"]
    if chosen[0] == chosen[1]:
        chosen, headings = chosen[1:], headings[1:]
    if all(row.width == FULL for row in smaller):
        headings = ["The assembly of full width"]
    return [
        f"{heading} ({_named(row)}; {_parameters(row, ensemble)}) reaches {_accuracy(row.test)}, "
        f"{_against(Difference.of(row.test, ensemble.test), 'the ensemble')}."
        for heading, row in zip(headings, chosen, strict=True)
    ]


def _alternative(table: Sequence[Row]) -> str:
    """Compare the best alternative that was not trained with the best assembly of its width that was not either."""
    others = [row for row in table if row.group == "alternative" and not row.steps and role(row) not in TRAINED]
    if not others:
        return ""
    other = _best(others)
    rivals = [row for row in table if is_assembly(row) and not row.steps and row.width == other.width]
    if not rivals:
        return ""
    rival = _best(rivals)
    return (
        f"Without gradient steps, the best alternative ({_named(other)}) reaches {_accuracy(other.test)}; the assembly "
        f"of the same width ({rival.method}) reaches {_accuracy(rival.test)}, "
        f"{_against(Difference.of(rival.test, other.test), 'it')}."
    )


def _trained(table: Sequence[Row]) -> list[str]:
    """Compare each fine-tuned assembly with the network from scratch of its width."""
    pairs = [
        (tuned, scratch)
        for tuned in table
        for scratch in table
        if role(tuned) == FINE_TUNED and role(scratch) == SCRATCH and tuned.width == scratch.width
    ]
    return [_pair(tuned, scratch) for tuned, scratch in pairs]


def _pair(tuned: Row, scratch: Row) -> str:
    equal = tuned.steps == scratch.steps
    steps = f"After {tuned.steps:,} gradient steps{' each' if equal else ''}, the members' training not counted,"
    width = f" of width {tuned.width}" if tuned.width else ""
    rest = "" if equal else f" after {scratch.steps:,}, so not at equal steps"
    difference = Difference.of(tuned.test, scratch.test)
    if difference.is_noise:
        verdict = f"a difference of {difference}, within noise"
    else:
        verdict = f"fine-tuning is {difference} {'ahead' if difference.value > 0 else 'behind'}"
    return (
        f"{steps} the fine-tuned assembly{width} reaches {_accuracy(tuned.test)}, a network of that width from scratch "
        f"{_accuracy(scratch.test)}{rest}: {verdict}."
    )


def _learning(experiment: Experiment) -> list[str]:
    """Tell at how many steps the fine-tuned assembly is ahead of the network from scratch, and behind it."""
    curves = {by_name(name): points for name, points in experiment.learning.items()}
    if len(curves) < len(experiment.learning) or not {FINE_TUNED, SCRATCH} <= set(curves):
        return []
    pairs = [(step, difference) for step, difference in _pairs(curves[FINE_TUNED], curves[SCRATCH]) if step > 0]
    if not pairs:
        return []
    ahead = [step for step, difference in pairs if difference.value > 0 and not difference.is_noise]
    behind = [step for step, difference in pairs if difference.value < 0 and not difference.is_noise]
    told = f"ahead by more than noise at {len(ahead)} of {len(pairs)} points"
    told += f" (last at step {ahead[-1]:,})" if ahead else ""
    told += f" and behind by more than noise at {len(behind)}" if behind else ""
    return [f"Along the way, at equal steps, the fine-tuned assembly is {told}."]


def _pairs(a: Sequence[LearningPoint], b: Sequence[LearningPoint]) -> list[tuple[int, Difference]]:
    other = {point.step: point.test for point in b}
    return sorted(
        ((point.step, Difference.of(point.test, other[point.step])) for point in a if point.step in other),
        key=lambda pair: pair[0],
    )


def _best(rows: Sequence[Row]) -> Row:
    """Return the row of highest validation accuracy; of equals, the one with fewest parameters."""
    return max(rows, key=lambda row: (row.validation.accuracy, -row.parameters))


def _against(difference: Difference, what: str) -> str:
    if difference.value == 0:
        return f"as {what} does"
    place = "above" if difference.value > 0 else "below"
    return f"{difference} {place} {what}" + (", which is within noise" if difference.is_noise else "")


def _named(row: Row) -> str:
    return f"{row.method}; {row.width}" if row.width else row.method


def _parameters(row: Row, ensemble: Row) -> str:
    return f"{100 * row.parameters / max(1, ensemble.parameters):.0f} % of the ensemble's parameters"


def _accuracy(score: Score) -> str:
    return f"{100 * score.accuracy:.2f} ± {100 * score.accuracy_se:.2f} %"


def _count(n: int) -> str:
    return f"{n:,} test samples"
