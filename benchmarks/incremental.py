"""Adding members to a census one by one, against a fresh census each time: seconds, agreement, accuracy.

    OMP_NUM_THREADS=1 python benchmarks/incremental.py [--data FILE.npz] [--from 8] [--to 16]

Members are those of ``consilience demo`` on scikit-learn's digits; with ``--data``, 784-64-32-10 after 3 epochs. The
seconds of an extension hold the proof of the new member, those of a fresh census none; both measure no stability.
Agreement is the adjusted Rand index with the fresh census of N members, at 1x, 2x and 4x of the median width:

- *one step*: of the fresh census of N − 1 members, extended by one;
- *chain*: of the census of the first members, extended one by one up to N;
- *fresh*: of the fresh census of N − 1 members, on their units: how much one member moves a fresh census.
"""

from __future__ import annotations

import statistics

import torch
from harness import arguments, parse, timed
from sklearn.metrics import adjusted_rand_score

import consilience as cs
from consilience.baselines import Ensemble
from consilience.census import Census, LayerCensus, extend_census
from consilience.studies import demo

MULTIPLES = (1, 2, 4)


def agreement(first: Census, second: Census) -> dict[str, list[float]]:
    """Adjusted Rand index by layer, at each multiple, on the units that both have."""

    def index(name: str, multiple: int) -> float:
        k = multiple * second.population_.median_width(name)
        labels = [layer.at(min(k, layer.clustering.n_leaves)).labels for layer in layers(name)]
        shorter = min(map(len, labels))
        return float(adjusted_rand_score(*(each[:shorter] for each in labels)))

    def layers(name: str) -> list[LayerCensus]:
        return [first.layers_[name], second.layers_[name]]

    return {name: [index(name, multiple) for multiple in MULTIPLES] for name in second.layers_}


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--from", type=int, default=8, dest="first")
    parser.add_argument("--to", type=int, default=16, dest="last")
    parser.add_argument("--distance", default="activation")
    parser.add_argument("--clusterer", default="ward")
    options = parse(parser)
    if options.quick:
        options.first, options.last = 2, 4
    if options.data:
        data, hidden, training = cs.load_data(options.data), (64, 32), cs.Training(epochs=3, learning_rate=3e-3)
    else:
        data, hidden = cs.load_data("digits", random_state=0), demo.HIDDEN
        epochs = 2 if options.quick else demo.EPOCHS
        training = cs.Training(epochs=epochs, batch_size=demo.BATCH_SIZE, learning_rate=demo.LEARNING_RATE)
    net = cs.MLP(data.train.x[0].numel(), hidden, 10)
    everyone = cs.train_population(net, data.train, options.last, training=training, random_state=0)
    x = data.calibration.x

    def fresh_census(n: int) -> Census:
        members = cs.Population(everyone.members[:n], everyone.example_input)
        settings = {"distance": options.distance, "clusterer": options.clusterer}
        return cs.Census(**settings, n_resamples=0).fit(members, x)

    def percent(network: torch.nn.Module) -> float:
        return 100 * cs.evaluate(network, data.test).accuracy

    chain = fresh = fresh_census(options.first)
    seconds: list[tuple[float, float]] = []
    agreements = []
    print(f"{'':>4}{'seconds':>18}{'test accuracy of the 2x assembly, %':>40}")
    print(f"{'N':>4}{'extended':>10}{'fresh':>8}{'extended':>18}{'fresh':>10}{'ensemble':>12}")
    for n in range(options.first + 1, options.last + 1):
        module, previous, before = everyone.members[n - 1].module, fresh, chain
        fresh, took_fresh = timed(lambda n=n: fresh_census(n))
        chain, took = timed(lambda module=module, before=before: extend_census(before, [module]))
        agreements.append([agreement(c, fresh) for c in (extend_census(previous, [module]), chain, previous)])
        seconds.append((took, took_fresh))
        scores = [percent(cs.assemble(c, "2x")) for c in (chain, fresh)]
        scores.append(percent(Ensemble(fresh.population_)))
        print(f"{n:>4}{took:>10.2f}{took_fresh:>8.2f}{scores[0]:>18.2f}{scores[1]:>10.2f}{scores[2]:>12.2f}")
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    print(f"{'':>4}{medians[0]:>10.2f}{medians[1]:>8.2f}   (median)\n")
    print(f"agreement, mean over N{'':<14}" + "".join(f"{m}x".rjust(8) for m in MULTIPLES))
    for name in fresh.layers_:
        for row, kind in enumerate(("one step", "chain", "fresh")):
            columns = zip(*(each[row][name] for each in agreements), strict=True)
            print(f"{name:<16}{kind:<20}" + "".join(f"{statistics.mean(column):>8.3f}" for column in columns))
        last = agreements[-1][1][name]
        print(f"{name:<16}{f'chain, N = {options.last}':<20}" + "".join(f"{value:>8.3f}" for value in last))


if __name__ == "__main__":
    main()
