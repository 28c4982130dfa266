# `make` lists the targets. Everything is installed into .venv; nothing else on the machine is touched, except that
# `make test` as root on Debian installs the packages chromium and pgbouncer (its service is left off) where they are missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo $(BIN)/uv)
SYNC := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --inexact --quiet
LOCK := pyproject.toml uv.lock
JSON_SERVER := $(VENV)/json-server
PEERS := $(VENV)/peers
ARGS ?=

unexport VIRTUAL_ENV PYTHONPATH

.PHONY: help
help: ## list the targets (this)
	@echo 'singer-resilient: make <target>'
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12 | sed 's/^/  /'

.PHONY: demo
demo: $(VENV)/.runtime .meltano/.installed ## load a flaky API into DuckDB, twice, and tell what happened (about a minute)
	@$(BIN)/python sample_config/demo.py

.PHONY: test
test: $(VENV)/.dev $(JSON_SERVER)/.installed $(PEERS)/.installed .meltano/.installed debian ## run all tests; ARGS='tests/tap -k retry' narrows them
	$(BIN)/python -m pytest $(ARGS)

.PHONY: unit
unit: $(VENV)/.dev ## run the tests without the end-to-end ones
	$(BIN)/python -m pytest --ignore tests/e2e $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy --strict, and the lock file against pyproject.toml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(UV) lock --check --quiet

.PHONY: format
format: $(VENV)/.dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.dev ## measure tap, target and governor against the limit of this machine
	$(BIN)/python benchmarks/tap.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/target.py
	$(BIN)/python benchmarks/governor.py
	$(BIN)/python benchmarks/herd.py

.PHONY: chaos
chaos: $(VENV)/.dev ## kill the whole pipe at 40 seeded instants, run it again each time, and print what came of it
	$(BIN)/python benchmarks/campaign.py $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev ## write the settings tables of README.md and meltano.yml anew from the code
	$(BIN)/python docs/generate.py

.PHONY: setup
setup: $(VENV)/.dev ## install everything for development into .venv

.PHONY: clean
clean: ## remove .venv, caches and the demo's output
	rm -rf $(VENV) .meltano .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output

$(VENV)/.runtime: $(LOCK) | $(UV)
	@echo 'Installing the runtime into $(VENV) …'
	@$(SYNC) --no-dev
	@touch $@

$(VENV)/.dev: $(LOCK) | $(UV)
	@echo 'Installing runtime and development tools into $(VENV) …'
	@$(SYNC)
	@touch $@ $(VENV)/.runtime

# Only where no uv is on PATH: a plain venv, and uv from PyPI in it.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'Python 3.10 or newer is needed: make PYTHON=python3.12 …, or install uv (https://docs.astral.sh/uv)'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo 'python3 has no venv module here: install it (Debian, Ubuntu: apt install python3-venv), or install uv'; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet 'uv>=0.8'

# Meltano in a venv of its own; it installs the three plugins from this clone into venvs below .meltano.
.meltano/.installed: $(VENV)/meltano/.installed meltano.yml pyproject.toml
	@echo 'Installing the plugins through Meltano …'
	@$(VENV)/meltano/bin/meltano install > $(VENV)/meltano/install.log 2>&1 || { cat $(VENV)/meltano/install.log; exit 1; }
	@touch $@

$(VENV)/meltano/.installed: sample_config/meltano.txt $(VENV)/.runtime
	@echo 'Installing Meltano into $(VENV)/meltano …'
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/meltano
	@$(UV) pip install --quiet --python $(VENV)/meltano/bin/python -r $<
	@touch $@

# npm's json-server, run by Node from PyPI: an HTTP API with Link-header pages for tests/e2e.
$(JSON_SERVER)/.installed: tests/e2e/json_server/package-lock.json $(VENV)/.dev
	@echo 'Installing json-server into $(JSON_SERVER) …'
	@mkdir -p $(JSON_SERVER)
	@cp tests/e2e/json_server/package.json tests/e2e/json_server/package-lock.json $(JSON_SERVER)
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix $(JSON_SERVER) --silent --no-audit --no-fund
	@touch $@

.PHONY: debian
debian: ## Chromium and PgBouncer for the tests that need them: any on PATH, else Debian's where root may install them
	@missing=; \
	for name in chromium chromium-browser google-chrome; do command -v $$name && break; done >/dev/null || missing=chromium; \
	PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || missing="$$missing pgbouncer"; \
	[ -n "$$missing" ] || exit 0; \
	why='needs root and apt-get'; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing with apt-get: $$missing …"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  if { apt-get update && apt-get install --yes --no-install-recommends $$missing; } > $(VENV)/debian.log 2>&1; then \
	    case $$missing in *pgbouncer) systemctl disable --now pgbouncer >> $(VENV)/debian.log 2>&1;; esac; \
	    exit 0; \
	  fi; \
	  why='apt-get failed, see $(VENV)/debian.log'; \
	fi; \
	echo "Missing: $$missing ($$why): the tests that need them are skipped"

# Other people's plugins, each in a venv of its own, because their SDK pins differ.
$(PEERS)/.installed: $(wildcard tests/e2e/peers/*.txt) $(VENV)/.dev
	@for lock in $(wildcard tests/e2e/peers/*.txt); do \
	  peer=$(PEERS)/$$(basename $$lock .txt); echo "Installing $$(basename $$lock .txt) into $$peer …"; \
	  $(UV) venv --quiet --clear --python $(BIN)/python $$peer \
	  && $(UV) pip install --quiet --python $$peer/bin/python -r $$lock || exit 1; \
	done
	@touch $@
