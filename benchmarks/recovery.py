"""Are networks found again by Expand-and-Cluster, exactly, and does it know when they are not?

    OMP_NUM_THREADS=1 python benchmarks/recovery.py [--parts shallow deep ...] [--out docs/results/recovery.md]

- Teachers, inputs and students are drawn anew for each seed; seeds begin at 1000, far from those of development.
- Each problem has one thread of its own; ``--jobs 2`` solves two at a time, but for the parts ``speed`` and ``cut``.
- ``--out FILE.md`` keeps all rows in FILE.json and plots in FILE-*.svg beside; parts that are not run stay as they are.
- ``--quick`` tells in a few minutes whether all this runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from harness import Part, arguments, met, run, table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from teachers import FUNCTIONS, NAMED, Problem, Race, Row, Sweep, race, solve, sweep

from consilience.report.style import INK, MUTED, WIDTH, styled

PLATEAU, PUBLISHED, CONTROL = "plateau", "published", "ρ = 1"
VARIANTS: dict[str, dict[str, Any]] = {PLATEAU: {}, PUBLISHED: {"rule": "published"}, CONTROL: {"expansion": 1}}
NO_SIZE, NO_ACTIVATION = "size unknown", "activation unknown"
ON_DIGITS, ON_NOISE = "on digits", "on synthetic inputs"
DEFAULTS = "defaults"
LOOKS = {PLATEAU: ("#1c67ad", "s"), PUBLISHED: ("#d55e00", "X"), CONTROL: ("#8c8c8c", "o")}
NAMES = {"mixed": "σ(4x)+softplus(x)"}
NOISE = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
INPUTS = (20, 40, 80, 150, 300, 600, 2400)
PARAMETERS: dict[str, tuple[str, dict[str, float]]] = {
    "γ": ("coverage", {"0.4": 0.4, "0.6": 0.6, "0.8": 0.8, "1": 1.0}),
    "β": ("max_angle", {f"π/{n}": math.pi / n for n in (48, 24, 12, 6)}),
    "ρ": ("expansion", {str(n): n for n in (1, 2, 3, 4, 6)}),
    "N": ("n_students", {str(n): n for n in (5, 10, 20, 40)}),
}
USUAL = {"γ": "0.8", "β": "π/12", "ρ": "4", "N": "20"}
DEEP = (("tanh", 10), ("gelu", 3), ("relu", 3))
SIZES_OF_TREES = (5_000, 10_000, 20_000)
AUDIT, AUDITED = (((6, 5, 3), 600), ((10, 5, 3), 300)), 10  # sizes and inputs, and seeds of each
AUDITS, DRAWN = "audit, N = 20", "drawn, N = 10"
HARD_UNITS, HARD_INPUTS = (3, 4, 5), (300, 450, 600)
Result = Row | Race | Sweep


# Problems


def shallow(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    for activation in options.activations:
        for r in options.units:
            for seed in seeds:
                for setting, changes in VARIANTS.items():
                    yield Problem("shallow", setting, activation, (6, r, 3), seed, options=changes)
        for seed in seeds[:2]:
            sizes = 6, options.units[0], 3
            yield Problem("shallow", NO_SIZE, activation, sizes, seed, options={"n_units": None})
            if activation in NAMED:
                yield Problem("shallow", NO_ACTIVATION, activation, sizes, seed, options={"activation": "auto"})


def deep(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    first = seeds[0]
    for activation, n_seeds in DEEP:
        for seed in range(first, first + n_seeds):
            options = {"n_students": 10}
            yield Problem("deep", "ρ = 4, N = 10", activation, (4, 3, 3, 3), seed, options=options)
    for seed in range(first, first + 2):
        options = {"expansion": 2, "n_students": 6}
        yield Problem("deep", "ρ = 2, N = 6", "tanh", (4, 5, 5, 5, 3), seed, options=options)


def hard(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    """The problems of an audit at the defaults, and problems whose sizes and offsets are drawn anew for each seed."""
    for sizes, n_inputs in AUDIT:
        for seed in range(seeds[0], seeds[0] + (1 if options.quick else AUDITED)):
            yield Problem("hard", AUDITS, "relu", sizes, seed, n_inputs, offset=2.2)
    for seed in range(seeds[0], seeds[0] + (1 if options.quick else options.hard)):
        drawn = np.random.default_rng(seed)
        sizes = (int(drawn.integers(4, 11)), int(drawn.choice(HARD_UNITS)), 3)
        offset, n_inputs = int(drawn.integers(15, 26)) / 10, int(drawn.choice(HARD_INPUTS))
        yield Problem("hard", DRAWN, "relu", sizes, seed, n_inputs, options={"n_students": 10}, offset=offset)


def noise(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    for sigma in NOISE:
        for seed in seeds[:3]:
            yield Problem("noise", power(sigma), "tanh", (6, 4, 3), seed, noise=sigma)


def inputs(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    for n in INPUTS:
        for seed in seeds[:3]:
            yield Problem("inputs", str(n), "tanh", (6, 4, 3), seed, n_inputs=n)


def parameters(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    settings: dict[str, dict[str, Any]] = {DEFAULTS: {}}
    for symbol, (name, values) in PARAMETERS.items():
        settings |= {f"{symbol} = {told}": {name: v} for told, v in values.items() if told != USUAL[symbol]}
    for setting, options in settings.items():
        for activation in ("tanh", "softplus"):
            for seed in seeds[:2]:
                yield Problem("parameters", setting, activation, (6, 4, 3), seed, options=options)


def digits(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    for r in (8, 16):
        for setting in (ON_DIGITS, ON_NOISE):
            for seed in seeds[:2]:
                sizes, changes = (64, r, 10), {"n_students": 5}
                yield Problem("digits", setting, "tanh", sizes, seed, 1000, options=changes, limit=options.limit)


def speed(options: argparse.Namespace, seeds: range) -> Iterator[Problem]:
    for activation in ("tanh", "sigmoid", "gelu"):
        for seed in seeds[:5]:
            yield Problem("speed", "", activation, (6, 4, 3), seed)


PROBLEMS = {each.__name__: each for each in (shallow, deep, hard, noise, inputs, parameters, digits, speed)}
TITLES = {
    "shallow": "Teachers of one hidden layer, 6-r-3",
    "deep": "Deep teachers",
    "hard": "Units that are active on few inputs",
    "noise": "Noise on the outputs",
    "inputs": "How many inputs",
    "parameters": "Coverage γ, angle β, expansion ρ and number of students N",
    "digits": "Teachers trained on digits",
    "speed": "Seconds, and a race with Adam",
    "cut": "The cut of a large tree",
}


def smaller(problem: Problem) -> Problem:
    """Return what ``--quick`` makes of a problem."""
    sizes = (problem.sizes[0], *(max(2, width // 4) for width in problem.sizes[1:-1]), problem.sizes[-1])
    options = {**problem.options, "n_students": min(5, problem.options.get("n_students", 5))}
    inputs, limit = min(200, problem.n_inputs), min(20, problem.limit)
    return replace(problem, sizes=sizes, n_inputs=inputs, options=options, limit=limit)


def results_of(options: argparse.Namespace, part: str) -> Iterator[Result]:
    """Solve all problems of a part."""
    if part == "cut":
        yield from map(sweep, (1_000, 2_000) if options.quick else SIZES_OF_TREES)
        return
    first = options.first_seed
    problems = list(PROBLEMS[part](options, range(first, first + (1 if options.quick else options.seeds))))
    if options.quick:
        problems = [smaller(problem) for problem in problems if problem.seed == first or part == "hard"]
    if part == "speed":
        yield from map(race, problems)
    elif options.jobs == 1:
        yield from map(solve, problems)
    else:
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            yield from pool.imap(solve, problems)


def line_of(result: Result) -> str:
    """One result, while it runs."""
    if isinstance(result, Row):
        what = f"{result.setting:<20} {result.activation:<9}{shape(result):<11} {result.seed}"
        verdict = "exact" if result.exact else "paired" if result.paired else "NOT EXACT"
        return (
            f"  {what}  {verdict:<10}{'claimed' if result.claimed else '':<8} found {result.found} angle "
            f"{result.angle:.1e} error {result.error:.1e} {result.seconds:6.1f} s {result.processor:6.1f} s of "
            f"processor  {result.reason}"
        )
    if isinstance(result, Race):
        return (
            f"  {result.activation:<9} {result.seed}  {result.seconds:.1f} s, second order {result.second_order:.2f} s "
            f"to {result.loss:.1e}, Adam {result.adam:.2f} s to {result.reached:.1e} of {result.goal:.1e}"
        )
    return f"  {result.units:,} units: {result.linkage:.2f} + {result.sweep:.3f} s, {result.megabytes:.0f} MB"


# Tables


def shape(row: Row | Race) -> str:
    return "-".join(map(str, row.sizes))


def grouped(rows: Sequence[Row], *names: str) -> dict[tuple, list[Row]]:
    """Return the rows by some of their attributes, in the order in which they were made."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return groups


