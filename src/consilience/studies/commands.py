"""The recipes behind the commands. Each validates everything first, skips what is finished, and writes one artefact.

What a command was asked to do is kept in the artefact's ``config.json`` as its ``request``: a rerun with the same
request finds its result there; one with another request is refused rather than written over it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import RichCast
from torch import nn

from consilience.assembly import assemble as build_assembly
from consilience.baselines import Ensemble
from consilience.census import Census, load_census, save_census
from consilience.data import Data, Dataset, load_data
from consilience.errors import ArtefactError, InputError
from consilience.evaluation import evaluate, mean_score
from consilience.nets import MLP, ConvNet, ResNet
from consilience.population import load_population, save_population
from consilience.population.storage import fill, population_fingerprint
from consilience.recovery import ExpandAndCluster
from consilience.report import markdown_table, render_page, summary_sentences
from consilience.report.comparison import render_comparison
from consilience.report.modularity import render_modularity
from consilience.report.results import FILE_NAME, Experiment
from consilience.store import check_destination, fingerprint, read_artefact, read_config, save_network, write_artefact
from consilience.store.config import CONFIG, versions
from consilience.store.network import FOREIGN, describe_network
from consilience.studies.comparison_result import FOUND as COMPARISON_FILE
from consilience.studies.comparison_result import KIND as COMPARISON
from consilience.studies.comparison_result import Settings as ComparisonSettings
from consilience.studies.comparison_result import found_text as comparison_text
from consilience.studies.comparison_result import run_comparison
from consilience.studies.experiment import run_experiment
from consilience.studies.inspection import inspect_source, open_networks, open_population
from consilience.studies.modularity_result import FOUND as MODULARITY_FILE
from consilience.studies.modularity_result import KIND as MODULARITY
from consilience.studies.modularity_result import Settings as ModularitySettings
from consilience.studies.modularity_result import found_text as modularity_text
from consilience.studies.modularity_result import run_modularity
from consilience.studies.progress import bar, stages
from consilience.studies.recovery_result import KIND as RECOVERY
from consilience.studies.recovery_result import NETWORK, earlier_recovery, read_sought, run_recovery
from consilience.training import Training, train_population
from consilience.training.resume import delete_checkpoint

if TYPE_CHECKING:
    from consilience import cli

PAGE = "report.html"

# The demo's members: as small as digits allow, so that there is something to gain from a larger network.
DEMO_HIDDEN, DEMO_MEMBERS, DEMO_EPOCHS, DEMO_BATCH_SIZE, DEMO_LEARNING_RATE = (32, 32), 16, 40, 64, 3e-3


@dataclass(frozen=True)
class Result:
    """What a command prints: text for people (on a terminal a table, if there is one), or a JSON-able object.

    ``status`` is what the command ends with: 0 for success.
    """

    text: str
    as_json: dict[str, Any]
    table: RichCast | None = None
    status: int = 0


def train(flags: cli.Train) -> Result:
    """Train a population and save it; a killed run goes on from its last checkpoint."""
    request = _request(flags)
    if not flags.checkpoint_epochs:  # as before there were any
        del request["checkpoint_epochs"]
    checkpoint = flags.out.resolve().parent / f".{flags.out.resolve().name}.checkpoint"
    if not _finished(flags.out, "population", request):
        data = load_data(flags.data, random_state=flags.seed)
        net = _net(flags, data)
        training = Training(
            flags.epochs, flags.batch_size, flags.optimizer, flags.learning_rate, flags.momentum, flags.weight_decay,
            flags.shuffle, flags.subset, flags.concentration,
        )  # fmt: skip
        with bar(f"training {flags.members} members") as progress:
            population = train_population(
                net, data.train, flags.members, training=training, validation=data.validation, random_state=flags.seed,
                checkpoint=checkpoint, progress=progress, checkpoint_epochs=flags.checkpoint_epochs,
            )  # fmt: skip
        save_population(population, flags.out, {"request": request})
    delete_checkpoint(checkpoint)
    population = load_population(flags.out)
    data = load_data(flags.data, random_state=flags.seed)
    score = mean_score([evaluate(member.module, data.validation) for member in population])
    failed = "".join(f"\n  member {k} failed: {why}" for k, why in population.failed.items())
    return Result(
        f"{len(population)} members in {flags.out}: "
        f"validation accuracy {100 * score.accuracy:.2f} % on average{failed}",
        {
            "out": str(flags.out),
            "n_members": len(population),
            "validation_accuracy": score.accuracy,
            "failed": {str(k): why for k, why in population.failed.items()},
        },
    )


def census(flags: cli.Census) -> Result:
    """Take a census of a saved population and save it."""
    check_destination(flags.out, "census")
    needs_data = flags.data is not None or "activation" in (flags.grounding.rstrip("s"), flags.distance)
    x = _data_of(flags.population, flags.data, flags.seed).calibration.x if needs_data else None
    shape = _shape(flags.example_shape) or (None if x is None else x.shape[1:])
    population = open_population(flags.population, flags.module, shape, random_state=flags.seed)
    request = {**_request(flags), "population": population_fingerprint(population)[:16]}
    if not _finished(flags.out, "census", request):
        n_clusters: int | str = int(flags.n_clusters) if flags.n_clusters.isdecimal() else flags.n_clusters
        taken = Census(flags.grounding, flags.distance, flags.clusterer, n_clusters, flags.resamples, flags.seed)
        with stages(f"census of {len(population)} members"):
            taken.fit(population, x)
        example_shape = tuple(population.example_input.shape[1:])
        save_census(taken, flags.out, flags.population, {"request": request, "example_shape": example_shape})
    layers = load_census(flags.out, population).layers_
    left_out = population.provenance.get("left_out", {})
    longest = max(14, *map(len, layers)) + 2
    lines = [f"{'layer':<{longest}}{'units':>7}{'dead':>6}{'clusters':>10}{'in half the members':>21}{'stability':>11}"]
    for name, layer in layers.items():
        common = int((layer.frequency_ >= 0.5).sum())
        lines.append(
            f"{name:<{longest}}{len(layer.member):>7}{layer.n_dead_:>6}{layer.n_clusters_:>10}{common:>21}"
            f"{_mean(layer.stability_):>11.2f}"
        )
    as_json = {
        name: {"n_units": len(layer.member), "n_dead": layer.n_dead_, "frequency": layer.frequency_.tolist(),
               "size": layer.size_.tolist(), "stability": [None if s != s else s for s in layer.stability_.tolist()]}
        for name, layer in layers.items()
    }  # fmt: skip
    lines += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    return Result(
        "\n".join([f"census in {flags.out}", *lines]), {"out": str(flags.out), "layers": as_json, "left_out": left_out}
    )


def assemble(flags: cli.Assemble) -> Result:
    """Build one network from a saved census and save it as a Hugging-Face-style directory."""
    request = {**_request(flags), "census": _identity(flags.census)}
    finished = _finished(flags.out, "network", request)
    taken, population = _open_census(flags.census, flags.module)
    shape = tuple(taken.population_.example_input.shape[1:])
    if not finished:
        width: int | str = int(flags.width) if flags.width.isdecimal() else flags.width
        with stages(f"assembling at width {flags.width}"):
            network = build_assembly(
                taken, width, correction=flags.correction, pooling=flags.pooling, random_state=flags.seed
            )
        save_network(network, flags.out, {"request": request, "example_shape": shape})
    template, tensors = taken.population_.members[0], read_artefact(flags.out, "network").tensors
    network = fill(template.module, template.network.architecture, tensors, flags.out)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"network in {flags.out}: {parameters} parameters"]
    as_json: dict[str, Any] = {"out": str(flags.out), "parameters": parameters}
    if describe_network(network)["type"] == FOREIGN:
        as_json["load"] = (
            f'consilience.Population.from_directory("{flags.out}", "{flags.module}", torch.randn(1, '
            f"{', '.join(map(str, shape))})).members[0].module"
        )
        lines.append(f"to load it: {as_json['load']}")
    if "data" in _request_of(population):
        data = _data_of(population, None, flags.seed)
        for name, scored in (("assembly", network), ("ensemble of the members", Ensemble(taken.population_))):
            score = evaluate(scored, data.validation)
            lines.append(
                f"  {name:<24} validation accuracy {100 * score.accuracy:.2f} ± {100 * score.accuracy_se:.2f} %"
            )
            as_json[f"{name.split()[0]}_validation_accuracy"] = score.accuracy
    return Result("\n".join(lines), as_json)


def report(flags: cli.Report, command: str | None = None) -> Result:
    """Compare a saved census's assemblies with their alternatives, and write the report."""
    request = {**_request(flags), "census": _identity(flags.census)}
    if not _finished(flags.out, "report", request):
        taken, population = _open_census(flags.census, flags.module)
        data = _data_of(population, flags.data, flags.seed)
        words = ["consilience", "report", str(flags.census), "--out", str(flags.out)]
        for name in ("data", "module"):
            words += [] if getattr(flags, name) is None else [f"--{name}", getattr(flags, name)]
        obtained = {
            "command": command or shlex.join(words),
            "seed": flags.seed, "versions": read_config(flags.census)["versions"],
            "training of the members": _request_of(population),
        }  # fmt: skip
        with stages("comparing") as progress:
            experiment = run_experiment(taken, data, random_state=flags.seed, obtained=obtained, progress=progress)
        files = {FILE_NAME: experiment.to_json(), PAGE: render_page(experiment)}
        write_artefact(flags.out, "report", {"request": request}, {}, extra_files=files)
    experiment = Experiment.load(flags.out)
    text = [markdown_table(experiment.table), "", *summary_sentences(experiment), "", f"report in {flags.out / PAGE}"]
    return Result("\n".join(text), json.loads(experiment.to_json()))


