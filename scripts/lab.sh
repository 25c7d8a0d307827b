#!/usr/bin/env bash
# The one-node Kubernetes of tests/lab by hand: up, down, status, images, kubeconfig, shell; anything else runs inside it.
#
#   scripts/lab.sh up                       start it, print the kubeconfig
#   scripts/lab.sh kubectl get pods -A      one command inside, with kubectl, helm and the S3 settings at hand
#   scripts/lab.sh down                     stop it without a trace
#
# RATCHET_LAB_NAME picks another lab than the default. Needs root: network namespace, mounts, cgroups.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[[ -x $python ]] || "$root/scripts/bootstrap.sh" all
name=${RATCHET_LAB_NAME:-ratchet-lab}
here=$PWD
cd "$root"

case ${1:-help} in
  up | down | status | images | kubeconfig) exec "$python" -m tests.lab --name "$name" "$@" ;;
  help | -h | --help) exec "$python" -m tests.lab --help ;;
  shell) shift; exec "$python" -m tests.lab --name "$name" shell -- env --chdir="$here" "${@:-${SHELL:-/bin/bash}}" ;;
  *) exec "$python" -m tests.lab --name "$name" shell -- env --chdir="$here" "$@" ;;
esac
