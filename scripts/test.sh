#!/usr/bin/env bash
# Everything that CI runs: the virtual environment, the checks, then all test tiers in order.
#   TIERS="unit world" scripts/test.sh     only these tiers
#   CHECKS=0 scripts/test.sh               without ruff, mypy and the other checks
# Arguments go to the runner (`verify`: the checks alone). Called by `make test` and `make verify`.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
scripts/bootstrap.sh all
RATCHET_SETUP_SECONDS=$((SECONDS - start)) exec .venv/bin/python -m tests.tools.suite "$@"
