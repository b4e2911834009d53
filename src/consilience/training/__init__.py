"""Train many networks in one vectorized pass."""

from consilience.training.callbacks import Callback
from consilience.training.hyperparameters import Training
from consilience.training.train import train_population

__all__ = ["Callback", "Training", "train_population"]
