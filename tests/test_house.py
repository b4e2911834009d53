"""The house: imports run one way, the examples and the README's code run, and no number in the README is old."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "consilience"

# Each room may import from the rooms before it, and from itself.
ORDER = [
    "errors", "data", "nets", "units", "store", "evaluation", "population", "modularity", "comparison", "census",
    "assembly", "baselines", "recovery", "report", "recipes", "cli",
]  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Rooms of this package that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "consilience":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("consilience.")}
    return rooms


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_downwards(room: str) -> None:
    files = [SOURCE / f"{room}.py"] if (SOURCE / f"{room}.py").exists() else sorted((SOURCE / room).rglob("*.py"))
    assert files
    allowed = set(ORDER[: ORDER.index(room) + 1])
    # The command line's flags are plain data; recipes read them.
    allowed |= {"cli"} if room == "recipes" else set()
    for file in files:
        assert imports_of(file) <= allowed, f"{file.relative_to(SOURCE)} imports upwards"


def test_every_room_is_in_the_order() -> None:
    rooms = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists())}
    assert rooms - {"__init__"} == set(ORDER)


def test_census_and_assembly_know_no_architecture() -> None:
    special = re.compile(r"\b(nn\.Linear|Linear|Conv\w*|BatchNorm\w*|MLP|ResNet)\b")
    for room in ("census", "assembly"):
        for file in (SOURCE / room).rglob("*.py"):
            tree = ast.parse(file.read_text())
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not {name for name in names if special.fullmatch(name)}, file


def test_the_example_merges_modules_of_ones_own() -> None:
    accuracy = runpy.run_path(str(ROOT / "examples" / "your_own_modules.py"))["main"]()
    assert accuracy["assembly full"] == accuracy["ensemble"]
    assert accuracy["assembly 2x"] > accuracy["ensemble"] - 0.02


def test_the_code_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(names["population"]) == 16
