# The commands that people type. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup test check format docs gate up

help:  ## List the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup:  ## Install the packages that uv.lock pins.
	uv sync --locked

test:  ## Run the tests.
	uv run --no-sync pytest

check:  ## Run the linter, the formatter, the type checker and the import contracts.
	uv run --no-sync ruff check .
	uv run --no-sync ruff format --check .
	uv run --no-sync mypy
	uv run --no-sync lint-imports

format:  ## Format the code and fix what the linter can fix.
	uv run --no-sync ruff check --fix .
	uv run --no-sync ruff format .

docs:  ## Build the documentation site in site/; a warning is an error.
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true uv run --no-sync mkdocs build --strict

gate:  ## Run everything that a change must pass.
	.ci/run

up:  ## Train a first model if there is none, serve it and learn from votes.
	uv run --no-sync plaudit up
