PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The newest TRL, which has no PPO trainer, and Hydra's release candidate.
COMPAT := $(VENV)-compat
NEWEST := trl 'hydra-core>=1.4.0rc1' 'omegaconf>=2.4.0rc1'

.DEFAULT_GOAL := help
.PHONY: help train test compat lint types check bench clean

help: ## This list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

train: $(READY) ## Run the main job: reward "Paris", objective=kl, offline
	$(BIN)/klvi train

test: $(READY) ## Run the tests, but for the slow ones (two minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

compat: ## Run all tests with the newest TRL and Hydra, in an environment beside
	test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	grep -vE '^(trl|hydra-core|omegaconf|antlr4-python3-runtime)==' constraints.txt > $(COMPAT)/constraints.txt
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check -c $(COMPAT)/constraints.txt -e '.[dev]'
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check -c $(COMPAT)/constraints.txt --upgrade $(NEWEST)
	$(COMPAT)/bin/python -m pytest -n 2 --dist worksteal -m 'not trl_ppo'

lint: $(READY) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types
	$(BIN)/mypy

check: lint types ## Check style and types, and run the slow tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

bench: $(READY) ## Measure an update's cost against TRL's; ARGS="tiny --quick" for a part
	$(BIN)/python -m scripts.bench $(ARGS)

clean: ## Remove the environment and caches; runs stay
	rm -rf $(VENV) $(COMPAT) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
