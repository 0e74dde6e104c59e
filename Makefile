# artart: `make` shows what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= experiment=quickstart
LOGS ?= outputs
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install train test test-all check lint tensorboard clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Make .venv and install artart with its tools into it

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and "artart needs Python 3.11 to 3.14: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: install ## Train on demo art in a minute; ARGS='experiment=auto data.root=~/art' for your own
	$(BIN)/python -m artart.train $(ARGS)

test: install ## Run the fast tests, in about two minutes; TESTS='-k name' for some, TESTS=--cov for coverage
	$(PYTEST) -m 'not slow and not distributed and not gpu' $(TESTS)

test-all: install ## Run all tests but those that need a GPU, in about 17 minutes
	$(PYTEST) -m 'not gpu' $(TESTS)

check: lint ## Lint and check types
	$(BIN)/mypy

lint: install ## Lint, check the format and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

tensorboard: install ## Look at the runs under outputs/ in a browser; LOGS=DIR for others
	$(BIN)/tensorboard --logdir $(LOGS) --samples_per_plugin images=1000

clean: ## Remove .venv and caches; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
