# Everything runs in .venv, which `setup` makes once and again only when pyproject.toml or constraints.txt change.
# More arguments for a case: make case ARGS="--model google/gemma-2b-it --pairs mine.csv"

export OMP_WAIT_POLICY ?= PASSIVE
PYTHON ?= python3
ARGS ?=
CASE ?= gemma_refusal
STUDIES := gemma_refusal gemma2_replication single_direction rotation_plane incapability
VENV := .venv
STAMP := $(VENV)/.complete
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup case test bench architectures ground-truth figures organism lint types clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## the environment in .venv, with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,images]' -c constraints.txt
	@touch $@

case: $(STAMP)  ## a study on its bundled model, a report in runs/: CASE=gemma_refusal, rotation_plane, …
	$(BIN)/python -m circuits.cases.$(CASE) $(ARGS)

test: lint types  ## lint, types and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)  # one worker per core, one thread each

bench: $(STAMP)  ## how fast the engine is: docs/benchmark.md
	$(BIN)/python tests/bench $(ARGS)

architectures: $(STAMP)  ## how exact the engine is on each architecture: docs/architectures.md
	$(BIN)/python tests/bench/architectures.py $(ARGS)

ground-truth: $(STAMP)  ## what every method finds of circuits that are known: docs/ground-truth.md
	$(BIN)/python tests/bench/ground_truth.py $(ARGS)

figures: $(STAMP)  ## the pictures and tables that README and docs show, from the bundled model
	for case in $(STUDIES); do \
	  $(BIN)/python -m circuits.cases.$$case --out runs/figures/$$case --figures figures/$$case $(ARGS) || exit 1; done

organism: $(STAMP)  ## train an organism: ARGS="--architecture gemma|gemma2|qwen2 --seed 1 --out DIR"
	$(BIN)/python -m circuits.organisms.train $(ARGS)

lint: $(STAMP)  ## style
	$(BIN)/ruff check .

types: $(STAMP)  ## types, strictly
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## everything that `make` can make again, except runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find circuits tests -name __pycache__ -type d -exec rm -rf {} +
