# Hub Steward. `make help` lists the targets.

PORT ?= 30080
PYTHON ?= python3
UV = $$($(PYTHON) -m cluster uv | tail -n 1)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 22

.PHONY: up
up: ## Create a local Kubernetes cluster with the hub on it (PORT=30080)
	@$(PYTHON) -m cluster up --port $(PORT)

.PHONY: down
down: ## Remove the local cluster
	@$(PYTHON) -m cluster down

.PHONY: images
images: ## Build the images only
	@$(PYTHON) -m cluster images

.PHONY: clean-cache
clean-cache: ## Remove builds and downloads, for a cold start
	@$(PYTHON) -m cluster clean-cache

.PHONY: test
test: ## Run every tier: lint, unit, api, chart, e2e, browser, some minutes of chaos
	@$(PYTHON) -m tests.run

.PHONY: test-unit test-api test-chart test-e2e test-browser test-chaos lint
test-unit: ## The pure core and the API models
test-api: ## A real API server, etcd and controller manager
test-chart: ## What Helm renders and refuses
test-e2e: ## The hub's REST API and kubectl on a kind cluster (KEEP=1 keeps it)
test-browser: ## Chromium with axe on the same cluster
test-chaos: ## Faults and crashes at seeded moments, some minutes of them
test-unit test-api test-chart test-e2e test-browser test-chaos:
	@$(PYTHON) -m tests.run $(subst test-,,$@)

.PHONY: test-csi
test-csi: ## Snapshots through a real CSI chain, on a cluster of their own (KEEP=1 keeps it)
	@$(PYTHON) -m tests.run csi

.PHONY: test-guards
test-guards: ## Every guard of the operator taken away, one by one: its tests have to fail (WRITE=1: into docs/reliability.md)
	@$(UV) run --frozen --all-packages python tools/guards.py $(if $(WRITE),--write)

.PHONY: test-chaos-full
test-chaos-full: ## Every fault at every write, a crash at every request, 30,000 + 500 schedules, 100 sequences (three hours)
	@CHAOS=full SCHEDULES=4 $(PYTHON) -m tests.run schedules chaos sequences

lint: ## Formatter, linter, types, import contracts, generated files
	@$(PYTHON) -m tests.run lint

.PHONY: generate
generate: ## Write the generated files: CRDs and the values schema
	@$(UV) run --frozen --all-packages python tools/generate.py

.PHONY: bench
bench: ## In-place restart against its floor and stop and start, ten rounds (WRITE=1: into docs/benchmarks.md)
	@$(UV) run --frozen --all-packages python -m benchmarks.restart $(if $(WRITE),--write)

.PHONY: bench-load
bench-load: ## Latency, load, memory and fail-over of the operator (WRITE=1: into docs/reliability.md)
	@$(UV) run --frozen --all-packages python -m benchmarks.load $(if $(WRITE),--write)

.PHONY: bench-clients
bench-clients: ## What a call to the API server costs with each client (WRITE=1: into docs/adr/0002)
	@$(UV) run --frozen --all-packages python -m benchmarks.clients $(if $(WRITE),--write)

.PHONY: test-mutation
test-mutation: ## Break the operator's core in every small way and count what the unit tests notice (WRITE=1: into docs)
	@$(UV) run --frozen --all-packages python tools/mutation.py $(if $(WRITE),--write)

.PHONY: screenshots
screenshots: ## Renew the README's pictures from a test run in the browser
	@SCREENSHOTS=1 $(PYTHON) -m tests.run browser
