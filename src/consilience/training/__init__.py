"""Train many networks in one vectorized pass."""

from consilience.training.callbacks import Callback
from consilience.training.fit import Trained, fit_members
from consilience.training.hyperparameters import Run, Training
from consilience.training.train import train_population

__all__ = ["Callback", "Run", "Trained", "Training", "fit_members", "train_population"]
