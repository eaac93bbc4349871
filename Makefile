# Hub Steward. `make help` lists the targets.

PORT ?= 30080
PYTHON ?= python3
UV = $$($(PYTHON) -m cluster uv | tail -n 1)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 22

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
