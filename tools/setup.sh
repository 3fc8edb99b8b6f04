#!/usr/bin/env bash
# Installs what minimo needs from the distribution's packages and, for the tests, a Python environment from PyPI.
#   tools/setup.sh build      what ./run needs
#   tools/setup.sh test       what ./test needs as well
# Does nothing, quickly, when this file and the requirements are unchanged since the last success.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:-build}

APT_PACKAGES=(
  g++ cmake ninja-build pkg-config git ca-certificates python3
  libhwy-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libpcre2-dev libutf8proc-dev
  libboost-dev prometheus-cpp-dev libxxhash-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
TEST_PACKAGES=(
  python3-venv curl chromium openmpi-bin libopenmpi-dev iproute2
)
REQUIREMENTS=tests/python/requirements.txt

stamp=build/.setup-$stage
want=$(cat tools/setup.sh "$REQUIREMENTS" 2>/dev/null | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

packages=("${APT_PACKAGES[@]}")
[ "$stage" = test ] && packages+=("${TEST_PACKAGES[@]}")

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "minimo: apt-get is not here; install these Debian 12 / Ubuntu 24.04 packages or their like, then run again:" >&2
    echo "  ${missing[*]}" >&2
    exit 1
  fi
  sudo=
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "minimo: run as root, or install sudo, to install: ${missing[*]}" >&2; exit 1; }
    sudo=sudo
  fi
  echo "minimo: installing ${missing[*]}" >&2
  $sudo apt-get update -qq >&2
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if [ "$stage" = test ] && [ -f "$REQUIREMENTS" ]; then
  echo "minimo: making the tests' Python environment in .venv" >&2
  [ -x .venv/bin/pip ] || python3 -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check -r "$REQUIREMENTS" >&2
fi

mkdir -p build
echo "$want" > "$stamp"
