"""What the benchmarks share: arguments, the command of a table, rows kept as JSON, markdown, time and memory.

- `arguments` gives every benchmark the same options; each adds its own.
- A benchmark of several parts is a dict of `Part`; `run` makes the rows of each part, saves them to ``OUT.json`` one by
  one, and writes ``OUT.md`` and the plots. Parts that do not run keep their earlier rows.
- ``--quick`` shows within a minute or two whether a benchmark runs; its numbers mean nothing.
- Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

Made = TypeVar("Made")
NOT_IN_COMMAND = ("out", "cache", "processes")  # options that change no number


def arguments(description: str, *, data: bool | None = None, seeds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the common options.

    Parameters
    ----------
    description : the docstring of the benchmark.
    data : whether ``--data`` is required (True), optional (False) or missing (None).
    seeds : default of ``--seeds``; None for none.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        parser.add_argument("--data", type=Path, required=data, help="a .npz file")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"number of repetitions, {seeds} by default")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that the benchmark runs")
    parser.add_argument(
        "--out", type=Path, help="file of the text; rows (.json) and plots (.svg) are written beside it"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; the process then runs on one thread."""
    options = parser.parse_args()
    for name in ("seeds", "jobs", "processes"):
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name} must be >= 1, got {getattr(options, name)}")
    torch.set_num_threads(1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


def command(parser: argparse.ArgumentParser, options: argparse.Namespace, **replaced: object) -> str:
    """Return the command line that gives the same numbers: options that differ from their defaults, files by name."""
    words = [f"python benchmarks/{Path(parser.prog).name}"]
    for name, value in (vars(options) | replaced).items():
        if name in NOT_IN_COMMAND or value in (None, False) or value == parser.get_default(name):
            continue
        values = value if isinstance(value, list | tuple) else [] if value is True else [value]
        shown = [each.name if isinstance(each, Path) else str(each) for each in values]
        words.append(" ".join([f"--{name.replace('_', '-')}", *shown]))
    return " ".join(words)


@dataclass(frozen=True)
class Part:
    """One part of a benchmark.

    Attributes
    ----------
    title : heading of its section.
    rows : makes the rows from the options: dicts, or instances of ``row``.
    text : rows → lines of markdown.
    plots : name → rows → figure.
    captions : name of a plot → caption.
    row : dataclass of the rows; dicts by default.
    """

    title: str
    rows: Callable[[argparse.Namespace], Iterator[Any]]
    text: Callable[[Sequence[Any]], Iterable[str]]
    plots: Mapping[str, Callable[[Sequence[Any]], Figure]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    row: type = dict


def run(
    title: str,
    parts: Mapping[str, Part],
    parser: argparse.ArgumentParser,
    *,
    introduction: Callable[[Mapping[str, Sequence[Any]]], Iterable[str]] = lambda rows: (),
    line: Callable[[Any], str] = str,
) -> None:
    """Run the parts asked for, print their tables, and write them to ``--out``.

    Parameters
    ----------
    title, introduction : heading, and lines below it from the rows of all parts.
    parts : by name, in the order of the text.
    parser : of the benchmark; ``--parts`` is added here.
    line : a row as one line, printed when it is done.
    """
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    options = parse(parser)
    file = options.out.with_suffix(".json") if options.out else None
    kept = json.loads(file.read_text()) if file and file.exists() else {}
    rows = {name: [_row(parts[name].row, row) for row in part["rows"]] for name, part in kept.items()}
    commands = {name: part["command"] for name, part in kept.items()}
    for name in options.parts:
        commands[name] = command(parser, options, parts=[name])
        rows[name] = []
        print(commands[name], flush=True)
        for row in parts[name].rows(options):
            rows[name].append(row)
            print(line(row), flush=True)
            if file:
                save(file, {key: {"command": commands[key], "rows": rows[key]} for key in rows})
        print("\n".join(_section(name, parts[name], rows[name], commands[name], "")), flush=True)
        if options.out:
            stem = options.out.stem
            sections = [_section(key, parts[key], rows[key], commands[key], stem) for key in parts if key in rows]
            head = [f"# {title}", "", *introduction(rows), ""]
            options.out.write_text("\n".join([*head, *(text for section in sections for text in section)]))
            for plot, draw in parts[name].plots.items():
                save_plot(options.out.with_name(f"{_plot(stem, name, plot)}.svg"), draw(rows[name]))
    print("\n".join(introduction(rows)))


def _section(name: str, part: Part, rows: Sequence[Any], shown: str, stem: str) -> list[str]:
    lines = [f"## {part.title}", "", f"`{shown}`", "", *part.text(rows)]
    for plot in part.plots if stem else ():
        lines += [f"![{part.captions.get(plot, part.title)}]({_plot(stem, name, plot)}.svg)", ""]
    return lines


def _plot(stem: str, part: str, plot: str) -> str:
    return "-".join(filter(None, (stem, part, plot)))


def _row(kind: type, saved: Mapping[str, Any]) -> Any:
    if kind is dict:
        return dict(saved)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})


