# Everything a newcomer types. Each target installs what it needs, and does nothing where that is done already.

SHELL := bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
KEEP ?=
JSON ?=

.PHONY: help demo examples test check docs format bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: ## real flight data, from files to an endpoint with a value in dollars (KEEP=1 leaves it up)
	@scripts/install demo
	scripts/demo $(if $(KEEP),--keep)

examples: ## train VGG16, ResNet50, Inception V3 and V4 and YOLO at toy size through a pool (JSON=1 for programs)
	@scripts/install examples
	@scripts/vision $(if $(JSON),--json)

test: ## install what tests need, then checks, documents and every test
	@scripts/install test
	scripts/test

check: ## format, lint, types, contracts and house rules, in under 30 s
	@scripts/install dev
	scripts/check

format: ## put the sources into the project's format
	@scripts/install dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: ## build the documentation into site/
	@scripts/install dev
	scripts/docs

bench: ## record every benchmark: scripts/bench NAME for one of them
	@scripts/install bench
	scripts/bench all

clean: ## remove what the targets above built (not the environments)
	rm -rf site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