def recover(flags: cli.Recover) -> Result:
    """Recover a network from its outputs; write it, what was found and the page. The status is 1 if it is not exact."""
    found = earlier_recovery(flags.out)
    n_layers = _depth(flags)
    sought = read_sought(flags.inputs, flags.outputs, flags.teacher, flags.samples, n_layers, flags.seed)
    request = {**_request(flags), "data": fingerprint({"x": sought.x, "y": sought.y})[:16]}
    request |= {} if flags.teacher is None else {"teacher": _identity(flags.teacher)}
    if found is not None:
        _refuse_another(flags.out, RECOVERY, found["request"], request)
    else:
        _finished(flags.out / NETWORK, "network", request)  # what a killed run has left is of this request, or refused
        units = flags.units[0] if len(flags.units) == 1 else flags.units or None
        estimator = ExpandAndCluster(
            n_units=units, n_layers=n_layers,
            expansion=_expansion(flags.expansion), n_students=flags.students, coverage=flags.coverage,
            max_angle=flags.max_angle, activation=flags.activation, rule=flags.rule, noise=flags.noise,
            random_state=flags.seed,
        )  # fmt: skip
        with stages(f"recovering a network from {len(sought.x)} outputs"):
            found = run_recovery(sought, estimator, flags.out, request, _command(flags))
    network = [f"network in {flags.out / NETWORK}"] if found["saved_network"] else []
    text = "\n".join([*found["summary"], *network, f"report in {flags.out / PAGE}"])
    return Result(text, {"out": str(flags.out), **found}, status=0 if found["exact"] else 1)


