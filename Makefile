# Sigil's verbs. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV  := .venv
# The distribution's own interpreter if it will do: it is built with its profile, and runs this program 1.4 times as fast as a plain build.
PYTHON ?= $(shell /usr/bin/python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
                  && echo /usr/bin/python3 || echo python3)
PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
DATA  ?= $(CURDIR)/data
PORT  ?= 0

.PHONY: help setup run demo test long lint types fmt house bench docs lock corpus node clean

help: ## show the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## make the virtual environment from the hashed lock

$(READY): requirements.lock pyproject.toml libs/sigilcore/pyproject.toml libs/sigilrun/pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e libs/sigilcore -e libs/sigilrun -e .
	@touch $@

run: setup ## start the whole stack: make run DATA=<folder> PORT=<port>
	@exec $(VENV)/bin/sigil run --data "$(DATA)" --port "$(PORT)"

demo: setup corpus ## play the whole story on a stack of its own in a temporary folder
	@exec $(PY) -m cli.demo

test: setup corpus node ## lint, types, floors, and every test
	@$(MAKE) --no-print-directory lint types house
	$(PY) -m pytest

long: setup ## what takes minutes: a consumer that was away for 100 000 events
	SIGIL_TEST_AWAY=100000 $(PY) -m pytest tests/faults/test_stream.py -k long_away

lint: setup ## ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup ## mypy, strict
	$(VENV)/bin/mypy

house: setup ## floors and rooms, as law
	$(VENV)/bin/lint-imports

fmt: setup ## format and sort
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup ## the benchmarks, as ratios measured in one run; writes docs/benchmarks.md
	$(PY) -m bench

docs: setup ## write the generated pages again (OpenAPI, catalogue)
	$(PY) -m sigilrun.faces.generate

corpus: ## the real documents of the story: Debian's rust-doc
	@deploy/corpus.sh

lock: ## resolve requirements.in again into the hashed lock (needs uv)
	uv pip compile requirements.in -o requirements.lock --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-header --quiet

node: ## Debian's node and npm, which the independent canonicaliser of the tests runs on
	@command -v node >/dev/null && command -v npm >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; }

clean: ## remove the virtual environment and caches; never a data folder
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
