"""The command ``train``: a population of networks, trained in one vectorized pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import consilience as cs
from consilience.errors import InputError
from consilience.names import Activation, Net, Optimizer, RateSchedule, Shuffle, Subset
from consilience.several import are_several
from consilience.studies.request import ADDED, INPUT, Options, Output, Reading, argument, arguments, flag
from consilience.studies.result import Result, named_value, run_cached

if TYPE_CHECKING:
    from torch.nn import Module

LANGUAGE, TRANSFORMERS = ("gpt", "llama"), ("vit", "gpt", "llama")
OF_KINDS = {  # options of some kinds of networks alone
    "activation": ("mlp", "convnet", "resnet"),
    "dropout": ("mlp", "convnet"),
    "blocks": ("resnet",),
    "width": TRANSFORMERS,
    "heads": TRANSFORMERS,
    "patch_size": ("vit",),
}


@dataclass(frozen=True, kw_only=True)
class Request(Reading, Options, Output):
    """Train a population of networks in one vectorized pass. An interrupted run resumes after its last epoch.

    Example: consilience train --data digits --hidden 32 32 --members 16 --epochs 40 --out population
    """

    data: str = field(default="digits", metadata=INPUT)
    """"digits", a .npz file (x_train, y_train, x_test, y_test), a .csv or .parquet file, text:FILE, or hf:NAME."""
    net: Net = "mlp"
    """Kind of network; convnet, resnet and vit take images, gpt and llama text."""
    hidden: tuple[int, ...] = field(default=(32, 32), metadata=argument("widths"))
    """Units of each hidden layer, or of the MLP of each block of a transformer (vit, gpt, llama).
    Of a convnet, channels of each convolution; of a resnet, of each stage."""
    width: int = field(default=64, metadata=ADDED)
    """Width of the stream of a transformer."""
    heads: tuple[int, ...] = field(default=(4,), metadata=ADDED)
    """Heads of each block of a transformer; one number is for all blocks."""
    patch_size: int = field(default=4, metadata=ADDED)
    """Height and width of the patches of a vit, in pixels."""
    blocks: int = field(default=1, metadata=argument("blocks_per_stage"))
    """Blocks in each stage of a resnet."""
    batch_norm: bool = True
    """Use batch normalization after the convolutions of a convnet or resnet."""
    activation: Activation = "relu"
    """Activation of the hidden layers; transformers have their own, gelu of vit and gpt, silu of llama."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit of an mlp, or a channel before the readout of a convnet."""
    members: int = field(default=16, metadata=argument("n_members"))
    """Number of networks."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Samples in each step."""
    optimizer: Optimizer = "adam"
    """Optimizer; each member has its own state."""
    learning_rate: float = 1e-3
    """Learning rate."""
    schedule: RateSchedule = field(default="constant", metadata=ADDED)
    """Learning rate over the run: constant, or cosine, which rises for 5 % of the steps and then falls to 0."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 0.0
    """L2 penalty of adam and sgd, or decay of adamw, as in torch.optim."""
    shuffle: Shuffle = "independent"
    """Order of the samples: independent for each member, or shared by all."""
    subset: Subset = "full"
    """Samples that each member is trained on."""
    concentration: float = 0.5
    """Concentration of the Dirichlet subsets: small values give each member few classes."""
    checkpoint_epochs: tuple[int, ...] = field(default=(), metadata=ADDED)
    """Epochs after which to keep a snapshot of the members, for compare; 0 keeps the initial values, for census."""


def run(request: Request) -> Result:
    """Return the number of members and their mean accuracy, or R², on validation data."""
    from consilience.evaluation import evaluate, mean_score

    population, data = load_or_train(request)
    score = mean_score([evaluate(member.module, data.validation) for member in population])
    lines = [
        *([f"data {data.name} is read as {data.read_as}"] if data.name != "digits" else []),
        f"{len(population)} members in {request.out}: validation {score.metric} {100 * score.quality:.2f} % on average",
        *(f"  member {k} failed: {why}" for k, why in population.failed.items()),
    ]
    as_json = {"out": str(request.out), "n_members": len(population), named_value(score): score.quality}
    failed = {str(k): why for k, why in population.failed.items()}
    return Result("\n".join(lines), {**as_json, "failed": failed})


def load_or_train(request: Request) -> tuple[cs.Population, cs.Data]:
    """Return the population, read if it is finished, and the data."""
    from consilience.store.config import beside
    from consilience.studies.progress import bar
    from consilience.studies.samples import named
    from consilience.training.resume import delete_resume_state

    source = named(request.data, request.seed, request)
    data, inputs = source.load(), {**source.entries(None), "data": source.stored_name(request.out)}
    state = beside(request.out.resolve(), "checkpoint")

    def make() -> cs.Population:
        training = cs.Training(**arguments(request, cs.Training))
        options: dict[str, Any] = {"training": training, "validation": data.validation, "random_state": request.seed}
        options |= {"checkpoint": state, "checkpoint_epochs": request.checkpoint_epochs}
        with bar(f"training {request.members} members") as progress:
            net = network(request, data)
            return cs.train_population(net, data.train, request.members, progress=progress, **options)

    population = run_cached(request, "population", inputs, make, cs.Population.save, cs.Population.load)
    delete_resume_state(state)
    return population, data


def network(request: Request, data: cs.Data) -> Module:
    """Return the network to train."""
    kind, hidden, n_outputs, activation = request.net, request.hidden, data.n_outputs, request.activation
    for name, kinds in OF_KINDS.items():
        value = getattr(request, name)
        if value != Request.__dataclass_fields__[name].default and kind not in kinds:
            raise InputError(f"{flag(name)} must be left out with --net {kind}, got {value}")
    if not 0 <= request.dropout < 1:
        raise InputError(f"--dropout must be a probability in [0, 1), got {request.dropout}")
    if are_several(data.train.x):
        cure = "train networks of several inputs in Python, by consilience.train_population"
        raise InputError(
            f"--data must have one input for networks of this package, got several in {data.name}", cure=cure
        )
    if (data.task == "next-token") != (kind in LANGUAGE):
        got, cure = (
            f"--net {kind} for {data.task} of {data.name}",
            "use --net gpt or llama for text, others for the rest",
        )
        raise InputError(f"--net must fit the data, got {got}", cure=cure)
    if data.task != "next-token" and not data.train.x.is_floating_point():
        cure = "x.astype('float32') makes a table of numbers"
        raise InputError(f"--data must hold numbers for --net {kind}, got tokens in {data.name}", cure=cure)
    if kind == "mlp":
        return cs.MLP(data.train.x[0].numel(), hidden, n_outputs, activation, dropout=request.dropout)
    if len(request.heads) not in (1, len(hidden)):
        raise InputError(f"--heads must be one number, or one for each of {len(hidden)} blocks, got {request.heads}")
    heads = request.heads if len(request.heads) > 1 else request.heads * len(hidden)
    if kind in LANGUAGE:
        language = cs.GPT if kind == "gpt" else cs.Llama
        return language(n_outputs, data.train.x.shape[1], request.width, heads, hidden)
    if data.image_shape is None:
        raise InputError(
            f"--data must hold images (n, C, H, W) for --net {kind}, got inputs {tuple(data.train.x.shape)}",
            cure="use --net mlp, or data whose rows are not flattened",
        )
    (channels, height, width), batch_norm = data.image_shape, request.batch_norm
    if kind == "vit":
        if height != width:
            raise InputError(f"--data must hold square images for --net vit, got {height} by {width} pixels")
        return cs.ViT(channels, height, request.patch_size, n_outputs, request.width, heads, hidden)
    if kind == "convnet":
        return cs.ConvNet(channels, hidden, n_outputs, activation, batch_norm, request.dropout)
    return cs.ResNet(channels, hidden, n_outputs, request.blocks, activation, batch_norm)
