# `make demo` and `make test` do everything from a clean clone: make .venv, install, run.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test test-all kernels lint docs package clean

demo: .venv/installed
	$(BIN)/consilience demo --out demo

# Without the tests marked slow, which `make test-all` and CI run too.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow"

test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The numerical tests under all kernels of tests/kernels.py, or under some: make kernels KERNELS="avx2 baseline"
kernels: .venv/installed
	$(BIN)/python tests/kernels.py $(KERNELS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/: README.md, docs/, tutorials, which are run, and references made from the code. An error in a
# tutorial, or a link that leads nowhere, is an error.
docs: .venv/installed
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A wheel, from the source distribution, in an environment of its own; its demo.
package: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m venv dist/venv
	dist/venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd dist && venv/bin/consilience doctor && venv/bin/consilience demo

.venv/installed: pyproject.toml constraints.txt
	$(shell command -v $(PYTHON) || command -v python3) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv demo site dist
