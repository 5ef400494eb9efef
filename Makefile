# `make demo` and `make test` need nothing but Python 3.11 or newer; the rest is fetched into .venv.

VENV := .venv
BIN := $(VENV)/bin
# One more than the cores that are taken for granted: many tests wait for processes.
JOBS ?= 3
PYTEST_ARGS ?=
# The first interpreter that is new enough and can make virtual environments; PYTHON=… overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test switches lint format check clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(VENV)/.runtime  ## set up, then serve the built-in model, ask it with OpenAI's and Anthropic's clients
	$(BIN)/python examples/serve_and_ask.py
	@echo "Next: source $(BIN)/activate && helexa chat"

test: $(VENV)/.dev  ## set up, then run every test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Batching and the prefix cache are no kernels: the tests of what they do need them.
SWITCHES ?= $(shell $(BIN)/python -c "from helexa.engine.config import SWITCHES; \
	print(*sorted(SWITCHES - {'batching', 'prefix_cache'}))")

# All that run models; tests of one kernel call it whatever is switched off.
SWITCHED ?= tests/engine --ignore=tests/engine/kernels $(wildcard tests/test_*.py)

switches: $(VENV)/.dev  ## run the tests of models once for each kernel, with that one switched off
	@failed=; for name in $(SWITCHES); do \
	  echo "== without $$name"; \
	  HELEXA_DISABLE=$$name $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
	    --no-loadscope-reorder $(SWITCHED) $(PYTEST_ARGS) || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "tests failed without:$$failed" >&2; exit 1; }

lint: $(VENV)/.dev  ## formatting, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## reformat and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test  ## the gate: everything that must hold before a commit

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "helexa needs Python 3.11 or newer with the venv module; none was found on PATH." >&2; \
	  echo "Install one (on Debian or Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Stamps: a second run installs nothing unless what is pinned or required has changed.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.runtime
