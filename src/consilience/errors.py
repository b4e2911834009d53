"""One family of exceptions. Each says which argument must be what, what it got, and the cure.

>>> print(InputError("x must have shape (n, 64), got (10, 3)", cure="flatten x"))
x must have shape (n, 64), got (10, 3)
  cure: flatten x
"""

from __future__ import annotations

import os
import sys
import warnings

PACKAGE = os.path.dirname(__file__) + os.sep


class ConsilienceError(Exception):
    """Base class of all errors of this package.

    Parameters
    ----------
    message : ``<argument> must be <condition>, got <value>``, without a full stop.
    cure : what the user can do about it.
    """

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        self.message, self.cure = message, cure
        super().__init__(message if cure is None else f"{message}\n  cure: {cure}")


class InputError(ConsilienceError, ValueError):
    """An argument, or data given by the user, cannot be used."""


class TracingError(ConsilienceError):
    """A module performs an operation whose effect on its units is unknown."""


class FunctionChangedError(ConsilienceError):
    """A symmetry of a member's units changed what the member computes."""


class ArtefactError(ConsilienceError):
    """A directory on disk is missing, damaged, or of another kind or format version."""


class TrainingError(ConsilienceError):
    """Training produced no usable member."""


class EngineError(ConsilienceError):
    """An engine cannot be used, or a task could not be computed on it."""


def in_one_line(error: BaseException) -> str:
    """Return the type of an error and all that it says, in one line.

    >>> in_one_line(ValueError("width:   too small"))
    'ValueError: width: too small'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


NO_MEMORY = ("allocate memory", "size calculation overflowed")  # in errors of torch


def is_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or of torch says that there is not enough memory."""
    words = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return words or isinstance(error, MemoryError)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called the package, however deep inside it the reason is found."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    once = frame.f_globals.setdefault("__warningregistry__", {})  # what has been shown there
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, registry=once)


class CalibrationWarning(UserWarning):
    """Calibration data is too little, or unlike what the members were trained on."""


class NullWarning(UserWarning):
    """Shuffled copies of a network differ from it by more than what is tested."""
