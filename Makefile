# Everything here sets itself up: the virtual environment is made on first use and refreshed when
# pyproject.toml or constraints.txt change. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PY := $(BIN)/python
# What most targets need first; a no-op in 30 ms when nothing changed.
SETUP := @scripts/bootstrap.sh all

##@ Start here

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@/ { printf "\n\033[1m%s\033[0m\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-16s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## train a support router on real complaints, on this machine, without a cluster; ARGS=--full for all rows
	@start=$$SECONDS; scripts/bootstrap.sh jobs,cli; \
	  RATCHET_SETUP_SECONDS=$$((SECONDS - start)) exec $(BIN)/ratchet demo $(ARGS)

.PHONY: venv
venv: ## make .venv with every extra, hash-checked (the other targets do this by themselves)
	$(SETUP)

##@ Test

.PHONY: test
test: ## everything that CI runs: checks, then all tiers; TIERS="unit world" for some of them
	@scripts/test.sh

.PHONY: test-unit
test-unit: ## unit and world tests without the slow ones: under a minute, no cluster, no GPU
	$(SETUP)
	@$(PY) -m pytest tests/unit tests/world -m "not slow and not cluster" -q

.PHONY: soak
soak: ## the time-based fault tests at production timings: about an hour, as root
	$(SETUP)
	@RATCHET_TEST_TIME_SCALE=1 $(PY) -m pytest tests -m timed --timeout 3600 -o log_cli=true

.PHONY: mutate
mutate: ## break the code in each committed way and assert that a test notices; ARGS='--only gae'
	$(SETUP)
	@$(PY) scripts/mutate.py $(ARGS)

##@ Check

.PHONY: verify
verify: ## generated files, lint, format, types, import layers, spelling
	@scripts/test.sh verify

.PHONY: lint
lint: ## ruff, format, import layers, spelling, repository hygiene
	$(SETUP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell
	@$(PY) -m pytest -q tests/unit/test_repository.py

.PHONY: format
format: ## let ruff format the code and sort the imports
	$(SETUP)
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

.PHONY: type
type: ## mypy
	$(SETUP)
	@$(BIN)/mypy

##@ Measure

.PHONY: bench
bench: bench-supervised bench-ppo bench-rlhf-quality bench-recommender bench-classifier-rl bench-classifier-race bench-no-regression bench-operator bench-rl-control bench-feedback bench-snapshot bench-generators ## every performance figure of the README, each beside its peer in one run

.PHONY: bench-supervised
bench-supervised: ## training speed, memory and accuracy beside transformers.Trainer; ARGS="--rounds 1"
	$(SETUP)
	@$(PY) -m bench.supervised $(ARGS)

.PHONY: bench-ppo
bench-ppo: ## PPO for language models beside trl's PPOTrainer: speed, memory, reward; ARGS="--rounds 1 --threads 1"
	$(SETUP)
	@$(PY) -m bench.ppo $(ARGS)

.PHONY: bench-rlhf-quality
bench-rlhf-quality: ## does PPO from ratings raise the score over seeds, and does a second judge agree; ARGS="--seeds 1"
	$(SETUP)
	@$(PY) -m bench.rlhf_quality $(ARGS)

.PHONY: bench-recommender
bench-recommender: ## what RL changes in a recommender's likeness, variety, empathy and recommendations; ARGS="--interactions 256"
	$(SETUP)
	@$(PY) -m bench.recommender $(ARGS)

.PHONY: bench-classifier-rl
bench-classifier-rl: ## what right or wrong teaches after a few labels, over seeds; ARGS="--seeds 1 --flipped"
	$(SETUP)
	@$(PY) -m bench.classifier_rl $(ARGS)

.PHONY: bench-classifier-race
bench-classifier-race: ## answers per second of the rl stage beside a plain PPO loop; ARGS="--stages" for both stages' time
	$(SETUP)
	@$(PY) -m bench.classifier_rl.race $(ARGS)

.PHONY: bench-no-regression
bench-no-regression: ## twenty seeded runs, gate included: is anything worse than its supervised policy ever published
	$(SETUP)
	@$(PY) -m bench.classifier_rl.no_regression $(ARGS)

.PHONY: bench-rl-control
bench-rl-control: ## do PPO, A2C, REINFORCE and DQN reach CleanRL's returns on classic control; ARGS="--seeds 3"
	$(SETUP)
	@$(PY) -m bench.rl_control $(ARGS)

.PHONY: bench-snapshot
bench-snapshot: ## events per second from the feedback log to Parquet, and the memory of it; ARGS="--events 100000"
	$(SETUP)
	@$(PY) -m bench.snapshot $(ARGS)

.PHONY: bench-operator
bench-operator: ## time from create to first child beside Kubeflow Trainer; ARGS="--count 50"
	$(SETUP)
	@$(PY) -m bench.operator_scale.run $(ARGS)

.PHONY: bench-feedback
bench-feedback: ## acknowledged feedback events per second beside one object per event, on one SeaweedFS; ARGS="--seconds 5"
	$(SETUP)
	@$(PY) -m bench.feedback $(ARGS)

.PHONY: bench-generators
bench-generators: ## tokens per second at 8 concurrent streams beside model.generate per request; ARGS="--rounds 1"
	$(SETUP)
	@$(PY) -m bench.generators $(ARGS)

.PHONY: bench-rollout-stats
bench-rollout-stats: ## how often the verdict on a rollout is wrong, and how many subjects it takes; ARGS="--rollouts 1000"
	$(SETUP)
	@$(PY) -m bench.rollout_stats $(ARGS)

.PHONY: bench-router
bench-router: ## requests per second through the router beside Envoy with one plain route, and the latency it adds; ARGS="--seconds 5"
	$(SETUP)
	@$(PY) -m bench.router $(ARGS)

.PHONY: bench-serving
bench-serving: ## requests per second of the policy server beside transformers.pipeline per request; ARGS="--seconds 5 --rounds 1"
	$(SETUP)
	@$(PY) -m bench.serving $(ARGS)

##@ Generate and build

.PHONY: generate
generate: ## write crds/, the chart's copy and README, and docs/reference from the code
	$(SETUP)
	@$(PY) -m tests.tools.generate

.PHONY: docs
docs: generate ## the reference pages anew, then every code block, manifest and link of the docs is tried
	@$(PY) -m pytest -q tests/unit/test_docs.py

.PHONY: chart
chart: ## helm lint, the renderings of the chart and their policies (builds helm the first time)
	$(SETUP)
	@$(PY) -m pytest -q tests/contract/test_chart_render.py tests/contract/test_chart_rbac.py --timeout 1200

.PHONY: lock
lock: ## resolve every dependency into constraints.txt; UPGRADE=1 or UPGRADE="names" to move pins
	@scripts/lock.sh

.PHONY: images
images: ## build our images (operator, jobs, gateway, router) for the one-node cluster (root, Debian)
	$(SETUP)
	@$(PY) -m tests.lab images

##@ The one-node cluster (root, Debian)

.PHONY: lab-up
lab-up: ## start a real one-node Kubernetes and print its kubeconfig
	@scripts/lab.sh up

.PHONY: lab
lab: lab-up ## the same as lab-up

.PHONY: lab-down
lab-down: ## stop it and remove everything it started
	@scripts/lab.sh down