def modularity(flags: cli.Modularity) -> Result:
    """Say whether networks split into parts, and what those of one of them do; write it and the page."""
    check_destination(flags.out, MODULARITY)
    population = open_networks(flags.source, flags.module, _shape(flags.example_shape), random_state=flags.seed)
    request = {**_request(flags), "networks": population_fingerprint(population)[:16]}
    others = {}
    if flags.assembly is not None:
        shape = tuple(population.example_input.shape[1:])
        built = open_networks(str(flags.assembly), flags.module, shape, random_state=flags.seed)
        others["assembly"] = built
        request["assembly"] = population_fingerprint(built)[:16]
    if not _finished(flags.out, MODULARITY, request):
        samples = _labelled(flags.source, flags.data, flags.seed)
        settings = ModularitySettings(flags.clusters, flags.null, flags.nulls, flags.circuits, flags.seed)
        obtained = {"command": _command(flags), "seed": flags.seed, "versions": versions()}
        with stages(f"modularity of {len(population)} networks") as progress:
            result = run_modularity(
                population, flags.member, flags.source, others, samples, settings, obtained, progress
            )
        files = {MODULARITY_FILE: modularity_text(result), PAGE: render_modularity(result)}
        write_artefact(flags.out, MODULARITY, {"request": request}, {}, extra_files=files)
    return _told(flags.out, MODULARITY_FILE)


def compare(flags: cli.Compare) -> Result:
    """Say which networks behave alike, at which layers and since when; write it and the page."""
    check_destination(flags.out, COMPARISON)
    names, shape = _names(flags.sources), _shape(flags.example_shape)
    populations = {
        name: open_networks(source, flags.module, shape, random_state=flags.seed)
        for name, source in zip(names, flags.sources, strict=True)
    }
    networks = {
        name: [population_fingerprint(each)[:16] for each in (population, *population.snapshots.values())]
        for name, population in populations.items()
    }
    request = {**_request(flags), "networks": networks}
    if not _finished(flags.out, COMPARISON, request):
        samples = _never_seen(flags.sources, flags.data, flags.seed, flags.samples)
        settings = ComparisonSettings(
            flags.measure, flags.layers, flags.clusters, flags.reduction, flags.clusterer, flags.positions,
            flags.epochs, flags.barriers, flags.seed,
        )  # fmt: skip
        obtained = {"command": _command(flags), "seed": flags.seed, "versions": versions()}
        with stages("comparing") as progress:
            result = run_comparison(populations, samples, settings, obtained, progress)
        files = {COMPARISON_FILE: comparison_text(result), PAGE: render_comparison(result)}
        write_artefact(flags.out, COMPARISON, {"request": request}, {}, extra_files=files)
    return _told(flags.out, COMPARISON_FILE)


