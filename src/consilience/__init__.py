"""Find the features that recur across many small networks, and build one larger network out of them.

>>> import consilience as cs
>>> data = cs.load_data("digits", random_state=0)
>>> population = cs.train_population(cs.MLP(64, [16], 10), data.train, n_members=4, random_state=0)
>>> census = cs.Census(random_state=0).fit(population, data.calibration.x)
>>> network = cs.assemble(census, width="2x", correction="least-squares")
>>> cs.evaluate(network, data.test).n
359

Names are imported when they are first used, so that the command line's ``--help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consilience.assembly.assembler import Assembler, assemble, elastic
    from consilience.assembly.elastic import Elastic, load_elastic
    from consilience.assembly.routing import route
    from consilience.baselines import Ensemble, best_member, parameter_average
    from consilience.census import Census, extend_census, load_census, save_census
    from consilience.comparison import ModelComparison
    from consilience.data import Data, Dataset, load_data
    from consilience.devices import device
    from consilience.engines import engine
    from consilience.errors import ConsilienceError
    from consilience.evaluation import Closeness, RegressionScore, Score, evaluate
    from consilience.modularity import Clusterability, CrossClusterLoss, EigenvalueLoss, Penalty
    from consilience.motifs import Motifs
    from consilience.nets import GPT, MLP, ConvNet, Llama, ResNet, ViT
    from consilience.population import Population, imagine_inputs
    from consilience.recovery import ExpandAndCluster
    from consilience.store import load_network, save_network
    from consilience.training import Callback, Training, train_population
    from consilience.transfer import Transfer
    from consilience.units.follow import find_layers

__version__ = "0.2.0"

__all__ = [
    "GPT",
    "MLP",
    "Assembler",
    "Callback",
    "Census",
    "Closeness",
    "Clusterability",
    "ConsilienceError",
    "ConvNet",
    "CrossClusterLoss",
    "Data",
    "Dataset",
    "EigenvalueLoss",
    "Elastic",
    "Ensemble",
    "ExpandAndCluster",
    "Llama",
    "ModelComparison",
    "Motifs",
    "Penalty",
    "Population",
    "RegressionScore",
    "ResNet",
    "Score",
    "Training",
    "Transfer",
    "ViT",
    "assemble",
    "best_member",
    "device",
    "elastic",
    "engine",
    "evaluate",
    "extend_census",
    "find_layers",
    "imagine_inputs",
    "load_census",
    "load_data",
    "load_elastic",
    "load_network",
    "parameter_average",
    "route",
    "save_census",
    "save_network",
    "train_population",
]

_ROOMS = {
    "devices": ("device",),
    "engines": ("engine",),
    "errors": ("ConsilienceError",),
    "data": ("Data", "Dataset", "load_data"),
    "nets": ("GPT", "MLP", "ConvNet", "Llama", "ResNet", "ViT"),
    "units.follow": ("find_layers",),
    "store": ("load_network", "save_network"),
    "evaluation": ("Closeness", "RegressionScore", "Score", "evaluate"),
    "population": ("Population", "imagine_inputs"),
    "training": ("Callback", "Training", "train_population"),
    "census": ("Census", "extend_census", "load_census", "save_census"),
    "assembly": ("Assembler", "Elastic", "assemble", "elastic", "load_elastic", "route"),
    "baselines": ("Ensemble", "best_member", "parameter_average"),
    "recovery": ("ExpandAndCluster",),
    "transfer": ("Transfer",),
    "modularity": ("Clusterability", "CrossClusterLoss", "EigenvalueLoss", "Penalty"),
    "motifs": ("Motifs",),
    "comparison": ("ModelComparison",),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'consilience' has no attribute {name!r}")
    return getattr(import_module(f"consilience.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
