# Each target prepares what it needs, from the pinned and hashed requirement files.
# Wanted beforehand: Python 3.11 or later as python3 (or PYTHON=...), make, and a reachable package index.

PYTHON ?= python3
PORT ?= 7071
DATA ?= .data
UV_VERSION := 0.13.9

uv := .venv/bin/uv
installer := .venv/.uv-$(UV_VERSION)
runtime := .venv/.runtime
development := .venv/.development
development_3_13 := .venv-3.13/.development
generated = $(shell grep -ls '\[\[\[cog' README.md docs/*.md)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test test-3.13 lint docs bench requirements clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(runtime) ## serve the app on PORT (7071), keeping its data in DATA (.data)
	.venv/bin/python -m sluicegate serve --port "$(PORT)" --data "$(DATA)"

demo: $(runtime) ## a short tour with an embedded model, against a throw-away data folder
	.venv/bin/python -m sluicegate demo

test: $(development) $(development_3_13) ## all tests here, and those of the Azure worker on Python 3.13
	.venv/bin/python -m pytest
	.venv-3.13/bin/python -m pytest tests/worker

test-3.13: $(development_3_13) ## all tests on Python 3.13
	.venv-3.13/bin/python -m pytest
	.venv-3.13/bin/python -m pytest tests/worker

lint: $(development) ## formatting, lint, types, generated docs, and the deployment's configuration
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/python -m mypy
	$(if $(generated),.venv/bin/python -m cogapp --check --diff $(generated))
	.venv/bin/python -m sluicegate check

docs: $(development) ## write the generated parts of the documentation
	.venv/bin/python -m cogapp -r $(generated)

bench: $(development) ## measure
	.venv/bin/python -m benchmarks

compile = $(uv) pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-emit-package protobuf \
	--custom-compile-command 'make requirements' $(if $(UPGRADE),--upgrade)

requirements: $(installer) ## write requirements*.txt from pyproject.toml; UPGRADE=1 takes the newest versions
	$(compile) --output-file requirements.txt
	$(compile) --group dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## remove environments and caches, never DATA
	rm -rf .venv .venv-3.13 .python .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(installer): scripts/bootstrap
	scripts/bootstrap $(PYTHON) .venv $(UV_VERSION)
	@touch $@

# Adds to what is there: a development environment stays one.
$(runtime): requirements.txt $(installer)
	@echo "Installing requirements.txt into .venv"
	$(uv) pip install --python .venv/bin/python --no-deps --require-hashes -r requirements.txt
	@touch $@

$(development): requirements-dev.txt $(installer)
	@echo "Installing requirements-dev.txt into .venv"
	$(uv) pip sync --python .venv/bin/python --require-hashes requirements-dev.txt
	@touch $(runtime) $@

$(development_3_13): requirements-dev.txt scripts/find-python | $(installer)
	@echo "Installing requirements-dev.txt into .venv-3.13"
	python=$$(UV=$(uv) scripts/find-python 3.13) && $(uv) venv --quiet --seed --clear --python "$$python" .venv-3.13
	$(uv) pip sync --python .venv-3.13/bin/python --require-hashes requirements-dev.txt
	@touch $@
