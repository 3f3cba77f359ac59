# Two commands matter: `make demo` and `make test`. Both set up .venv themselves; run twice, the second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := requirements/constraints.txt
DEMO_OUT ?= firstcue-demo
COINRUN_OUT ?= coinrun.npz
WORKERS ?= 2

.PHONY: help demo test lint docs bench coinrun-data clean

help:
	@echo "make demo    train a small network, catch it taking a shortcut, repair it; writes $(DEMO_OUT)/report.html"
	@echo "make test    every test but those of paper scale       make lint    ruff and mypy"
	@echo "make docs    the documentation, into site/             make bench   speed, beside the peers"

demo: .venv/core.stamp
	@$(BIN)/firstcue demo --out $(DEMO_OUT) $(DEMO_ARGS)

test: .venv/dev.stamp
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -rs $(TEST_ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs.stamp
	$(BIN)/zensical build --clean --strict

bench: .venv/dev.stamp
	$(BIN)/python benchmarks/run.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "firstcue needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }

# torch first and pinned: its size depends on the package index, and everything after it takes the one that is there
.venv/core.stamp: pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	@echo "Installing into .venv: the CPU build of torch (200 MB to fetch, 900 MB on disk; several GB more where the package"
	@echo "index has only the build for GPUs) and about 400 MB of libraries. PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are honoured."
	@$(PIP) install -q -c $(CONSTRAINTS) "$$(grep '^torch==' $(CONSTRAINTS))"
	@$(PIP) install -q -c $(CONSTRAINTS) -e .
	@touch $@

.venv/dev.stamp: .venv/core.stamp
	@echo "Installing what the tests need (about 1 GB)."
	@$(PIP) install -q -c $(CONSTRAINTS) -e ".[dev,peers]"
	@touch $@

.venv/docs.stamp: .venv/core.stamp
	@echo "Installing what the documentation needs (about 120 MB)."
	@$(PIP) install -q -c $(CONSTRAINTS) -e ".[docs]"
	@touch $@

# procgen needs numpy below 2: it gets an environment of its own, which only writes a file (about 20 minutes, 0.5 GB on disk)
.venv-coinrun/done.stamp:
	@$(PYTHON) -m venv .venv-coinrun
	@.venv-coinrun/bin/python -m pip --disable-pip-version-check install -q 'procgen-mirror==0.10.7' 'numpy<2'
	@touch $@

coinrun-data: .venv-coinrun/done.stamp
	@.venv-coinrun/bin/python scripts/make_coinrun_data.py --out $(COINRUN_OUT) $(COINRUN_ARGS)

clean:
	rm -rf .venv .venv-coinrun $(DEMO_OUT) site .pytest_cache .mypy_cache .ruff_cache
