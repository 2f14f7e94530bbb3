# What developers and CI run; `make` lists it. Set-up steps do nothing, and fast, when there is nothing to do.

UV_VERSION := 0.13.9
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/virtsync
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
BIN := .venv/bin

export PYTHONPATH := tools

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup system-packages python-packages controlplane guest
setup: controlplane guest ## Do all the set-up (the commands below do it themselves)

system-packages: ## Set-up: Debian packages; by apt when root, else it prints the line to run
	@tools/setup/system-packages.sh

python-packages: .venv/.synced ## Set-up: uv and the Python packages, in .venv

controlplane: python-packages ## Set-up: the parts of Kubernetes, built with Go (minutes, once)
	@$(BIN)/python -m lab controlplane build >/dev/null

guest: python-packages ## Set-up: the tiny guest that the test VMs run
	@$(BIN)/python -m lab guest build >/dev/null

.PHONY: cluster-setup
cluster-setup: setup ## Set-up: what a real cluster needs besides
	@tools/setup/system-packages.sh cluster

# A machine's own Python refuses packages (PEP 668), so uv has an environment for itself. It appears only when complete.
$(UV): | system-packages
	@echo "Installing uv $(UV_VERSION) into $(CACHE)"
	@mkdir -p $(CACHE)
	@partial=$$(mktemp -d $(CACHE)/uv.XXXXXX) && trap 'rm -rf $$partial' EXIT && \
	python3 -m venv $$partial && \
	$$partial/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) && \
	{ mv -T $$partial $(CACHE)/uv-$(UV_VERSION) || test -x $(UV); }

.venv/.synced: uv.lock pyproject.toml $(UV) | system-packages
	UV_PYTHON=python3 UV_PYTHON_PREFERENCE=only-system UV_PYTHON_DOWNLOADS=never $(UV) sync --locked --all-groups
	@touch $@

.PHONY: check test image image-size e2e e2e-full chaos cluster demo bench mutation manifests clean
check: python-packages ## Lint, format, types, import contracts, YAML, shell
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests $(wildcard tools/*.py) tools/image/layers.py
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck .ci/run tools/setup/*.sh tools/image/*.sh

test: check setup ## Check, then run the tests on real parts, but for those that take minutes each; as root e2e too
	$(BIN)/pytest -m "not long and not e2e"
	@if [ "$$(id -u)" = 0 ]; then \
		$(MAKE) --no-print-directory e2e; \
	else \
		echo "Not run, for they need root: the tests on a real cluster (sudo make e2e)"; \
	fi

image: ## Build the agent's image, and build/image.tar of it: ENGINE=podman BASE=debian:12-slim TAG=1.2.3 FRESH=1
	@tools/setup/system-packages.sh image
	@tools/image/build.sh

image-size: python-packages ## Print what each layer of build/image.tar adds, unpacked
	@$(BIN)/python tools/image/layers.py build/image.tar

e2e: cluster-setup image ## Run the tests on a real cluster, but for those that take long; needs root
	$(BIN)/pytest -v --durations=10 tests/image tests/e2e -m "e2e and not long"

e2e-full: cluster-setup image ## Run all tests on a real cluster; needs root
	$(BIN)/pytest -v --durations=10 tests/image tests/e2e

chaos: setup ## Run the tests of faults, the long ones too, then random faults: SEED=1 MINUTES=5
	$(BIN)/pytest tests/chaos
	$(BIN)/python -m chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5)

cluster: cluster-setup ## Keep a real cluster of two nodes to play with, until Ctrl-C; needs root
	@$(BIN)/python -m cluster run $(addprefix --image=,$(wildcard build/image.tar))

demo: setup ## Tell the story on the terminal; KEEP=1 leaves everything running
	$(BIN)/python tools/demo.py

bench: setup ## Measure speed, load and footprint; ONLY=storm,start measures some, OUTAGE=1 is shorter
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(OUTAGE),--outage $(OUTAGE))

mutation: python-packages ## Mutate the pure core: every change must be caught by a test
	$(BIN)/mutmut run

manifests: controlplane ## Render deploy/install.yaml from deploy/base
	@kubectl=$$($(BIN)/python -m lab controlplane build)/kubectl && { \
	echo '# Rendered by `make manifests` from deploy/base: change it there, or by a kustomization of yours.'; \
	$$kubectl kustomize deploy/base; } > deploy/install.yaml.partial && mv deploy/install.yaml.partial deploy/install.yaml

clean: ## Remove what was made in this folder (the cache, ~/.cache/virtsync, stays)
	rm -rf .venv build dist mutants .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