def spaced(heads: Sequence[str], lines: Iterable[Sequence[str]], n_labels: int = 1) -> list[str]:
    """Return a table and an empty line."""
    return [*table(heads, lines, n_labels), ""]


def count(rows: Sequence[Row], name: str = "exact") -> str:
    return f"{sum(getattr(row, name) for row in rows)}/{len(rows)}" if rows else ""


def share(rows: Sequence[Row]) -> float:
    return sum(row.exact for row in rows) / len(rows)


def median(rows: Sequence[Result], name: str) -> float:
    """Of all rows; a row without the value counts as the worst."""
    values = [getattr(row, name) for row in rows]
    return statistics.median(math.inf if math.isnan(value) else value for value in values) if values else math.nan


def most(rows: Sequence[Row], name: str) -> float:
    """The largest value of rows that have one."""
    return max((value for row in rows if not math.isnan(value := getattr(row, name))), default=math.nan)


def mean(rows: Sequence[Row], name: str) -> float:
    values = [value for row in rows if not math.isnan(value := getattr(row, name))]
    return statistics.mean(values) if values else math.nan


def power(value: float) -> str:
    """Write a power of ten, or 0.

    >>> power(1e-4), power(0)
    ('1e-4', '0')
    """
    return f"1e{math.log10(value):.0f}" if value else "0"


