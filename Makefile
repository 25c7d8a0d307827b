# Everything here sets itself up: the virtual environment is made on first use and refreshed when
# pyproject.toml or constraints.txt change. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: ## make .venv with every extra, hash-checked (done by the other targets by themselves)
	@scripts/bootstrap.sh all

.PHONY: lock
lock: ## re-resolve every dependency into constraints.txt
	@scripts/lock.sh
