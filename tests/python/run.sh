#!/usr/bin/env bash
# Runs a Python test with the tests' environment (.venv, made by tools/setup.sh test). Exits 77, "skipped", where a
# needed module is not installed; under continuous integration ($CI set) that is a failure.
#   tests/python/run.sh MODULES SCRIPT ARGS...      MODULES separated by commas
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${MINIMO_PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)
modules=$1
shift
if ! "$python" -c "import $modules" 2>/dev/null; then
  echo "the Python modules $modules are not installed: run tools/setup.sh test" >&2
  [ -n "${CI:-}" ] && exit 1
  exit 77
fi
exec "$python" "$@"
