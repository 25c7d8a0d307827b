#!/usr/bin/env bash
# Makes .venv and installs ratchet (editable) with the extras asked for, every package checked
# against the hashes in constraints.txt.
#
#   scripts/bootstrap.sh all           every extra
#   scripts/bootstrap.sh jobs,cli      what `make demo` needs
#
# Run again it does nothing until pyproject.toml or constraints.txt changes, or an extra is missing.
# Extras are only ever added to an environment, so `make demo` after `make test` is instant.
# It never touches anything outside .venv except uv's own download cache.
#   PYTHON=python3.12   another interpreter (3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VENV=.venv STAMP=.venv/.ratchet-stamp LOG=.venv/bootstrap.log
readonly START=$SECONDS

say() { printf 'bootstrap [%4d s] %s\n' "$((SECONDS - START))" "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

# Names of the extras that pyproject.toml declares, comma separated.
declared_extras() {
  awk '/^\[/ { inside = ($0 == "[project.optional-dependencies]") }
       inside && /^[a-z-]+ = \[/ { printf "%s%s", sep, $1; sep = "," }' pyproject.toml
}

# True when every name of the comma list $1 is in the comma list $2.
contains_all() {
  local name
  for name in ${1//,/ }; do [[ ",$2," == *",$name,"* ]] || return 1; done
}

# pip requirement lines (with hashes) for one package of constraints.txt.
pinned() {
  awk -v want="$1==" 'index($0, want) == 1 { on = 1 } on { print } on && !/\\$/ { exit }' \
    constraints.txt
}

check_python() {
  local python=$1
  command -v "$python" >/dev/null || die "no $python found; install Python 3.11 or newer, or set PYTHON"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || die "$("$python" -V 2>&1) is too old: ratchet needs Python 3.11 or newer; set PYTHON to one"
  "$python" -c 'import ensurepip, venv' 2>/dev/null \
    || die "$python cannot make virtual environments; install its venv package (Debian: python3-venv)"
}

check_disk() {
  local need_mib=1500 have_mib
  # torch with its accelerator libraries unpacks to about 5 GiB; uv's cache and .venv share the
  # files by hard link when they are on one file system.
  [[ ",$1," == *,jobs,* && ! -d $(echo "$VENV"/lib/python3*/site-packages/torch) ]] && need_mib=9000
  have_mib=$(df -Pm . | awk 'NR == 2 { print $4 }')
  ((have_mib >= need_mib)) \
    || die "$have_mib MiB free in $PWD, extras '$1' need $need_mib MiB; free some space and run again"
}

# Runs a command with its output in the log; says every ten seconds that it is alive.
with_progress() {
  local what=$1 pid beat status=0
  shift
  say "$what"
  "$@" >>"$LOG" 2>&1 &
  pid=$!
  (
    before=$(df -Pm . | awk 'NR == 2 { print $4 }')
    while sleep 10 && kill -0 "$pid" 2>/dev/null; do
      now=$(df -Pm . | awk 'NR == 2 { print $4 }')
      say "  still at it: $((before - now)) MiB written so far"
    done
  ) &
  beat=$!
  wait "$pid" || status=$?
  kill "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  ((status == 0)) && return
  tail -n 25 "$LOG" >&2
  if grep -qiE 'hash mismatch|hashes are required|do not match the hashes' "$LOG"; then
    die "a downloaded package differs from its hash in constraints.txt; do not bypass this: see $LOG"
  fi
  if grep -qiE 'error sending request|dns error|failed to fetch|connection (refused|reset|error)|could not connect|no matching distribution|temporary failure in name resolution|timed out' "$LOG"; then
    die "the package index cannot be reached; this step needs network access once. Log: $LOG"
  fi
  die "'$what' failed; log: $LOG"
}

make_venv() {
  local python=$1
  # An interpreter that went away leaves a venv whose python cannot start: make it anew.
  if [[ -e $VENV && ! -x $VENV/bin/python ]] || { [[ -x $VENV/bin/python ]] && ! "$VENV/bin/python" -c '' 2>/dev/null; }; then
    say "the environment in $VENV is broken, making it anew"
    rm -rf "$VENV"
  fi
  if [[ ! -x $VENV/bin/python ]]; then
    say "making $VENV with $("$python" -V)"
    "$python" -m venv "$VENV"
  fi
  : >"$LOG"
  pinned uv >"$VENV/uv.txt"
  [[ -s $VENV/uv.txt ]] || die "constraints.txt does not pin uv; run 'make lock'"
  with_progress "installing $(head -n 1 "$VENV/uv.txt" | tr -d ' \\')" \
    "$VENV/bin/python" -m pip install --quiet --no-deps --require-hashes -r "$VENV/uv.txt"
}

install_extras() {
  local extras=$1 size='' uv=("$VENV/bin/uv" pip install --python "$VENV/bin/python" -c constraints.txt)
  [[ ",$extras," == *,jobs,* ]] && size=' (torch among them: about 3 GiB to download the first time)'
  # The build backend first, from the lock too: the editable install then builds without fetching
  # an unpinned one. --only-binary keeps any source distribution from running its setup code.
  with_progress "installing the build backend" "${uv[@]}" --only-binary :all: hatchling editables
  with_progress "installing extras $extras$size" \
    "${uv[@]}" --only-binary :all: -r pyproject.toml $(printf -- '--extra %s ' ${extras//,/ })
  with_progress "installing ratchet itself, editable" \
    "${uv[@]}" --no-deps --no-build-isolation --offline -e .
}

# Names installed in .venv that constraints.txt does not pin, so that came in without a hash.
loose_packages() {
  comm -23 \
    <("$VENV/bin/uv" pip freeze --python "$VENV/bin/python" --exclude-editable -q | sed 's/==.*//; s/ @.*//' | sort -u) \
    <(sed -n 's/^\([a-z0-9][a-z0-9._-]*\)==.*/\1/p; $a pip' constraints.txt | sort -u)
}

# Left-overs of an earlier lock go; what is still loose after that is needed, and the lock is stale.
check_locked() {
  local extras=$1 loose
  loose=$(loose_packages)
  [[ -z $loose ]] && return
  say "removing what the lock no longer names:" $loose
  "$VENV/bin/uv" pip uninstall --python "$VENV/bin/python" -q $loose
  install_extras "$extras"
  loose=$(loose_packages)
  [[ -z $loose ]] || die "constraints.txt has no hash for:" $loose "- it is older than pyproject.toml; run 'make lock'"
}

main() {
  local wanted=${1:?usage: scripts/bootstrap.sh EXTRAS (comma separated, or all)} have_key='' have_extras='' key
  local all
  all=$(declared_extras)
  [[ $wanted == all ]] && wanted=$all
  contains_all "$wanted" "$all" || die "unknown extra in '$wanted'; pyproject.toml declares: $all"
  key=$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-64)
  [[ -r $STAMP ]] && { read -r have_key have_extras <"$STAMP" || true; }
  [[ $key == "$have_key" && -x $VENV/bin/python ]] && contains_all "$wanted" "$have_extras" && return

  # One at a time: two make targets started together must not write the same site-packages.
  exec 9>"${TMPDIR:-/tmp}/ratchet-bootstrap-$(pwd | sha256sum | cut -c1-16).lock"
  flock 9
  [[ -r $STAMP ]] && { read -r have_key have_extras <"$STAMP" || true; }
  [[ $key == "$have_key" && -x $VENV/bin/python ]] && contains_all "$wanted" "$have_extras" && return
  contains_all "$have_extras" "$all" || have_extras=''
  wanted=$(printf '%s\n' ${wanted//,/ } ${have_extras//,/ } | sort -u | paste -sd, -)

  check_python "${PYTHON:-python3}"
  check_disk "$wanted"
  make_venv "${PYTHON:-python3}"
  rm -f "$STAMP"
  install_extras "$wanted"
  check_locked "$wanted"
  printf '%s %s\n' "$key" "$wanted" >"$STAMP"
  say "ready: extras $wanted in $VENV"
}

main "$@"
