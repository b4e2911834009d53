"""The house: imports run one way, files are short, the code of the pages runs."""

from __future__ import annotations

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import networkx
import pytest

import consilience

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "consilience"

# Floors of docs/design.md: a file may import from rooms before its own, and from its own.
ORDER = [
    *(
        "errors",
        "schema",
        "names",
        "versions",
        "checks",
        "seeds",
        "devices",
        "engines",
        "ties",
        "several",
        "tasks",
        "agreement",
        "data",
        "nets",
        "units",
        "signals",
        "bases",
        "clustering",
    ),
    *("store", "population", "evaluation", "training", "census", "assembly", "baselines", "recovery"),
    *("transfer", "modularity", "motifs", "comparison", "report", "studies", "cli"),
]
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it, for type checking too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                modules.add(submodule if submodule in MODULES else node.module)
    return modules & set(MODULES)


IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "faiss-cpu": "faiss", "umap-learn": "umap"}


def room_of(module: str) -> str:
    return ([*module.split("."), ""])[1]


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_downwards(room: str) -> None:
    allowed = {*ORDER[: ORDER.index(room) + 1]}
    files = [module for module in MODULES if room_of(module) == room]
    assert files
    for module in files:
        upwards = {other for other in imports_of(MODULES[module]) if room_of(other) not in allowed | {""}}
        assert not upwards, f"{module} imports upwards"


def test_every_room_is_in_the_order() -> None:
    assert {room_of(module) for module in MODULES} == {"", *ORDER}


def test_no_file_imports_itself_through_others() -> None:
    graph = {module: imports_of(path) for module, path in MODULES.items() if module != "consilience"}
    components = networkx.strongly_connected_components(networkx.DiGraph(graph))
    assert [sorted(component) for component in components if len(component) > 1] == []


def test_no_file_has_more_than_400_lines() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > 400} == {}


def test_census_and_assembly_know_no_architecture() -> None:
    special = re.compile(r"\b(nn\.Linear|Linear|Conv\w*|BatchNorm\w*|MLP|ResNet)\b")
    for room in ("census", "assembly"):
        for file in (SOURCE / room).rglob("*.py"):
            tree = ast.parse(file.read_text())
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not {name for name in names if special.fullmatch(name)}, file


@pytest.mark.slow
def test_the_code_in_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the page of the main question; tutorials run when the site is built."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "one-network.md").read_text(), flags=re.DOTALL):
        exec(compile(block, "one-network", "exec"), names)
    assert "narrow" in names


def test_every_dependency_is_imported() -> None:
    """Those of extras too: what nobody imports need not be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needed for extra, needed in project["optional-dependencies"].items() if extra not in ("dev", "docs")]
    packages = {re.split(r"[<>=\[]", line)[0] for line in chain(project["dependencies"], *extras)}
    trees = [ast.parse(path.read_text()) for path in MODULES.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {IMPORTED_AS.get(package, package) for package in packages} - imported == set()


def test_the_readme_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Accuracies of the README, to what other kernels may change: two of 359 test rows."""
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[1:3]
    exec(compile(code, "README.md", "exec"), {})
    printed = [float(line) for line in capsys.readouterr().out.split()]
    assert printed == pytest.approx([float(line) for line in shown.split()], abs=2.5 / 359)


@pytest.mark.slow
def test_the_gpt2s_of_the_readme_become_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n([^`]*GPT2Config.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"cs": consilience})
    assert capsys.readouterr().out == "8\n"


def test_every_page_has_a_place_in_the_site() -> None:
    """Pages that no menu leads to would not be found."""
    listed = {*re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())}
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.py")]
    pages = {path.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for path in sources}
    assert pages - listed == set()
