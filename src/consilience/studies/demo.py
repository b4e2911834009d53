"""The command ``demo``: train, census, assemble and report on scikit-learn's digits, without reading anything twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from consilience.studies import assemble, census, report, train
from consilience.studies.request import OUTPUT, Options, identity
from consilience.studies.result import Result, obtained

# The demo's members: as small as digits allow, so that there is something to gain from a larger network.
HIDDEN, MEMBERS, EPOCHS, BATCH_SIZE, LEARNING_RATE = (32, 32), 16, 40, 64, 3e-3


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """Run train, census, assemble and report on scikit-learn's digits. Takes less than a minute.

    Example: consilience demo
    """

    out: Path = field(default=Path("demo"), metadata=OUTPUT)
    """Directory to write: population/, census/, network/ and report/."""


def run(request: Request) -> Result:
    """Return what ``report`` prints; every step that is finished is read instead of run."""
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
    return report.load_or_compare(reporting, lambda: inputs, obtained(request), {"data": None})