def number(value: float, form: str = ".1e") -> str:
    """Write a number; nothing where there is none."""
    return f"{value:{form}}" if math.isfinite(value) else ""


def shallow_text(rows: Sequence[Row]) -> list[str]:
    heads = (
        "activation", "r", "exact: plateau", "published rule", "ρ = 1", "worst angle", "worst parameter",
        "function error", "seconds", "processor", "students < 1e-8", "at ρ = 1", "other cuts", "removed",
    )  # fmt: skip
    lines = []
    for (activation, sizes), group in {
        **grouped(rows, "activation", "sizes"), ("all", (0, 0, 0)): list(rows)
    }.items():  # fmt: skip
        by = {name: [row for row in group if row.setting == name] for name in VARIANTS}
        ours = by[PLATEAU]
        exact = [row for row in ours if row.exact]
        lines.append([
            NAMES.get(activation, activation), str(sizes[1] or ""), *(count(by[name]) for name in VARIANTS),
            number(most(exact, "angle")), number(most(exact, "parameters")), number(median(ours, "error")),
            number(median(ours, "seconds"), ".1f"), number(median(ours, "processor"), ".1f"),
            number(mean(ours, "converged"), ".2f"), number(mean(by[CONTROL], "converged"), ".2f"),
            str(sum(row.cuts > 1 for row in ours)), number(sum(r.removed for r in ours if r.removed > 0), ".0f"),
        ])  # fmt: skip
    text = [
        "Exact: the teacher's size, and every unit with a partner within 1e-3 rad; the size is told. Angles and "
        "parameters are the worst of exact recoveries, function errors medians of all on fresh inputs (root mean "
        "square, as a share of the outputs' standard deviation), seconds medians of the plateau rule. Students: the "
        "mean share below a loss of 1e-8. Other cuts: problems in which the longest plateau was not taken at once; "
        "removed: units found to be excess, in all.", "", *spaced(heads, lines, 2),
    ]  # fmt: skip
    unknown = [
        [name, NAMES.get(activation, activation), str(sizes[1]), count(group), count(group, "paired"),
         number(median(group, "seconds"), ".1f")]
        for (name, activation, sizes), group in grouped(rows, "setting", "activation", "sizes").items()
        if name in (NO_SIZE, NO_ACTIVATION)
    ]  # fmt: skip
    heads = ("what is not told", "activation", "r", "exact", "right units", "seconds")
    text += ["Where less is known; tanh and sigmoid are one family, either counts.", ""]
    text += spaced(heads, sorted(unknown, key=lambda cells: cells[0], reverse=True), 3)
    return text + failures([row for row in rows if row.setting not in (PUBLISHED, CONTROL)])


