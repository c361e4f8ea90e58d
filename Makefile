# Postern: `make` lists the targets. Each makes the virtual environment that it needs (scripts/venv), can be repeated, and
# can be interrupted: what was half made is made anew.
#
#   PYTHON=python3.13   the interpreter to make the environment from (default python3)
#   VENV=.venv-3.13     where the environment stands (default .venv)
#   ARGS='-k probes -x' more arguments for pytest, the demo, a benchmark or the fuzzer

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
export PYTHON VENV

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Of the packages that decide, named in pyproject.toml, every branch.
COVERAGE := --cov --cov-report=term-missing:skip-covered --cov-fail-under=100

.PHONY: help demo test test-unit lint format types imports bench fuzz crds lock lock-check clean venv servers controlplane

help: ## this list
	@printf 'Postern: the real client in front of your mail server, DANE behind it. `make demo` shows it, `make test` proves it.\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nPYTHON=python3.13 picks the interpreter, ARGS=... goes to the program that the target runs.\n'

demo: venv ## real mail, both ways: HAProxy, NSD, Unbound and Postfix; ends by itself with a summary
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(BIN)/python scripts/debian.py haproxy iproute2 nsd openssl postfix unbound || echo 'The demo goes on without them.' >&2; fi
	@$(BIN)/python scripts/demo.py $(ARGS)

test: servers ## every test, against real HAProxy, Postfix, Exim, NSD, Unbound and others (as root, on Debian)
	$(PYTEST) $(COVERAGE) $(ARGS)

test-unit: venv ## the tests that need no root and no Debian packages, in under a minute
	$(PYTEST) tests/sidecar/unit tests/operator/unit tests/test_project.py $(ARGS)

lint: venv ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv ## let ruff format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

types: venv ## mypy, strict
	$(BIN)/mypy

imports: venv ## import-linter: the layers, and no I/O below the edge
	$(BIN)/lint-imports

bench: servers ## the same load through Postern and through what one would use instead (bench/README.md)
	$(BIN)/python -m bench $(ARGS)

fuzz: venv ## a million mutated PROXY headers, 20,000 chains beside OpenSSL's own DANE code, 100,000 AdmissionReviews
	$(BIN)/python bench/fuzz_proxyproto.py $(ARGS)
	$(BIN)/python bench/fuzz_dane.py
	$(BIN)/python bench/fuzz_admission.py

crds: venv ## write the chart's copy of the custom resource definition
	$(BIN)/python scripts/crds.py

controlplane: venv ## kube-apiserver, etcd, helm and kubectl for the tests; built once, about 5 minutes on two cores
	@$(BIN)/python scripts/controlplane.py

lock: venv ## write requirements/ from pyproject.toml; ARGS=--upgrade takes the newest releases
	scripts/lock $(ARGS)

lock-check: venv ## is requirements/ what pyproject.toml asks for?
	scripts/lock --check

clean: ## remove the environment, caches and builds
	rm -rf .venv .venv-* .venv.lock .venv-*.lock dist build .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find operator sidecar tests bench scripts -name __pycache__ -prune -exec rm -rf {} +

venv:
	@scripts/venv

# The mail servers and load balancers, unpacked and not installed: two of them may not be on one Debian system at once.
servers: venv
	@$(BIN)/python scripts/debian.py
	@$(BIN)/python scripts/controlplane.py