def inspect(flags: cli.Inspect) -> Result:
    """Find and prove the layers of networks, and tell of them; nothing is written."""
    shape = _shape(flags.example_shape)
    inspection = inspect_source(flags.source, flags.module, shape, random_state=flags.seed)
    return Result(str(inspection), asdict(inspection), inspection)


def demo(flags: cli.Demo) -> Result:
    """Train, census, assemble and report on scikit-learn's digits."""
    from consilience import cli

    out, seed = flags.out, flags.seed
    train(cli.Train(
        out=out / "population", seed=seed, hidden=DEMO_HIDDEN, members=DEMO_MEMBERS, epochs=DEMO_EPOCHS,
        batch_size=DEMO_BATCH_SIZE, learning_rate=DEMO_LEARNING_RATE,
    ))  # fmt: skip
    census(cli.Census(out=out / "census", seed=seed, population=out / "population"))
    assemble(cli.Assemble(out=out / "network", seed=seed, census=out / "census"))
    command = shlex.join(["consilience", "demo", "--out", str(out), "--seed", str(seed)])
    return report(cli.Report(out=out / "report", seed=seed, census=out / "census"), command)


def _net(flags: cli.Train, data: Data) -> nn.Module:
    """The network to train."""
    allowed = {"mlp": ("dropout",), "convnet": ("dropout",), "resnet": ("blocks",)}[flags.net]
    for name, default in (("dropout", 0), ("blocks", 1)):
        if getattr(flags, name) != default and name not in allowed:
            raise InputError(
                f"--net {flags.net} takes no {name}", where=f"--{name}", got=getattr(flags, name), cure="leave it out"
            )
    if not 0 <= flags.dropout < 1:
        raise InputError("not a probability", where="--dropout", got=flags.dropout, expected="0 or more, below 1")
    if flags.net == "mlp":
        return MLP(data.train.x[0].numel(), flags.hidden, data.n_classes, flags.activation, dropout=flags.dropout)
    if data.image_shape is None:
        raise InputError(
            f"--net {flags.net} needs images", where=f"--data {data.name}", got=f"inputs {tuple(data.train.x.shape)}",
            expected="inputs (n, C, H, W)", cure="use --net mlp, or data whose rows are not flattened",
        )  # fmt: skip
    channels = data.image_shape[0]
    if flags.net == "convnet":
        return ConvNet(channels, flags.hidden, data.n_classes, flags.activation, flags.batch_norm, flags.dropout)
    return ResNet(channels, flags.hidden, data.n_classes, flags.blocks, flags.activation, flags.batch_norm)


def _shape(text: str | None) -> tuple[int, ...] | None:
    """The shape of one sample, as in ``3,32,32``."""
    if text is None:
        return None
    sizes = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in sizes):
        raise InputError(
            "not the shape of an input", where="--example-shape", got=text,
            expected="sizes without the number of samples, as in 3,32,32",
        )  # fmt: skip
    return tuple(map(int, sizes))


def _depth(flags: cli.Recover) -> int:
    """Hidden layers to recover."""
    if len(flags.units) > 1 and flags.layers not in (1, len(flags.units)):
        raise InputError(
            "--units and --layers differ", where="--layers", got=flags.layers, expected=len(flags.units),
            cure="give one of them",
        )  # fmt: skip
    return max(flags.layers, len(flags.units))


def _expansion(text: str) -> float | str:
    """How much wider students are: a number, or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise InputError(
            "not an expansion", where="--expansion", got=repr(text), expected='a number or "auto"'
        ) from None


def _command(flags: cli.Common) -> str:
    """What to type for the same result: flags that are not as by default."""
    words = ["consilience", type(flags).__name__.lower()]
    for each in fields(flags):
        value = getattr(flags, each.name)
        if each.name in ("source", "sources"):
            words[2:2] = (value,) if isinstance(value, str) else value
        elif value is True and each.name != "json":
            words += [f"--{each.name.replace('_', '-')}"]
        elif value != each.default and each.name not in ("json", "threads"):
            words += [f"--{each.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _open_census(directory: Path, module: str | None) -> tuple[Census, Path]:
    """A saved census, and where its population is; the networks may be of the user's own class."""
    config = read_artefact(directory, "census").config
    path = (directory / config["population"]["path"]).resolve()
    population = open_population(path, module, config.get("example_shape"))
    return load_census(directory, population), path


