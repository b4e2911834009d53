"""The command ``doctor``: what this installation has."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from consilience import __version__
from consilience.studies.request import Options
from consilience.studies.result import Result

PACKAGE = "consilience"
FOR_DEVELOPERS = ("dev", "docs")
NAME, EXTRA = re.compile(r"^[\w.-]+"), re.compile(r"extra == ['\"](\w+)")  # in lines of a package's requirements


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """Print the versions of this package and of what it uses, and the processors that it finds. Writes nothing.

    Example: consilience doctor
    """


def run(request: Request) -> Result:
    """Return versions, extras and processors."""
    import torch

    needed, extras = _requirements()
    versions = {"python": platform.python_version(), PACKAGE: __version__} | {name: _version(name) for name in needed}
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    found: dict[str, Any] = {
        "versions": versions,
        "extras": {extra: {name: _version(name) for name in names} for extra, names in extras.items()},
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": devices,
    }
    lines = [f"{name:<16}{value or 'missing'}" for name, value in versions.items()]
    for extra, packages in extras.items():
        words = [f"{name} {_version(name) or 'missing'}" for name in packages]
        lines.append(f"{f'[{extra}]':<16}{', '.join(words)}")
    lines.append(f"{'processor':<16}{found['processor']}, {found['cores']} cores, {found['threads']} in use")
    lines.append(f"{'devices':<16}{', '.join(devices)}")
    return Result("\n".join(lines), found)


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that this one needs, and those of each extra for users."""
    needed, extras = list[str](), dict[str, list[str]]()
    for line in requires(PACKAGE) or ():
        name, extra = NAME.findall(line)[0], EXTRA.findall(line)
        if not extra:
            needed.append(name)
        elif extra[0] not in FOR_DEVELOPERS:
            extras.setdefault(extra[0], []).append(name)
    return needed, extras


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
