#!/usr/bin/env bash
# Configures (if need be) and builds the given targets in Release. Ninja's own progress line goes to standard error; where
# there is nothing to do, nothing is said.
#   tools/build.sh minimo
#   tools/build.sh all
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
# Again after tools/setup.sh has installed something: what is optional (MPI, the tests' Python) may be there now.
configured=build/.configured
if [ ! -f build/build.ninja ] || [ build/.setup-build -nt "$configured" ] || [ build/.setup-test -nt "$configured" ]; then
  echo "minimo: configuring" >&2
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release > build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
  touch "$configured"
fi
ninja -C build "$@" | { grep --line-buffered -vE 'no work to do|Entering directory' || true; } >&2
