"""The command ``demo``: train, census, assemble, report and atlas of scikit-learn's digits; nothing is read twice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from consilience.studies import assemble, atlas, census, report, train
from consilience.studies.request import OUTPUT, Options, identity
from consilience.studies.result import Result, obtained

# The demo's members: as small as digits allow, so that there is something to gain from a larger network.
HIDDEN, MEMBERS, EPOCHS, BATCH_SIZE, LEARNING_RATE = (32, 32), 16, 40, 64, 3e-3


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """Run train, census, assemble, report and atlas on scikit-learn's digits. Takes less than a minute.

    Example: consilience demo
    """

    out: Path = field(default=Path("demo"), metadata=OUTPUT)
    """Directory to write: population/, census/, network/, report/ and atlas.html."""


def run(request: Request) -> Result:
    """Return what ``report`` prints, and where the atlas is; every step that is finished is read instead of run."""
    from consilience.report.atlas import render_atlas
    from consilience.store import atomic_write

    out, seed = request.out, request.seed
    training = train.Request(
        out=out / "population",
        seed=seed,
        hidden=HIDDEN,
        members=MEMBERS,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
    )
    population, data = train.load_or_train(training)
    clustering = census.Request(out=out / "census", seed=seed, population=training.out)
    fitted = census.load_or_fit(clustering, population, data.calibration.x, {})
    assemble.load_or_build(assemble.Request(out=out / "network", seed=seed, census=clustering.out), fitted)
    reporting = report.Request(out=out / "report", seed=seed, census=clustering.out)
    inputs = fitted, data, identity(training, data=training.data)
    result = report.load_or_compare(reporting, lambda: inputs, obtained(request), {"data": None})
    page = out / "atlas.html"
    if not page.is_file():
        contents = atlas.contents_of(fitted, data, "pca", seed, obtained(request), {})
        atomic_write(page, render_atlas(contents).encode())
    return replace(result, text=f"{result.text}\natlas in {page}")
