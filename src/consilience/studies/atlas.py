"""The command ``atlas``: a census as one HTML file to walk in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import consilience as cs
from consilience.errors import ArtefactError, InputError
from consilience.names import Placement
from consilience.studies.motifs import Named
from consilience.studies.request import INPUT, POSITIONAL, Options, OwnNetworks, Reading
from consilience.studies.result import Result, obtained

if TYPE_CHECKING:
    from consilience.report.atlas import AtlasContents

NEAR_END = 2000  # bytes of a page, among which it says what it is


@dataclass(frozen=True, kw_only=True)
class Request(OwnNetworks, Reading, Options):
    """Write a census as one HTML file to walk in: a map of its clusters, and for each its units, what excites it, and
    what it reads and writes. The file needs no network.

    Example: consilience atlas census --out atlas.html
    """

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census."""
    out: Path = field(metadata={"role": "output"})
    """File to write, .html: new, or an earlier atlas."""
    data: str | None = field(default=None, metadata=INPUT)
    """Data that is searched for what excites clusters; by default the data that the population was trained on."""
    motifs: Path | None = field(default=None, metadata=INPUT)
    """What the command motifs has written for this census, to be shown too."""
    placement: Placement = "pca"
    """How clusters are placed by their responses: two main axes, or neighborhoods (tsne), which takes longer."""


def run(request: Request) -> Result:
    """Write the atlas and return its size, and how many clusters it has."""
    from consilience.census.storage import population_of
    from consilience.report.atlas import render_atlas
    from consilience.store import atomic_write
    from consilience.studies.motifs import read_motifs
    from consilience.studies.networks import open_census
    from consilience.studies.samples import source_of

    check_page(request.out)
    motifs = {} if request.motifs is None else read_motifs(request.motifs, request.census)
    source = source_of(population_of(request.census), request.data, request.seed, request)
    census, _ = open_census(request.census, request.module, request.key, request.output)
    contents = contents_of(census, source.load(), request.placement, request.seed, obtained(request), motifs)
    page = render_atlas(contents).encode()
    atomic_write(request.out, page)
    significant = [entry.q is not None and entry.q <= 0.05 for entry in contents.clusters]
    numbers = {"clusters": len(contents.clusters), "significant": sum(significant), "bytes": len(page)}
    text = "{clusters:,} clusters, of which {significant:,} recur beyond chance; {bytes:,} bytes".format(**numbers)
    return Result(f"{text}\natlas in {request.out}", {"out": str(request.out), **numbers})


def contents_of(
    census: cs.Census,
    data: cs.Data,
    placement: Placement,
    random_state: int,
    origin: Mapping[str, Any],
    motifs: Named,
) -> AtlasContents:
    """Return what an atlas shows of a census and the data of its population."""
    from consilience.studies.atlas_contents import atlas_contents
    from consilience.studies.progress import stages
    from consilience.studies.samples import fitted
    from consilience.studies.significance import measured_significance

    data = fitted(census.population_, data)
    with stages("atlas") as progress:
        progress("chance levels")
        significance, _ = measured_significance(census)
        progress("what excites the clusters")
        classes = [str(c) for c in range(data.n_classes or 0)] if data.task == "classification" else []
        return atlas_contents(
            census,
            data.calibration,
            title=f"What {len(census.population_)} networks learned: {data.name}",
            classes=classes,
            vocabulary=data.vocabulary,
            significance=significance,
            motifs=motifs,
            placement=placement,
            random_state=random_state,
            obtained=origin,
        )


def check_page(out: Path) -> None:
    """Raise unless an atlas can be written to a file: its name ends in .html, and it is new or an atlas."""
    from consilience.report.atlas.page import GENERATOR

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out must be a file that ends in .html, got {out}", cure=f"pass --out {out}.html")
    if out.is_dir():
        raise ArtefactError(f"--out must be a file, got the directory {out}", cure="choose another --out")
    if out.is_file():
        with out.open("rb") as file:
            head = file.read(NEAR_END)
        if f'content="{GENERATOR}"'.encode() not in head:
            cure = "choose another --out, or delete that file"
            raise ArtefactError(f"--out must be new or an earlier atlas, got the file {out}", cure=cure)
