# Lavender: setup, run, test, lint, bench. Each target may be run again at any time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
AGENT_ARGS ?=
QUICK := -m "not soak and not faults and not packages and not compose"

.PHONY: help setup packages run test lint audit format bench soak faults test-packages test-compose coverage docs
.PHONY: lock wheels sbom install uninstall deb clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: packages $(STAMP) ## install system packages and the Python environment

packages:
	@docker/setup-packages

$(STAMP): requirements.lock pyproject.toml
	@[ -x $(PYTHON) ] || "$$(docker/find-python)" -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

run: setup ## start the agent (AGENT_ARGS="--output pretty")
	$(SUDO) $(PYTHON) -m actors.agent $(AGENT_ARGS)

test: setup ## every test but the long ones
	$(PYTHON) -m pytest -q $(QUICK) $(PYTEST_ARGS)

faults: setup ## kill, cut, fill and slow down parts of the backend
	$(PYTHON) -m pytest -q -m faults -o faulthandler_timeout=400 $(PYTEST_ARGS)

test-packages: setup ## install, boot, upgrade and remove on a small Debian of its own, for minutes
	$(PYTHON) -m pytest -q -m packages -o faulthandler_timeout=600 $(PYTEST_ARGS)

test-compose: setup ## the stack of docker-compose.yml in containers, for minutes
	tests/compose/setup $(VENV)/docker
	$(PYTHON) -m pytest -q -m compose -o faulthandler_timeout=900 $(PYTEST_ARGS)

soak: setup ## ten minutes of mixed flood
	$(PYTHON) -m pytest -q -m soak -o faulthandler_timeout=900 $(PYTEST_ARGS)

lint: setup ## style, types, trio's pitfalls, import order between packages
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	git ls-files 'actors/*.py' 'services/*.py' ':!services/store' | xargs $(VENV)/bin/flake8-async --enable=ASYNC101,ASYNC102,ASYNC103,ASYNC104,ASYNC109,ASYNC119,ASYNC910,ASYNC911,ASYNC912,ASYNC913
	! git ls-files | grep -E '\.(whl|deb|so|o|pyc|tar|gz|zip|db|cdx\.json)$$' # what was built is not committed
	@$(MAKE) --no-print-directory audit

audit: setup ## known vulnerabilities of what is used, when online
	@$(PYTHON) -m tests.audit requirements.lock

format: setup ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup ## measure speed and size on this machine (BENCH_ARGS="--json")
	@$(SUDO) $(PYTHON) -m tests.bench $(BENCH_ARGS)

coverage: setup ## branch coverage of everything
	$(PYTHON) -m coverage run -m pytest -q $(QUICK) $(PYTEST_ARGS)
	$(PYTHON) -m coverage report -m

docs: setup ## write the documents that are made from the code and the lock
	$(PYTHON) -m tests.reference > docs/CONFIGURATION.md
	$(PYTHON) -m tests.streams_reference > docs/EVENT_STREAMS_AND_INTERFACES.md
	$(PYTHON) -m tests.licences > docs/LICENCES.md

lock: ## pin the dependencies again, with hashes
	$(PYTHON) -m pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra dev --extra services -o requirements.lock pyproject.toml

wheels: setup ## what is installed, as wheels in dist/wheels
	@docker/make-wheels

sbom: setup ## bill of materials (CycloneDX), in dist/lavender.cdx.json
	@mkdir -p dist
	@docker/lock-part --extra services > dist/runtime.lock
	@$(VENV)/bin/cyclonedx-py requirements --output-reproducible --of JSON -o dist/lavender.cdx.json \
	  --pyproject pyproject.toml dist/runtime.lock 2>/dev/null

install: sbom wheels ## as root: programs, units, configuration (PREFIX=/usr/local, DESTDIR=)
	@docker/install put

uninstall: ## as root: remove all of it, state and configuration too
	@docker/install remove

deb: sbom wheels ## a Debian package, in dist
	@docker/make-deb

clean: ## remove the environment, what was built, and caches
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
