"""Run the numerical tests under several kernels and print a table: ``python tests/kernels.py [kernel ...]``.

The results of sums depend, in their last digits, on the instructions that a library's kernels use. Environment
variables choose older instructions, so one machine can stand for several. Tests are those with the mark ``numerical``;
all kernels are run unless some are named. Exit status 1 means that a test failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

KERNELS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "zen": {"ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Zen", "MKL_CBWR": "AVX2"},
    "baseline": {
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Prescott",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}
VERSIONS = """
import platform, numpy, scipy.linalg, sklearn, threadpoolctl, torch
blas = {pool["architecture"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"}
print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__},"
      f" scipy {scipy.__version__}, scikit-learn {sklearn.__version__}"
      f"|{torch.backends.cpu.get_cpu_capability()}|{', '.join(sorted(blas))}")
"""


def run(kernel: str) -> tuple[str, bool]:
    """Return a row of the table, and whether all tests passed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **KERNELS[kernel]}
    python = [sys.executable, "-W", "ignore"]
    versions = subprocess.run([*python, "-c", VERSIONS], env=environment, capture_output=True, text=True, check=True)
    releases, torch_kernel, blas = versions.stdout.strip().split("|")
    start = time.monotonic()
    tests = [sys.executable, "-m", "pytest", "-m", "numerical", "-n", "2", "--dist", "worksteal", "tests"]
    result = subprocess.run([*tests, "-o", "addopts=--strict-markers"], env=environment, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout[-20000:], result.stderr[-2000:], sep="\n")
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", result.stdout[-500:])
    settings = " ".join(f"{name}={value}" for name, value in KERNELS[kernel].items()) or "none"
    cells = (kernel, torch_kernel, blas, settings, ", ".join(counts), f"{time.monotonic() - start:.0f} s", releases)
    return f"| {' | '.join(cells)} |", result.returncode == 0


def main(names: list[str]) -> int:
    unknown = sorted({*names} - {*KERNELS})
    if unknown:
        print(f"kernels must be among {', '.join(KERNELS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    rows = [run(name) for name in names or KERNELS]
    print("| kernel | torch | OpenBLAS | settings | tests | time | releases |", "|---" * 7 + "|", sep="\n")
    print(*(row for row, _ in rows), sep="\n")
    return 0 if all(passed for _, passed in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
