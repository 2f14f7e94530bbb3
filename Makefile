# The commands that developers and CI run; `make` lists them. A setup step that has nothing to do returns at once.

UV_VERSION := 0.13.9
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/virtsync
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
BIN := .venv/bin
# The tests of `make test` wait about as long as they compute: two processes leave a quarter of two cores idle.
PROCESSES := 3
ROOT := $(filter 0,$(shell id -u))
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

export PYTHONPATH := tools
# Without bytecode, each of the hundreds of agents that the tests start compiles its packages anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup system-packages python-packages installed controlplane guest krew-tool kstatus helm prometheus
setup: controlplane guest krew-tool kstatus helm prometheus ## Run all setup steps (the commands below run the steps they need)

system-packages: ## Setup: Debian packages; root installs them with apt, others get the command to run
	@tools/setup/system-packages.sh

python-packages: .venv/.synced ## Setup: uv and the Python packages, in .venv

installed: python-packages ## Setup: the packages of an installed agent, in build/installed
	@UV_PROJECT_ENVIRONMENT=build/installed $(UV) sync --locked --no-dev --compile-bytecode --quiet

controlplane: python-packages ## Setup: the components of Kubernetes, built with Go (minutes, once)
	@$(BIN)/python -m lab controlplane build >/dev/null

guest: python-packages ## Setup: the small guest that the test VMs run
	@$(BIN)/python -m lab guest build >/dev/null

krew-tool: python-packages ## Setup: Krew, which the tests install the plugin with
	@$(BIN)/python -m krew tool >/dev/null

kstatus: python-packages ## Setup: kstatus, with which Flux judges an object, built with Go
	@$(BIN)/python -m gitops build kstatus >/dev/null

helm: python-packages ## Setup: Helm, which the tests install the chart with, built with Go
	@$(BIN)/python -m lab helm >/dev/null

prometheus: | system-packages ## Setup: Prometheus and promtool of Debian, unpacked into the cache
	@tools/setup/system-packages.sh prometheus

.PHONY: debian13
debian13: setup ## Run make demo and make test in a tree of Debian 13: TESTS=tests/hypervisor runs some; FRESH=1; needs root
	@tools/setup/system-packages.sh debian
	@FRESH=$(FRESH) tools/debian/run.sh trixie $(TESTS)

.PHONY: pythons
pythons: python-packages ## Run the unit tests with each Python from 3.11 to 3.14: PYTHONS="3.11 3.14" TESTS=tests/policy
	@UV=$(UV) tools/setup/pythons.sh "$(or $(PYTHONS),3.11 3.12 3.13 3.14)" $(TESTS)

.PHONY: cluster-setup
cluster-setup: setup ## Setup: what a real cluster needs in addition
	@tools/setup/system-packages.sh cluster

.PHONY: page-setup
page-setup: setup ## Setup: Debian's Chromium, for the tests of the page
	@tools/setup/system-packages.sh page

.PHONY: publish-setup
publish-setup: python-packages ## Setup: gh, with which a release is published
	@tools/setup/system-packages.sh publish

.PHONY: gitops-setup
gitops-setup: setup ## Setup: Flux and Argo CD, built with Go (minutes, once), and Redis
	@tools/setup/system-packages.sh gitops
	@$(BIN)/python -m gitops build >/dev/null

# The system Python refuses packages (PEP 668), so uv has its own environment. It is created atomically.
$(UV): | system-packages
	@echo "Installing uv $(UV_VERSION) into $(CACHE)"
	@mkdir -p $(CACHE)
	@partial=$$(mktemp -d $(CACHE)/uv.XXXXXX) && trap 'rm -rf $$partial' EXIT && \
	python3 -m venv $$partial && \
	$$partial/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) && \
	{ mv -T $$partial $(CACHE)/uv-$(UV_VERSION) || test -x $(UV); }

.venv/.synced: uv.lock pyproject.toml $(UV) | system-packages
	UV_PYTHON=python3 UV_PYTHON_PREFERENCE=only-system UV_PYTHON_DOWNLOADS=never $(UV) sync --locked --all-groups --compile-bytecode
	@touch $@