def deep_text(rows: Sequence[Row]) -> list[str]:
    heads = ("teacher", "activation", "setting", "exact", "right units", "claimed", "worst angle", "worst parameter",
             "function error", "seconds", "processor", "other cuts", "removed")  # fmt: skip
    lines = []
    for (sizes, activation, setting), group in grouped(rows, "sizes", "activation", "setting").items():
        exact = [row for row in group if row.exact]
        lines.append([
            "-".join(map(str, sizes)), activation, setting, count(group), count(group, "paired"),
            count(group, "claimed"), number(most(exact, "angle")), number(most(exact, "parameters")),
            number(median(group, "error")), number(median(group, "seconds"), ".1f"),
            number(median(group, "processor"), ".1f"), str(sum(row.cuts > 1 for row in group)),
            number(sum(row.removed for row in group if row.removed > 0), ".0f"),
        ])  # fmt: skip
    return ["600 inputs; columns as above.", "", *spaced(heads, lines, 3), *failures(rows)]


def hard_text(rows: Sequence[Row]) -> list[str]:
    heads = ("problems", "offset", "number", "identifiable", "explained", "of them wrong", "claimed", "right", "false",
             "not explained", "held-out error of the wrong", "seconds")  # fmt: skip
    lines = []
    for (setting,), group in grouped(rows, "setting").items():
        bands = {f"{low:.1f} to {min(2.5, low + 0.2):.1f}": low for low in (1.5, 1.8, 2.1, 2.4)}
        parts = {label: [r for r in group if low - 0.05 < r.offset < low + 0.25] for label, low in bands.items()}
        for label, part in (parts | {"all": group}).items():
            explained, claimed = ([r for r in part if getattr(r, name)] for name in ("explains", "claimed"))
            wrong = [r for r in explained if not r.exact]
            if part and (setting == DRAWN or label == "all"):
                lines.append([
                    setting, label, str(len(part)), str(sum(r.identifiable for r in part)), str(len(explained)),
                    str(len(wrong)), str(len(claimed)), str(sum(r.exact for r in claimed)),
                    str(sum(r.unfounded for r in claimed)), str(len(part) - len(explained)),
                    number(median(wrong, "held_out")), number(median(part, "processor"), ".1f"),
                ])  # fmt: skip
    return [
        "relu(x Wᵀ − offset) A with rows of W at unit norm: a unit is active on 7 % of normal inputs at 1.5, on 0.6 % "
        "at 2.5. Audit: 6-5-3 with 600 inputs and 10-5-3 with 300, offset 2.2, ten seeds each. Drawn: 4 to 10 inputs, "
        "3 to 5 units, offset 1.5 to 2.5, 300 to 600 rows, at random for each seed. Identifiable: the fitted rows "
        "determine the teacher's own parameters. Explained: the network is as good as the students; wrong: some unit "
        "is not the teacher's. Right and false: of the claims, by the teacher.", "",
        *spaced(heads, lines, 2), *failures([row for row in rows if row.explains and not row.exact and row.claimed]),
    ]  # fmt: skip


