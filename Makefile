# Every target brings what it needs by itself: packages by apt, a virtual environment in .venv, once.
# Run `make help` for the list. Targets that build network namespaces need root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Tests start hundreds of interpreters. Without bytecode on disk each would compile the program again.
unexport PYTHONDONTWRITEBYTECODE
# Stamps of packaging/bootstrap: .venv/.demo, .code, .build and so on.
READY := .venv/.code
LOCKS := packaging/requirements
VENV := .venv
UNIT = tests/unprivileged $(VENV)/bin/pytest tests/unit -m "not root" -n auto
# One resolver makes both files; the environment of the one who runs it must not show in them.
LOCK := env -u PIP_FIND_LINKS -u UV_FIND_LINKS -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL \
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url $(ARGS)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PRECIOUS: .venv/.%
.venv/.%: pyproject.toml daemon/routesync/__init__.py $(LOCKS)/dev.txt packaging/bootstrap
	@packaging/bootstrap $*

.PHONY: demo
demo: root .venv/.demo ## Replay the incident of README in network namespaces (KEEP=1: leave it running)
	@PYTHONPATH=tests $(BIN)/python -m demo

.PHONY: test
test: root .venv/.test ## Run the tests; ARGS='-k name' are handed to pytest
	@$(BIN)/pytest -n 6 --dist worksteal $(ARGS)

.PHONY: test-unit
test-unit: $(READY) ## Run the tests that need neither root nor a network: as nobody, without one, in under a minute
	@$(UNIT) $(ARGS)

# `make test-unit` on another Python than that of .venv.
PYTHON_VERSION ?= 3.13
.PHONY: test-python
test-python: VENV = .venv-$(PYTHON_VERSION)
test-python: ## Run the same on another Python if there is one here (PYTHON_VERSION=3.13)
	@python=$$(packaging/find-python $(PYTHON_VERSION)) || exit 0; \
		{ [ $(VENV)/.unit -nt $(LOCKS)/dev.txt ] && [ $(VENV)/.unit -nt daemon/routesync/__init__.py ]; } || PYTHON=$$python VENV=$(VENV) packaging/bootstrap unit; \
		$(UNIT) --hypothesis-profile=short $(ARGS)

# Generated documents look as the locked typer makes them.
.PHONY: test-dependencies
test-dependencies: $(READY) ## Run the same with the oldest and with the newest libraries that pyproject.toml allows
	@mkdir -p build
	@for them in lowest-direct highest; do \
		uv pip compile --quiet --python-version 3.11 --no-header --resolution $$them pyproject.toml -o build/$$them.txt; \
		uv venv --quiet --clear .venv-$$them; \
		uv pip install --quiet --python .venv-$$them -c build/$$them.txt -r build/$$them.txt --group dev -e .; \
		echo "with the libraries of build/$$them.txt:"; \
		tests/unprivileged .venv-$$them/bin/pytest tests/unit -m "not root" -n auto \
			--ignore tests/unit/test_generated_documents.py $(ARGS); \
	done

# The data of each process goes where every user, and a unit with a private /tmp, can write it.
.PHONY: coverage
coverage: root .venv/.test ## Run the tests and report what they reach, branches too, also in the daemons that they start
	@rm -rf build/coverage && mkdir -p build/coverage
	@data=$$(mktemp -d /var/cache/coverage.XXXXXX); trap 'rm -rf "$$data"' EXIT; chmod 1777 "$$data"; \
		status=0; COVERAGE_FILE=$$data/data \
		$(BIN)/coverage run -m pytest -n 4 --dist worksteal --timeout=480 $(ARGS) || status=$$?; \
		$(BIN)/coverage combine --quiet "$$data"; \
		$(BIN)/coverage html --quiet --fail-under=0; $(BIN)/coverage report || status=$$?; exit $$status

.PHONY: lint
lint: $(READY) ## Check style, spelling, types and the direction of imports
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/codespell .ci config daemon docs examples packaging systemd tests Makefile pyproject.toml *.md
	@! grep -rnE --exclude-dir=node_modules '^(<<<<<<<|>>>>>>>) ' config daemon docs examples packaging systemd tests *.md
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@cd tests && lint-imports --no-logo

.PHONY: format
format: $(READY) ## Format the code
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

.PHONY: docs
docs: $(READY) ## Write the generated documents: references, schemas, AsyncAPI, OpenAPI
	@PYTHONPATH=packaging $(BIN)/python -m docgen

.PHONY: bench
bench: root .venv/.test .venv/.page .venv/.mqtt.js ## Measure, and write docs/benchmarks.md
	@$(if $(ARGS),,rm -f build/bench.json)
	@status=0; $(BIN)/pytest tests/bench --bench -s $(ARGS) || status=$$?; \
		PYTHONPATH=tests $(BIN)/python -m support.bench_report docs; exit $$status

.venv/.mqtt.js: packaging/page/package-lock.json packaging/page/fetch
	@packaging/page/fetch $@

.PHONY: pictures
pictures: root .venv/.pictures .venv/.mqtt.js ## Make the pictures of README and docs, of everything as it runs
	@PYTHONPATH=tests $(BIN)/python -m page.pictures docs/pictures .venv/.mqtt.js

OPERATIONS ?= 100000
.PHONY: fuzz
fuzz: root .venv/.test ## Try new programmes of route operations (OPERATIONS=100000), and properties with more examples
	@ROUTESYNC_FUZZ_OPERATIONS=$(OPERATIONS) ROUTESYNC_FUZZ_SEED=$${SEED:-0} \
		$(BIN)/pytest tests/kernel/test_differential_fuzz.py -s $(ARGS)
	@$(BIN)/pytest -m hypothesis --hypothesis-profile=fuzz --timeout=3600 $(ARGS)

