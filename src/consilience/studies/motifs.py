"""The command ``motifs``: which patterns over several layers recur in a population?"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from consilience.checks import check_count
from consilience.errors import ArtefactError
from consilience.studies.request import INPUT, POSITIONAL, Options, Output, OwnNetworks, Reading, argument
from consilience.studies.result import Result, digest_of, obtained, run_paged

if TYPE_CHECKING:
    from consilience.report.motifs import MotifsResult

KIND, FILE = "motifs", "motifs.json"
Named = dict[str, list[tuple[str, int]]]  # name of a motif → its clusters, as layer and number


@dataclass(frozen=True, kw_only=True)
class Request(OwnNetworks, Reading, Options, Output):
    """Find patterns of clusters over several layers that recur in a population, and what members lose without them.
    Writes motifs.json and report.html.

    Example: consilience motifs census --out motifs
    """

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census, of distance activation."""
    level: float = 0.05
    """False discovery rate of the edges that recur."""
    permutations: int = field(default=20, metadata=argument("n_permutations"))
    """Populations with permuted units that give the null distribution."""
    resamples: int = field(default=20, metadata=argument("n_resamples"))
    """Resamples of the members for the stability of motifs; 0 for none."""
    random_sets: int = field(default=20, metadata=argument("n_random"))
    """Random sets of units beside which the loss without a motif is shown; 0 for no ablation."""
    data: str | None = field(default=None, metadata=INPUT)
    """Labeled data for the ablation; by default the data that the population was trained on."""


def run(request: Request) -> Result:
    """Return the motifs, and what members lose without them."""
    from consilience.census.storage import population_of
    from consilience.motifs import Motifs, ablate
    from consilience.report.motifs import MotifsResult, render_motifs
    from consilience.store import check_destination
    from consilience.studies.networks import open_census
    from consilience.studies.progress import stages
    from consilience.studies.samples import source_of

    check_destination(request.out, KIND)
    if request.random_sets:
        check_count("n_random", request.random_sets, least=2)
    source = (
        source_of(population_of(request.census), request.data, request.seed, request) if request.random_sets else None
    )

    def make() -> tuple[str, str]:
        census, _ = open_census(request.census, request.module, request.key, request.output)
        search = Motifs(request.level, request.permutations, request.resamples, request.seed)
        search.check(census)
        data = None if source is None else source.load()
        with stages(f"motifs of {len(census.population_)} networks") as progress:
            search.fit(census)
            ablations = []
            if data is not None and data.task == "classification":
                progress("what members lose without them")
                seed, n_random = request.seed, request.random_sets
                ablations = ablate(search.motifs_, census, data.test, n_random=n_random, random_state=seed)
        result = MotifsResult(
            n_members=len(census.population_),
            layers={name: layer.n_clusters_ for name, layer in census.layers_.items()},
            n_tested=len(search.edges_),
            recurring=search.recurring_,
            motifs=search.motifs_,
            ablations=ablations,
            untested=search.untested_,
            level=request.level,
            obtained=obtained(request),
        )
        return _text(result), render_motifs(result)

    inputs = {"census": digest_of(request.census), "data": None}
    return run_paged(request, KIND, FILE, inputs | ({} if source is None else source.entries(request.data)), make)


def read_motifs(directory: Path, census: Path) -> Named:
    """Return the motifs that are not halves of others, in the result of this command for a census.

    Raises
    ------
    ArtefactError : if there is no such result, it is damaged, or it was made for another census.
    """
    from consilience.store import read_artefact, read_config

    read_artefact(directory, KIND)
    request = read_config(directory).get("request")
    if not isinstance(request, dict) or request.get("census") != digest_of(census):
        message = f"--motifs must be the motifs of {census}, got those of another census in {directory}"
        raise ArtefactError(message, cure=f"consilience motifs {census} --out {directory}")
    try:
        found = json.loads((directory / FILE).read_bytes())["motifs"]
        whole = [motif for motif in found if motif["parent"] is None]
        return {
            f"motif {motif['number']}": [(layer, c) for layer, numbers in motif["clusters"].items() for c in numbers]
            for motif in whole
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{directory / FILE} must have motifs, got {error}", cure="make it again") from error


def _text(result: MotifsResult) -> str:
    """Return the text of ``motifs.json``; numbers that are not finite are null."""
    from consilience.report.motifs import motifs_sentences, motifs_table
    from consilience.store.codec import result_text

    body = {"summary": motifs_sentences(result), "table": motifs_table(result).markdown()}
    names = ("n_members", "layers", "n_tested", "recurring", "motifs", "ablations", "untested", "level")
    return result_text(body | {name: getattr(result, name) for name in names}, FILE)