.PHONY: check site site-serve test test-parts test-long gitops krew image image-size dist dist-check release-check publish e2e e2e-full chaos cluster demo bench fleet mutation manifests page-test page-bench page-screenshots versions cluster-flux clean
check: python-packages ## Lint, format, types, import contracts, YAML, shell, site
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests tools/image/layers.py tools/image/canonical.py
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck .ci/run tools/setup/*.sh tools/image/*.sh tools/debian/*.sh tests/e2e/*.sh
	$(SITE) build

site: python-packages ## Build the documentation site in build/site; a link that leads nowhere is an error
	$(SITE) build

site-serve: python-packages ## Show the documentation site on http://127.0.0.1:8000, and follow changes
	$(SITE) serve

test: check setup ## Check, then run the tests on real components, except those that take minutes each; as root also e2e
	@$(MAKE) --no-print-directory test-parts
ifdef ROOT
	@$(MAKE) --no-print-directory e2e
else
	@echo "Not run, because they need root: the tests with polkit, on a real cluster and a systemd (sudo make test)"
endif

test-parts: setup ## Run the tests of `make test` that need no cluster, without the check
	$(BIN)/pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder

test-long: setup ## Run the tests that take a minute or more each, except those on a real cluster
	$(BIN)/pytest -m "long and not e2e and not gitops and not page"

versions: controlplane guest ## Run the tests of API, rights, agent and manager on each version of Kubernetes: ONLY=1.32
	@$(BIN)/python -m versions run $(if $(ONLY),--only $(ONLY))

gitops: gitops-setup ## Run the tests with the real Flux and Argo CD, and print what they did and after how many seconds
	$(BIN)/pytest tests/gitops -m gitops

page-test: page-setup ## Run the tests of the manager's page in a real Chromium
	$(BIN)/pytest tests/browser -m page

page-bench: page-setup ## Measure the manager's page in a real Chromium: VMS=5000
	@$(BIN)/python -m browser bench $(if $(VMS),--vms $(VMS))

page-screenshots: page-setup ## Take the pictures of the manager's page for the documents
	@$(BIN)/python -m browser screenshots

image: ## Build the agent's image and write build/image.tar: ENGINE=podman BASE=debian:12-slim TAG=1.2.3 FRESH=1
	@tools/setup/system-packages.sh image
	@tools/image/build.sh

krew: python-packages ## Build the plugin kubectl virtsync for Krew: an archive and its manifest, in build/krew
	@UV=$(UV) $(BIN)/python -m krew archive $(or $(FOLDER),build/krew)

image-size: python-packages ## Print the unpacked size of each layer of build/image.tar
	@$(BIN)/python tools/image/layers.py build/image.tar

dist: python-packages image ## Build the files of a release into dist/
	@UV=$(UV) $(BIN)/python -m release build

dist-check: python-packages ## Build the release of this commit twice, from nothing, and compare the two bit for bit
	@tools/setup/system-packages.sh image
	@$(BIN)/python -m release check

release-check: publish-setup ## Fail unless this commit is a release: its tag, its section in CHANGELOG.md, no other change
	@$(BIN)/python -m release notes

publish: publish-setup ## Create the release on GitHub from dist/ with gh
	@$(BIN)/python -m release publish

e2e: cluster-setup image ## Run the tests on a real cluster and a systemd, except the long ones; needs root
	$(BIN)/pytest -v --durations=10 tests/image tests/e2e -m "e2e and not long"

e2e-full: cluster-setup image ## Run all tests on a real cluster; needs root
	$(BIN)/pytest -v --durations=10 tests/image tests/e2e -m e2e

chaos: setup ## Run the fault tests, also the long ones, then random faults: SEED=1 MINUTES=5
	$(BIN)/pytest tests/chaos -m "long or not long"
	$(BIN)/python -m chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5)

cluster: cluster-setup ## Run a real cluster of two nodes to try things on, until Ctrl-C; needs root
	@$(BIN)/python -m cluster run $(addprefix --image=,$(wildcard build/image.tar))

cluster-flux: gitops-setup ## Run Flux and a new Git repository for `make cluster`, until Ctrl-C
	@$(BIN)/python -m gitops beside

demo: setup ## Show the demo on the terminal; FLEET=1 adds a second host, KEEP=1 leaves everything running
	@$(BIN)/python -m demo

bench: setup installed ## Measure latency, load and footprint; ONLY=storm,start measures some, OUTAGE=1 is shorter
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(OUTAGE),--outage $(OUTAGE))

fleet: setup ## Measure what a fleet costs the API server: N=50 nodes, M=500 VMs, W=20 writes/s, ONLY=idle,outage, PAGE=1
	@$(BIN)/python -m fleet --nodes $(or $(N),50) --vms $(or $(M),500) $(if $(W),--writes $(W)) $(if $(ONLY),--only $(ONLY)) $(if $(PAGE),--page)

mutation: python-packages ## Mutate the pure core: a test must catch every change
	$(BIN)/mutmut run

manifests: controlplane ## Render the files of deploy/ and docs/ that are made from others
	@$(BIN)/python -m manifests.version
	@kubectl=$$($(BIN)/python -m lab controlplane build)/kubectl && { \
	echo '# Rendered by `make manifests` from deploy/base: change it there, or in your own kustomization.'; \
	$$kubectl kustomize deploy/base; } > deploy/install.yaml.partial && mv deploy/install.yaml.partial deploy/install.yaml
	@$(BIN)/python -m manifests.argocd
	@$(BIN)/python -m manifests.rules
	@$(BIN)/python -m manifests.metrics
	@$(BIN)/python -m manifests.reasons
	@$(BIN)/python -m manifests.dashboards
	@$(BIN)/python -m manifests.chart

clean: ## Remove what was built in this folder (the cache, ~/.cache/virtsync, stays)
	rm -rf .venv build dist mutants .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
