# Two commands matter: `make demo` and `make test`. Both set up .venv themselves; run twice, the second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := requirements/constraints.txt
DEMO_OUT ?= firstcue-demo

.PHONY: demo test lint docs bench clean

demo: .venv/core.stamp
	$(BIN)/firstcue demo --out $(DEMO_OUT) $(DEMO_ARGS)

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadgroup -rs $(TEST_ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs.stamp
	$(BIN)/zensical build --clean

bench: .venv/peers.stamp
	$(BIN)/python benchmarks/run.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "firstcue needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 3; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 3; }

.venv/core.stamp: pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	@echo "Installing into .venv: torch (CPU build about 200 MB to fetch, 900 MB on disk) and about 400 MB of libraries. PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are honoured."
	$(PIP) install -q -c $(CONSTRAINTS) "$$(grep '^torch==' $(CONSTRAINTS))"
	$(PIP) install -q -c $(CONSTRAINTS) -e .
	@touch $@

.venv/%.stamp: pyproject.toml $(CONSTRAINTS) .venv/core.stamp
	$(PIP) install -q -c $(CONSTRAINTS) -e ".[dev$(if $(filter dev,$*),,$(comma)$*)]"
	@touch $@

comma := ,

clean:
	rm -rf .venv $(DEMO_OUT) site .pytest_cache .mypy_cache .ruff_cache
