# Everything from nothing: `make serve` and `make test` need Python 3.11+ and nothing else.
#
#   make serve                      the demo model on http://127.0.0.1:8000
#   make serve MODEL=path/or/repo   any supported checkpoint
#   make test                       format, lint, types, tests
#   make unit ARGS=tests/cache      some tests; JOBS=0 runs them in one process
#   make bench                      most benchmarks, one after the other

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
ARGS ?=
# Processes that test at once, of up to 1.5 GB each. 0 is for debuggers: none but pytest's own.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count()))')

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help serve chat test lint types unit bench clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# The stamps are newer than what they were made from, so an up-to-date environment costs nothing.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "radixserve needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing radixserve into $(VENV) (once; torch is the large part) ...'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo 'Installing the development tools ...'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

serve: $(VENV)/.serve
	$(BIN)/radixserve serve $(MODEL) $(ARGS)

chat: $(VENV)/.serve
	$(BIN)/radixserve chat $(MODEL) $(ARGS)

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python bench/radix_tree.py
	$(BIN)/python bench/scheduler.py
	$(BIN)/python bench/first_token.py
	$(BIN)/python bench/peers.py
	$(BIN)/python bench/tiers.py
	$(BIN)/python bench/conversations.py
	$(BIN)/python bench/cache_tree.py
	$(BIN)/python bench/frontend_overhead.py
	$(BIN)/python bench/constrained.py
	$(BIN)/python bench/overload.py
	$(BIN)/python bench/fuzz_api.py
	$(BIN)/python bench/soak.py
	$(BIN)/python bench/tier_chaos.py
	$(BIN)/python bench/restart_chaos.py
	$(BIN)/python bench/demo_accuracy.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
