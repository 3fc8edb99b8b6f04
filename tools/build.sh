#!/usr/bin/env bash
# Configures (once) and builds the given targets in Release. Ninja's own progress line goes to standard error; where
# there is nothing to do, nothing is said.
#   tools/build.sh minimo
#   tools/build.sh all
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
if [ ! -f build/build.ninja ]; then
  echo "minimo: configuring" >&2
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release > build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
fi
ninja -C build "$@" | { grep --line-buffered -vE 'no work to do|Entering directory' || true; } >&2
