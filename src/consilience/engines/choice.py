"""The choice of an engine, by a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from consilience.engines.engine import Engine, Serial
from consilience.errors import InputError

_current: ContextVar[Engine] = ContextVar("engine", default=Serial())  # noqa: B039 (it has no state)


@contextmanager
def engine(name: str) -> Iterator[Engine]:
    """Choose where the tasks inside the block run. Results are the same bytes everywhere.

    Parameters
    ----------
    name : "serial", this process, which is where tasks run without a choice; "processes:N", N processes of this
        machine; "dask:ADDRESS", the workers of the Dask scheduler at this address, as in "dask:tcp://10.0.0.1:8786"
        (the extra ``dask``).

    Raises
    ------
    InputError : if there is no such engine.
    EngineError : if the engine cannot be reached, or a worker has another version of this package or of torch.

    Examples
    --------
    >>> with engine("serial") as chosen:
    ...     chosen.map(abs, [-1, 2])
    [1, 2]
    """
    chosen = open_engine(name)
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)
        chosen.close()


def current(*, worth: bool = True) -> Engine:
    """Return the engine that was chosen by the innermost `engine` block; this process for tasks not worth sending."""
    return _current.get() if worth else Serial()


def check_engine(name: object) -> None:
    """Raise unless the value names an engine; whether it can be reached is not looked at."""
    if not isinstance(name, str) or not re.fullmatch(r"serial|processes:[1-9]\d{0,3}|dask:\S+", name):
        message = f"engine must be serial, processes:N with N from 1 to 9999, or dask:ADDRESS, got {name!r}"
        raise InputError(message, cure='as in "processes:4" or "dask:tcp://10.0.0.1:8786"')


def open_engine(name: str) -> Engine:
    """Return an engine, which whoever asks for it has to close."""
    check_engine(name)
    kind, _, rest = name.partition(":")
    if kind == "processes":
        from consilience.engines.processes import Processes

        return Processes(int(rest))
    if kind == "dask":
        from consilience.engines.dask import Dask

        return Dask(rest)
    return Serial()
