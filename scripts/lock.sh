#!/usr/bin/env bash
# Resolves every extra together into constraints.txt, with hashes, for all platforms and for
# Python 3.11 and newer. Existing pins stay unless a bound forces them to move;
#   UPGRADE=1 make lock            moves all of them
#   UPGRADE="torch pydantic" ...   moves these
# Runs uv of .venv where there is one, else a uv in a throw-away environment, so that it works
# from a fresh clone and when the present lock cannot be installed. Called by `make lock`.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
if [[ ! -x $uv ]]; then
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  "${PYTHON:-python3}" -m venv "$tmp"
  "$tmp/bin/python" -m pip install --quiet uv
  uv=$tmp/bin/uv
fi

upgrade=()
case ${UPGRADE:-} in
  '') ;;
  1) upgrade=(--upgrade) ;;
  *) for name in $UPGRADE; do upgrade+=(--upgrade-package "$name"); done ;;
esac

"$uv" pip compile pyproject.toml --all-extras --quiet \
  --universal --python-version 3.11 --generate-hashes \
  --no-header --no-emit-index-url --no-emit-find-links \
  "${upgrade[@]}" --output-file constraints.txt
printf 'constraints.txt: %s packages pinned\n' "$(grep -c '^[a-z0-9].*==' constraints.txt)"
