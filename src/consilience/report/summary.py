"""What the numbers of an experiment say, in sentences that promise no more than the standard errors allow.

- An assembly is chosen by its validation accuracy (or R²), and quoted by its test accuracy.
- A difference is "within noise" if it is less than two standard errors, which are paired by sample. Older results have
  no paired error; √(s₁² + s₂²), as if the two scores were independent, is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from consilience.report.numbers import with_spread
from consilience.report.results import REFERENCES, Experiment, Role, Row, first
from consilience.report.scores import quality

NOISE = 2.0  # standard errors
FULL = "full"


def summary_sentences(experiment: Experiment) -> list[str]:
    """Compare members, ensemble and assemblies, and training from an assembly and from scratch, as far as measured."""
    table = experiment.table
    left_out = [f"Not in the table, {name}: {reason}." for name, reason in experiment.left_out.items()]
    return [*_members(table), *_assemblies(table), *_trained(table), *left_out]


def _members(table: Sequence[Row]) -> list[str]:
    rows = [row for role in REFERENCES if (row := first(table, role))]
    scores = ", ".join(f"{row.method} {_reached(row)}" for row in rows)
    heading = "" if not rows else rows[0].test.metric[0].upper() + rows[0].test.metric[1:]
    return [f"{heading} on {rows[0].test.n:,} test samples: {scores}."] if rows else []


def _assemblies(table: Sequence[Row]) -> list[str]:
    """Compare two assemblies with the ensemble: the best of the narrowest, and the best below full width."""
    ensemble, assemblies = first(table, Role.ENSEMBLE), [row for row in table if row.role is Role.ASSEMBLY]
    smaller = [row for row in assemblies if row.width != FULL]
    if not ensemble or not assemblies:
        return []
    if not smaller:
        return [_against_ensemble("Assembly of full width", _best(assemblies), ensemble)]
    narrowest, metric = min(row.parameters for row in smaller), ensemble.test.metric
    sentences = [
        _against_ensemble("Narrowest assembly", _best([r for r in smaller if r.parameters == narrowest]), ensemble),
        _against_ensemble(f"Best assembly below full width, by validation {metric}", _best(smaller), ensemble),
    ]
    return sentences if _best(smaller).parameters > narrowest else sentences[1:]


def _against_ensemble(heading: str, row: Row, ensemble: Row) -> str:
    share = 100 * row.parameters / max(1, ensemble.parameters)
    name = f"{heading} ({row.method}{row.width and '; ' + row.width}; {share:.0f} % of the ensemble's parameters)"
    near = row.closeness
    known = near is not None and math.isfinite(near.worth)
    worth = f"; its outputs are as near to it as the mean of {near.worth:.1f} members" if near and known else ""
    return f"{name}: {_reached(row)}, {_difference(row, ensemble)} the ensemble{worth}."


def _trained(table: Sequence[Row]) -> list[str]:
    """Compare each fine-tuned assembly with the network from scratch of its width."""
    tuned, scratch = ([row for row in table if row.role is role] for role in (Role.FINE_TUNED, Role.SCRATCH))
    return [_pair(one, other) for one in tuned for other in scratch if one.width == other.width]


def _pair(tuned: Row, scratch: Row) -> str:
    equal = tuned.steps == scratch.steps
    unequal = "" if equal else f" after {scratch.steps:,}, so not at equal steps"
    width = f" of width {tuned.width}" if tuned.width else ""
    return (
        f"After {tuned.steps:,} gradient steps{' each' if equal else ''}, besides the members' training: fine-tuned "
        f"assembly{width} {_reached(tuned)}, network of that width from scratch {_reached(scratch)}{unequal}; the "
        f"assembly is {_difference(tuned, scratch)} the network."
    )


def _difference(row: Row, reference: Row) -> str:
    """Say where the first is, measured from the second."""
    a, b, error = row.test, reference.test, row.difference_se
    difference = a.quality - b.quality
    error = math.hypot(a.quality_se, b.quality_se) if error is None else error
    if difference == 0:
        return "equal to"
    noise = " (within noise)" if abs(difference) < NOISE * error else ""
    size = with_spread(100 * abs(difference), 100 * error)
    return f"{size} points{noise} {'above' if difference > 0 else 'below'}"


def _best(rows: Sequence[Row]) -> Row:
    """Return the row of highest validation accuracy or R²; of equals, the one with fewest parameters."""
    return max(rows, key=lambda row: (row.validation.quality, -row.parameters))


def _reached(row: Row) -> str:
    return f"{quality(row.test)} %"