def noise_text(rows: Sequence[Row]) -> list[str]:
    heads = ("σ", "right units", "exact", "claimed", "worst angle", "function error", "√students' loss", "seconds")
    lines = [
        [setting, count(group, "paired"), count(group), count(group, "claimed"),
         number(most([row for row in group if row.paired], "angle")), number(median(group, "error")),
         number(math.sqrt(median(group, "students"))), number(median(group, "seconds"), ".1f")]
        for (setting,), group in grouped(rows, "setting").items()
    ]  # fmt: skip
    return [
        "tanh, 6-4-3. σ: noise, as a share of the outputs' standard deviation, which the estimator is told. Function "
        "errors are to the teacher without noise. Right units: size and partners (within 0.1 rad), at any angle.", "",
        *spaced(heads, lines), *failures(rows, "paired"),
    ]  # fmt: skip


def inputs_text(rows: Sequence[Row]) -> list[str]:
    heads = ("inputs", "warned", "exact", "right units", "claimed", "worst angle", "function error", "seconds")
    lines = [
        [f"{n}", count(group, "warned"), count(group), count(group, "paired"), count(group, "claimed"),
         number(most([row for row in group if row.exact], "angle")), number(median(group, "error")),
         number(median(group, "seconds"), ".1f")]
        for (n,), group in grouped(rows, "n_inputs").items()
    ]  # fmt: skip
    return [
        "tanh, 6-4-3. Warned: students have more parameters than there are numbers in the outputs, and the estimator "
        "says so.", "", *spaced(heads, lines),
    ]  # fmt: skip


def of_parameter(rows: Sequence[Row], symbol: str) -> dict[str, list[Row]]:
    """Return the rows for each value of a parameter; the usual one is in the defaults."""
    names = {told: DEFAULTS if told == USUAL[symbol] else f"{symbol} = {told}" for told in PARAMETERS[symbol][1]}
    found = {told: [row for row in rows if row.setting == name] for told, name in names.items()}
    return {told: group for told, group in found.items() if group}


def parameters_text(rows: Sequence[Row]) -> list[str]:
    heads = ("setting", "exact: tanh", "softplus", "claimed", "function error", "students < 1e-8", "seconds")
    lines = []
    for symbol in PARAMETERS:
        for told, group in of_parameter(rows, symbol).items():
            by = [[row for row in group if row.activation == name] for name in ("tanh", "softplus")]
            lines.append([
                f"{symbol} = {told}{', the default' if told == USUAL[symbol] else ''}", *map(count, by),
                count(group, "claimed"), number(median(group, "error")), number(mean(group, "converged"), ".2f"),
                number(median(group, "seconds"), ".1f"),
            ])  # fmt: skip
    return ["6-4-3, one parameter at a time, the others at their defaults.", "", *spaced(heads, lines)]


def digits_text(rows: Sequence[Row]) -> list[str]:
    heads = ("teacher", "queried", "inputs", "seed", "units found", "missing", "excess", "worst angle",
             "error on test digits", "on synthetic inputs", "√students' loss", "claimed", "seconds",
             "why not")  # fmt: skip
    lines = []
    for row in rows:
        test, synthetic = (row.error, row.elsewhere) if row.setting == ON_DIGITS else (row.elsewhere, row.error)
        lines.append([
            shape(row), row.setting, str(row.n_inputs), str(row.seed), ", ".join(map(str, row.found)),
            number(row.missing, ".0f"), number(row.excess, ".0f"), number(row.angle), number(test),
            number(synthetic), number(math.sqrt(row.students)), "yes" if row.claimed else "no",
            number(row.seconds, ".0f"), row.reason,
        ])  # fmt: skip
    return [
        "A tanh network trained on digits; pixels that are the same in all training images are left out, since nothing "
        "can tell their weights. Queried on its training images, or on as many normal inputs as said with the mean and "
        "spread of each pixel. Logits are recovered by 5 students of 4 times the width; partners are within 0.1 rad.",
        "",
        *spaced(heads, lines, 2),
    ]  # fmt: skip


