# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-lab trust pack bench lab-shell lint format static clean

demo: .venv/.installed ## Run the daemon on a recorded host and play what its clients send
	$(BIN)/python -m demo

test: .venv/.installed ## Pass the tests
	$(BIN)/python -m pytest

trust: .venv/.installed ## Try to break every promise (under an hour; --quick: some minutes; root for all)
	UV_PROJECT_ENVIRONMENT=.venv $(BIN)/uv sync --quiet --frozen --inexact --group fuzz
	$(BIN)/python -m tests.faults $(TRUST_OPTIONS)

pack: ## Pack the snap, and the charm with it, into dist
	ci/pack-charm . dist

bench: .venv/.installed ## Measure the daemon against floors taken in the same run
	$(BIN)/python -m benchmarks $(BENCH_OPTIONS)

test-lab: .venv/.installed ## Pass all tests that need machines (about an hour; root)
	EPA_LAB=required $(BIN)/python -m pytest tests/integration -n 2 --dist worksteal

lab-shell: .venv/.installed ## A root shell in a virtual machine with the snap installed
	$(BIN)/python -m tests.integration.lab $(LAB_OPTIONS)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	@# It needs Python 3.12; uv.lock brings it only there.
	@if [ -x $(BIN)/charmlint ]; then $(BIN)/charmlint --strict .; \
	else echo "charmlint did not run: .venv has a Python before 3.12 (PYTHON=python3.12 make lint)"; fi

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

static: .venv/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv .tox .pytest_cache .ruff_cache .hypothesis

# uv installs exactly what uv.lock says; pip only brings uv.
.venv/.installed: pyproject.toml uv.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5,<1'
	UV_PROJECT_ENVIRONMENT=.venv $(BIN)/uv sync --quiet --frozen --inexact
	touch $@
