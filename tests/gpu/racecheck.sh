#!/usr/bin/env bash
# compute-sanitizer's racecheck of a command: its lines, and exit 9 if one of its races counts.
#
# It ties what a thread reads or writes in shared memory to that thread's own arrivals at an mbarrier. In fp8_linear,
# fp8_wide and batch_split one lane arrives for its warp, after __syncwarp, which orders the other lanes' accesses
# before it: those that multiply have read a stage's scales when lane 0 says so, and only then does the copying warp
# write the next ones there (a store or a bulk copy). In stream_token where experts are chosen (modes 1 and 2) half of
# the warps meet at a barrier of their own, and all at __syncthreads after it: x and its squares are stored before the
# latter and read after it (the machine code, too, has it so). It reports those pairs, and they do not count here.
none='::((fp8_linear|fp8_wide|batch_split)<|stream_token<.*OneMode[)][12]>)'
set -o pipefail
compute-sanitizer --tool racecheck "$@" |
  awk -v none="$none" '{ print } /Race reported/ && $0 !~ none { counts = 1 } END { exit counts ? 9 : 0 }'
