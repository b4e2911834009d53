"""A map over items, as tasks that may run anywhere.

- A task is a function of a module, and a pure one: of an item, and of what all items share. Its results are the same
  bytes wherever it runs, so an engine decides how long a result takes, and nothing else.
- Results come in the order of the items, whichever was finished first.
- A task whose process dies, or that raises, is run again, perhaps on another worker. After `ATTEMPTS` attempts it has
  failed; the other tasks are finished, then an error names it and the cause. An error of this package would be raised
  again by every attempt, so it is raised at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from consilience.errors import ConsilienceError, EngineError, is_of_memory

T = TypeVar("T")
ATTEMPTS = 3
Progress = Callable[[int, int], None]  # tasks done, tasks in all


@dataclass(frozen=True)
class Tasks:
    """One function of many items."""

    task: Callable[..., Any]
    items: Sequence[Any]
    shared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """What became of an attempt that gave no result; ``final`` if there must be no other."""

    error: BaseException
    final: bool = False


class Engine(ABC):
    """Where tasks run. `consilience.engine` chooses one.

    Attributes
    ----------
    n_workers : tasks that run at the same time, as far as this is known.
    """

    n_workers = 1

    def map(
        self,
        task: Callable[..., T],
        items: Sequence[Any],
        *,
        shared: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[T]:
        """Return ``task(item, **shared)`` for each item, in their order.

        Parameters
        ----------
        task : a pure function of a module (no lambda, no local function).
        items : plain values or arrays, small ones: each goes to one worker.
        shared : what all tasks get as keyword arguments, large arrays among them: it goes once to each worker.
        names : of the items in errors, as in "members 0 to 63"; by default their numbers.
        progress : called after each task with (tasks done, tasks in all).

        Raises
        ------
        EngineError : if a task has failed `ATTEMPTS` times.
        ConsilienceError : what the first task that raised one has raised.
        """
        tasks = Tasks(task, items, shared or {})
        names = [f"task {i}" for i in range(len(items))] if names is None else names
        results, failed, pending = dict[int, T](), dict[int, BaseException](), list(range(len(items)))
        for _ in range(ATTEMPTS):
            again = list[int]()
            with closing(self._outcomes(tasks, pending)) as outcomes:
                for i, outcome in outcomes:
                    if not isinstance(outcome, Failure):
                        results[i] = outcome
                        if progress is not None:
                            progress(len(results), len(items))
                        continue
                    if isinstance(outcome.error, ConsilienceError):
                        outcome.error.add_note(f"in {names[i]}")
                        raise outcome.error
                    failed[i] = outcome.error
                    again += [] if outcome.final else [i]
            pending = sorted(again)
            if not pending:
                break
        failed = {i: error for i, error in failed.items() if i not in results}
        if failed:
            raise _error(failed, names)
        return [results[i] for i in range(len(items))]

    def check_directory(self, directory: Path) -> None:
        """Raise an `EngineError` unless every worker sees this directory, which need not exist."""
        return

    @abstractmethod
    def _outcomes(self, tasks: Tasks, pending: Sequence[int]) -> Generator[tuple[int, Any], None, None]:
        """Yield the result, or the `Failure`, of each of the items with these numbers, as they come."""

    def close(self) -> None:
        """End what the engine has started."""
        return


class Serial(Engine):
    """Tasks run in this process, one after the other. An error of a task is raised as it is, at once."""

    def _outcomes(self, tasks: Tasks, pending: Sequence[int]) -> Generator[tuple[int, Any], None, None]:
        for i in pending:
            yield i, tasks.task(tasks.items[i], **tasks.shared)


def _error(failed: Mapping[int, BaseException], names: Sequence[str]) -> EngineError:
    first = min(failed)
    also = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
    got = f"{ATTEMPTS} failures, the last of them {type(failed[first]).__name__}: {failed[first]}{also}"
    cure = "remove the cause, and run it again"
    if is_of_memory(failed[first]):
        cure = "give workers more memory, leave small ones out, or make blocks smaller by fewer or narrower members"
    error = EngineError(f"{names[first]} must be computed, got {got}", cure=cure)
    error.__cause__ = failed[first]
    return error
