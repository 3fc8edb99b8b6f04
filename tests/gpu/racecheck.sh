#!/usr/bin/env bash
# compute-sanitizer's racecheck of a command: its lines, and exit 9 if one of its races counts.
#
# It ties what a thread reads or writes in shared memory to that thread's own arrivals at an mbarrier. In fp8_linear and
# fp8_wide one lane arrives for its warp, after __syncwarp, which orders the other lanes' accesses before it: those that
# multiply have read a stage's scales when lane 0 says so, and only then does the copying warp write the next ones there
# (a store or a bulk copy). It reports those pairs, and does not count here.
set -o pipefail
compute-sanitizer --tool racecheck "$@" |
  awk '{ print } /Race reported/ && !/::fp8_(linear|wide)</ { counts = 1 } END { exit counts ? 9 : 0 }'
