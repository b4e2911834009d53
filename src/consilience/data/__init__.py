"""Data: rows with labels, checked, shuffled and split once."""

from __future__ import annotations

from consilience.data.dataset import Data, Dataset, as_dataset, check_dataset
from consilience.data.load import load_data

__all__ = ["Data", "Dataset", "as_dataset", "check_dataset", "load_data"]