def _request(flags: cli.Common) -> dict[str, Any]:
    """The flags that determine the result: all but where it goes and how it is printed; parents by what they hold."""
    parents = ("population", "census", "inputs", "outputs", "teacher", "source", "sources", "assembly")
    hidden = ("out", "json", "threads", *parents)
    request = {name: value for name, value in vars(flags).items() if name not in hidden}
    return json.loads(json.dumps(request))  # type: ignore[no-any-return]


def _finished(out: Path, kind: str, request: dict[str, Any]) -> bool:
    """Whether the result of this request is there; raise if the place is taken by anything else."""
    if not check_destination(out, kind):
        return False
    _refuse_another(out, kind, read_config(out).get("request"), request)
    return True


def _refuse_another(out: Path, kind: str, found: dict[str, Any] | None, request: dict[str, Any]) -> None:
    """Raise if what is there was made for another request."""
    if found != request:
        differing = sorted(k for k in {*(found or {}), *request} if (found or {}).get(k) != request.get(k))
        raise ArtefactError(
            f"the output directory holds another {kind}",
            where=out,
            got="a result that differs in " + ", ".join(differing),
            cure="choose another --out, or delete that directory",
        )


def _identity(directory: Path) -> str:
    """A digest of what an artefact holds, wherever it lies."""
    config = read_config(directory)
    return hashlib.sha256(json.dumps(config["files"], sort_keys=True).encode()).hexdigest()[:16]


def _data_of(population: Path, source: str | None, seed: int) -> Data:
    """The data given, or what the population was trained on, split as it was then: no test sample was trained on."""
    request = _request_of(population)
    if source is None and "data" not in request:
        raise InputError("the population does not tell its data", where=population, cure="pass --data")
    return load_data(source or request["data"], random_state=request.get("seed", seed))


def _request_of(population: Path) -> dict[str, Any]:
    """What made a population, as far as its artefact tells; a folder of checkpoints tells nothing."""
    if population.is_dir() and not (population / CONFIG).is_file():
        return {}
    config = read_config(population)
    if config["kind"] != "population":
        raise ArtefactError(
            "the artefact is of another kind", where=population, got=config["kind"], expected="population"
        )
    request: dict[str, Any] = config.get("request", {})
    return request


def _told(out: Path, file: str) -> Result:
    """What a finished measurement says: its table, its sentences, and where the page is."""
    found = json.loads((out / file).read_text())
    text = [found["table"], *found["summary"], "", f"report in {out / PAGE}"]
    return Result("\n".join(text), {"out": str(out), **found})


def _names(sources: Sequence[str]) -> list[str]:
    """What several directories are called: the last parts of their paths that tell them apart."""
    places = [Path(source).resolve() for source in sources]
    if not sources:
        raise InputError("there is nothing to compare", where="compare", got="no directory", expected="DIR [DIR ...]")
    if len(set(places)) < len(places):
        raise InputError("a directory is named twice", where="compare", got=" ".join(sources), cure="name it once")
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(place.parts[-depth:]) for place in places]


def _labelled(source: str, data: str | None, seed: int) -> Dataset | None:
    """The test samples of the data given, or of what a population was trained on; None if that is not known."""
    if _data_name(source) is not None:
        return _data_of(Path(source), data, seed).test
    return None if data is None else load_data(data, random_state=seed).test


def _never_seen(sources: Sequence[str], data: str | None, seed: int, n: int) -> Dataset:
    """Some test samples that no population was trained on, as far as these tell what they were trained on."""
    if n < 2:
        raise InputError("too few samples to compare on", where="--samples", got=n, expected="2 or more")
    known = [source for source in sources if _data_name(source) is not None]
    name = data or next((_data_name(source) for source in known), None)
    if name is None:
        raise InputError("it is not known what the networks are to be compared on", where=" ".join(sources),
                         cure="pass --data")  # fmt: skip
    tests = [_data_of(Path(source), None, seed).test for source in known if _data_name(source) == name]
    samples = tests[0] if tests else load_data(name, random_state=seed).test
    for other in tests[1:]:
        samples = samples.take(torch.isin(samples.ids, other.ids).nonzero()[:, 0])
    return samples.sample(n, seed)


def _data_name(source: str) -> str | None:
    """What a population was trained on; None for anything else, or if it does not tell."""
    path = Path(source)
    if not (path / CONFIG).is_file() or read_config(path)["kind"] != "population":
        return None
    name: str | None = _request_of(path).get("data")
    return name


def _mean(values: Any) -> float:
    known = [float(v) for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")