# In an environment of their own: mutmut wants the program not to be installed, schemathesis is a plugin of pytest.
.venv-trials/.trials: pyproject.toml $(LOCKS)/trials.txt packaging/bootstrap
	@VENV=.venv-trials packaging/bootstrap trials

.PHONY: fuzz-api
fuzz-api: root .venv/.test .venv-trials/.trials ## Call a running daemon by its OpenAPI document in odd ways (ARGS='-n 1000')
	@PYTHONPATH=daemon:tests .venv-trials/bin/python -m support.api_fuzz $(ARGS)

.PHONY: mutation
mutation: .venv-trials/.trials ## Change the core in small ways; mypy or a test must notice (PARTS='policy state'; half an hour for all)
	@.venv-trials/bin/python packaging/mutation.py $(PARTS)

KILLS ?= 200
.PHONY: kill
kill: root .venv/.test ## Kill the daemon at moments of chance (KILLS=200) and look at both kernels after each time
	@ROUTESYNC_KILLS=$(KILLS) ROUTESYNC_KILLS_SEED=$${SEED:-0} $(BIN)/pytest tests/system/test_kills.py -s $(ARGS)

.PHONY: chaos
chaos: SECONDS ?= 600
chaos: root .venv/.test ## Let everything fail at once (SECONDS=600, SEED=...) and compare what is said with the truth
	@ROUTESYNC_CHAOS_S=$(SECONDS) ROUTESYNC_CHAOS_SEED=$${SEED:-0} $(BIN)/pytest tests/chaos/test_chaos.py -s $(ARGS)

.PHONY: endurance
endurance: SECONDS ?= 3600
endurance: EVENTS ?= 1000000
endurance: root .venv/.test ## Publish through refusals, cuts and kills (EVENTS=1000000, SECONDS=3600, SEED=...) and count every event
	@ROUTESYNC_ENDURANCE_S=$(SECONDS) ROUTESYNC_ENDURANCE_EVENTS=$(EVENTS) ROUTESYNC_ENDURANCE_SEED=$${SEED:-0} \
		$(BIN)/pytest tests/chaos/test_endurance.py -s $(ARGS)

.PHONY: soak
soak: SECONDS ?= 1800
soak: root .venv/.test ## Change 100 routes a second (SECONDS=1800) and see that nothing grows
	@ROUTESYNC_SOAK_S=$(SECONDS) $(BIN)/pytest tests/chaos/test_soak.py --bench -s $(ARGS)

.PHONY: lock
lock: ## Lock the dependencies with hashes (needs uv); ARGS=--upgrade takes newer ones
	@command -v uv >/dev/null || { echo 'make lock: uv is missing: pip install uv' >&2; exit 1; }
	@$(LOCK) pyproject.toml -o $(LOCKS)/runtime.txt
	@$(LOCK) pyproject.toml --group build -c $(LOCKS)/runtime.txt -o $(LOCKS)/build.txt
	@$(LOCK) pyproject.toml --group dev -c $(LOCKS)/build.txt -o $(LOCKS)/dev.txt
	@$(LOCK) --group page -c $(LOCKS)/dev.txt -o $(LOCKS)/page.txt
	@$(LOCK) --group trials -c $(LOCKS)/dev.txt -o $(LOCKS)/trials.txt
	@cd packaging/page && npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts $(ARGS)

.PHONY: manual
manual: .venv/.build ## Write manual pages and shell completion into build/share
	@packaging/manual build/share

# Artefacts: each is built into dist/, and the same commit gives the same bytes.
.PHONY: deb
deb: .venv/.build ## Build the package for Debian 12, 13 and Ubuntu 24.04
	@packaging/package deb

.PHONY: rpm
rpm: .venv/.build ## Build the package for RHEL 9, 10 and Fedora
	@packaging/package rpm

.PHONY: wheel
wheel: .venv/.build ## Build the wheel, with manual pages, completion and units
	@packaging/wheel

.PHONY: image
image: root .venv/.image ## Build the container image (BASE=... to choose what it is built on)
	@packaging/oci/build

.PHONY: artefacts
artefacts: root .venv/.image .venv/.chart ## Build everything that a release has, with checksums and an SBOM
	@packaging/artefacts

.PHONY: test-page
test-page: root .venv/.test .venv/.page ## Test the page of a node and of a fleet in a real browser
	@$(BIN)/pytest tests/page --page $(ARGS)

.PHONY: test-models
test-models: root .venv/.test ## Generate models of the events for Python and TypeScript, and parse what a daemon publishes
	@$(BIN)/pytest tests/models --models $(ARGS)

.PHONY: test-cluster
test-cluster: root .venv/.test .venv/.cluster ## Test a clustered broker: three members of NATS, of which one is killed
	@$(BIN)/pytest tests/mqtt/test_cluster.py --cluster $(ARGS)

.PHONY: test-artefacts
test-artefacts: root .venv/.test .venv/.artefacts ## Build and install each artefact in a clean place, and use it there
	@$(BIN)/pytest tests/artefacts tests/system/test_booted.py --artefacts $(ARGS)

.PHONY: release
release: .venv/.build ## Check what a release needs (a clean tree, a changelog entry, all tests), build it, tag it
	@packaging/release

.PHONY: clean
clean: ## Remove everything that was built, the virtual environment too
	@rm -rf .venv .venv-* build dist tests/node/node_modules tests/models/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo 'This target builds network namespaces and needs root: sudo make $(MAKECMDGOALS)' >&2; exit 1; }
