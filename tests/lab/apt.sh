#!/usr/bin/env bash
# Install the Debian packages that the lab cluster needs, and only those that are missing.
#
# Called by `python -m tests.lab up` (step "packages"); safe to run again. Needs root.
# The lab runs containerd and prometheus itself, inside its own network namespace, so no packaged service is
# ever started: a policy-rc.d that refuses every start is put in place for the time of the installation.
set -euo pipefail

# package:command pairs; a package counts as present when its command is found.
readonly WANTED=(
  containerd:containerd            # container runtime; CRI plugin included
  runc:runc                        # what containerd starts containers with
  containernetworking-plugins:/usr/lib/cni/bridge
  buildah:buildah                  # builds images/*/Containerfile without a daemon
  mmdebstrap:mmdebstrap            # makes the base root file system, since no registry can be reached
  prometheus:promtool              # promtool, which tests alert rules (Debian's server lacks kubernetes_sd)
  iptables:iptables                # kube-proxy
  conntrack:conntrack              # kube-proxy
  iproute2:ip                      # network namespaces
  busybox-static:busybox           # the pause image
)

# Arguments of the same form are wanted instead: `apt.sh chromium:chromium`.
wanted=("${WANTED[@]}")
if [ "$#" -gt 0 ]; then wanted=("$@"); fi

missing=()
for pair in "${wanted[@]}"; do
  command=${pair#*:}
  if ! command -v "$command" >/dev/null 2>&1 && [ ! -x "/usr/sbin/${command##*/}" ]; then
    missing+=("${pair%%:*}")
  fi
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "packages: all present"
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "packages: missing ${missing[*]}; run as root, or install them: apt-get install ${missing[*]}" >&2
  exit 1
fi

# Services stay down: put the refusing policy in place unless the machine has one of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
echo "packages: installing ${missing[*]}"
install_missing() {
  apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "${missing[@]}"
}
# Fresh machines have no package lists; machines with lists may have old ones. Try once, refresh, try again.
if ! install_missing >/dev/null 2>&1; then
  apt-get update -qq
  install_missing >/dev/null
fi
echo "packages: installed"
