"""Errors of the operating system while something is written, as one line that says what is kept and how to go on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from consilience.errors import ArtefactError

OS_ERROR = re.compile(r"\(os error (\d+)\)")  # in errors of safetensors
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn errors of the system into an `ArtefactError` that says how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or int((OS_ERROR.search(str(error)) or [0, 0])[1])
        reason = os.strerror(number).lower() if number else str(error)
        free = "free some space, or choose another directory"
        cure = free if number in FULL else "choose a directory that can be written to"
        message = f"{target} must be writable, got an error of the system: {reason}; what was there is kept"
        raise ArtefactError(message, cure=f"{cure}; then run it again") from error
