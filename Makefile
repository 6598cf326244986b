# `make demo` and `make test` are all a newcomer needs: each builds .venv first where that is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint types wheel clean

demo: $(READY)  ## derain the sample clip, measure the result, write images to out/
	$(BIN)/python samples/demo.py

WORKERS ?= auto

test: $(READY)  ## the tests that take seconds
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal

test-all: $(READY)  ## all tests, those that take minutes too
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal -m "long or not long"

lint: $(READY)  ## style, format, layers of imports, and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/check_words.py

types: $(READY)
	$(BIN)/mypy
	$(BIN)/mypy docs/benchmarks.py
	MYPYPATH=tests $(BIN)/mypy --follow-imports=silent docs/batch_benchmarks.py

wheel: $(READY)  ## dist/vderain-VERSION-py3-none-any.whl, weights included
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:  ## everything that can be made again, .venv included; runs/ stays
	rm -rf $(VENV) out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find vderain tests samples docs -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vderain needs Python 3.11 or newer as \`$(PYTHON)\`. Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || { echo "Making $(VENV); the first time takes a minute or more."; $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@
