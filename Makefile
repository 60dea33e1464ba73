# Three commands matter: `make book`, `make test` and `make lint`. They install into .venv first, when they have to.
# REQUIREMENTS=requirements/floor.txt (newest.txt, colab.txt) installs other versions, each into a folder of its own.

PYTHON ?= python3
PRESET ?= smoke
REQUIREMENTS ?= requirements.txt
VENV := .venv$(patsubst %,-%,$(filter-out requirements,$(basename $(notdir $(REQUIREMENTS)))))
BIN := $(VENV)/bin
# The name of the stamp holds what is installed, so that another branch or another version installs again.
INSTALLED := $(VENV)/installed-$(shell cat $(REQUIREMENTS) pyproject.toml | cksum | tr ' ' '-')
PEERS := $(INSTALLED)-peers-$(shell cksum < benchmarks/requirements.txt | tr ' ' '-')
BENCHMARKS := training_loops language_model engine recursive_skip costs placements cuda_graph load_weights channels_last convert_norm

.DEFAULT_GOAL := help
.PHONY: help book chapter chapters test lint bench notebooks screenshots clean distclean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 22

book: $(INSTALLED)  ## build the book into _build/html (PRESET=smoke|cpu|colab|paper, ARGS="--only recursive_skip")
	@$(BIN)/python -m book.build --preset $(PRESET) $(ARGS)

chapters: $(INSTALLED)  ## execute every chapter, without pages (REQUIREMENTS=requirements/colab.txt)
	@$(BIN)/python -m book.build --no-pages --preset $(PRESET) $(ARGS)

test: $(INSTALLED)  ## run all tests (ARGS="-k words")
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(ARGS)

lint: $(INSTALLED)  ## check style, imports and types (ruff, mypy; ARGS=--fix repairs the first two)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check . $(ARGS)
	@$(BIN)/mypy

bench: $(PEERS)  ## measure this package beside others into results/benchmarks (ARGS="--quick")
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS); done

notebooks: $(INSTALLED)  ## strip the notebooks, fill in badge and install cell, say what they lack
	@$(BIN)/python -m book.build --normalise

chapter: $(INSTALLED)  ## begin a chapter: make chapter NAME=graph_norms (ARGS="--after which_norm")
	@$(BIN)/python -m book.new_chapter "$(NAME)" $(ARGS)

screenshots: book  ## renew the pictures of the README (needs chromium)
	@$(BIN)/python -m book.screenshots

clean:  ## remove what was built
	rm -rf _build .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +

distclean: clean  ## remove the installation too
	rm -rf .venv .venv-*

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "resnorm needs Python 3.11 or newer, and $(PYTHON) is older; for example: make PYTHON=python3.12 book"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV), once; PyTorch is large."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/installed-*
	@touch $@

$(PEERS): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r benchmarks/requirements.txt
	@touch $@
