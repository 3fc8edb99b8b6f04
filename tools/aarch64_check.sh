#!/usr/bin/env bash
# Builds the kernels and the goldens for 64-bit Arm and runs them under qemu, as a machine with byte dot products (max)
# and as one without (cortex-a72). Debian 12; needs g++-12-aarch64-linux-gnu and qemu-user-static. Libraries for arm64 are
# fetched into build-aarch64/root, so that nothing of this system changes.
#   tools/aarch64_check.sh            all of it
#   tools/aarch64_check.sh minimo     builds other targets, runs nothing: build-aarch64/apps/minimo runs on an Arm machine
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in aarch64-linux-gnu-g++-12 qemu-aarch64-static; do
  command -v $tool > /dev/null || { echo "aarch64_check: apt-get install g++-12-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }
done

here=$PWD/build-aarch64
packages=(
  libhwy-dev libhwy1 libfmt-dev libfmt9 libspdlog-dev libspdlog1.10 libgtest-dev libgmock-dev googletest
  libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2 libboost1.74-dev libxxhash-dev libxxhash0
  nlohmann-json3-dev libcli11-dev zlib1g-dev libcurl4-openssl-dev civetweb libcivetweb-dev libcivetweb1
  prometheus-cpp-dev libprometheus-cpp-core1.0 libprometheus-cpp-push1.0 libprometheus-cpp-pull1.0)
if [ ! -e "$here/root/usr" ]; then
  rm -rf "$here/apt" && mkdir -p "$here"/apt/{lists,archives}/partial "$here/debs" "$here/unpacked"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" \
    > "$here/apt/sources.list"
  options=(-q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= -o Dir::State="$here/apt"
    -o Dir::State::lists="$here/apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$here/apt"
    -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::sourcelist="$here/apt/sources.list")
  apt-get "${options[@]}" update
  (cd "$here/debs" && apt-get "${options[@]}" download "${packages[@]}")
  for package in "$here"/debs/*.deb; do dpkg-deb -x "$package" "$here/unpacked"; done
  mv "$here/unpacked" "$here/root"
fi

[ -f "$here/build.ninja" ] || cmake -S . -B "$here" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DMINIMO_ARM_ROOT="$here/root" > "$here/configure.log" 2>&1 ||
  { cat "$here/configure.log" >&2; exit 1; }
if [ $# -gt 0 ]; then exec ninja -C "$here" "$@"; fi

tests=(src/ops/linear_test src/ops/ops_test src/sampling/row_kernels_test src/sampling/candidates_test
  src/sampling/sampler_test src/convert/encode_test tests/golden_test tests/int8_golden_test)
ninja -C "$here" "${tests[@]##*/}"
for cpu in max cortex-a72; do
  for test in "${tests[@]}"; do
    echo "== $cpu ${test##*/}"
    qemu-aarch64-static -cpu $cpu -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$here/root/usr/lib/aarch64-linux-gnu" \
      "$here/$test" --gtest_brief=1
  done
done
