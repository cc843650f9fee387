# Everything runs in .venv, which `setup` makes once and again only when pyproject.toml or constraints.txt change.
# More arguments for a case: make case ARGS="--model google/gemma-2b-it --pairs mine.csv"

export OMP_WAIT_POLICY ?= PASSIVE
PYTHON ?= python3
ARGS ?=
CASE ?= gemma_refusal
STUDIES := gemma_refusal gemma2_replication single_direction rotation_plane incapability
VENV := .venv
TL4 := .venv-tl4
WHEEL := build/wheel
STAMP := $(VENV)/.complete
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup hooks case test test-tl4 test-wheel bench architectures ground-truth kills fuzz soak figures pictures notebooks docs rooms organism lint types clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## the environment in .venv, with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev,images]' -c constraints.txt
	@touch $@

hooks: $(STAMP)  ## style and types before every commit, by pre-commit
	$(BIN)/pre-commit install

case: $(STAMP)  ## a study on its bundled model, a report in runs/: CASE=gemma_refusal, rotation_plane, …
	$(BIN)/python -m circuits.cases.$(CASE) $(ARGS)

test: lint types  ## lint, types and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)  # one worker per core, one thread each

test-tl4: $(TL4)/.complete  ## every test with transformer-lens 4, without sae-lens: ARGS=tests/model
	OMP_NUM_THREADS=1 $(TL4)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

$(TL4)/.complete: pyproject.toml constraints-tl4.txt
	$(PYTHON) -m venv $(TL4)
	@echo '*' > $(TL4)/.gitignore
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-tl4.txt
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

test-wheel: $(STAMP)  ## the wheel in an environment of its own, run from another folder: some minutes
	rm -rf $(WHEEL)
	mkdir -p $(WHEEL)/elsewhere
	$(BIN)/python -c 'from hatchling.build import build_wheel; build_wheel("$(WHEEL)")'
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(WHEEL)/*.whl
	cd $(WHEEL)/elsewhere && env -u PYTHONPATH ../venv/bin/circuits --help
	cd $(WHEEL)/elsewhere && env -u PYTHONPATH ../venv/bin/python -m circuits.cases.$(CASE) --no-images $(ARGS)

bench: $(STAMP)  ## how fast the engine is: docs/benchmark.md
	$(BIN)/python tests/bench $(ARGS)

architectures: $(STAMP)  ## how exact the engine is on each architecture: docs/architectures.md
	$(BIN)/python tests/bench/architectures.py $(ARGS)

ground-truth: $(STAMP)  ## what every method finds of circuits that are known: docs/ground-truth.md
	$(BIN)/python tests/bench/ground_truth.py $(ARGS)

kills: $(STAMP)  ## a case killed 50 times at random moments, and what it finds in the end
	$(BIN)/python tests/bench/kills.py $(ARGS)

fuzz: $(STAMP)  ## damaged files into every reader, 100,000 each: docs/security.md
	$(BIN)/python tests/bench/fuzz.py $(ARGS)

soak: $(STAMP)  ## 200 sweeps in one process: memory flat, numbers the same
	$(BIN)/python tests/bench/soak.py $(ARGS)

pictures: $(STAMP)  ## whether every picture in figures/ is what the code draws
	CIRCUITS_EVERY_PICTURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/cases/test_figures.py $(ARGS)

notebooks: $(STAMP)  ## run every notebook from a clean folder, then store them stripped
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/notebooks $(ARGS)
	$(BIN)/python tests/stored_notebooks.py

docs: $(STAMP)  ## the documentation: build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

rooms: $(STAMP)  ## the picture of the package's rooms: docs/rooms.svg
	$(BIN)/python docs/site/rooms.py

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
	rm -rf $(VENV) $(TL4) build dist .pytest_cache .ruff_cache .hypothesis
	find circuits tests -name __pycache__ -type d -exec rm -rf {} +
