"""What the members are trained, looked at and judged on: rows with labels, split and shuffled once, checked first."""

from __future__ import annotations

from consilience.data.dataset import Data, Dataset, check_dataset
from consilience.data.load import load_data

__all__ = ["Data", "Dataset", "check_dataset", "load_data"]
