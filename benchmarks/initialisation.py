"""As an initialisation: the fine-tuned assembly against a fresh network, Net2Wider and transplantation.

    python benchmarks/initialisation.py --data FILE.npz [--cache DIR] [--seeds 3] [--out docs/results/initialisation.md]

- Population A of `populations.py`, one for each seed. Contestants have twice its widths and see the same batches.
- Each is tried at several rates of Adam, constant or with the last epochs (1 of 5, 5 of many) at a tenth: members are
  trained at 3e-3, so that a warm start at less is such a change, too. The best on validation counts, every time.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections import defaultdict, namedtuple
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from harness import arguments, command, measured, parse, save
from harness import mean_with_error as shown
from populations import CACHE, RECIPES, obtain
from safetensors.torch import load_file
from torch import nn

import consilience as cs
from consilience.baselines import Ensemble, best_member, net2wider, transplantation
from consilience.training import Run, fit_members
from consilience.training.fresh import initialise

TUNED = 5  # epochs of fine-tuning the assembly, and of everything at equal steps
STEPS = (0, 1, 2, TUNED)  # epochs at which contestants are compared at equal steps
SCRATCH, CONSTANT, WIDER, PLAIN = "from scratch", "from scratch, constant", "Net2Wider", "Net2Wider without noise"
TRANSPLANT, LEAST, SECOND = "transplantation", "assembly, least-squares", "assembly, second-order"
MEAN, BEST, ENSEMBLE = "mean member", "best member on validation", "ensemble of the members"
Row = namedtuple("Row", "method rate epochs compute seconds validation test")  # accuracies in %, by seed


def score(network: nn.Module, data: cs.Data) -> tuple[float, float]:
    return 100 * cs.evaluate(network, data.validation).accuracy, 100 * cs.evaluate(network, data.test).accuracy


def train(starts: dict[str, nn.Module], data: cs.Data, rate: float, epochs: int, seed: int):
    """Curves (scores before, and after each epoch) by name, and networks by (name, epoch), read out of checkpoints."""
    curves, networks = {name: [score(start, data)] for name, start in starts.items()}, {}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "training.safetensors"

        def look(done: int, total: int) -> None:
            if file.exists():
                stacked = {key.split("parameter.")[1]: v for key, v in load_file(file).items() if "/parameter." in key}
                file.unlink()
                for k, (name, start) in enumerate(starts.items()):
                    network = initialise(start, 0)
                    network.load_state_dict({key: value[k] for key, value in stacked.items()})
                    networks[name, len(curves[name])] = network
                    curves[name].append(score(network, data))

        print(f"seed {seed}: {epochs} epochs at {rate:g} of {'; '.join(starts)}", flush=True)
        training, x, y = cs.Training(epochs=epochs, learning_rate=rate, shuffle="shared"), data.train.x, data.train.y
        run = Run(training, seed)
        fit_members(list(starts.values()), x, y, run, checkpoint=file.parent, checkpoint_every=0, progress=look)
    return curves, networks


def one_seed(data: cs.Data, population: cs.Population, seed: int, long: int, wider: int) -> dict[str, dict]:
    """Curves by method and rate; scores of the references; seconds to build each start."""
    best = [member.module for member in population].index(best_member(population, data.validation))
    census, built, seconds = cs.Census(n_resamples=0), {}, {}
    for name, make in {
        "census": lambda: census.fit(population, data.calibration.x),
        LEAST: lambda: cs.assemble(census, "2x", correction="least-squares"),
        SECOND: lambda: cs.assemble(census, "2x", correction="second-order"),
        TRANSPLANT: lambda: transplantation(population, "2x"),
        WIDER: lambda: net2wider(population, "2x", member=best, noise=0.02, random_state=seed),
        PLAIN: lambda: net2wider(population, "2x", member=best, random_state=seed),
        SCRATCH: lambda: initialise(built[LEAST], seed),
    }.items():
        built[name], seconds[name] = measured(make)[:2]
        seconds[name] += seconds["census"] if name in (LEAST, SECOND) else 0.0
    curves, networks, warm = defaultdict(dict), {}, [TRANSPLANT, LEAST, SECOND]
    # At 3e-4 a fresh network stays behind: 95.7 % on validation after 5 epochs, at best 97.6 % within 23 (seed 0).
    for rate, epochs, names in (
        (3e-3, long, [SCRATCH]), (1e-3, long, [SCRATCH]), (1e-3, wider, [WIDER]), (3e-4, wider, [WIDER]),
        (3e-3, TUNED, [WIDER, *warm]), (1e-3, TUNED, warm), (3e-4, TUNED, [PLAIN, *warm]),
        (1e-4, TUNED, [WIDER, PLAIN, *warm]),
    ):  # fmt: skip
        found, kept = train({name: built[name] for name in names}, data, rate, epochs, seed)
        for name in names:
            curves[name][f"{rate:g}"] = found[name]
        networks |= {(rate, *key): network for key, network in kept.items()}
    curves[CONSTANT] = dict(curves[SCRATCH])
    for total, last, names in ((TUNED, 1, list(built)), (long, TUNED, [SCRATCH]), (wider, TUNED, [WIDER])):
        for rate in (3e-3, 1e-3, 3e-4):
            halfway = {name: networks[key] for name in names if (key := (rate, name, total - last)) in networks}
            if halfway:
                for name, curve in train(halfway, data, rate / 10, last, seed)[0].items():
                    before = curves[name][f"{rate:g}"][: total - last]
                    curves[name][f"{rate:g}, last {last} at {rate / 10:g}"] = before + curve
    members = [score(member.module, data) for member in population]
    scores = {MEAN: tuple(map(statistics.mean, zip(*members, strict=True))), BEST: members[best]}
    return {"curves": curves, "scores": scores | {ENSEMBLE: score(Ensemble(population), data)}, "seconds": seconds}


class Ledger(NamedTuple):
    """What was found by seed, and what it cost."""

    found: list[dict[str, dict]]
    n: int  # members
    ratio: float  # a member's training in epochs of a contestant
    epoch: float  # seconds of an epoch of a contestant
    member: float  # seconds of a member's training

    def row(self, method: str, members: int, epochs: int, stopped: bool = True) -> Row:
        """A method after some epochs, or, ``stopped``, at the best epoch on validation until then."""
        own = statistics.mean(seed["seconds"].get(method, 0.0) for seed in self.found) + epochs * self.epoch
        spent = epochs, members + epochs / self.ratio, members * self.member + own
        if method in self.found[0]["scores"]:
            return Row(method, "", *spent, *zip(*(seed["scores"][method] for seed in self.found), strict=True))
        candidates = []
        for rate, curve in self.found[0]["curves"][method].items():
            if len(curve) == epochs + 1 or (len(curve) > epochs and "last" not in rate):
                parts = [seed["curves"][method][rate][: epochs + 1] for seed in self.found]
                points = [max(part, key=lambda point: point[0]) if stopped else part[-1] for part in parts]
                candidates.append(Row(method, rate if epochs else "", *spent, *zip(*points, strict=True)))
        return max(candidates, key=lambda row: statistics.mean(row.validation))

    def after(self, epochs: int) -> dict[str, Row]:
        """All contestants at equal steps."""
        names = (CONSTANT, SCRATCH, WIDER, PLAIN, TRANSPLANT, LEAST, SECOND)
        return {name: self.row(name, 0, epochs, stopped=False) for name in names}


def versus(ours: Row, other: Row) -> str:
    """How two methods compare, seed by seed; a difference counts beyond two standard errors on both parts."""
    gaps = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(ours[-2:], other[-2:], strict=True)]
    ratios = [statistics.mean(gap) / (statistics.stdev(gap) / math.sqrt(len(gap)) + 1e-9) for gap in gaps]
    verdict = "ahead of" if min(ratios) > 2 else "behind" if max(ratios) < -2 else "within noise of"
    return f"{verdict} {other.method} ({shown(gaps[1], '+')} / {shown(gaps[0], '+')})"


def report(book: Ledger) -> tuple[list[str], list[dict]]:
    """Two tables and what they say, for and against; and the rows of the second."""
    lines = [f"| equal steps, epochs: | {' | '.join(map(str, STEPS))} |", "| --- |" + " ---: |" * len(STEPS)]
    for name in book.after(TUNED):
        rows = [book.after(n)[name] for n in STEPS]
        cells = [f"{shown(row.test)} / {shown(row.validation)}{row.rate and f' ({row.rate})'}" for row in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| all paid | rate | epochs | compute | seconds | test | validation |", "| --- |" + " ---: |" * 6]
    n, long, wider = book.n, len(book.found[0]["curves"][CONSTANT]["0.003"]) - 1, int((book.n - 1) * book.ratio + TUNED)
    entries = [(MEAN, 1, 0), (BEST, n, 0), (ENSEMBLE, n, 0), (WIDER, 1, TUNED), (WIDER, 1, wider),
               *((name, 0, epochs) for epochs in (TUNED, long) for name in (CONSTANT, SCRATCH)),
               *((name, n, epochs) for epochs in (0, TUNED) for name in (TRANSPLANT, LEAST, SECOND))]  # fmt: skip
    rows = {entry: book.row(*entry) for entry in entries}
    for row in sorted(rows.values(), key=lambda row: row.compute):
        cells = f"{row.epochs} | {row.compute:.1f} | {row.seconds:.0f} | {shown(row.test)} | {shown(row.validation)}"
        lines.append(f"| {row.method} | {row.rate} | {cells} |")
    best = max((LEAST, SECOND), key=lambda name: statistics.mean(rows[name, n, TUNED].validation))
    built, early, late, ours = *(book.after(epochs) for epochs in (0, 1, TUNED)), rows[best, n, TUNED]
    names = (CONSTANT, SCRATCH, WIDER, TRANSPLANT)
    paid = [versus(ours, rows[entry]) for entry in ((CONSTANT, 0, long), (SCRATCH, 0, long), (WIDER, 1, wider))]
    cheap = [versus(ours, rows[entry]) for entry in ((SCRATCH, 0, TUNED), (WIDER, 1, TUNED), (ENSEMBLE, n, 0))]
    lines += ["", *(f"- {sentence}." for sentence in (
        f"Population for free, 1 epoch: {best} is {'; '.join(versus(early[best], early[o]) for o in names[1:])}",
        f"Population for free, {TUNED} epochs: {'; '.join(versus(late[best], late[o]) for o in names)}",
        f"Population paid, equal compute: {'; '.join(paid)}. A population trained for this alone "
        + ("pays" if all("ahead" in each for each in paid) else "does not pay" if any("behind" in each for each in paid)
           else "is not shown to pay: not all rivals are beaten"),
        f"Against what costs a fraction, and the ensemble: {'; '.join(cheap)}",
        f"As built, second order is {versus(built[SECOND], built[LEAST])}; after {TUNED} epochs "
        f"{versus(late[SECOND], late[LEAST])}. After 1 epoch Net2Wider is {versus(early[WIDER], early[PLAIN])}",
    ))]  # fmt: skip
    return lines, [row._asdict() for row in rows.values()]


def main() -> None:
    parser = arguments(__doc__, data=True, seeds=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    options = parse(parser)
    found, epochs = [], 1 if options.quick else RECIPES["A"].training.epochs
    for seed in range(options.seeds):
        data = cs.load_data(options.data, random_state=seed)
        if options.quick:
            data = replace(data, train=data.train.take(torch.arange(min(150, len(data.train)))))
        population = obtain("A", data, seed, options.cache, options.quick)
        modules, wide = [member.module for member in population], transplantation(population, "2x")
        small, large = (sum(parameter.numel() for parameter in net.parameters()) for net in (modules[0], wide))
        n, ratio = len(modules), epochs * small / large
        found.append(one_seed(data, population, seed, int(n * ratio + TUNED), int((n - 1) * ratio + TUNED)))
    x, y, once = data.train.x, data.train.y, cs.Training(epochs=1)
    epoch, all_members = (
        measured(lambda nets=nets: fit_members(nets, x, y, Run(once)))[1] for nets in ([wide], modules)
    )
    lines, rows = report(Ledger(found, n, ratio, epoch, epochs * all_members / n))
    header = f"""# Initialisation: the fine-tuned assembly and its rivals

`{command(parser, options)}`: accuracy in % on test / validation, mean ± standard
error, {options.seeds} populations of {n}; {small:,} parameters a member, {large:,} a contestant. Rates: best on
validation. Compute: multiply-adds over one member's; seconds of one thread, with the census. Net2Wider pays one member,
though the best was picked. All paid: stopped at the best epoch on validation. Ahead, behind: by 2 s.e. or more on both.
"""
    print(*lines, sep="\n")
    if options.out:
        options.out.write_text("\n".join([header, *lines, ""]))
        save(options.out.with_suffix(".json"), {"rows": rows, "seeds": found})


if __name__ == "__main__":
    main()