def speed_text(rows: Sequence[Race]) -> list[str]:
    heads = ("activation", "seconds", "processor", "second order", "its loss", "Adam", "loss asked", "loss reached",
             "Adam reached it", "Adam / second order")  # fmt: skip
    lines = []
    for activation in dict.fromkeys(row.activation for row in rows):
        group = [row for row in rows if row.activation == activation]
        reached = sum(row.reached <= row.goal for row in group)
        medians = [median(group, name) for name in ("second_order", "loss", "adam", "goal", "reached", "ratio")]
        lines.append([
            activation, number(median(group, "seconds"), ".1f"), number(median(group, "processor"), ".1f"),
            number(medians[0], ".2f"), number(medians[1]), number(medians[2], ".1f"), *map(number, medians[3:5]),
            f"{reached}/{len(group)}", f"{'' if reached == len(group) else '≥ '}{medians[5]:.1f}",
        ])  # fmt: skip
    return [
        "6-4-3, 600 inputs, 20 students of 16 units; medians. Seconds and processor are those of a whole recovery, by "
        "the clock and processor time on one thread; then, in processor time, the training of the students alone and, "
        "from the same initial values, Adam in float32 on all students and samples at once, at 1e-2 and half of it "
        "where losses stay: until its median loss is a million times the other's (or 1e-8, if that is larger), and no "
        "longer than ten times the seconds.", "", *spaced(heads, lines),
    ]  # fmt: skip


def cut_text(rows: Sequence[Sweep]) -> list[str]:
    heads = ("units", "linkage", "sweep", "both, wall clock", "MB at the peak", "clusters kept")
    lines = [
        [f"{row.units:,}", number(row.linkage, ".2f"), number(row.sweep, ".3f"), number(row.seconds, ".1f"),
         number(row.megabytes, ".0f"), str(row.kept)]
        for row in rows
    ]  # fmt: skip
    return [
        "Students of 20 units of 7 numbers, 20 of the teacher's to a relative 1e-6 but for a fifth of random ones. "
        "Seconds of processor time; memory is what is added at the peak.", "", *spaced(heads, lines),
    ]  # fmt: skip


def failures(rows: Sequence[Row], what: str = "exact") -> list[str]:
    """Say what became of problems that were not solved."""
    failed = [row for row in rows if not getattr(row, what)]
    told = []
    for row in failed:
        units = f"{'-'.join(map(str, row.found))} units" if row.found else "nothing"
        numbers = {"missing": (row.missing, ".0f"), "excess": (row.excess, ".0f"), "worst angle": (row.angle, ".1e"),
                   "function error": (row.error, ".1e"), "students' loss": (row.students, ".1e")}  # fmt: skip
        given = [f"{name} {value:{form}}" for name, (value, form) in numbers.items() if not math.isnan(value)]
        claim = "**claimed exact**" if row.unfounded else "claimed" if row.claimed else "not claimed"
        told.append(
            f"- {row.setting}, {row.activation} {shape(row)}, seed {row.seed}: "
            f"{'; '.join(filter(None, (units, *given, claim, row.reason)))}"
        )
    return ["Not exact:" if what == "exact" else "Not found:", "", *told, ""] if told else []


