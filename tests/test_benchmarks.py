"""Every benchmark runs with ``--quick``, prints its tables and writes its files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NO_SCRIPT = {"harness", "populations", "compared_networks", "assembly_table", "teachers"}
# Arguments beside --quick, and a word of the text.
RUNS = {
    "assembly": ("--data DATA --only A --seeds 2 --processes 1 --cache cache", "weight matching"),
    "census_assembly": ("", "assembly 1x"),
    "comparison": ("--data DATA --samples 100", "adjusted Rand index"),
    "convnets": ("--data DATA --nets ConvNet --cache cache", "MergeMany"),
    "digits": ("", "zero-shot 2x"),
    "faults": ("", "same bytes after a rerun"),
    "incremental": ("", "agreement"),
    "initialisation": ("--data DATA --seeds 2 --cache cache", "Net2Wider"),
    "modularity": ("--data DATA --seeds 1 --epochs 1 --parts mnist planted convnet", "Planted blocks"),
    "networks": ("", "first trace"),
    "recovery": ("--seeds 1 --parts noise cut", "linkage"),
    "training": ("--repeats 1", "vectorised"),
}
FAST = {"census_assembly", "networks", "training"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scikit-learn's digits as images of 16 x 16 pixels."""
    digits = load_digits()
    x = np.kron(digits.images[:, None] / 16, np.ones((1, 1, 2, 2))).astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(file, x_train=x[:1200], y_train=digits.target[:1200], x_test=x[1200:], y_test=digits.target[1200:])
    return file


def test_every_benchmark_is_run() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == {*RUNS, *NO_SCRIPT}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in RUNS])
def test_a_benchmark_runs(name: str, images: Path, tmp_path: Path) -> None:
    options, word = RUNS[name]
    arguments = [str(images) if word == "DATA" else word for word in options.split()]
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout
