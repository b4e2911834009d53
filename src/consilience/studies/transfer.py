"""The command ``transfer``: what networks of several tasks have in common, and whether it helps with a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from consilience.checks import LARGEST, check_count, check_number
from consilience.errors import InputError
from consilience.studies.request import INPUT, POSITIONAL, InputShape, Options, Output, OwnNetworks, Reading, argument
from consilience.studies.result import Result, obtained, run_paged

if TYPE_CHECKING:
    from consilience.report.transfer import TransferResult

KIND, FILE = "transfer", "transfer.json"


@dataclass(frozen=True, kw_only=True)
class Request(InputShape, OwnNetworks, Reading, Options, Output):
    """Find the clusters that networks of several tasks on the same inputs have in common, and those of one task. With
    --labels or --target of a task that is new, also measure how well linear readouts of such clusters learn it from a
    few labels, beside those of single networks. Writes transfer.json and report.html.

    Example: consilience transfer class parity above-four --labels loops --out transfer
    """

    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DIR DIR [DIR ...]")] = field(
        metadata=POSITIONAL
    )
    """Populations, or folders of checkpoints: one for each task, which is named after it."""
    share: float = 0.5
    """Share of the members of each task that must own a cluster for it to be invariant."""
    rows: tuple[int, ...] = field(default=(1, 10, 100), metadata=argument("n_labels"))
    """Labels of each class of the new task that readouts are fitted to."""
    draws: int = field(default=10, metadata=argument("n_draws"))
    """Random choices of these labels."""
    data: str | None = field(default=None, metadata=INPUT)
    """Data whose inputs are clustered, with labels of the new task; by default that of the first population."""


def run(request: Request) -> Result:
    """Return clusters by task and layer, and how well trunks of them learn the new task."""
    from consilience.report.transfer import TransferResult, render_transfer
    from consilience.store import check_destination
    from consilience.studies.networks import names_of, open_networks, parse_shape
    from consilience.studies.progress import stages
    from consilience.studies.samples import unseen_samples, unseen_source
    from consilience.transfer import Transfer, compare_trunks

    check_destination(request.out, KIND)
    check_number("share", request.share, least=0, most=1)
    check_count("n_draws", request.draws, least=2)
    if not request.rows:
        raise InputError("--rows must be at least one number, got none")
    for number in request.rows:
        check_count("n_labels", number)
    names, seed, shape = names_of(request.sources, "transfer"), request.seed, parse_shape(request.example_shape)
    if len(names) < 2:
        raise InputError(f"transfer must be given the populations of two tasks or more, got {names[0]}")
    populations = {
        name: open_networks(path, request.module, shape, seed, request.key, request.output)
        for name, path in zip(names, request.sources, strict=True)
    }
    source = unseen_source(request.sources, request.data, seed, request)
    new_task = request.labels or " ".join(request.target)

    def make() -> tuple[str, str]:
        data, trials = source.load(), []
        with stages(f"census of networks for {len(names)} tasks") as progress:
            transfer = Transfer(request.share, random_state=seed).fit(populations, data.calibration.x)
            if new_task:
                progress(f"readouts for {new_task}")
                test = unseen_samples(request.sources, source, seed, LARGEST)
                trials = compare_trunks(
                    transfer, data.train, test, request.rows, n_draws=request.draws, random_state=seed
                )
        result = TransferResult(
            n_members={name: len(population) for name, population in populations.items()},
            layers=transfer.layers_,
            share=request.share,
            new_task=new_task,
            trials=trials,
            obtained=obtained(request),
        )
        return _text(result), render_transfer(result)

    fingerprints = {name: population.fingerprint[:16] for name, population in populations.items()}
    return run_paged(request, KIND, FILE, {"networks": fingerprints, **source.entries(request.data)}, make)


def _text(result: TransferResult) -> str:
    """Return the text of ``transfer.json``."""
    from consilience.report.transfer import transfer_sentences, transfer_table, trunks_table
    from consilience.store.codec import result_text

    table = transfer_table(result).markdown()
    if result.trials:
        table += "\n" + trunks_table(result).markdown()
    layers = {name: {**vars(layer), "specific": layer.specific} for name, layer in result.layers.items()}
    body = {"summary": transfer_sentences(result), "table": table, "layers": layers}
    names = ("n_members", "share", "new_task", "trials")
    return result_text(body | {name: getattr(result, name) for name in names}, FILE)