def publish(options: argparse.Namespace, head: str, lines: Sequence[str], rows: Any) -> None:
    """Print the lines of a table, and write them below a heading to ``--out``, with the rows as JSON beside them."""
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join([head, "", *lines, ""]))
        save(options.out.with_suffix(".json"), rows)


def save(file: Path, value: Any) -> None:
    """Write JSON; entries that are not finite are left out, since JSON has no such numbers."""

    def plain(item: Any) -> Any:
        if is_dataclass(item) and not isinstance(item, type):
            item = asdict(item)
        if isinstance(item, Mapping):
            return {k: plain(v) for k, v in item.items() if not isinstance(v, float) or math.isfinite(v)}
        return [plain(each) for each in item] if isinstance(item, list | tuple) else item

    file.write_text(json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def save_plot(file: Path, figure: Figure) -> None:
    """Write a figure as SVG, the same bytes each time."""
    from consilience.report.page import svg

    file.write_text(svg(figure, file.stem) + "\n")


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], n_labels: int = 1) -> list[str]:
    """Return a markdown table: labels to the left, numbers to the right."""
    rule = ["---"] * n_labels + ["---:"] * (len(heads) - n_labels)
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines)]


def met(fine: bool) -> str:
    """Return whether a mark is met, in words."""
    return "met" if fine else "**missed**"


def mean_with_error(values: Sequence[float], sign: str = "") -> str:
    """Return a mean, and its standard error where there are several values; nothing for NaN."""
    mean = statistics.mean(values)
    if math.isnan(mean):
        return ""
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{mean:{sign}.2f}{error}"


def shared_error(differences: NDArray[np.floating[Any]]) -> float:
    """Return the standard error of the mean of differences (p, n) of p populations on the same n samples.

    Populations and samples are both drawn, so that a mean over populations does not average out the samples' luck. With
    the mean squares of a two-way layout without replicates (Searle, Casella and McCulloch 1992, Variance Components),
    ``Var(mean) = (MS_populations + MS_samples − MS_rest) / (p n)``; of one population, only samples vary.
    """
    p, n = differences.shape
    of_samples = differences.mean(0)
    samples = p * of_samples.var(ddof=1)
    if p == 1:
        return math.sqrt(samples / n)
    of_populations = differences.mean(1)
    rest = differences - of_populations[:, None] - of_samples + differences.mean()
    rest_square = np.square(rest).sum() / ((p - 1) * (n - 1))
    return math.sqrt(max(n * of_populations.var(ddof=1) + samples - rest_square, 0) / (p * n))


def timed(work: Callable[[], Made], repeats: int = 1) -> tuple[Made, float]:
    """Return what the last repetition gives, and the median seconds of wall-clock time."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        made = work()
        seconds.append(time.perf_counter() - began)
    return made, statistics.median(seconds)


def measured(make: Callable[[], Made], limit: int = 0) -> tuple[Made, float, float]:
    """Return what is made, seconds of processor time, and megabytes of resident memory added at the peak.

    The peak is the high-water mark of resident memory (VmHWM), reset through /proc/self/clear_refs, over the resident
    memory before; NaN where the system has no such files.

    Raises
    ------
    TimeoutError
        If it takes more than ``limit`` seconds; 0 for no limit.
    """

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit)
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # memory that is free but kept would hide what is added
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    before, began = resident("VmRSS"), time.process_time()
    try:
        made = make()
    finally:
        signal.alarm(0)
    return made, time.process_time() - began, resident("VmHWM") - before


def resident(figure: str, process: int | str = "self") -> float:
    """Return a figure of a process's resident memory (VmRSS, VmHWM) in megabytes; NaN where it is not known."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(figure)), math.nan)
