"""Engines: where tasks run. This process, local processes, or the workers of a Dask cluster."""

from consilience.engines.choice import current, engine
from consilience.engines.engine import Engine, Serial

__all__ = ["Engine", "Serial", "current", "engine"]
