"""Several tasks on the same inputs: which clusters all of them have, and a trunk of these for a new task."""

from consilience.data.labels import TASKS, of_task
from consilience.transfer.comparison import Trial, compare_trunks
from consilience.transfer.frequency import LayerTasks
from consilience.transfer.transfer import Transfer
from consilience.transfer.trunk import Trunk

__all__ = ["TASKS", "LayerTasks", "Transfer", "Trial", "Trunk", "compare_trunks", "of_task"]
