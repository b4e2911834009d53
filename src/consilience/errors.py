"""One family of exceptions. Each says what is wrong, where, what was got, what was expected, and the cure.

>>> print(InputError("the inputs have the wrong shape", where="x", got=(10, 3), expected="(n, 64)", cure="flatten x"))
the inputs have the wrong shape
  where:    x
  got:      (10, 3)
  expected: (n, 64)
  cure:     flatten x
"""

from __future__ import annotations


class ConsilienceError(Exception):
    """Anything this package refuses to do.

    Parameters
    ----------
    what : one sentence, lower case, without a full stop.
    where : the argument, file, layer, operation or member it is about.
    got, expected : values or descriptions; shown with ``str``.
    cure : what the user can do about it.
    """

    def __init__(
        self, what: str, *, where: object = None, got: object = None, expected: object = None, cure: str | None = None
    ) -> None:
        self.what, self.where, self.got, self.expected, self.cure = what, where, got, expected, cure
        details = (("where", where), ("got", got), ("expected", expected), ("cure", cure))
        lines = [what, *(f"  {name + ':':<9} {value}" for name, value in details if value is not None)]
        super().__init__("\n".join(lines))


class InputError(ConsilienceError, ValueError):
    """An argument, or data given by the user, cannot be used as it is."""


class TracingError(ConsilienceError):
    """A module does something whose effect on its units is not known for certain."""


class FunctionChangedError(ConsilienceError):
    """A change of a member's units that should leave its function alone did not."""


class ArtefactError(ConsilienceError):
    """A directory on disk is not what it should be: missing, damaged, of another type or format version."""


class TrainingError(ConsilienceError):
    """Training could not produce a single usable member."""
