"""Every benchmark runs with ``--quick``, prints its tables and writes its files."""

from __future__ import annotations

import gc
import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from consilience.assembly import gauss_newton

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NO_SCRIPT = {
    "harness",
    "library_networks",
    "populations",
    "compared_networks",
    "assembly_table",
    "convnets_table",
    "teachers",
    "small_networks",  # needs packages that are no dependencies
    "small_transformers",
}
# Arguments beside --quick, and a word of the text.
RUNS = {
    "assembly": ("--data DATA --only A --seeds 1 --processes 1 --cache cache", "weight matching"),
    "calibration": ("", "networks with planted modules"),
    "census_assembly": ("", "assembly 1x"),
    "comparison": ("--data DATA --samples 100", "adjusted Rand index"),
    "convnets": ("--data DATA --parts ConvNet --seeds 1 --cache cache", "MergeMany"),
    "distillation": ("--data DATA --only A --seeds 1 --cache cache", "fresh"),
    "digits": ("", "zero-shot 2x"),
    "faults": ("", "same bytes after a rerun"),
    "gpu": ("--device cpu", "products alone"),
    "grokking": ("--seeds 1 --parts small", "with one module removed"),
    "incremental": ("", "agreement"),
    "initialisation": ("--data DATA --seeds 2 --cache cache", "Net2Wider"),
    "motifs": ("--parts planted null", "common units, wired at random"),
    "modularity": ("--data DATA --seeds 1 --epochs 1 --parts mnist planted convnet", "Planted blocks"),
    "networks": ("", "first trace"),
    "regression": ("", "processor seconds"),
    "recovery": ("--seeds 1 --parts hard noise cut", "linkage"),
    "routing": ("--data DATA --seeds 1 --cache cache", "static 1x, distilled"),
    "scale": ("--parts engines train census tree layers", "two exact trees of halves"),
    "significance": ("--parts digits level again --cache cache", "Found again"),
    "tables": ("", "against the mean member"),
    "training": ("--repeats 1", "vectorised"),
    "transformer_nets": ("--data DATA --kinds vit --parts four steps large --seeds 1", "clusters"),
    "transfer": ("--seeds 1 --parts digits", "invariant − one member"),
    "zoo": ("--parts small", "kept apart"),
}
FAST = {"census_assembly", "grokking", "networks", "training"}
APART = {"faults", "scale"}  # they start processes or change the package


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scikit-learn's digits as images of 16 x 16 pixels."""
    digits = load_digits()
    x = np.kron(digits.images[:, None] / 16, np.ones((1, 1, 2, 2))).astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(file, x_train=x[:1200], y_train=digits.target[:1200], x_test=x[1200:], y_test=digits.target[1200:])
    return file


def test_the_shared_standard_error_counts_populations_and_samples() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    from harness import shared_error

    generator = np.random.default_rng(0)
    of_samples, of_populations = generator.normal(size=(1, 400)), generator.normal(size=(5, 1))
    only_samples = shared_error(np.repeat(of_samples, 5, axis=0))
    np.testing.assert_allclose(only_samples, of_samples.std(ddof=1) / 20)  # more populations do not help
    only_populations = shared_error(np.repeat(of_populations, 400, axis=1))
    np.testing.assert_allclose(only_populations, of_populations.std(ddof=1) / np.sqrt(5))
    both = shared_error(of_samples + of_populations)
    np.testing.assert_allclose(both, np.hypot(only_samples, only_populations))


def test_every_benchmark_is_run() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == {*RUNS, *NO_SCRIPT}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in RUNS])
def test_a_benchmark_runs(
    name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, word = RUNS[name]
    script = str(BENCHMARKS / f"{name}.py")
    arguments = [script, *(str(images) if part == "DATA" else part for part in options.split()), "--quick"]
    if name in APART:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(gauss_newton, "STEPS", 2)
        gc.freeze()  # benchmarks collect garbage before they measure memory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(script, run_name=f"benchmark_{name}")["main"]()
        printed = capsys.readouterr().out
    assert word in printed