def marks(parts: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """What was asked, and what was measured."""
    rows = parts.get("shallow", ())
    by = {name: [row for row in rows if row.setting == name] for name in VARIANTS}
    if ours := by[PLATEAU]:
        beside = f"published rule {count(by[PUBLISHED])}, ρ = 1 {count(by[CONTROL])}"
        yield f"- exact in {count(ours)} ({100 * share(ours):.1f} %) of shallow problems ({beside}), mark 95 %: " + met(
            share(ours) >= 0.95
        )
        error = median(ours, "error")
        yield f"- median function error on fresh inputs {error:.1e}, mark 1e-8: {met(error < 1e-8)}"
        small = [row for row in ours if row.sizes[1] == 4]
        if small:
            seconds = median(small, "seconds")
            yield f"- median of {seconds:.1f} s a problem at r = 4, one thread, mark 10 s: {met(seconds <= 10)}"
    if races := parts.get("speed"):
        for name in dict.fromkeys(row.activation for row in races):
            ratio = median([row for row in races if row.activation == name], "ratio")
            yield f"- {name}: Adam takes {ratio:.1f} times as long or more, mark 5: {met(ratio >= 5)}"
    if tanh := [row for row in parts.get("deep", ()) if row.sizes == (4, 3, 3, 3) and row.activation == "tanh"]:
        yield f"- deep 4-3-3-3, tanh: exact in {count(tanh)}, mark 80 %: {met(share(tanh) >= 0.8)}"
    claimed = [row for group in parts.values() for row in group if isinstance(row, Row) and row.claimed]
    if claimed:
        own, theirs = ([row for row in claimed if (row.setting == PUBLISHED) is other] for other in (False, True))
        above, wrong = sum(row.above_students for row in claimed), sum(row.unfounded for row in own)
        yield (
            f"- of {len(claimed)} recoveries reported as good, in all parts, those whose function error is above the "
            f"students': {above}, mark 0: {met(not above)}"
        )
        yield (
            f"- of {len(own)} of them by the plateau rule, those that are not the teacher's units: {wrong}, mark 0: "
            f"{met(not wrong)} (published rule: {count(theirs, 'unfounded')})"
        )
    if hard := parts.get("hard"):
        explained, claimed = ([row for row in hard if getattr(row, name)] for name in ("explains", "claimed"))
        wrong, right = sum(row.unfounded for row in hard), [sum(row.exact for row in g) for g in (claimed, explained)]
        yield (
            f"- units active on few inputs, {len(hard)} problems: {wrong} false claims, mark 0: {met(not wrong)}; "
            f"{right[0]} right ones, of {sum(row.identifiable for row in hard)} whose rows identify the teacher"
            f" (without evidence: {len(explained) - right[1]} false, {right[1]} right)"
        )
    if sweeps := parts.get("cut"):
        first, last = sweeps[0], sweeps[-1]
        growth = math.log(last.sweep / first.sweep) / math.log(last.units / first.units)
        fine = last.seconds < 60 and last.megabytes < 6000
        yield (
            f"- {last.units:,} units: {last.seconds:.1f} s, {last.megabytes:.0f} MB, marks 60 s and 6 GB: {met(fine)}; "
            f"the sweep's seconds grow as n^{growth:.2f}, mark O(n): {met(growth < 1.2)}"
        )


# Plots


@styled
def shallow_plot(rows: Sequence[Row]) -> Figure:
    """Share of exact recoveries by activation and size."""
    groups = grouped([row for row in rows if row.setting in VARIANTS], "activation", "sizes")
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(groups)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(groups)), [f"{NAMES.get(name, name)}, r = {sizes[1]}" for name, sizes in groups])
    for shift, (setting, (colour, marker)) in zip((-0.2, 0, 0.2), LOOKS.items(), strict=True):
        shares = [100 * share([row for row in group if row.setting == setting]) for group in groups.values()]
        label = f"{CONTROL}, {PLATEAU} rule" if setting == CONTROL else f"{setting} rule"
        axes.plot(shares, [shift + i for i in range(len(groups))], marker, color=colour, label=label)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set(xlabel="exactly recovered (%)", xlim=(-3, 103))
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def noise_plot(rows: Sequence[Row]) -> Figure:
    """Errors against the noise; without noise they are on the left edge."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    left = 1e-8
    for name, label, (colour, marker) in (
        ("error", "function error", LOOKS[PLATEAU]), ("angle", "worst angle (rad)", LOOKS[PUBLISHED])
    ):  # fmt: skip
        points = [(row.noise or left, value) for row in rows if not math.isnan(value := getattr(row, name))]
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=label)
    axes.plot([1e-6, 1e-1], [1e-6, 1e-1], ":", color=MUTED, label="σ")
    axes.set(xscale="log", yscale="log", xlabel="noise σ, as a share of the outputs' standard deviation")
    levels = sorted({row.noise for row in rows})
    axes.set_xticks([level or left for level in levels], [power(level) for level in levels])
    axes.minorticks_off()
    axes.legend()
    return figure


@styled
def inputs_plot(rows: Sequence[Row]) -> Figure:
    """Function error against the number of inputs; exact recoveries are filled."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    colour, marker = LOOKS[PLATEAU]
    for exact, fill, label in ((True, colour, "exact"), (False, "none", "not exact")):
        points = [(row.n_inputs, row.error) for row in rows if row.exact == exact and not math.isnan(row.error)]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=colour, markerfacecolor=fill, label=label)
    axes.set(xscale="log", yscale="log", xlabel="inputs", ylabel="function error on fresh inputs")
    counts = sorted({row.n_inputs for row in rows})
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.legend()
    return figure


@styled
def parameters_plot(rows: Sequence[Row]) -> Figure:
    """Share of exact recoveries, and of converged students, by parameter."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    panels = figure.subplots(1, len(PARAMETERS), sharey=True)
    for axes, symbol in zip(panels, PARAMETERS, strict=True):
        assert isinstance(axes, Axes)
        groups = of_parameter(rows, symbol)
        exact, converged = [share(group) for group in groups.values()], [mean(g, "converged") for g in groups.values()]
        colour, marker = LOOKS[PLATEAU]
        axes.plot(range(len(groups)), exact, marker=marker, color=colour, label="recovered exactly", zorder=3)
        axes.plot(range(len(groups)), converged, ":", marker="o", markersize=9, markerfacecolor="none", color=MUTED,
                  label="students below 1e-8")  # fmt: skip
        labels = [f"{told}*" if told == USUAL[symbol] else told for told in groups]
        axes.set_xticks(range(len(groups)), labels)
        axes.set_title(symbol, color=INK, fontsize=9)
        axes.set_ylim(-0.05, 1.05)
    panels[0].set_ylabel("share")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


# Files

TEXTS: dict[str, Callable[[Any], list[str]]] = {
    "shallow": shallow_text, "deep": deep_text, "hard": hard_text, "noise": noise_text, "inputs": inputs_text,
    "parameters": parameters_text, "digits": digits_text, "speed": speed_text, "cut": cut_text,
}  # fmt: skip
PLOTS: dict[str, Callable[[Any], Figure]] = {
    "shallow": shallow_plot, "noise": noise_plot, "inputs": inputs_plot, "parameters": parameters_plot
}  # fmt: skip
KIND: dict[str, type] = {"speed": Race, "cut": Sweep}
PARTS = {
    name: Part(
        title,
        partial(results_of, part=name),
        TEXTS[name],
        plots={"": PLOTS[name]} if name in PLOTS else {},
        row=KIND.get(name, Row),
    )
    for name, title in TITLES.items()
}


def introduction(rows: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    yield (
        "Teachers' weights and biases, and inputs, are standard normal, and none is left out; Expand-and-Cluster with "
        "20 students of 4 times the teacher's width, trained on 600 inputs, unless said otherwise. Every problem on "
        "one thread; others may have used the machine, so that processor time says more than the clock."
    )
    earlier = [
        name for name, part in rows.items() if any(isinstance(r, Row) and r.claimed and not r.explains for r in part)
    ]
    if earlier:
        yield ""
        yield f"Claims in these parts are of an earlier version, which asked for no evidence: {', '.join(earlier)}."
    yield from ("", "## Marks", "", *marks(rows))


def main() -> None:
    parser = arguments(__doc__, seeds=8)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--units", type=int, nargs="+", default=[4, 8], help="of shallow teachers")
    parser.add_argument("--activations", nargs="+", choices=list(FUNCTIONS), default=list(FUNCTIONS))
    parser.add_argument("--jobs", type=int, default=1, help="problems at a time")
    parser.add_argument("--hard", type=int, default=300, help="problems whose units are active on few inputs")
    parser.add_argument("--limit", type=int, default=180, help="seconds, after which a digits teacher is given up")
    run("Recovery of networks from their outputs", PARTS, parser, introduction=introduction, line=line_of)


if __name__ == "__main__":
    main()
